//! Tests against the recorded sessions of the original.

use std::num::NonZeroU64;

use proptest::prelude::*;
use serde_json::Value;

use super::client::{Hello, Ticket};
use super::message::*;
use super::server::{Owner, Refusal};
use super::*;
use crate::session::Core;

const VERSIONS: [Version; 2] = [Version::V1, Version::V2];

fn hex(digits: &str) -> Vec<u8> {
    let pair = |i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(pair).collect()
}

/// Recorded session.
struct Recording {
    version: Version,
    value: Value,
}

fn recordings() -> Vec<Recording> {
    let all: Value =
        serde_json::from_str(include_str!("../../../tests/vectors/snet.json")).unwrap();
    let of = |(version, key): (Version, &str)| {
        let sessions = all[key].as_array().unwrap().clone();
        assert!(!sessions.is_empty());
        sessions
            .into_iter()
            .map(move |value| Recording { version, value })
    };
    [(Version::V1, "v1"), (Version::V2, "v2")]
        .into_iter()
        .flat_map(of)
        .collect()
}

impl Recording {
    fn private(&self, side: &str) -> u64 {
        self.value[format!("{side}_private")]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    fn core(&self, incoming: Rc4, outgoing: Rc4) -> Core {
        let encrypt = self.value["encrypt"].as_bool().unwrap();
        let limit = self.value["replay_buffer"].as_u64().unwrap() as usize;
        Core::new(
            encrypt.then_some(incoming),
            encrypt.then_some(outgoing),
            // Only half of our replay buffer may be in flight.
            2 * limit,
        )
    }

    /// Returns all bytes of one side on one connection.
    fn bytes(&self, connection: u64, from: &str) -> Vec<u8> {
        let pieces = self.value["stream"].as_array().unwrap().iter();
        pieces
            .filter(|piece| piece["conn"] == connection && piece["from"] == from)
            .flat_map(|piece| hex(piece["hex"].as_str().unwrap()))
            .collect()
    }

    /// Returns what one side's program wrote before and after the cut.
    fn script(&self, side: &str) -> (Vec<u8>, Vec<u8>) {
        let lines = self.value["script"].as_array().unwrap().iter();
        let lines: Vec<&str> = lines.map(|line| line.as_str().unwrap()).collect();
        let said = |lines: &[&str]| {
            let prefix = format!("{side}: ");
            let said = lines.iter().filter_map(|line| line.strip_prefix(&prefix));
            said.collect::<String>().into_bytes()
        };
        let cut = lines.iter().position(|line| line.contains("cut --"));
        let (before, after) = lines.split_at(cut.unwrap());
        (said(before), said(after))
    }
}

/// Removes and returns the first `len` bytes.
fn take(bytes: &mut Vec<u8>, len: usize) -> Vec<u8> {
    let rest = bytes.split_off(len);
    std::mem::replace(bytes, rest)
}

/// Returns the bytes `core` sends over a connection that takes `len` bytes.
fn put(core: &mut Core, len: usize) -> Vec<u8> {
    let (a, b) = core.unsent();
    let bytes: Vec<u8> = a.iter().chain(b).copied().take(len).collect();
    core.written(bytes.len());
    bytes
}

/// Checks our server and our client, each in the place of the original's, byte for byte.
///
/// The recorded bytes of one side are fed to the other, which must produce the recorded answer.
#[test]
fn recorded_sessions() {
    for recording in recordings() {
        let version = recording.version;
        let mut from_client = recording.bytes(1, "client");
        let mut from_server = recording.bytes(1, "server");

        // New.
        let (request, hello) = Hello::new(recording.private("client"), version);
        let sent = take(&mut from_client, request.to_bytes().len());
        assert_eq!(request.to_bytes(), sent);
        let Ok(Some(Request::New(parsed))) = Request::parse(&sent, None) else {
            panic!("not taken");
        };
        assert_eq!(parsed, request);
        let owner = Owner::accept(&parsed, recording.private("server")).unwrap();
        let sent = take(&mut from_server, response_len(version));
        let response = NewResponse::parse(&sent, version).unwrap().unwrap();
        let opened = hello.answered(&response).unwrap();
        assert_eq!(opened.ticket.id(), 1);
        let challenge = response.challenge.unwrap_or(NonZeroU64::MIN);
        assert_eq!(owner.answer(1, challenge), response);
        assert_eq!(response.to_bytes(), sent);
        if let Some(proof) = opened.proof {
            assert_eq!(take(&mut from_client, proof.len()), proof);
            assert_eq!(owner.check_proof(challenge, &proof), Ok(()));
        }

        // Payload, up to the cut. Each side sends all it says before and, in some of the
        // recordings, some that it says after the cut has happened and that is lost.
        let ticket = opened.ticket;
        let mut client = recording.core(opened.incoming, opened.outgoing);
        let (incoming, outgoing) = owner.ciphers();
        let mut server = recording.core(incoming, outgoing);
        let scripts = ["client", "server"].map(|side| recording.script(side));
        for (core, (before, after)) in [&mut client, &mut server].into_iter().zip(&scripts) {
            assert_eq!(core.push(before), before.len());
            assert_eq!(core.push(after), after.len());
        }
        assert_eq!(put(&mut client, from_client.len()), from_client);
        assert_eq!(put(&mut server, from_server.len()), from_server);

        // Resume: the counts of the requests tell what had been received, and what the client
        // says after the resume had not been sent then.
        let mut from_client_2 = recording.bytes(2, "client");
        let mut from_server_2 = recording.bytes(2, "server");
        let sent = take(&mut from_client_2, 40 + usize::from(version == Version::V2));
        let Ok(Some(Request::Resume(resume))) = Request::parse(&sent, None) else {
            panic!("not taken");
        };
        assert_eq!(resume.to_bytes(), sent);
        assert_eq!(ticket.resume(resume.counts), resume);
        assert_eq!((resume.id, resume.version), (1, version));
        assert_eq!(owner.check(&resume), Ok(()));
        let sent = take(&mut from_server_2, response_len(version));
        let response = ResumeResponse::parse(&sent, version).unwrap().unwrap();
        assert_eq!(response.to_bytes(), sent);
        assert!(resume.counts.fit(response.counts));
        if let Some(proof) = ticket.prove(&response) {
            assert_eq!(take(&mut from_client_2, proof.len()), proof);
            assert_eq!(
                owner.check_proof(response.challenge.unwrap(), &proof),
                Ok(())
            );
        }
        for (core, received, other) in [
            (&mut client, resume.counts.received, from_server),
            (&mut server, response.counts.received, from_client),
        ] {
            let mut delivered = other[..received as usize].to_vec();
            core.receive(&mut delivered);
            assert_eq!(core.received(), received);
        }
        client.resume(response.counts.received).unwrap();
        server.resume(resume.counts.received).unwrap();
        assert_eq!(put(&mut client, usize::MAX), from_client_2);
        assert_eq!(put(&mut server, usize::MAX), from_server_2);

        // What each side's program gets is what the other's wrote.
        for (core, bytes, (before, after)) in [
            (&mut server, &mut from_client_2, &scripts[0]),
            (&mut client, &mut from_server_2, &scripts[1]),
        ] {
            let whole = [&before[..], after].concat();
            let had = core.received() as usize;
            assert_eq!(core.receive(bytes), &whole[had..]);
        }
    }
}

/// Parses a request in steps, as from a connection with further bytes behind it.
fn read(mut wire: &[u8], only: Option<Version>, step: usize) -> (Result<Request, Error>, usize) {
    let whole = wire.len();
    let mut bytes = Vec::new();
    loop {
        match Request::parse(&bytes, only) {
            Ok(Some(request)) => return (Ok(request), whole - wire.len()),
            Err(error) => return (Err(error), whole - wire.len()),
            Ok(None) => {}
        }
        let missing = Request::missing(&bytes, only);
        assert!(missing > 0 && bytes.len() + missing <= MAX_REQUEST);
        let (piece, rest) = wire.split_at(missing.min(step));
        bytes.extend_from_slice(piece);
        wire = rest;
    }
}

fn ticket(version: Version) -> (Owner, Ticket) {
    let (request, hello) = Hello::new(11, version);
    let owner = Owner::accept(&request, 13).unwrap();
    let opened = hello
        .answered(&owner.answer(0x1234, NonZeroU64::MIN))
        .unwrap();
    (owner, opened.ticket)
}

fn requests() -> Vec<Request> {
    let counts = Counts {
        sent: 1 << 40,
        received: (1 << 40) + 7,
    };
    VERSIONS
        .into_iter()
        .flat_map(|version| {
            [
                Request::New(Hello::new(11, version).0),
                Request::Resume(ticket(version).1.resume(counts)),
            ]
        })
        .collect()
}

fn to_bytes(request: Request) -> Vec<u8> {
    match request {
        Request::New(request) => request.to_bytes(),
        Request::Resume(request) => request.to_bytes(),
    }
}

/// Checks that a request parses the same whole, split at each byte and byte by byte, alone and
/// before other bytes.
#[test]
fn requests_in_pieces() {
    for request in requests() {
        let mut wire = to_bytes(request);
        let padding = if let Request::New(NewRequest {
            version: Version::V1,
            ..
        }) = request
        {
            PADDING
        } else {
            0
        };
        let len = wire.len() - padding;
        for at in 0..len {
            let early = Request::parse(&wire[..at], None);
            assert_eq!(early, Ok(None), "{at} of {request:?}");
        }
        wire.extend([0xab; 50]);
        for only in [None, Some(request.version())] {
            for step in 1..=wire.len() {
                assert_eq!(read(&wire, only, step), (Ok(request), len));
            }
            assert_eq!(Request::parse(&wire, only), Ok(Some(request)));
        }
    }
}

#[test]
fn responses_in_pieces() {
    for version in VERSIONS {
        let challenge = (version == Version::V2).then_some(NonZeroU64::MAX);
        let new = NewResponse {
            public: 5,
            sealed_id: *b"whatever",
            challenge,
        };
        let counts = Counts {
            sent: 0,
            received: u64::MAX,
        };
        let resume = ResumeResponse { counts, challenge };
        let wires = [new.to_bytes(), resume.to_bytes()];
        for wire in &wires {
            assert_eq!(wire.len(), response_len(version));
            for at in 0..wire.len() {
                assert_eq!(NewResponse::parse(&wire[..at], version), Ok(None));
                assert_eq!(ResumeResponse::parse(&wire[..at], version), Ok(None));
            }
        }
        for more in [&[][..], &[7; 9]] {
            let [new_wire, resume_wire] = wires.clone().map(|wire| [&wire[..], more].concat());
            assert_eq!(NewResponse::parse(&new_wire, version), Ok(Some(new)));
            assert_eq!(
                ResumeResponse::parse(&resume_wire, version),
                Ok(Some(resume))
            );
        }
    }
}

#[test]
fn requests_that_no_version_takes() {
    for (bytes, only, error) in [
        (&[0; 16][..], None, Error::ZeroKey),
        (&[0; 16], Some(Version::V1), Error::ZeroKey),
        (&[0; 9], Some(Version::V2), Error::ZeroKey),
        (&[1], Some(Version::V2), Error::FirstByte(1)),
        (b"GET / HTTP", Some(Version::V2), Error::FirstByte(b'G')),
    ] {
        assert_eq!(Request::parse(bytes, only), Err(error));
    }
    // Seven zero bytes after the first: version 1, where that is accepted.
    let mut wire = [0; 16];
    wire[8] = 5;
    let new = |version, public| Ok(Some(Request::New(NewRequest { version, public })));
    assert_eq!(Request::parse(&wire[..9], None), Ok(None));
    assert_eq!(Request::parse(&wire, None), new(Version::V1, 5));
    assert_eq!(
        Request::parse(&wire, Some(Version::V2)),
        new(Version::V2, 5 << 56)
    );
}

#[test]
fn answers_that_are_refusals() {
    assert_eq!(
        NewResponse::parse(&REFUSED, Version::V2),
        Err(Error::Refused)
    );
    assert_eq!(
        ResumeResponse::parse(&REFUSED, Version::V2),
        Err(Error::Refused)
    );
    assert_eq!(
        NewResponse::parse(&[0; 16], Version::V1),
        Err(Error::ZeroKey)
    );
    // In version 1 a session that has moved nothing looks like this.
    let counts = Counts {
        sent: 0,
        received: 0,
    };
    let response = ResumeResponse {
        counts,
        challenge: None,
    };
    assert_eq!(
        ResumeResponse::parse(&[0; 16], Version::V1),
        Ok(Some(response))
    );
}

#[test]
fn only_the_owner_resumes() {
    let counts = Counts {
        sent: 3,
        received: 4,
    };
    for version in VERSIONS {
        let (owner, ticket) = ticket(version);
        let good = ticket.resume(counts);
        assert_eq!(owner.check(&good), Ok(()));
        for at in 0..16 {
            for bit in 0..8 {
                let mut forged = good;
                forged.mac[at] ^= 1 << bit;
                assert_eq!(owner.check(&forged), Err(Refusal::Unauthorized));
            }
        }
        for (sent, received) in [(4, 4), (3, 5), (4, 3)] {
            let forged = ResumeRequest {
                counts: Counts { sent, received },
                ..good
            };
            assert_eq!(owner.check(&forged), Err(Refusal::Unauthorized));
        }
        let other = VERSIONS
            .into_iter()
            .find(|other| *other != version)
            .unwrap();
        let forged = ResumeRequest {
            version: other,
            ..good
        };
        assert_eq!(owner.check(&forged), Err(Refusal::OtherVersion));
        let forged = ResumeRequest {
            id: good.id + 1,
            ..good
        };
        assert_eq!(owner.check(&forged), Err(Refusal::Unauthorized));
    }
}

#[test]
fn a_challenge_is_answered_once() {
    let (owner, ticket) = ticket(Version::V2);
    let counts = Counts {
        sent: 0,
        received: 0,
    };
    let response = |challenge| ResumeResponse {
        counts,
        challenge: NonZeroU64::new(challenge),
    };
    let proof = ticket.prove(&response(7)).unwrap();
    let check =
        |challenge, proof: Proof| owner.check_proof(NonZeroU64::new(challenge).unwrap(), &proof);
    assert_eq!(check(7, proof), Ok(()));
    assert_eq!(check(8, proof), Err(Refusal::Unproven));
    for at in 0..16 {
        let mut wrong = proof;
        wrong[at] ^= 1;
        assert_eq!(check(7, wrong), Err(Refusal::Unproven));
    }
    assert_eq!(ticket.prove(&response(0)), None);
}

#[test]
fn counts_that_cannot_be() {
    let at = |sent, received| Counts { sent, received };
    assert!(at(5, 7).fit(at(7, 5)));
    assert!(at(9, 2).fit(at(7, 5)));
    assert!(!at(4, 7).fit(at(7, 5)), "we have more than they sent");
    assert!(!at(5, 8).fit(at(7, 5)), "they have more than we sent");
}

#[test]
fn ids_that_are_never_handed_out() {
    let ambiguous = (0..1 << 16).filter(|id| !is_unambiguous(*id));
    assert_eq!(ambiguous.count(), 2 * 256);
    assert!(!is_unambiguous(0x0700) && !is_unambiguous(0x07ff) && is_unambiguous(0xff01));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60), zeros in 0usize..17) {
        let bytes = [&vec![0; zeros][..], &bytes].concat();
        for only in [None, Some(Version::V1), Some(Version::V2)] {
            if let Ok(Some(request)) = Request::parse(&bytes, only) {
                prop_assert!(only.is_none_or(|only| only == request.version()));
                prop_assert_eq!(Request::missing(&bytes, only), 0);
                let again = to_bytes(request);
                prop_assert_eq!(Request::parse(&again, Some(request.version())), Ok(Some(request)));
            }
        }
        for version in VERSIONS {
            if let Ok(Some(response)) = NewResponse::parse(&bytes, version) {
                prop_assert_eq!(&response.to_bytes(), &bytes[..response_len(version)]);
            }
            if let Ok(Some(response)) = ResumeResponse::parse(&bytes, version) {
                prop_assert_eq!(&response.to_bytes(), &bytes[..response_len(version)]);
            }
        }
    }
}
