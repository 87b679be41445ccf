//! A session as its driver and its stream share it.
//!
//! The state lies behind one small lock. The driver takes it once for all datagrams of a session
//! that one system call received, the stream once for each read and write; neither does anything
//! slow meanwhile: the driver collects what is to be sent and sends it after. So a byte is copied
//! from the socket to the state and from there to the reader, as few times as the ordering of
//! segments allows. A queue between the two would cost an allocation per message and one more
//! copy, and would not spare the wake-up.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::clock::{Clock, widen};
use crate::counters::FecStats;
use crate::fec;
use crate::fec::shards::{Incoming, Shards};
use crate::handle::DriverHandle;
use crate::state::Kcp;
use crate::udp::{Outbox, Path};

// In milliseconds:
/// How long what was written before a stream ended may wait for the next acknowledgement.
const LINGER: u64 = 15_000;
/// How long a shut stream waits for more when everything is acknowledged.
const QUIET_END: u64 = 1_000;
/// How long a session that is done stays to acknowledge what is sent again, since it last heard
/// of its peer: the acknowledgement may have been lost.
const REPEATS: u64 = 500;

/// Bytes of room that are worth waking a writer for.
const WORTHWHILE: usize = 16 * 1024;

/// Milliseconds between two looks at a session whose reader lets data wait.
const UNREAD: u64 = 1_000;

#[derive(Debug)]
pub(super) struct Session {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    driver: Arc<DriverHandle>,
    slot: u32,
    state: Mutex<State>,
}

/// What a session is and where it is in its life.
///
/// ```text
///            shut: no more writes      all acknowledged, quiet
///    Open ─────────────────────► Shut ─────────────────────────► Eof
///     │  └───────────┐    ┌───────┘ └── LINGER passed ──┐         │
///     │ read timeout,│    │ the stream                  │         │
///     │ replaced, …  │    │ is dropped                  ▼         │
///     └──────────────│────│───────────────────────────► Broken    │
///                    ▼    ▼                                       │
///                  Lingering ─── all acknowledged, or LINGER ──► gone
/// ```
///
/// From each of them a reset leads to gone.
#[derive(Debug)]
pub(super) struct State {
    pub kcp: Kcp,
    pub shards: Option<Box<Shards>>,
    pub reader: Option<Waker>,
    pub writer: Option<Waker>,
    pub phase: Phase,
    /// What the timestamps on its wire are ahead of its driver's clock. It is random, so that nobody
    /// who does not receive them can know them, not even from another session.
    skew: u32,
    /// Milliseconds without data that break it.
    read_timeout: Option<u64>,
    /// It has asked its driver to drive it.
    queued: bool,
    /// When its driver last had to do with it, when anything was last heard of its peer, and when data.
    pub now: u64,
    heard: u64,
    data_came: u64,
    /// When its peer last acknowledged anything.
    delivered: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    /// Nothing more will be written, since then.
    Shut(u64),
    /// It is all delivered and nothing more came for a while.
    Eof,
    /// Its driver knows it no more.
    Broken(io::ErrorKind),
    /// The stream is gone, since then.
    Lingering(u64),
    /// The stream is gone, and what was written to it is no longer wanted.
    Reset,
}

/// What driving a session came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Again at that time.
    At(Option<u64>),
    /// Again as soon as the outbox is empty.
    Full,
    /// It is to be forgotten.
    Gone,
}

impl Session {
    pub fn new(
        peer: SocketAddr,
        local: SocketAddr,
        driver: Arc<DriverHandle>,
        slot: u32,
        state: State,
    ) -> Self {
        Self {
            peer,
            local,
            driver,
            slot,
            state: Mutex::new(state),
        }
    }

    pub fn clock(&self) -> Clock {
        self.driver.clock
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves it behind, to deliver what was written: its stream is gone.
    pub fn leave(&self) {
        let mut state = self.lock();
        (state.reader, state.writer) = (None, None);
        if !matches!(state.phase, Phase::Broken(_) | Phase::Reset) {
            state.phase = Phase::Lingering(self.clock().now());
            self.ask(state);
        }
    }

    /// Has the driver drive the session.
    pub fn ask(&self, mut state: MutexGuard<'_, State>) {
        let asked = std::mem::replace(&mut state.queued, true);
        let known = !matches!(state.phase, Phase::Broken(_));
        drop(state);
        if known && !asked {
            self.driver.drive(self.slot);
        }
    }
}

impl State {
    pub fn new(kcp: Kcp, shards: Option<Box<Shards>>, read_timeout: Option<u64>, now: u64) -> Self {
        Self {
            kcp,
            shards,
            reader: None,
            writer: None,
            phase: Phase::Open,
            skew: rand::random(),
            read_timeout,
            queued: false,
            now,
            heard: now,
            data_came: now,
            delivered: now,
        }
    }

    /// A time of its driver's as its state machine knows it.
    pub fn timestamp(&self, now: u64) -> u32 {
        (now as u32).wrapping_add(self.skew)
    }

    /// Takes in a datagram of the session's peer.
    pub fn input(&mut self, incoming: &Incoming<'_>, now: u64) {
        let (readable, unacked) = (self.kcp.readable(), self.kcp.unacked());
        let timestamp = self.timestamp(now);
        // What is wrong with a datagram is counted there.
        if let Some(payload) = incoming.payload() {
            let _ = self.kcp.handle_datagram(payload, timestamp);
        }
        if let Incoming::Shard(shard) = incoming
            && let Some(shards) = &mut self.shards
        {
            let kcp = &mut self.kcp;
            shards.input(shard, now, |payload| {
                let _ = kcp.handle_recovered(payload, timestamp);
            });
        }
        (self.now, self.heard) = (now, now);
        if self.kcp.readable() > readable {
            self.data_came = now;
        }
        if self.kcp.unacked() < unacked {
            self.delivered = now;
        }
    }

    /// Does what is due: sends, gives up, ends.
    pub fn drive(&mut self, now: u64, path: Path, outbox: &mut Outbox) -> Next {
        self.queued = false;
        self.now = now;
        if self.phase == Phase::Reset {
            return Next::Gone;
        }
        // What comes to a session that lingers is not taken out: the peer must not be told of more
        // room for what nobody will read.
        if !self.transmit(now, path, outbox) {
            return Next::Full;
        }
        if let Some(shards) = &mut self.shards {
            shards.rest(now);
        }
        match self.phase {
            Phase::Open => {}
            Phase::Shut(since) if self.kcp.unacked() == 0 => {
                if since.max(self.heard) + QUIET_END <= now {
                    self.phase = Phase::Eof;
                }
            }
            Phase::Shut(since) if self.gives_up(since) <= now => {
                self.phase = Phase::Broken(io::ErrorKind::TimedOut);
            }
            Phase::Lingering(since) => {
                let done = self.kcp.unacked() == 0 && self.heard + REPEATS <= now;
                if done || self.gives_up(since) <= now {
                    return Next::Gone;
                }
            }
            Phase::Shut(_) | Phase::Eof | Phase::Broken(_) | Phase::Reset => {}
        }
        if self.silent_until().is_some_and(|at| at <= now) {
            if self.kcp.readable() == 0 {
                self.phase = Phase::Broken(io::ErrorKind::TimedOut);
            }
            // A reader that lets it wait is no silence of the peer's.
            self.data_came = now;
        }
        if matches!(self.phase, Phase::Broken(_)) {
            return Next::Gone;
        }
        Next::At(self.deadline(now))
    }

    /// Who waits for what has come. Until it is driven, the session need not ask for that.
    pub fn wake_reader(&mut self) -> Option<Waker> {
        let reader = (self.kcp.readable() > 0).then(|| self.reader.take())??;
        self.queued = true;
        Some(reader)
    }

    /// Those who wait for what is there now.
    pub fn ready(&mut self) -> [Option<Waker>; 2] {
        let over = matches!(self.phase, Phase::Broken(_) | Phase::Eof);
        let reader = (over || self.kcp.readable() > 0)
            .then(|| self.reader.take())
            .flatten();
        let room = || self.kcp.writable() >= WORTHWHILE || self.kcp.unacked() == 0;
        let writer = (self.writer.is_some() && (over || room()))
            .then(|| self.writer.take())
            .flatten();
        [reader, writer]
    }

    /// The counts of forward error correction, if it is on.
    pub fn fec_stats(&self) -> Option<&FecStats> {
        self.shards.as_ref().map(|shards| shards.stats())
    }

    /// Puts into the outbox what is to be sent now. `false` if it is full.
    fn transmit(&mut self, now: u64, path: Path, outbox: &mut Outbox) -> bool {
        loop {
            let Some(space) = outbox.space() else {
                return false;
            };
            let front = self.shards.as_ref().map_or(0, |_| fec::HEADER);
            let timestamp = self.timestamp(now);
            // invariant: there is room for the longest datagram.
            let Some(len) = self.kcp.poll_transmit(timestamp, &mut space[front..]) else {
                return true;
            };
            let len = front + len;
            let parity = self
                .shards
                .as_mut()
                // invariant: no more is put there than there is room for.
                .and_then(|shards| shards.seal(&mut space[..len], now));
            outbox.commit(len, path);
            for datagram in parity.iter().flat_map(|parity| parity.datagrams()) {
                outbox.push(datagram, path);
            }
        }
    }

    /// Until when what was written before the stream ended may wait to be acknowledged further.
    fn gives_up(&self, since: u64) -> u64 {
        since.max(self.delivered) + LINGER
    }

    fn silent_until(&self) -> Option<u64> {
        let limit = match self.phase {
            Phase::Open | Phase::Shut(_) => self.read_timeout?,
            Phase::Eof | Phase::Broken(_) | Phase::Lingering(_) | Phase::Reset => return None,
        };
        Some(limit + self.data_came)
    }

    /// When it is to be driven next.
    fn deadline(&self, now: u64) -> Option<u64> {
        let kcp = self.kcp.next_deadline();
        let kcp = kcp.map(|at| widen(at.wrapping_sub(self.skew), now));
        let shards = self.shards.as_ref().and_then(|shards| shards.deadline());
        // Its reader does not tell when it has taken everything and memory can be given back.
        let unread = (self.kcp.readable() > 0).then_some(now + UNREAD);
        let phase = match self.phase {
            Phase::Shut(since) if self.kcp.unacked() == 0 => {
                Some(since.max(self.heard) + QUIET_END)
            }
            Phase::Shut(since) => Some(self.gives_up(since)),
            Phase::Lingering(since) if self.kcp.unacked() == 0 => {
                Some(self.gives_up(since).min(self.heard + REPEATS))
            }
            Phase::Lingering(since) => Some(self.gives_up(since)),
            Phase::Open | Phase::Eof | Phase::Broken(_) | Phase::Reset => None,
        };
        [kcp, shards, unread, phase, self.silent_until()]
            .into_iter()
            .flatten()
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Settings;
    use crate::state::segment::{Command, Header};

    /// As long as its peer takes what is left, an ended session delivers it.
    #[test]
    fn a_slow_peer_gets_all_of_it() {
        let now = 1;
        let kcp = Kcp::new(7, &Settings::default());
        let mut state = State::new(kcp, None, None, now);
        let path = Path {
            peer: ([127, 0, 0, 1], 1).into(),
            from: None,
        };
        let mut outbox = Outbox::new();
        let timestamp = state.timestamp(now);
        assert_eq!(state.kcp.write(&[0; 2_000], timestamp), 2_000);
        state.phase = Phase::Lingering(now);
        let mut drive = |state: &mut State, now| {
            outbox.advance(outbox.runs().count());
            state.drive(now, path, &mut outbox)
        };
        drive(&mut state, now);
        assert!(matches!(drive(&mut state, LINGER), Next::At(Some(_))));
        let ack = Header {
            conv: 7,
            command: Command::Ack,
            fragment: 0,
            window: 32,
            timestamp: 0,
            sn: 0,
            una: 1,
        };
        let ack = ack.encode(0);
        state.input(&Incoming::parse(&ack).expect("no shard"), LINGER);
        assert!(matches!(
            drive(&mut state, 2 * LINGER - 1),
            Next::At(Some(_))
        ));
        assert_eq!(drive(&mut state, 2 * LINGER), Next::Gone);
    }
}
