//! The table `gateway`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use stablegate::hooks::AttrValue;
use stablegate::hooks::Host;

use crate::rig::Rig;

/// A Lua expression for bytes given in hexadecimal.
fn lua_bytes(hex: &str) -> String {
    let escaped: String = (0..hex.len())
        .step_by(2)
        .map(|at| format!("\\{:03}", u8::from_str_radix(&hex[at..at + 2], 16).unwrap()))
        .collect();
    format!("'{escaped}'")
}

#[tokio::test]
async fn the_table_is_read_only() {
    let rig = Rig::new();
    rig.check(&[
        "not pcall(function() gateway.log = nil end)",
        "not pcall(function() gateway.shared.get = nil end)",
        "gateway.log ~= nil and gateway.shared.get ~= nil",
        "getmetatable(gateway) == nil or getmetatable(gateway) == false",
        "(function() local n = 0 for _ in pairs(gateway) do n = n + 1 end return n end)() == 12",
    ])
    .await;
}

#[tokio::test]
async fn hosts_are_live() {
    let mut rig = Rig::new();
    rig.hosts = vec![
        Arc::new(Host::new("lobby", "10.0.0.1:80", 100)),
        Arc::new(Host::new("echo", "builtin:echo", 1)),
    ];
    rig.hosts[0].sessions.store(5, Ordering::Relaxed);
    let body = "local t = {} for _, h in ipairs(gateway.hosts()) do
        t[#t + 1] = table.concat({h.name, h.addr, h.weight, h.sessions}, ',') end
        return table.concat(t, ' ')";
    assert_eq!(
        rig.eval(body).await,
        "lobby,10.0.0.1:80,100,5 echo,builtin:echo,1,0"
    );
    rig.hosts[0].sessions.fetch_add(1, Ordering::Relaxed);
    assert_eq!(
        rig.eval("return tostring(gateway.hosts()[1].sessions)")
            .await,
        "6"
    );
}

#[tokio::test]
async fn shared_values_and_counters() {
    let rig = Rig::new();
    rig.check(&[
        "gateway.shared.get('none') == nil",
        "gateway.shared.set('s', 'v\\0') == nil and gateway.shared.get('s') == 'v\\0'",
        "gateway.shared.set('b', false) == nil and gateway.shared.get('b') == false",
        "gateway.shared.set('n', 1.5, 60) == nil and gateway.shared.get('n') == 1.5",
        "gateway.shared.set(12, 1) == nil and gateway.shared.get('12') == 1",
        "gateway.shared.add('s', 'w') == false and gateway.shared.get('s') == 'v\\0'",
        "gateway.shared.add('a', 'w', 0.5) == true",
        "gateway.shared.incr('c') == 1 and gateway.shared.incr('c', 5) == 6",
        "gateway.shared.incr('c', -6, 10) == 0 and gateway.shared.incr('f', 0.5) == 0.5",
        "gateway.shared.delete('c') == true and gateway.shared.delete('c') == false",
        "gateway.shared.set('far', 1, 1e300) == nil and gateway.shared.get('far') == 1",
    ])
    .await;
    assert_eq!(rig.shared.get(b"s"), Some(AttrValue::String("v\0".into())));
    for (expression, message) in [
        (
            "gateway.shared.get()",
            "bad argument #1 to 'shared.get' (string expected, got no value)",
        ),
        ("gateway.shared.set('k')", "bad argument #2 to 'shared.set'"),
        (
            "gateway.shared.set('k', {})",
            "string, number or boolean expected, got table",
        ),
        (
            "gateway.shared.set('k', 1, 'soon')",
            "bad argument #3 to 'shared.set'",
        ),
        (
            "gateway.shared.set('k', 1, 0)",
            "positive number of seconds",
        ),
        (
            "gateway.shared.set('k', 1, 0/0)",
            "positive number of seconds",
        ),
        ("gateway.shared.incr('s')", "the value is not a number"),
        ("gateway.shared.incr('k', 'x')", "number expected"),
    ] {
        rig.check_error(expression, message).await;
    }
}

#[tokio::test]
async fn a_full_store_is_an_error() {
    let rig = Rig::new();
    let megabyte = AttrValue::String(vec![0; 1024 * 1024].into());
    for key in 0..63u8 {
        rig.shared.set(&[key], megabyte.clone(), None).unwrap();
    }
    rig.check_error(
        "gateway.shared.set('big', ('x'):rep(1024 * 1024))",
        "shared store is full",
    )
    .await;
}

#[tokio::test]
async fn sproto_matches_the_vectors() {
    let rig = Rig::new();
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../vectors/sproto.json")).unwrap();
    for vector in vectors["announce"].as_array().unwrap() {
        let text = |key: &str| vector[key].as_str().unwrap();
        let (kind, remote, local) = (&vector["type"], text("remote_addr"), text("local_addr"));
        let header = format!("gateway.sproto.encode{{[0]={kind}, [2]=0}}");
        let body = format!("gateway.sproto.encode{{[0]='{remote}', [1]='{local}'}}");
        rig.check(&[
            &format!("{header} == {}", lua_bytes(text("header_hex"))),
            &format!("{body} == {}", lua_bytes(text("body_hex"))),
            &format!(
                "gateway.sproto.pack({header} .. {body}) == {}",
                lua_bytes(text("packed_hex"))
            ),
            &format!(
                "gateway.sproto.announce({kind}, '{remote}', '{local}') == {}",
                lua_bytes(text("frame_hex"))
            ),
            &format!(
                "gateway.sproto.unpack(gateway.sproto.pack({body})):sub(1, #{body}) == {body}"
            ),
        ])
        .await;
    }
    rig.check(&[
        "gateway.sproto.encode{[3]=true} == '\\2\\0\\5\\0\\4\\0'",
        // A struct in another, and arrays of integers and strings.
        "gateway.sproto.encode{[1]=gateway.sproto.encode{[0]=7}} == \
         '\\2\\0\\1\\0\\0\\0' .. '\\4\\0\\0\\0' .. '\\1\\0\\16\\0'",
        "gateway.sproto.encode{[0]='\\4' .. string.pack('<i4i4', 10, -1)} == \
         '\\1\\0\\0\\0' .. '\\9\\0\\0\\0' .. '\\4\\10\\0\\0\\0\\255\\255\\255\\255'",
        "gateway.sproto.encode{[0]=string.pack('<s4s4', 'a', 'bc')} == \
         '\\1\\0\\0\\0' .. '\\11\\0\\0\\0' .. '\\1\\0\\0\\0a\\2\\0\\0\\0bc'",
    ])
    .await;
    for (expression, message) in [
        (
            "gateway.sproto.encode{a=1}",
            "tags are integers from 0 to 32767",
        ),
        ("gateway.sproto.encode{[-1]=1}", "tags are integers"),
        ("gateway.sproto.encode{[1]=1.5}", "field 1 is a number"),
        ("gateway.sproto.encode{[1]={}}", "field 1 is a table"),
        ("gateway.sproto.encode('x')", "table expected"),
        (
            "gateway.sproto.unpack('\\255')",
            "ends in the middle of a word",
        ),
        (
            "gateway.sproto.unpack(('\\0'):rep(200000))",
            "larger than 1048576 bytes",
        ),
        (
            "gateway.sproto.announce(-1, 'a', 'b')",
            "type number expected",
        ),
    ] {
        rig.check_error(expression, message).await;
    }
}

#[tokio::test]
async fn proxy_headers_and_frames() {
    let rig = Rig::new();
    rig.check(&[
        "gateway.proxy_header('v1', session.client_addr, '192.0.2.9:80') \
         == 'PROXY TCP4 192.0.2.1 192.0.2.9 5000 80\\r\\n'",
        "#gateway.proxy_header('v2', session.client_addr, session.gateway_addr) == 52",
        "gateway.frame('abc', 'u16be') == '\\0\\3abc'",
        "gateway.frame('abc', 'u16le') == '\\3\\0abc'",
        "gateway.frame('', 'u32be') == '\\0\\0\\0\\0'",
        "gateway.frame('a', 'u32le') == '\\1\\0\\0\\0a'",
    ])
    .await;
    for (expression, message) in [
        (
            "gateway.proxy_header('v3', '1.2.3.4:5', '1.2.3.4:5')",
            "'v1' or 'v2' expected",
        ),
        (
            "gateway.proxy_header('v1', 'host:5', '1.2.3.4:5')",
            "address ip:port expected",
        ),
        (
            "gateway.frame(('x'):rep(65536), 'u16be')",
            "65536 bytes do not fit in a u16be frame",
        ),
        ("gateway.frame('x', 'u8')", "expected"),
    ] {
        rig.check_error(expression, message).await;
    }
}

#[tokio::test]
async fn json_round_trips() {
    let rig = Rig::new();
    let json = "gateway.json";
    rig.check(&[
        "gateway.json.encode{b=1, a={true, false, 'x\\n'}} == [[{\"a\":[true,false,\"x\\n\"],\"b\":1}]]",
        "gateway.json.encode{} == '{}'",
        "gateway.json.encode(nil) == 'null' and gateway.json.encode(gateway.json.null) == 'null'",
        "gateway.json.encode(1.5) == '1.5' and gateway.json.encode('é') == '\"é\"'",
        "gateway.json.decode('[1,[],{},null,\"x\"]')[4] == gateway.json.null",
        "gateway.json.encode(gateway.json.decode('[1,[],{},null,\"x\"]')) == '[1,[],{},null,\"x\"]'",
        "gateway.json.decode('{\"a\":{\"b\":[1,2.5,true]}}').a.b[2] == 2.5",
        "gateway.json.decode(' 12 ') == 12 and gateway.json.decode('\"a\\\\u00e9\"') == 'aé'",
    ])
    .await;
    for (expression, message) in [
        (format!("{json}.decode('{{')"), "invalid JSON: EOF"),
        (format!("{json}.decode('1 2')"), "invalid JSON: trailing"),
        (
            format!("{json}.decode(('['):rep(200) .. (']'):rep(200))"),
            "recursion limit",
        ),
        (
            format!("{json}.decode(('['):rep(1000000))"),
            "recursion limit",
        ),
        (
            format!("{json}.decode(('1'):rep(5000000))"),
            "longer than 4 MiB",
        ),
        (
            format!("{json}.encode(print)"),
            "a function has no JSON form",
        ),
        (format!("{json}.encode(0/0)"), "no JSON form"),
        (format!("{json}.encode('\\255')"), "not UTF-8"),
        (
            format!("{json}.encode{{1, a=2}}"),
            "both a list and named keys",
        ),
        (format!("{json}.encode{{[{{}}]=2}}"), "keys must be"),
        (
            format!("(function() local t = {{}} t.t = t return {json}.encode(t) end)()"),
            "nested too deeply",
        ),
        (
            format!(
                "(function() local t = {{('x'):rep(10000)}} for i = 1, 100 do t = {{t, t}} end \
                 return {json}.encode(t) end)()"
            ),
            "longer than 4 MiB",
        ),
    ] {
        rig.check_error(&expression, message).await;
    }
}

#[tokio::test]
async fn base64_and_hashes() {
    let rig = Rig::new();
    rig.check(&[
        "gateway.base64.encode('\\0\\255a') == 'AP9h' and gateway.base64.decode('AP9h') == '\\0\\255a'",
        "gateway.base64.encode('a') == 'YQ=='",
        "gateway.base64.encode('\\251\\255\\254a') == '+//+YQ=='",
        "gateway.base64.encode('\\251\\255\\254a', 'url') == '-__-YQ'",
        "gateway.base64.decode('-__-YQ') == '\\251\\255\\254a'",
        "gateway.base64.decode('-__-YQ==') == '\\251\\255\\254a'",
        "gateway.base64.decode('+//+YQ==') == '\\251\\255\\254a'",
        "gateway.base64.decode('+//+YQ') == '\\251\\255\\254a'",
        "gateway.hash.md5('') == 'd41d8cd98f00b204e9800998ecf8427e'",
        "gateway.hash.sha1('abc') == 'a9993e364706816aba3e25717850c26c9cd0d89d'",
        "gateway.hash.sha256('abc') == \
         'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'",
        // RFC 4231, test case 2.
        "gateway.hash.hmac_sha256('Jefe', 'what do ya want for nothing?') == \
         '5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843'",
        "gateway.hash.equal('abc', 'abc') == true and gateway.hash.equal('abc', 'abd') == false",
        "gateway.hash.equal('abc', 'ab') == false",
    ])
    .await;
    for text in ["a", "-_+/", "Y Q", "YR=="] {
        rig.check_error(
            &format!("gateway.base64.decode('{text}')"),
            "invalid base64",
        )
        .await;
    }
    rig.check_error(
        "gateway.base64.encode('a', 'std')",
        "'url' or nothing expected",
    )
    .await;
    rig.check_error("gateway.hash.md5()", "bad argument #1 to 'hash.md5'")
        .await;
}

#[tokio::test]
async fn names_are_resolved() {
    let rig = Rig::new();
    rig.check(&[
        "gateway.resolve('127.0.0.1')[1] == '127.0.0.1'",
        "#gateway.resolve('localhost') >= 1",
        "select('#', gateway.resolve('no-such-name.invalid')) == 2",
        "gateway.resolve('no-such-name.invalid') == nil",
        "type(select(2, gateway.resolve(''))) == 'string'",
    ])
    .await;
    rig.check_error("gateway.resolve()", "bad argument #1 to 'resolve'")
        .await;
}

#[tokio::test]
async fn config_is_a_table() {
    let mut rig = Rig::new();
    rig.config = serde_json::json!({
        "name": "x", "on": true, "n": 3, "f": 1.5, "none": null,
        "list": ["a", {"deep": [1]}], "empty": [],
    });
    rig.check(&[
        "gateway.config.name == 'x' and gateway.config.on == true and gateway.config.n == 3",
        "gateway.config.f == 1.5 and gateway.config.none == nil",
        "#gateway.config.list == 2 and gateway.config.list[2].deep[1] == 1",
        "#gateway.config.empty == 0",
    ])
    .await;
}

#[tokio::test]
async fn logs_take_anything() {
    let rig = Rig::new();
    rig.check(&[
        "gateway.log.info() == nil and gateway.log.warn(nil, 1, {}, print, '\\255') == nil",
        "gateway.log.debug(('x'):rep(100000)) == nil and gateway.log.error('e') == nil",
        "print('a', nil, 1) == nil",
        "not pcall(gateway.log.info, setmetatable({}, {__tostring = function() error 'no' end}))",
    ])
    .await;
}
