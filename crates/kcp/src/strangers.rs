//! The peers of a socket that have not shown yet that they receive what is sent to them.
//!
//! A datagram's source is what its sender wrote there. So whoever opens a conversation is first
//! challenged by an empty push whose serial number lies before the first: every KCP peer
//! acknowledges it with its timestamp, and none delivers it. The timestamp is a keyed hash of the
//! peer's address, its conversation and the time, so that an answer is known without anything
//! having been kept.
//!
//! What a peer sends meanwhile is kept for its session to begin with, as far as there is room.
//! What is given up for newer peers costs nobody his place: it is sent again.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use crate::fec;
use crate::state::segment::{Command, HEADER_LEN, Header, Segment};
use crate::udp::Path;

/// The serial number of a challenge.
const CHALLENGE: u32 = u32::MAX;

/// Milliseconds for which challenges are the same. An answer may come until the end of the next.
const EPOCH: u64 = 8_192;

/// Milliseconds after which a peer that is silent is challenged again, and then forgotten.
const PAUSE: u64 = 1_000;

/// How often a peer is challenged that does nothing for it.
const REPEATS: u8 = 2;

/// Copies of the challenge that an opener is answered with: one may be lost.
pub(super) const COPIES: usize = 2;

/// How much of what came from a peer it is sent before it has answered, with the headers of the
/// network, which are no longer than these.
const AMPLIFICATION: usize = 3;
const NETWORK_HEADERS: usize = 48;

/// Bytes kept of one peer, at most.
const KEPT: usize = 16 * 1024;

/// Bytes that a peer takes beside what it sent, with room in the tables.
const ENTRY: usize = 256;

/// A policy without I/O: what comes of peers without a session goes in, whom to challenge comes
/// out.
#[derive(Debug)]
pub(super) struct Strangers {
    key: RandomState,
    waiting: HashMap<Peer, Waiting>,
    /// Who is to be challenged again or forgotten next, and when. Those that are gone leave when
    /// they come to the front.
    turns: VecDeque<(u64, Peer)>,
    /// Bytes that they take, and may.
    used: usize,
    limit: usize,
}

/// A peer by its address and conversation.
pub(super) type Peer = (std::net::SocketAddr, u32);

#[derive(Debug)]
struct Waiting {
    path: Path,
    /// Whether it is to be challenged with error correction.
    fec: bool,
    repeats: u8,
    /// When its turn is.
    due: u64,
    /// Bytes that it may be sent.
    allowance: usize,
    /// Its datagrams, each after its length.
    kept: Vec<u8>,
}

/// What to send to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Challenge {
    pub path: Path,
    pub conv: u32,
    pub timestamp: u32,
    pub fec: bool,
}

/// What the first segment of a datagram makes of a peer without a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// It opens a conversation.
    Opens(u32),
    /// It claims to have received a challenge with that timestamp.
    Answers(u32, u32),
    /// Some other segment.
    Sends(u32),
}

impl Claim {
    /// Reads the first segment of a datagram; `None` if it is none. No other is looked at: a
    /// datagram has one guess.
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (Segment { header, .. }, _) = Segment::decode(payload).ok()?;
        Some(match header.command {
            Command::Push if header.sn == 0 => Self::Opens(header.conv),
            Command::Ack if header.sn == CHALLENGE => Self::Answers(header.conv, header.timestamp),
            _ => Self::Sends(header.conv),
        })
    }
}

impl Challenge {
    /// Bytes of its datagram.
    pub fn len(&self) -> usize {
        match self.fec {
            true => fec::HEADER + HEADER_LEN,
            false => HEADER_LEN,
        }
    }

    /// Writes the segment. `window` is what the session is going to have.
    pub fn encode(&self, window: u16) -> [u8; HEADER_LEN] {
        let header = Header {
            conv: self.conv,
            command: Command::Push,
            fragment: 0,
            window,
            timestamp: self.timestamp,
            sn: CHALLENGE,
            una: 0,
        };
        header.encode(0)
    }
}

impl Strangers {
    /// Nobody, of whom `limit` bytes may be kept. Sockets that may get each other's datagrams have
    /// one `key`.
    pub fn new(key: RandomState, limit: usize) -> Self {
        Self {
            key,
            waiting: HashMap::new(),
            turns: VecDeque::new(),
            used: 0,
            limit,
        }
    }

    /// Peers of whom something is kept.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes a datagram that opens conversation `conv`. Gives the challenge to answer it with in
    /// [`COPIES`], which are less than that allows, and how many other peers were given up for it.
    pub fn open(
        &mut self,
        path: Path,
        conv: u32,
        fec: bool,
        datagram: &[u8],
        now: u64,
    ) -> (Challenge, u64) {
        let peer = (path.peer, conv);
        let mut given_up = 0;
        if !self.keep(peer, datagram) {
            let size = ENTRY + 2 + datagram.len();
            while self.used + size > self.limit && self.give_up() {
                given_up += 1;
            }
            if self.used + size <= self.limit {
                let due = now + PAUSE;
                let waiting = Waiting {
                    path,
                    fec,
                    repeats: 0,
                    due,
                    allowance: 0,
                    kept: Vec::new(),
                };
                self.waiting.insert(peer, waiting);
                self.turns.push_back((due, peer));
                self.used += ENTRY;
                self.keep(peer, datagram);
            }
        }
        let challenge = self.challenge(path, conv, fec, now);
        (0..COPIES).for_each(|_| {
            self.afford(peer, &challenge);
        });
        (challenge, given_up)
    }

    /// Keeps a further datagram of a peer that is challenged. `false` if it is none of them.
    pub fn keep(&mut self, peer: Peer, datagram: &[u8]) -> bool {
        let Some(waiting) = self.waiting.get_mut(&peer) else {
            return false;
        };
        waiting.allowance += AMPLIFICATION * (datagram.len() + NETWORK_HEADERS);
        let size = 2 + datagram.len();
        if waiting.kept.len() + size <= KEPT && self.used + size <= self.limit {
            // invariant: a datagram has at most 65,535 bytes.
            let len = datagram.len() as u16;
            waiting.kept.extend(len.to_le_bytes());
            waiting.kept.extend(datagram);
            self.used += size;
        }
        true
    }

    /// Whether `timestamp` is that of a challenge that the peer was sent not long ago.
    pub fn is_proof(&self, peer: Peer, timestamp: u32, now: u64) -> bool {
        let epoch = now / EPOCH;
        [epoch, epoch.wrapping_sub(1)]
            .into_iter()
            .any(|epoch| self.timestamp(peer, epoch) == timestamp)
    }

    /// Whether something is kept of a peer.
    pub fn is_waiting(&self, peer: Peer) -> bool {
        self.waiting.contains_key(&peer)
    }

    /// Forgets a peer that has its session now, and gives what was kept of it.
    pub fn take(&mut self, peer: Peer) -> Kept {
        let kept = self.remove(peer).map(|waiting| waiting.kept);
        Kept(kept.unwrap_or_default())
    }

    /// When [`poll`](Self::poll) has something to do.
    pub fn deadline(&self) -> Option<u64> {
        self.turns.front().map(|(due, _)| *due)
    }

    /// The next peer that is to be challenged again at `now`, without having done anything for it.
    pub fn poll(&mut self, now: u64) -> Option<Challenge> {
        loop {
            let &(due, peer) = self.turns.front().filter(|(due, _)| *due <= now)?;
            self.turns.pop_front();
            let Some(waiting) = self.waiting.get_mut(&peer).filter(|it| it.due == due) else {
                continue;
            };
            if waiting.repeats == REPEATS {
                self.remove(peer);
                continue;
            }
            waiting.repeats += 1;
            waiting.due = now + PAUSE;
            self.turns.push_back((waiting.due, peer));
            let (path, fec) = (waiting.path, waiting.fec);
            let challenge = self.challenge(path, peer.1, fec, now);
            if self.afford(peer, &challenge) {
                return Some(challenge);
            }
        }
    }

    /// Charges a peer for a challenge, if it may be sent that.
    fn afford(&mut self, peer: Peer, challenge: &Challenge) -> bool {
        let Some(waiting) = self.waiting.get_mut(&peer) else {
            return false;
        };
        let left = waiting
            .allowance
            .checked_sub(challenge.len() + NETWORK_HEADERS);
        waiting.allowance = left.unwrap_or(waiting.allowance);
        left.is_some()
    }

    fn challenge(&self, path: Path, conv: u32, fec: bool, now: u64) -> Challenge {
        Challenge {
            path,
            conv,
            timestamp: self.timestamp((path.peer, conv), now / EPOCH),
            fec,
        }
    }

    fn timestamp(&self, peer: Peer, epoch: u64) -> u32 {
        self.key.hash_one((peer, epoch)) as u32
    }

    /// Forgets the peer whose turn is next.
    fn give_up(&mut self) -> bool {
        while let Some((due, peer)) = self.turns.pop_front() {
            if self.waiting.get(&peer).is_some_and(|it| it.due == due) {
                self.remove(peer);
                return true;
            }
        }
        false
    }

    fn remove(&mut self, peer: Peer) -> Option<Waiting> {
        let waiting = self.waiting.remove(&peer)?;
        self.used -= ENTRY + waiting.kept.len();
        Some(waiting)
    }
}

/// The datagrams that a peer sent before it had a session.
pub(super) struct Kept(Vec<u8>);

impl Kept {
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        // invariant: a whole range has no bounds.
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (len, behind) = rest.split_first_chunk()?;
            let (datagram, behind) = behind.split_at_checked(u16::from_le_bytes(*len).into())?;
            rest = behind;
            Some(datagram)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 64 * 1024;

    fn path(port: u16) -> Path {
        Path {
            peer: (Ipv4Addr::LOCALHOST, port).into(),
            from: None,
        }
    }

    fn strangers() -> Strangers {
        Strangers::new(RandomState::new(), LIMIT)
    }

    fn kept(strangers: &mut Strangers, peer: Peer) -> Vec<Vec<u8>> {
        let kept = strangers.take(peer);
        kept.datagrams().map(<[u8]>::to_vec).collect()
    }

    #[test]
    fn who_echoes_the_challenge_has_received_it() {
        let mut strangers = strangers();
        let (challenge, _) = strangers.open(path(1), 7, false, b"hello", 100);
        let peer = (path(1).peer, 7);
        assert!(strangers.is_proof(peer, challenge.timestamp, 100));
        assert!(strangers.is_proof(peer, challenge.timestamp, 100 + EPOCH));
        assert!(!strangers.is_proof(peer, challenge.timestamp, 100 + 2 * EPOCH));
        let wrong = challenge.timestamp.wrapping_add(1);
        assert!(!strangers.is_proof(peer, wrong, 100));
        assert!(!strangers.is_proof((path(2).peer, 7), challenge.timestamp, 100));
        assert!(!strangers.is_proof((path(1).peer, 8), challenge.timestamp, 100));
        let other = Strangers::new(RandomState::new(), LIMIT);
        assert!(!other.is_proof(peer, challenge.timestamp, 100));
    }

    #[test]
    fn a_datagram_has_one_guess() {
        let ack = |timestamp| {
            let header = Header {
                conv: 7,
                command: Command::Ack,
                fragment: 0,
                window: 32,
                timestamp,
                sn: CHALLENGE,
                una: 0,
            };
            header.encode(0)
        };
        let many: Vec<u8> = (1..60).flat_map(ack).collect();
        assert_eq!(Claim::read(&many), Some(Claim::Answers(7, 1)));
        assert_eq!(Claim::read(&many[..23]), None);
    }

    #[test]
    fn only_a_first_push_opens() {
        let push = |sn, command| {
            let header = Header {
                conv: 7,
                command,
                fragment: 3,
                window: 2_048,
                timestamp: 0xffff_fffe,
                sn,
                una: 7,
            };
            let mut bytes = header.encode(5).to_vec();
            bytes.extend(b"hello");
            bytes
        };
        let opener = push(0, Command::Push);
        assert_eq!(Claim::read(&opener), Some(Claim::Opens(7)));
        for cut in 0..opener.len() {
            assert_eq!(Claim::read(&opener[..cut]), None, "cut at {cut}");
        }
        let claim = |sn, command| Claim::read(&push(sn, command));
        assert_eq!(claim(1, Command::Push), Some(Claim::Sends(7)));
        assert_eq!(claim(CHALLENGE, Command::Push), Some(Claim::Sends(7)));
        assert_eq!(claim(0, Command::Ack), Some(Claim::Sends(7)));
        assert_eq!(claim(CHALLENGE, Command::WindowAsk), Some(Claim::Sends(7)));
    }

    #[test]
    fn what_came_meanwhile_is_kept_in_order_and_within_limits() {
        let mut strangers = strangers();
        let peer = (path(1).peer, 7);
        strangers.open(path(1), 7, false, b"first", 0);
        assert!(strangers.keep(peer, b"second"));
        strangers.open(path(1), 7, false, b"", 5);
        assert!(!strangers.keep((path(1).peer, 8), b"of another"));
        for _ in 0..100 {
            strangers.keep(peer, &[0; 1_400]);
        }
        let kept = kept(&mut strangers, peer);
        assert_eq!(kept[..3], [&b"first"[..], b"second", b""]);
        assert_eq!(kept.len(), 3 + 11, "{KEPT} bytes");
        assert_eq!((strangers.used, strangers.len()), (0, 0));
    }

    #[test]
    fn newer_peers_displace_older_ones_within_the_limit() {
        let mut strangers = strangers();
        let mut given_up = 0;
        for port in 1..=10_000 {
            let (challenge, displaced) = strangers.open(path(port), 7, false, &[1; 42], 0);
            given_up += displaced;
            assert!(strangers.used <= LIMIT);
            let peer = (path(port).peer, 7);
            assert!(strangers.is_proof(peer, challenge.timestamp, 0));
        }
        assert_eq!(strangers.len() as u64 + given_up, 10_000);
        assert_eq!(strangers.len(), LIMIT / (ENTRY + 44));
        assert!(strangers.turns.len() <= strangers.len());
        assert_eq!(kept(&mut strangers, (path(10_000).peer, 7)), [[1; 42]]);
        assert!(kept(&mut strangers, (path(1).peer, 7)).is_empty());
    }

    /// Whatever a peer does, it is sent at most three times what came from it, headers counted.
    #[test]
    fn a_peer_is_sent_three_times_what_came_from_it_at_most() {
        for (fec, longest) in [
            (false, 24),
            (false, 46),
            (false, 1_400),
            (true, 32),
            (true, 54),
        ] {
            for headers in [28, NETWORK_HEADERS] {
                let mut strangers = strangers();
                let (mut came, mut sent) = (0, 0);
                for now in 0..20_000 {
                    if now % 700 == 0 && now < 10_000 {
                        let opener = vec![0; longest];
                        let (challenge, _) = strangers.open(path(1), 7, fec, &opener, now);
                        came += longest + headers;
                        sent += COPIES * (challenge.len() + headers);
                    }
                    if let Some(challenge) = strangers.poll(now) {
                        assert_eq!((challenge.path, challenge.conv), (path(1), 7));
                        sent += challenge.len() + headers;
                        assert_eq!(strangers.poll(now), None);
                    }
                    assert!(sent <= 3 * came, "{sent} bytes for {came}");
                }
                assert_eq!((strangers.len(), strangers.deadline()), (0, None));
            }
        }
    }

    /// What happens to a book of strangers.
    #[derive(Debug, Clone)]
    enum Event {
        Opener(u16, u32, usize),
        Other(u16, u32, usize),
        Answer(u16, u32, u32),
        Pause(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        let (port, conv, len) = (1..20u16, 1..4u32, 24..1_500usize);
        prop_oneof![
            (port.clone(), conv.clone(), len.clone()).prop_map(|(p, c, l)| Event::Opener(p, c, l)),
            (port.clone(), conv.clone(), len).prop_map(|(p, c, l)| Event::Other(p, c, l)),
            (port, conv, any::<u32>()).prop_map(|(p, c, t)| Event::Answer(p, c, t)),
            (0..3_000u64).prop_map(Event::Pause),
        ]
    }

    proptest! {
        /// Memory stays within its limit, nobody is sent more than three times what came from
        /// there, and nothing that was not sent there proves anything.
        #[test]
        fn strangers_buy_nothing(events in proptest::collection::vec(event(), 0..300)) {
            const SMALL: usize = 8 * 1024;
            let mut strangers = Strangers::new(RandomState::new(), SMALL);
            let mut now = 0;
            let mut balance = HashMap::<Peer, i64>::new();
            let mut stamps = HashMap::<Peer, Vec<u32>>::new();
            let cost = |len: usize| (len + 28) as i64;
            for event in events {
                match event {
                    Event::Opener(port, conv, len) => {
                        let peer = (path(port).peer, conv);
                        let (challenge, _) =
                            strangers.open(path(port), conv, false, &vec![0; len], now);
                        let left = balance.entry(peer).or_default();
                        *left += 3 * cost(len) - COPIES as i64 * cost(challenge.len());
                        stamps.entry(peer).or_default().push(challenge.timestamp);
                    }
                    Event::Other(port, conv, len) => {
                        let peer = (path(port).peer, conv);
                        if strangers.keep(peer, &vec![0; len]) {
                            *balance.entry(peer).or_default() += 3 * cost(len);
                        }
                    }
                    Event::Answer(port, conv, timestamp) => {
                        let peer = (path(port).peer, conv);
                        let was_sent = stamps.get(&peer).is_some_and(|it| it.contains(&timestamp));
                        prop_assert!(was_sent || !strangers.is_proof(peer, timestamp, now));
                        let newest = stamps.get(&peer).and_then(|it| it.last().copied());
                        if let Some(newest) = newest
                            && strangers.is_proof(peer, newest, now)
                        {
                            strangers.take(peer);
                        }
                    }
                    Event::Pause(pause) => now += pause,
                }
                while let Some(challenge) = strangers.poll(now) {
                    let peer = (challenge.path.peer, challenge.conv);
                    *balance.entry(peer).or_default() -= cost(challenge.len());
                    stamps.entry(peer).or_default().push(challenge.timestamp);
                }
                prop_assert!(balance.values().all(|left| *left >= 0), "{balance:?}");
                prop_assert!(strangers.used <= SMALL);
                let kept: usize = strangers.waiting.values().map(|it| it.kept.len()).sum();
                prop_assert_eq!(strangers.used, kept + ENTRY * strangers.len());
            }
        }
    }

    #[test]
    fn silence_is_challenged_twice_and_forgotten() {
        let mut strangers = strangers();
        strangers.open(path(1), 7, true, &[0; 100], 0);
        let mut times = Vec::new();
        while let Some(due) = strangers.deadline() {
            assert_eq!(strangers.poll(due - 1), None);
            if let Some(challenge) = strangers.poll(due) {
                assert!(challenge.fec);
                times.push(due);
            }
        }
        assert_eq!(times, [1_000, 2_000]);
        assert_eq!(strangers.len(), 0);
    }
}
