-- Runs once in every fresh VM before the script does: takes away what scripts must not have,
-- replaces what a time limit could not stop, builds the table `gateway`, and returns the functions
-- through which the host runs the script.

local host = ...

local error, getmetatable, next, pcall, rawget, select, setmetatable, tostring, type, xpcall =
  error, getmetatable, next, pcall, rawget, select, setmetatable, tostring, type, xpcall
local concat, sub = table.concat, string.sub
local check_time = host.check_time

-- What is taken away ------------------------------------------------------------------------

for _, name in next, { "debug", "dofile", "io", "loadfile", "package", "warn" } do
  _G[name] = nil
end
string.dump = nil
os = { clock = os.clock, date = os.date, time = os.time }

math.randomseed(host.seed)
getmetatable("").__metatable = false

local raw_collect = collectgarbage
function collectgarbage(what)
  if what == nil then what = "collect" end
  if what ~= "count" and what ~= "collect" and what ~= "step" then
    error("collectgarbage takes only 'count', 'collect' and 'step'", 2)
  end
  if what ~= "count" then check_time() end
  return raw_collect(what)
end

-- What a time limit could not stop ----------------------------------------------------------

-- Text is given to the compiler in pieces, by a function that runs instructions: between those
-- the time is looked at.
local raw_load = load
function load(chunk, name, mode, ...)
  if mode == "b" then return nil, "attempt to load a text chunk (mode is 'b')" end
  local kind, read = type(chunk)
  if kind == "string" or kind == "number" then
    local at = 1
    if name == nil then name = chunk end
    function read()
      check_time()
      local piece = sub(chunk, at, at + 4095)
      at = at + 4096
      return piece
    end
  elseif kind == "function" then
    function read()
      check_time()
      local piece = chunk()
      return piece
    end
  else
    error("bad argument #1 to 'load' (function expected, got " .. kind .. ")", 2)
  end
  return raw_load(read, name, "t", ...)
end

-- Lua runs finalizers, message handlers of errors raised by a hook, and the __close methods of
-- a coroutine that such an error ended, with hooks turned off: with no limit at all.

function _G.setmetatable(t, mt)
  if type(mt) == "table" and rawget(mt, "__gc") ~= nil then
    error("__gc is not available to scripts", 2)
  end
  return setmetatable(t, mt)
end

-- Runs the handler after unwinding. Without `debug` nothing can tell the difference.
local function handle(handler, ok, ...)
  if ok then return true, ... end
  return false, select(2, pcall(handler, ...))
end
function _G.xpcall(f, handler, ...)
  return handle(handler, pcall(f, ...))
end

-- A coroutine that runs out of time is told at each instruction from then on, the one that resumed
-- it only when it is its turn to look: it must not go on to start others meanwhile.
local raw_close, create, raw_resume, status =
  coroutine.close, coroutine.create, coroutine.resume, coroutine.status
local function resumed(...)
  check_time()
  return ...
end
local function resume(co, ...)
  check_time()
  return resumed(raw_resume(co, ...))
end
coroutine.resume = resume
function coroutine.close(co)
  check_time()
  return raw_close(co)
end

local function unwrap(co, ok, ...)
  if ok then return ... end
  if status(co) == "dead" then
    local _, failure = raw_close(co)
    if failure ~= nil then error(failure, 0) end
  end
  error((...), 0)
end
function coroutine.wrap(f)
  local co = create(f)
  return function(...)
    return unwrap(co, resume(co, ...))
  end
end

-- The table `gateway` -----------------------------------------------------------------------

-- Host functions answer with a value, or with nil and a message: errors of scripts are strings
-- that begin with the line that made the call.
local function export(f)
  return function(...)
    local value, failure = f(...)
    if failure ~= nil then error(failure, 2) end
    return value
  end
end

-- What scripts see stays empty: `rawset` refuses it, and nothing leads from it to `t`.
local guarded = host.guarded
local function readonly(t, name)
  local function following(_, key) return next(t, key) end
  local proxy = setmetatable({}, {
    __index = t,
    __newindex = function() error(name .. " is read-only", 2) end,
    __pairs = function(proxy) return following, proxy end,
    __metatable = false,
  })
  guarded[proxy] = name
  return proxy
end

local function text(separator, ...)
  local n = select("#", ...)
  if n == 1 then return (tostring((...))) end
  local parts = { ... }
  for i = 1, n do parts[i] = tostring(parts[i]) end
  return concat(parts, separator, 1, n)
end

local log = {}
for _, level in next, { "debug", "info", "warn", "error" } do
  local write = host["log_" .. level]
  log[level] = function(...) write(text(" ", ...)) end
end
local write = host.log_info
function print(...) write(text("\t", ...)) end

local function group(name, keys)
  local t = {}
  for _, key in next, keys do t[key] = export(host[name .. "_" .. key]) end
  return t
end

local json = group("json", { "encode", "decode" })
json.null = host.null
local hash = group("hash", { "md5", "sha1", "sha256", "hmac_sha256", "equal" })

local resolve = host.resolve
gateway = readonly({
  log = readonly(log, "gateway.log"),
  hosts = host.hosts,
  fastway = readonly({ servers = host.fastway_servers, clients = host.fastway_clients }, "gateway.fastway"),
  shared = readonly(group("shared", { "get", "set", "add", "incr", "delete" }), "gateway.shared"),
  sproto = readonly(group("sproto", { "encode", "pack", "unpack", "announce" }), "gateway.sproto"),
  proxy_header = export(host.proxy_header),
  frame = export(host.frame),
  json = readonly(json, "gateway.json"),
  base64 = readonly(group("base64", { "encode", "decode" }), "gateway.base64"),
  hash = readonly(hash, "gateway.hash"),
  resolve = function(...)
    local found, failure, misuse = resolve(...)
    if misuse ~= nil then error(misuse, 2) end
    return found, failure
  end,
  config = host.config,
}, "gateway")

-- Modules -----------------------------------------------------------------------------------

local module = host.module
local loaded, loading = {}, {}
function require(name)
  if type(name) ~= "string" then
    error("bad argument #1 to 'require' (string expected, got " .. type(name) .. ")", 2)
  end
  local value = loaded[name]
  if value ~= nil then return value end
  if loading[name] then error("module '" .. name .. "' requires itself", 2) end
  local chunk, failure, syntax = module(name)
  if syntax then error(syntax, 0) end
  if not chunk then error(failure, 2) end
  loading[name] = true
  local ok, result = pcall(chunk, name)
  loading[name] = nil
  if not ok then error(result, 0) end
  if result == nil then result = true end
  loaded[name] = result
  return result
end

-- How the host runs the script --------------------------------------------------------------

local failed = host.failed

local function describe(failure)
  local kind = type(failure)
  if kind == "string" then return failure end
  local shown, message = pcall(tostring, failure)
  if not shown or type(message) ~= "string" then
    return "error object is a " .. kind .. " whose __tostring fails", true
  end
  if kind == "number" or kind == "boolean" or getmetatable(failure) ~= nil then return message, true end
  return "error object is " .. (kind == "nil" and kind or "a " .. kind), true
end

local function run(chunk, ...)
  local ok, failure = xpcall(chunk, failed, ...)
  if ok then return true end
  return false, describe(failure)
end

local function call(f, target, ended, id, listener, session, transport, client_addr, gateway_addr,
  asked, flags, extra, first_data, attrs, server_id, dial)
  local info = {
    id = id,
    listener = listener,
    session = session,
    transport = transport,
    client_addr = client_addr,
    gateway_addr = gateway_addr,
    target = asked,
    flags = flags,
    extra = extra or {},
    first_data = first_data,
    attrs = attrs or {},
    server_id = server_id,
    dial = dial,
  }
  if ended then
    for key, value in next, ended do info[key] = value end
  end
  local ok, a, b = xpcall(f, failed, info, target)
  if ok then return true, a, b, rawget(info, "attrs") end
  return false, describe(a)
end

return run, call, require
