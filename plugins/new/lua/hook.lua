-- A hook of the gateway. It defines any of four functions; see the gateway's README.

-- May this client come in? True, or false and a reason for the log.
function access(session)
  gateway.log.info("session", session.id, "from", session.client_addr)
  return true
end
