//! A gateway under a flood of datagrams that belong to nobody.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stablegate::client::scp::{Options, Stream};
use stablegate::internal::transport::kcp::segment::{Command, Header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::beside_others;
use crate::common::{Gateway, Pattern, connect_with, soon};

/// Sessions that live through the flood.
const LIVE: u64 = 10;
/// Datagrams after which the sessions have to show that they live, and so that all of these have
/// been taken in. A socket's buffer holds them even where it is small.
const WAVE: usize = 100;
const DATAGRAMS: usize = 200_000;
/// Bytes by which the gateway may grow meanwhile: twenty for each address, less than what an entry
/// about it would take.
const GROWTH: u64 = 2_000_000;

/// Sends a wave, with two datagrams from each address.
fn flood(random: &mut StdRng, to: SocketAddr) {
    for _ in 0..WAVE / 2 {
        let [b, c] = random.random();
        let from = Ipv4Addr::new(127, b, c, random.random_range(1..255));
        let socket = UdpSocket::bind((from, 0)).unwrap();
        for _ in 0..2 {
            socket.send_to(&datagram(random), to).unwrap();
        }
    }
}

fn datagram(random: &mut StdRng) -> Vec<u8> {
    let len = random.random_range(1..1_200);
    let payload = Pattern::new(random.random()).next(len);
    let commands = [
        Command::Push,
        Command::Ack,
        Command::WindowAsk,
        Command::WindowTell,
    ];
    let kind = random.random_range(0..4);
    let header = Header {
        conv: random.random(),
        command: match kind {
            0 => Command::Push,
            _ => commands[random.random_range(0..4)],
        },
        fragment: 0,
        window: random.random(),
        timestamp: random.random(),
        // Zero opens a session.
        sn: if kind == 0 { 0 } else { random.random() },
        una: 0,
    };
    let mut whole = header.encode(payload.len() as u32).to_vec();
    whole.extend(payload);
    match kind {
        0 | 1 => whole,
        2 => whole[..random.random_range(0..whole.len())].to_vec(),
        _ => payload.to_vec(),
    }
}

/// A session of which each byte is checked.
struct Session {
    stream: Stream,
    sent: Pattern,
    received: Pattern,
}

impl Session {
    async fn open(name: u64, addr: SocketAddr) -> Self {
        let address = format!("kcp://{addr}").parse().unwrap();
        Self {
            stream: connect_with(Options::new(address)).await,
            sent: Pattern::new(name),
            received: Pattern::new(name),
        }
    }

    async fn echo(&mut self) {
        self.stream.write_all(self.sent.next(100)).await.unwrap();
        let mut buffer = [0; 100];
        while self.received.position() < self.sent.position() {
            let reading = self.stream.read(&mut buffer);
            let len = soon("an echo", reading).await.unwrap();
            assert_ne!(len, 0, "the session has ended");
            self.received.check(&buffer[..len]);
        }
    }
}

#[tokio::test]
async fn sessions_live_and_memory_stays() {
    let _turn = beside_others().await;
    // One socket: what its loop has answered came after what it has taken in.
    let gateway = Gateway::start(
        "listeners: [{name: game, bind: ['kcp://127.0.0.1:0'], session: scp}]\n\
         hosts: [{name: echo, addr: 'builtin:echo'}]\n\
         kcp: {reuseport: 1}\n\
         scp: {handshake_timeout: 500ms}\n",
    )
    .await;
    let mut sessions = Vec::new();
    for name in 0..LIVE {
        sessions.push(Session::open(name, gateway.addr()).await);
    }
    let mut random = StdRng::seed_from_u64(12);
    let mut before = 0;
    // By the end of the first third as many sessions have come and gone as may be there at once,
    // several times.
    for round in 0..(DATAGRAMS + DATAGRAMS / 2) / WAVE {
        flood(&mut random, gateway.addr());
        let at = round % sessions.len();
        sessions[at].echo().await;
        if round == DATAGRAMS / 2 / WAVE {
            before = gateway.resident();
        }
    }
    let after = gateway.resident();
    assert!(after < before + GROWTH, "{before} bytes, then {after}");
    for session in &sessions {
        assert_eq!(session.stream.resumes(), 0);
    }
}
