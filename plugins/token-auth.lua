-- Lets in who shows a token that was signed with the key of the configuration and has not
-- expired: what the plugins beside this file do, as a script.

local function find(session)
  if session.first_data then
    local skip = gateway.config.skip or 0
    if #session.first_data < skip then return nil end
    return (session.first_data:sub(skip + 1):gsub("[\r\n]+$", ""))
  end
  return session.target and session.target:match("^[^/]*/(.*)$")
end

function access(session)
  local key = gateway.config.key
  if type(key) ~= "string" then error("the hook's config has no key", 0) end
  local token = find(session)
  if not token then return false, "no token" end
  local user, expires, mac = token:match("^([^.]+)%.([^.]*)%.(%x*)$")
  if not user or #mac ~= 64 then return false, "bad token" end
  if not gateway.hash.equal(mac, gateway.hash.hmac_sha256(key, user .. "." .. expires)) then
    return false, "bad token"
  end
  if not expires:match("^%d+$") or #expires > 18 then return false, "bad token" end
  if os.time() >= tonumber(expires) then return false, "token expired" end
  session.attrs.user = user
  gateway.log.info(user)
  return true
end

-- A target with a token in it is no host's name: send the session to the part before it.
function select_target(session)
  return session.target and session.target:match("^([^/]+)/")
end
