//! Tests against the recorded values and messages of the original.

use std::borrow::Cow;

use proptest::prelude::*;
use serde_json::Value;

use super::client::Hello;
use super::message::*;
use super::server::Owner;
use super::*;
use crate::crypto::{hashkey, public_key, shared_secret};

fn vectors(kind: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../../../tests/vectors/scp.json")).unwrap();
    let some = all[kind].as_array().unwrap().clone();
    assert!(!some.is_empty());
    some
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap()
}

fn int<T: std::str::FromStr>(value: &Value, key: &str) -> T {
    text(value, key).parse().ok().unwrap()
}

fn hex(value: &Value, key: &str) -> Vec<u8> {
    let digits = text(value, key);
    let pair = |i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(pair).collect()
}

fn hex8(value: &Value, key: &str) -> [u8; 8] {
    hex(value, key).try_into().unwrap()
}

#[test]
fn recorded_key_exchanges() {
    for v in vectors("dh64") {
        let private = int(&v, "private");
        if v.get("public").is_some() {
            assert_eq!(public_key(private), int::<u64>(&v, "public"));
        }
        let secret = shared_secret(private, int(&v, "other_public"));
        assert_eq!(secret, Some(int(&v, "secret")), "{v}");
    }
}

#[test]
fn recorded_hashes() {
    for v in vectors("hashkey") {
        assert_eq!(hashkey(&hex(&v, "input_hex")), hex8(&v, "hashkey_hex"));
    }
    for v in vectors("hmac64") {
        let hmac = hmac64(Dialect::Current, hex8(&v, "x_hex"), hex8(&v, "y_hex"));
        assert_eq!(hmac, hex8(&v, "hmac64_hex"));
    }
}

#[test]
fn recorded_key_streams() {
    for v in vectors("rc4") {
        let mut cipher = Secret::new(int(&v, "secret"), Dialect::Current).cipher();
        let mut stream = vec![0; 100_032];
        cipher.apply(&mut stream);
        assert_eq!(stream[..64], hex(&v, "keystream_0_64_hex"));
        assert_eq!(stream[100_000..], hex(&v, "keystream_100000_32_hex"));
        assert_eq!(hex(&v, "rc4_key_hex").len(), 32);
        let mut from_key = Rc4::new(&hex(&v, "rc4_key_hex"));
        let mut start = [0; 64];
        from_key.apply(&mut start);
        assert_eq!(start, stream[..64]);
    }
}

#[test]
fn recorded_messages() {
    for v in vectors("messages") {
        let content = text(&v, "content");
        match text(&v, "kind") {
            "new_request" => {
                let Request::New(new) = Request::parse(content.as_bytes()).unwrap() else {
                    panic!("{content}");
                };
                assert_eq!(new.public, int::<u64>(&v, "public_key"));
                assert_eq!(
                    new.target.as_deref().unwrap_or_default(),
                    text(&v, "target")
                );
                assert_eq!(new.flags, int::<u32>(&v, "flag"));
                assert_eq!(new.to_string(), content);
            }
            "new_response" => {
                let response = NewResponse {
                    id: int(&v, "id"),
                    public: int(&v, "public_key"),
                };
                assert_eq!(NewResponse::parse(content.as_bytes()), Ok(response));
                assert_eq!(response.to_string(), content);
            }
            "resume_request" => {
                let Request::Resume(resume) = Request::parse(content.as_bytes()).unwrap() else {
                    panic!("{content}");
                };
                assert_eq!(resume.id, int::<u32>(&v, "id"));
                assert_eq!(resume.index, int::<u32>(&v, "index"));
                assert_eq!(resume.received, int::<u32>(&v, "received"));
                assert_eq!(resume.to_string(), content);
                let owner = |shared| Owner::new(Secret::new(shared, Dialect::Current));
                let shared: u64 = int(&v, "secret");
                assert_eq!(owner(shared).check(&resume), Ok(()));
                assert_eq!(owner(shared + 1).check(&resume), Err(Code::Unauthorized));
            }
            "resume_response" => {
                let response = ResumeResponse::parse(content.as_bytes()).unwrap();
                assert_eq!(response.received, int::<u32>(&v, "received"));
                assert_eq!(response.code as u16, int::<u16>(&v, "code"));
                assert_eq!(response.to_string(), content);
            }
            other => panic!("unknown kind {other}"),
        }
    }
}

#[test]
fn forms_of_a_new_request() {
    let parse = |rest: &str| match Request::parse(format!("0\nAQAAAAAAAAA=\n{rest}").as_bytes()) {
        Ok(Request::New(new)) => {
            let extra: Vec<_> = new.extra.lines().map(Cow::into_owned).collect();
            (new.target, new.flags, extra)
        }
        other => panic!("{other:?}"),
    };
    let none = (None, 0, Vec::new());
    assert!(matches!(Request::parse(b"0\nAQAAAAAAAAA="), Ok(Request::New(n)) if n.public == 1));
    assert_eq!(parse(""), none);
    assert_eq!(parse("\n"), none);
    assert_eq!(parse("game"), (Some("game".into()), 0, vec![]));
    assert_eq!(parse("game\n"), (Some("game".into()), 0, vec![]));
    assert_eq!(parse("game\n1\n"), (Some("game".into()), 1, vec![]));
    assert_eq!(parse("game\n1"), (Some("game".into()), 1, vec![]));
    let extra = vec!["1.2".to_owned(), "gzip".to_owned()];
    assert_eq!(parse("game\n3\n1.2\ngzip"), (Some("game".into()), 3, extra));
    assert_eq!(parse("\n\n\n").2, [""]);
    // Of too many lines the first are kept, whole.
    let long = "x".repeat(3000);
    let many = parse(&format!("\n\n{long}{}", "\n\n1".repeat(50))).2;
    assert_eq!(
        (many.len(), &many[0], &many[1..4]),
        (32, &long, &["", "1", ""].map(str::to_owned)[..])
    );
    assert_eq!(parse(&format!("\n\n{}", "\n".repeat(32))).2.len(), 32);
    assert_eq!(parse(&format!("\n\n{}", "\n".repeat(31))).2.len(), 31);
    // Of a longer key the first 8 bytes count; padding may be missing.
    for key in ["AQAAAAAAAAA", "AQAAAAAAAAAFBQ==", "AQAAAAAAAAAFBQ"] {
        let request = Request::parse(format!("0\n{key}").as_bytes());
        assert!(matches!(request, Ok(Request::New(n)) if n.public == 1));
    }
}

#[test]
fn malformed_requests() {
    for text in [
        "",
        "0",
        "0\n",
        "0\n\n",
        "0\nAAAAAAAAAAA=\n",
        "0\nAQAAAA==\n",
        "0\nAQAA*AAAAAA=\n",
        "0\nAQAAAAAAAAA=\n\nx",
        "0\nAQAAAAAAAAA=\n\n-1",
        "0\nAQAAAAAAAAA=\n\n4294967296",
        "x\nAQAAAAAAAAA=\n",
        "-1\n1\n0\nZgmMJvnm65Q=",
        "4294967296\n1\n0\nZgmMJvnm65Q=",
        "1\n1\n0",
        "1\n1\n0\n",
        "1\n1\n0\nZgmMJvnm6w==",
        "1\n1\n0\nZgmMJvnm65Q=\nmore",
        "1\n+1\n0\nZgmMJvnm65Q=",
        "1\n\n0\nZgmMJvnm65Q=",
        "GET / HTTP/1.1\r\n",
    ] {
        let parsed = Request::parse(text.as_bytes());
        assert!(
            matches!(parsed, Err(Error::Malformed(_))),
            "{text:?}: {parsed:?}"
        );
    }
}

#[test]
fn lying_lengths() {
    assert_eq!(record::body_len([0x10, 0]), Ok(4096));
    assert_eq!(record::body_len([0x10, 1]), Err(Error::TooLong(4097)));
    assert_eq!(record::body_len([0xff, 0xff]), Err(Error::TooLong(65535)));
    assert_eq!(record::encode("1\n200").unwrap(), b"\x00\x051\n200");
    let longest = "x".repeat(4096);
    let record = record::encode(&longest).unwrap();
    assert_eq!(record, [b"\x10\0", longest.as_bytes()].concat());
    assert_eq!(record::encode(&(longest + "x")), Err(Error::TooLong(4097)));
}

#[test]
fn foreign_responses() {
    let response = ResumeResponse::parse(b"12\n200 OK\n").unwrap();
    assert_eq!((response.received, response.code), (12, Code::Ok));
    for text in ["", "12", "12\n", "12\nOK", "12\n999", "x\n200"] {
        assert!(ResumeResponse::parse(text.as_bytes()).is_err(), "{text:?}");
    }
    for text in ["", "1", "0\nAQAAAAAAAAA=", "1\nAQAAAA==", "0\n400"] {
        assert!(NewResponse::parse(text.as_bytes()).is_err(), "{text:?}");
    }
}

/// Checks both sides against each other, in both dialects.
#[test]
fn a_session_and_its_resumes() {
    for dialect in [Dialect::Current, Dialect::Legacy] {
        let (request, hello) = Hello::new(11, dialect, Some("game".into()), 1, &[]);
        let Ok(Request::New(request)) = Request::parse(request.to_string().as_bytes()) else {
            panic!("not taken");
        };
        let (public, mut owner) = Owner::accept(&request, 13, dialect).unwrap();
        let response = NewResponse { id: 42, public };
        let response = NewResponse::parse(response.to_string().as_bytes()).unwrap();
        let mut ticket = hello.answered(&response).unwrap();
        let mut bytes = *b"secret";
        ticket.secret().cipher().apply(&mut bytes);
        owner.secret().cipher().apply(&mut bytes);
        assert_eq!(&bytes, b"secret");

        let first = ticket.resume(0);
        let second = ticket.resume(7 + (1 << 32));
        assert_eq!((first.index, second.index, second.received), (1, 2, 7));
        assert_eq!(owner.check(&second), Ok(()));
        assert_eq!(
            owner.check(&first),
            Ok(()),
            "checking alone uses no index up"
        );
        owner.accepted(&second);
        assert_eq!(owner.check(&second), Err(Code::Expired));
        assert_eq!(owner.check(&first), Err(Code::Expired));
        assert_eq!(owner.check(&ticket.resume(9)), Ok(()));
    }
}

proptest! {
    #[test]
    fn no_text_panics(text: Vec<u8>) {
        let _ = Request::parse(&text);
        let _ = NewResponse::parse(&text);
        let _ = ResumeResponse::parse(&text);
    }

    #[test]
    fn counts_beyond_four_gigabytes(ours in 0u64..1 << 40, behind in 0u64..1 << 32) {
        let theirs = ours.checked_sub(behind);
        prop_assert_eq!(widen(ours.wrapping_sub(behind) as u32, ours), theirs);
    }
}
