//! fastway's hub under any sequence of commands, of endpoints that do not keep to the protocol: no
//! panic, and nobody hears of a connection but the two whose it is, in the order of its life.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use libfuzzer_sys::fuzz_target;
use stablegate::proto::fastway::{
    Command, Decoder, Event, Frame, Hub, Identity, Peer, Version, data,
};

/// What an endpoint has been told.
#[derive(Default)]
struct Heard {
    version: Option<Version>,
    /// Connections that were accepted or connected, and not closed.
    live: BTreeSet<u32>,
}

#[derive(Default)]
struct Room {
    heard: BTreeMap<usize, Heard>,
    began: usize,
    ended: usize,
}

impl Room {
    fn take(&mut self, event: Event<'_, usize, ()>) {
        match event {
            Event::Frame { to, frame } => self.hear(*to, &parse(&frame)),
            Event::Replaced { peer } => {
                self.heard.remove(peer);
            }
            Event::Ended { .. } => self.ended += 1,
        }
    }

    fn hear(&mut self, to: usize, frame: &Frame) {
        let heard = self.heard.entry(to).or_default();
        if frame.conn() != 0 {
            assert!(heard.live.contains(&frame.conn()), "data of no connection");
            return;
        }
        // One of unknown version is spoken to as v3 until it is known, or v2.
        let Some(version) = heard.version else {
            return;
        };
        match Command::parse(version, frame.body()).expect("a command of its version") {
            Command::Accept { conn, .. } | Command::Connect { conn, .. } => {
                assert!(heard.live.insert(conn), "connected twice");
            }
            Command::Close { conn } => {
                heard.live.remove(&conn);
            }
            Command::New | Command::Dial { .. } => panic!("said by an endpoint only"),
            Command::Open { .. } | Command::Refuse { .. } | Command::Ping => {}
        }
    }
}

fn parse(bytes: &[u8]) -> Frame {
    let mut decoder = Decoder::new(1 << 20, 64);
    decoder.space().extend_from_slice(bytes);
    let frame = decoder.next_frame().expect("a frame").expect("all of it");
    assert_eq!(decoder.next_frame(), Ok(None), "and nothing else");
    frame
}

fuzz_target!(|steps: Vec<(u8, u8, u8, u8)>| {
    let mut hub = Hub::<usize, ()>::default();
    let mut room = Room::default();
    let mut peers: Vec<(Peer, usize)> = Vec::new();
    let mut names = 0;
    for (step, who, a, b) in steps {
        let version = Version::ALL[usize::from(a) % 3];
        if peers.is_empty() || step % 16 == 0 {
            names += 1;
            let identity = match step & 16 {
                0 => Identity::Client {
                    version: Some(version),
                    max_connections: usize::from(b % 4),
                },
                _ => Identity::Server {
                    version,
                    id: u32::from(b % 4),
                },
            };
            room.heard.entry(names).or_default().version = Some(version);
            let (peer, _) = hub.join(identity, names, &mut |event| room.take(event));
            peers.push((peer, names));
            continue;
        }
        let at = usize::from(who) % peers.len();
        let (peer, name) = peers[at];
        let (conn, remote) = (u32::from(a), u32::from(b % 8));
        let version = room.heard.get(&name).and_then(|heard| heard.version);
        let Some(version) = version else {
            // Replaced: what it says is not heard.
            peers.swap_remove(at);
            assert_eq!(
                hub.receive(peer, parse(&data(1, b"x")), &mut |_| panic!()),
                Ok(None)
            );
            continue;
        };
        let command = match step % 16 {
            1 | 2 => Command::Dial { conn, remote },
            3 | 4 => Command::New,
            5 => Command::Close { conn },
            6 => Command::Ping,
            7 => Command::Accept { conn, remote },
            _ => Command::Refuse { conn, remote },
        };
        let emit = &mut |event: Event<'_, usize, ()>| room.take(event);
        let result = match step % 16 {
            8..=11 => hub.receive(peer, parse(&data(conn, &[b])), emit),
            12 => hub.receive(peer, parse(&data(0, &[a, b])), emit),
            13 => hub.idle(peer, emit).map(|()| None),
            14 => {
                assert_eq!(hub.leave(peer, emit), Some(name));
                room.heard.remove(&name);
                peers.swap_remove(at);
                continue;
            }
            _ => match command.encode(version) {
                Some(frame) => hub.receive(peer, parse(&frame), emit),
                None => continue,
            },
        };
        match result {
            Ok(None) => {}
            Ok(Some(dial)) if step & 32 != 0 => hub.refuse(peer, dial, emit),
            Ok(Some(dial)) => {
                let connected = hub.connect(peer, dial, remote, (), emit).is_ok();
                room.began += usize::from(connected);
            }
            Err(_) => {
                hub.leave(peer, emit);
                room.heard.remove(&name);
                peers.swap_remove(at);
            }
        }
    }
    for (peer, name) in peers {
        hub.leave(peer, &mut |event| room.take(event));
        room.heard.remove(&name);
    }
    assert_eq!((hub.connections(), room.began - room.ended), (0, 0));
});
