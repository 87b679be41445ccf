//! Lets in who shows a token that was signed with the key of the configuration and has not
//! expired. See README.md for what a token is.

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use exports::stablegate::plugin::access_control::{Decision, Guest as AccessControl};
use exports::stablegate::plugin::target_selection::Guest as TargetSelection;
use stablegate::plugin::log::Level;
use stablegate::plugin::types::{Session, Target, Value};
use stablegate::plugin::{attrs, config, log};

wit_bindgen::generate!({
    path: "../wit/0.1.0",
    inline: "
        package stablegate:token-auth;

        world token-auth {
            import stablegate:plugin/log@0.1.0;
            import stablegate:plugin/config@0.1.0;
            import stablegate:plugin/attrs@0.1.0;
            export stablegate:plugin/access-control@0.1.0;
            export stablegate:plugin/target-selection@0.1.0;
        }
    ",
    generate_all,
});

struct TokenAuth;
export!(TokenAuth);

impl AccessControl for TokenAuth {
    fn access(session: Session) -> Result<Decision, String> {
        let Some(Value::Bytes(key)) = config::get("key") else {
            return Err("the hook's config has no key".to_owned());
        };
        let skip = match config::get("skip") {
            Some(Value::Integer(skip)) => skip as usize,
            _ => 0,
        };
        Ok(match check(&session, skip, &key) {
            Ok(user) => {
                attrs::set("user", &Value::Bytes(user.into()));
                log::write(Level::Info, user);
                Decision::Allow
            }
            Err(reason) => Decision::Deny(reason.to_owned()),
        })
    }
}

impl TargetSelection for TokenAuth {
    /// A target with a token in it is no host's name: sends the session to the part before it.
    fn select_target(session: Session) -> Result<Option<Target>, String> {
        let host = session
            .target
            .as_deref()
            .and_then(|target| target.split_once('/'));
        Ok(host
            .filter(|(host, _)| !host.is_empty())
            .map(|(host, _)| Target::Name(host.to_owned())))
    }
}

/// The user of the session's token, or why it has none.
fn check<'a>(session: &'a Session, skip: usize, key: &[u8]) -> Result<&'a str, &'static str> {
    let token = token(session, skip).ok_or("no token")?;
    let token = str::from_utf8(token).map_err(|_| "bad token")?;
    let (signed, mac) = token.rsplit_once('.').ok_or("bad token")?;
    let (user, expires) = signed.split_once('.').ok_or("bad token")?;
    if user.is_empty() {
        return Err("bad token");
    }
    let mac = unhex(mac).ok_or("bad token")?;
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| "bad token")?;
    hmac.update(signed.as_bytes());
    // Takes the same time for all inputs.
    hmac.verify_slice(&mac).map_err(|_| "bad token")?;
    if expires.len() > 18 || !expires.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("bad token");
    }
    let expires: u64 = expires.parse().map_err(|_| "bad token")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    if now.is_ok_and(|now| now.as_secs() < expires) {
        Ok(user)
    } else {
        Err("token expired")
    }
}

/// The first data, or what follows the host in the target that the client asks for.
fn token(session: &Session, skip: usize) -> Option<&[u8]> {
    if let Some(data) = &session.first_data {
        let mut token = data.get(skip..)?;
        while let [start @ .., b'\n' | b'\r'] = token {
            token = start;
        }
        return Some(token);
    }
    let (_, token) = session.target.as_deref()?.split_once('/')?;
    Some(token.as_bytes())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match *pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}
