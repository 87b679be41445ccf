//! Who is not let in, and that those who are do not notice.

use std::net::SocketAddr;

use stablegate::internal::crypto::public_key;
use stablegate::internal::proto::snet::Version;
use stablegate::internal::proto::snet::message::{Counts, REFUSED, ResumeResponse};
use tokio::io::AsyncWriteExt;

use super::raw::{Raw, VERSIONS, dial, read, read_to_end};
use crate::common::{self, Gateway};

/// An snet listener called `game` and an scp one called `other`. Handshakes have all the time of
/// the world, so that whatever waits for one to end waits in vain.
const CONFIG: &str = "
listeners:
  - {name: game, bind: ['tcp://127.0.0.1:0'], session: snet}
  - {name: other, bind: ['tcp://127.0.0.1:0'], session: scp}
snet: {handshake_timeout: 1h}
hosts: [{name: echo, addr: 'builtin:echo'}]
";

fn refusal(version: Version) -> &'static [u8] {
    match version {
        Version::V1 => &[],
        Version::V2 => &REFUSED,
    }
}

/// What comes back to `request` before the gateway closes.
async fn ask(addr: SocketAddr, request: &[u8]) -> Vec<u8> {
    read_to_end(&mut dial(addr, request).await).await
}

#[tokio::test]
async fn forged_resumes() {
    let gateway = Gateway::start(CONFIG).await;
    let addr = gateway.addr();
    for version in VERSIONS {
        let mut victim = Raw::connect(addr, version).await;
        victim.echo("before").await;
        let good = victim.resume_request();
        // Behind the first byte of version 2: id, sent, received, MAC.
        let start = good.len() - 40;
        for at in [0, 1, 4, 7, 8, 15, 16, 23, 24, 31, 39] {
            let mut forged = good.clone();
            forged[start + at] ^= 0x04;
            assert_eq!(ask(addr, &forged).await, refusal(version), "byte {at}");
            victim.echo("and on").await;
        }
        // A signed request whose counts cannot be.
        for (sent, received) in [(0, 0), (5, 6), (1 << 40, 1 << 40)] {
            let counts = Counts { sent, received };
            let request = victim.ticket.resume(counts).to_bytes();
            assert_eq!(ask(addr, &request).await, refusal(version), "{counts:?}");
            victim.echo("and on").await;
        }
        // In the other version, which would need no challenge, or another.
        let request = victim.resume_request();
        let (other, version) = match version {
            Version::V1 => ([&[0xff], &request[..]].concat(), Version::V2),
            Version::V2 => (request[1..].to_vec(), Version::V1),
        };
        assert_eq!(ask(addr, &other).await, refusal(version));
        victim.echo("after").await;
    }
    assert!(gateway.log().all("session resumed").is_empty());
    gateway.log().nth("handshake failed", 2 * 15 - 1).await;
    let failed = gateway.log().all("handshake failed");
    assert_eq!(failed.len(), 2 * 15);
    for line in failed {
        assert_eq!(line["reason"], "resume_refused", "{line}");
    }
}

#[tokio::test]
async fn a_refused_client_that_stays() {
    let gateway = Gateway::start(CONFIG).await;
    let addr = gateway.addr();
    let victim = Raw::connect(addr, Version::V2).await;
    let mut forged = victim.resume_request();
    *forged.last_mut().unwrap() ^= 1;
    let mut kept = dial(addr, &forged).await;
    assert_eq!(read(&mut kept, REFUSED.len()).await, REFUSED);
    let failed = gateway.log().nth("handshake failed", 0).await;
    assert_eq!(failed["reason"], "resume_refused", "{failed}");
}

/// Whoever recorded a resume of version 2 gets as far as the challenge. Meanwhile, and however
/// long that takes, the session goes on as if nothing had been.
#[tokio::test]
async fn a_replayed_resume() {
    let gateway = Gateway::start(CONFIG).await;
    let addr = gateway.addr();
    let mut victim = Raw::connect(addr, Version::V2).await;
    victim.echo("before").await;
    let recorded = victim.resume_request();
    victim.resume(addr).await;
    let resumed = gateway.log().nth("session resumed", 0).await;
    assert_eq!(resumed["listener"], "game");

    let mut attacker = dial(addr, &recorded).await;
    let challenge = read(&mut attacker, 24).await;
    assert_ne!(challenge, REFUSED);
    let mut other = dial(addr, &recorded).await;
    let second = read(&mut other, 24).await;
    assert_eq!(challenge[..16], second[..16]);
    assert_ne!(
        challenge[16..],
        second[16..],
        "a challenge is never the same"
    );
    for n in 0..20 {
        victim.echo(&format!("round {n}")).await;
    }
    // An answer to another challenge, though right for that, and no answer at all.
    let response = ResumeResponse::parse(&challenge, Version::V2);
    let proof = victim.ticket.prove(&response.unwrap().unwrap()).unwrap();
    other.write_all(&proof).await.unwrap();
    assert_eq!(read_to_end(&mut other).await, b"");
    victim.echo("after a wrong answer").await;
    attacker.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut attacker).await, b"");
    victim.echo("after no answer").await;
    // By now the counts are of the past.
    assert_eq!(ask(addr, &recorded).await, REFUSED);
    // The owner still comes and goes.
    victim.resume(addr).await;
    victim.echo("after a resume").await;
    gateway.log().nth("session resumed", 1).await;
    assert_eq!(gateway.log().all("session resumed").len(), 2);
}

/// While the victim is away, neither a replay nor one that goes unanswered keeps it from coming
/// back.
#[tokio::test]
async fn a_replay_while_the_victim_is_away() {
    let gateway = Gateway::start(CONFIG).await;
    let addr = gateway.addr();
    let mut victim = Raw::connect(addr, Version::V2).await;
    victim.echo("before").await;
    victim.socket.shutdown().await.unwrap();
    let mut silent = dial(addr, &victim.resume_request()).await;
    let challenge = read(&mut silent, 24).await;
    assert_ne!(challenge, REFUSED);
    let mut wrong = dial(addr, &victim.resume_request()).await;
    read(&mut wrong, 24).await;
    wrong.write_all(&[7; 16]).await.unwrap();
    assert_eq!(read_to_end(&mut wrong).await, b"");
    victim.resume(addr).await;
    victim.echo("after").await;
}

#[tokio::test]
async fn a_new_session_without_proof() {
    let gateway = Gateway::start(CONFIG).await;
    let (hello, _) = Raw::hello(Version::V2);
    let mut socket = dial(gateway.addr(), &hello).await;
    assert_ne!(read(&mut socket, 24).await, REFUSED);
    socket.write_all(&[7; 16]).await.unwrap();
    assert_eq!(read_to_end(&mut socket).await, b"");
    let failed = gateway.log().nth("handshake failed", 0).await;
    assert_eq!(failed["reason"], "unproven", "{failed}");
    assert!(gateway.log().all("session opened").is_empty());
}

#[tokio::test]
async fn malformed_requests() {
    let gateway = Gateway::start(CONFIG).await;
    let public = public_key(7).to_le_bytes();
    for (n, request) in [
        // Public keys of zero, and zero modulo the prime.
        [&[0; 16][..]].concat(),
        [&[0; 8][..], &0xffff_ffff_ffff_ffc5_u64.to_le_bytes()].concat(),
        [&[0][..], &0xffff_ffff_ffff_ffc5_u64.to_le_bytes()].concat(),
        // Padding that is none.
        [&[0; 8], &public[..], &[0, 0, 1]].concat(),
    ]
    .into_iter()
    .enumerate()
    {
        let mut socket = dial(gateway.addr(), &request).await;
        assert_eq!(read_to_end(&mut socket).await, b"");
        let failed = gateway.log().nth("handshake failed", n).await;
        assert_eq!(failed["reason"], "malformed", "{failed}");
    }
}

/// The ids of one protocol mean nothing to the other.
#[tokio::test]
async fn sessions_of_another_protocol() {
    let gateway = Gateway::start(CONFIG).await;
    let (snet, scp) = (gateway.addrs("game")[0], gateway.addrs("other")[0]);
    let mut ours = Raw::connect(snet, Version::V2).await;
    let mut theirs = common::Raw::connect(scp).await;
    ours.echo("ours").await;
    theirs.echo("theirs").await;

    let mut request = ours.resume_request();
    request[1..9].copy_from_slice(&u64::from(theirs.id).to_le_bytes());
    assert_eq!(ask(snet, &request).await, REFUSED);
    let text = theirs.request(1, 0);
    let (_, rest) = text.split_once('\n').unwrap();
    let answer = common::ask(scp, common::record(format!("{}\n{rest}", ours.id()))).await;
    assert_eq!(answer, common::record("0\n404"));

    ours.echo("ours").await;
    theirs.echo("theirs").await;
}
