-- The gateway calls these functions for every session. Save this file and the next session
-- sees the change; sessions that are already there go on as they are.
--
-- Try it: return false, "closed for maintenance" from access.

-- May this client come in? Return true, or false and a reason for the log.
function access(session)
  gateway.log.info("session", session.id, "from", session.client_addr, "asks for", session.target)
  return true
end

-- Where does it go? Return the name of a host in config.yaml, or {addr = "host:port"}, or nil to
-- leave it to the gateway. This one gives clients what they ask for.
function select_target(session)
  return session.target
end

-- What is the server told first? A string is sent before anything the client says, for example
--   return gateway.proxy_header("v2", session.client_addr, session.gateway_addr)
-- Left out here: the gateway does what config.yaml says under `announce`.
--
-- function announce(session, target)
-- end

-- The session is over.
function closed(session)
  gateway.log.info("session", session.id, "ended:", session.reason,
    "after", session.duration, "seconds,", session.received, "bytes in,", session.sent, "bytes out")
end
