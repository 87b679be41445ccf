//! fastway's hub under any sequence of commands, of endpoints that do not keep to the protocol: no
//! panic, and nobody hears of a connection but the two whose it is, in the order of its life. What
//! waits for them keeps to its bounds, whoever reads and whoever does not.
#![no_main]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use libfuzzer_sys::fuzz_target;
use stablegate::internal::proto::fastway::queue::{Bounds, CHUNK_COST, Queue};
use stablegate::internal::proto::fastway::{
    Command, Decoder, Event, Frame, Hub, Identity, Peer, Version, data,
};

/// Bounds of what waits for one endpoint and for all of them, bytes.
const QUEUE: usize = 2048;
const POOL: usize = 8192;

/// The longest frame of data.
const LONGEST: usize = CHUNK_COST + 8 + 255;

/// The longest command.
const COMMAND: usize = CHUNK_COST + 8 + 9;

/// What an endpoint has been told.
struct Heard {
    version: Option<Version>,
    /// Connections that were accepted or connected, and not closed.
    live: BTreeSet<u32>,
    queue: Queue,
    /// Of what is in the queue, or was, commands.
    commands: usize,
}

struct Room {
    heard: BTreeMap<usize, Heard>,
    bounds: Bounds,
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

    fn joins(&mut self, name: usize, version: Version) {
        let heard = Heard {
            version: Some(version),
            live: BTreeSet::new(),
            queue: Queue::new(self.bounds.clone()),
            commands: 0,
        };
        self.heard.insert(name, heard);
    }

    /// Whether data for it would wait elsewhere.
    fn is_full(&self, name: usize) -> bool {
        let heard = self.heard.get(&name);
        heard.is_some_and(|heard| heard.queue.is_full())
    }

    fn reads(&mut self, name: usize) {
        let heard = self.heard.get_mut(&name).expect("it is there");
        let mut batch = VecDeque::new();
        heard.queue.take(&mut batch);
        if batch.is_empty() {
            heard.commands = 0;
            assert_eq!(heard.queue.bytes(), 0);
        }
    }

    /// Data keeps to the bounds; commands are beside them, each small.
    fn is_bounded(&self) {
        let mut commands = 0;
        for heard in self.heard.values() {
            assert!(heard.queue.bytes() <= QUEUE + LONGEST + heard.commands);
            commands += heard.commands;
        }
        // Beside the pool, one frame for each of those who had nothing.
        let all: usize = self.heard.values().map(|heard| heard.queue.bytes()).sum();
        assert_eq!(all, self.bounds.pool.bytes());
        assert!(all <= POOL + LONGEST * (1 + self.heard.len()) + commands);
    }

    fn hear(&mut self, to: usize, frame: &Frame) {
        let heard = self.heard.get_mut(&to).expect("it has not left");
        heard.queue.push(frame.clone().into_bytes());
        if frame.conn() == 0 {
            assert!(frame.body().len() <= 9);
            heard.commands += COMMAND;
        }
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
    let mut room = Room {
        heard: BTreeMap::new(),
        bounds: Bounds {
            chunks: usize::MAX,
            bytes: QUEUE,
            pool: Default::default(),
            pool_bytes: POOL,
        },
        began: 0,
        ended: 0,
    };
    let mut peers: Vec<(Peer, usize)> = Vec::new();
    let mut names = 0;
    for (step, who, a, b) in steps {
        room.is_bounded();
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
            room.joins(names, version);
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
        let message = parse(&data(conn, &vec![b; b.into()]));
        let to = hub.destination(peer, &message).copied();
        let held = to.is_some_and(|to| room.is_full(to));
        if step % 16 == 15 {
            room.reads(name);
            continue;
        }
        let emit = &mut |event: Event<'_, usize, ()>| room.take(event);
        let result = match step % 16 {
            // It waits, and so does who sent it.
            8..=11 if held => continue,
            8..=11 => hub.receive(peer, message, emit),
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
