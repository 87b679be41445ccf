//! Tests of the core against a plain byte vector, with cuts at every point.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::proto::scp::widen;
use crate::proto::snet::Version;
use crate::proto::snet::message::{Counts, ResumeResponse};

const LIMIT: usize = 512;

/// Model of one direction: a sending core, a connection that queues and may be cut, a receiving
/// core.
///
/// As with TCP, a connection holds unacknowledged bytes, and bytes that the receiver's system has
/// acknowledged and the receiver has not read.
struct Link {
    sender: Core,
    receiver: Core,
    unacknowledged: VecDeque<u8>,
    unread: VecDeque<u8>,
    /// Encoding of the receiver's count on the wire; the second argument is the sender's sent
    /// count.
    wire: Wire,
    /// All bytes ever pushed; `arrived` has all bytes ever received.
    model: Vec<u8>,
    arrived: Vec<u8>,
    memory: Arc<Memory>,
    /// Flag that acknowledged bytes may have been dropped early.
    forgetful: bool,
}

type Wire = fn(u64, u64) -> Option<u64>;

/// Encoding of scp: the low 32 bits.
const SCP: Wire = |received, sent| widen(received as u32, sent);

/// Encoding of snet: all 64 bits, with the receiver's own sent count.
const SNET: Wire = |received, _| {
    let counts = Counts { sent: 0, received };
    let response = ResumeResponse {
        counts,
        challenge: None,
    };
    let parsed = ResumeResponse::parse(&response.to_bytes(), Version::V1);
    Some(parsed.unwrap()?.counts.received)
};

#[derive(Debug, Clone)]
enum Step {
    Push(Vec<u8>),
    /// The connection takes up to this many bytes.
    Hand(usize),
    Acknowledge(usize),
    Read(usize),
    Confirm,
    /// Memory becomes short, or plentiful again.
    Short(bool),
    Shrink,
    /// The receiver reports its count and reads up to this many bytes more, then the connection is
    /// lost.
    Cut(usize),
}

fn cipher() -> Option<Rc4> {
    Some(Rc4::new(b"the same on both ends"))
}

impl Link {
    fn new(start: u64, wire: Wire) -> Self {
        let mut sender = Core::new(None, cipher(), LIMIT);
        let mut receiver = Core::new(cipher(), None, LIMIT);
        sender.replay = Replay::starting_at(LIMIT, start);
        sender.written = start;
        sender.acked = start;
        receiver.received = start;
        let memory = Arc::new(Memory::new());
        // One byte of another buffer.
        memory.resized(0, 1);
        Self {
            sender: sender.within(memory.clone()),
            receiver,
            unacknowledged: VecDeque::new(),
            unread: VecDeque::new(),
            wire,
            model: Vec::new(),
            arrived: Vec::new(),
            memory,
            forgetful: false,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push(bytes) => {
                let room = self.sender.room();
                let taken = self.sender.push(&bytes);
                assert_eq!(taken, bytes.len().min(room));
                self.model.extend(&bytes[..taken]);
            }
            Step::Hand(len) => {
                let (a, b) = self.sender.unsent();
                let len = len.min(a.len() + b.len());
                self.unacknowledged.extend(a.iter().chain(b).take(len));
                self.sender.written(len);
            }
            Step::Acknowledge(len) => {
                // The receive buffer is half the replay buffer.
                let space = LIMIT / 2 - self.unread.len();
                let len = len.min(self.unacknowledged.len()).min(space);
                self.unread.extend(self.unacknowledged.drain(..len));
            }
            Step::Read(len) => {
                let len = len.min(self.unread.len());
                let mut bytes: Vec<u8> = self.unread.drain(..len).collect();
                self.arrived.extend(&*self.receiver.receive(&mut bytes));
            }
            Step::Confirm => self.sender.acknowledge(self.unacknowledged.len()),
            Step::Short(short) => {
                self.memory.set_limit(short.then_some(0));
                self.forgetful |= short;
            }
            Step::Shrink => {
                let before = self.sender.replay_memory();
                self.sender.shrink();
                let after = self.sender.replay_memory();
                assert!(after <= before && (after == 0 || !self.sender.is_acked()));
                self.forgetful = true;
            }
            Step::Cut(late) => {
                let told = self.receiver.received();
                let received = (self.wire)(told, self.sender.sent()).unwrap();
                assert_eq!(received, told);
                if self.forgetful && self.sender.can_resume(received).is_err() {
                    // The loss is reported, not hidden.
                    assert!(received < self.sender.acked);
                    return;
                }
                self.step(Step::Read(late));
                self.unacknowledged.clear();
                self.unread.clear();
                assert_eq!(self.receiver.resume(0), Ok(0));
                self.receiver.receive_from(told);
                let resent = self.sender.resume(received).unwrap();
                let (a, b) = self.sender.unsent();
                assert_eq!((a.len() + b.len()) as u64, resent);
            }
        }
        assert!(self.model.starts_with(&self.arrived));
        assert!(self.sender.replay_memory() <= LIMIT);
        assert_eq!(self.memory.used(), self.sender.replay_memory() + 1);
        assert!(self.sender.replay_start() <= self.sender.acked);
    }

    fn drain(&mut self) {
        // Each round moves all bytes that may be in flight; repeats after a cut are no more than
        // that.
        for _ in 0..3 {
            for step in [Step::Hand, Step::Acknowledge, Step::Read] {
                self.step(step(LIMIT));
            }
            self.step(Step::Confirm);
        }
        assert_eq!(self.arrived, self.model);
        assert!(self.sender.is_acked());
    }
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 0..400).prop_map(Step::Push),
        4 => (0usize..300).prop_map(Step::Hand),
        4 => (0usize..300).prop_map(Step::Acknowledge),
        4 => (0usize..300).prop_map(Step::Read),
        2 => Just(Step::Confirm),
        1 => (0usize..300).prop_map(Step::Cut),
    ]
}

/// Generates the steps of [`steps`], with memory that becomes short and plentiful.
fn short_steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => steps(),
        1 => any::<bool>().prop_map(Step::Short),
        1 => Just(Step::Shrink),
    ]
}

fn wire() -> impl Strategy<Value = Wire> {
    prop_oneof![Just(SCP), Just(SNET)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Checks that every cut resumes and no byte is lost, doubled or reordered, also where the
    /// counts on the wire wrap.
    #[test]
    fn no_byte_is_lost(
        start in prop_oneof![Just(0), (1u64 << 32) - 2000..1 << 32],
        wire in wire(),
        steps in proptest::collection::vec(steps(), 0..200),
    ) {
        let mut link = Link::new(start, wire);
        for step in steps {
            link.step(step);
        }
        link.drain();
    }

    /// Checks that no byte is lost when memory is short; a peer with unread bytes may fail to
    /// resume.
    #[test]
    fn no_byte_is_lost_for_lack_of_memory(
        start in prop_oneof![Just(0), (1u64 << 32) - 2000..1 << 32],
        wire in wire(),
        steps in proptest::collection::vec(short_steps(), 0..200),
    ) {
        let mut link = Link::new(start, wire);
        for step in steps {
            link.step(step);
        }
        link.drain();
        let memory = link.memory.clone();
        drop(link);
        assert_eq!(memory.used(), 1);
    }

    /// Checks a cut after each byte of a transfer.
    #[test]
    fn cut_at_every_byte(
        wire in wire(),
        bytes in proptest::collection::vec(any::<u8>(), 1..200),
        late in 0usize..100,
    ) {
        for at in 0..=bytes.len() {
            let mut link = Link::new(0, wire);
            link.step(Step::Push(bytes.clone()));
            link.step(Step::Hand(at));
            link.step(Step::Acknowledge(at));
            link.step(Step::Read(at / 2));
            link.step(Step::Cut(late));
            link.drain();
        }
    }
}

#[test]
fn a_peer_that_lacks_too_much_or_too_little() {
    let mut core = Core::new(None, None, LIMIT);
    for _ in 0..8 {
        assert_eq!(core.push(&[7; 200]), 200);
        core.written(200);
        core.acknowledge(0);
    }
    assert_eq!(core.resume(1600 - LIMIT as u64 - 1), Err(NotReplayable));
    assert_eq!(core.resume(1601), Err(NotReplayable));
    assert_eq!(
        core.unsent(),
        (&[][..], &[][..]),
        "a refused resume changes nothing"
    );
    assert_eq!(core.room(), LIMIT / 2);
    assert_eq!(core.resume(1600 - LIMIT as u64), Ok(LIMIT as u64));
    assert_eq!(core.room(), 0);
}

#[test]
fn what_is_not_confirmed_holds_the_sender_back() {
    let mut core = Core::new(None, None, LIMIT);
    assert_eq!(core.push(&[1; LIMIT]), LIMIT / 2);
    assert_eq!(core.push(&[1]), 0);
    core.written(100);
    core.acknowledge(40);
    assert_eq!(core.room(), 60);
    core.acknowledge(90);
    assert_eq!(core.room(), 60, "an acknowledgement is not taken back");
    core.written(LIMIT / 2 - 100);
    core.acknowledge(0);
    assert!(core.is_acked());
    assert_eq!(core.room(), LIMIT / 2);
}

#[test]
fn memory_follows_what_was_moved() {
    let mut core = Core::new(None, None, 64 * 1024);
    assert_eq!(core.replay_memory(), 0);
    core.push(&[0; 64]);
    assert_eq!(core.replay_memory(), 256);
    core.push(&[0; 1000]);
    assert_eq!(core.replay_memory(), 2048);
}

#[test]
fn without_memory_it_goes_on_with_what_it_has() {
    let memory = Arc::new(Memory::new());
    let core = || Core::new(None, None, 64 * 1024).within(memory.clone());
    let (mut large, mut small) = (core(), core());
    assert_eq!(large.push(&[1; 32 * 1024]), 32 * 1024);
    assert_eq!(small.push(&[1; 100]), 100);
    assert_eq!(memory.used(), 32 * 1024 + 256);
    memory.set_limit(Some(20_000));
    // No buffer grows by much. Half of each buffer is for unconfirmed bytes.
    assert_eq!((large.room(), small.room()), (0, 412));
    for core in [&mut large, &mut small] {
        core.written(core.unsent_len() as usize);
        core.acknowledge(0);
    }
    assert_eq!((large.room(), small.room()), (16 * 1024, 512));
    let mut new = core();
    assert_eq!(new.push(&[1; 1000]), 512);
    assert_eq!(new.replay_memory(), 512);
    // All bytes are confirmed, so none need be kept.
    large.shrink();
    assert_eq!((large.replay_memory(), memory.used()), (0, 768));
    assert!(!memory.is_short());
    assert_eq!((large.room(), small.room()), (32 * 1024, 32 * 1024));
    assert_eq!(large.can_resume(large.sent() - 1), Err(NotReplayable));
    assert_eq!(large.can_resume(large.sent()), Ok(()));
    drop((large, small, new));
    assert_eq!(memory.used(), 0);
}
