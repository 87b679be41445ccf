//! The driver of one socket and all its sessions.

use std::collections::HashMap;
use std::hash::RandomState;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use quinn_udp::RecvMeta;
use tokio::time::{Sleep, sleep_until};

use crate::acceptor::Acceptor;
use crate::config::Config;
use crate::counters::Counters;
use crate::fec::shards::{Incoming, Shards};
use crate::fec::{self, Shape};
use crate::handle::{DriverHandle, Requests};
use crate::session::{Next, Phase, Session, State};
use crate::state::Kcp;
use crate::state::segment::{HEADER_LEN, conversation};
use crate::strangers::{COPIES, Challenge, Claim, Strangers};
use crate::timers::Timers;
use crate::udp::{Inbox, Outbox, Path, Socket};

/// Rounds before other tasks have their turn.
const ROUNDS: usize = 16;

/// Owns a socket's sessions: receives, hands out, sends, keeps the time. One task for each socket;
/// it ends when nobody accepts from it any more and all sessions are gone.
///
/// It sleeps until a datagram comes, a stream asks for it, or the first of its sessions is due.
pub(super) struct Driver {
    socket: Socket,
    handle: Arc<DriverHandle>,
    /// Takes new sessions; a client has none.
    acceptor: Option<Arc<Acceptor>>,
    sessions: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_peer: HashMap<SocketAddr, u32>,
    /// Peers that others' sessions may come of.
    strangers: Strangers,
    timers: Timers,
    timer: Pin<Box<Sleep>>,
    /// What the timer is set to.
    armed: Option<u64>,
    inbox: Inbox,
    outbox: Outbox,
    /// Sessions that had more to send than the outbox took.
    stalled: Vec<u32>,
    /// Sessions with something new to read. They are driven when their readers have had the
    /// chance to answer, so that the answer goes with what there is to send anyway.
    answering: Vec<u32>,
    wakers: Vec<Waker>,
    requests: Requests,
    /// Everything but the sessions that are there.
    counters: Counters,
}

/// A session as its driver knows it.
struct Entry {
    session: Arc<Session>,
    conv: u32,
    path: Path,
}

impl Driver {
    /// For sessions that are opened from here.
    pub fn dialling(socket: Socket) -> Self {
        Self::new(socket, 4)
    }

    /// For sessions that others open, once it [runs](Self::accept_for) for an acceptor.
    pub fn accepting(socket: Socket) -> Self {
        Self::new(socket, quinn_udp::BATCH_SIZE)
    }

    /// Runs it for an acceptor, which is told when its socket is closed.
    pub async fn accept_for(mut self, acceptor: Arc<Acceptor>) {
        self.acceptor = Some(acceptor.clone());
        self.strangers = acceptor.strangers();
        self.await;
        acceptor.driver_ended();
    }

    fn new(socket: Socket, runs: usize) -> Self {
        let handle = Arc::new(DriverHandle::new());
        let mut outbox = Outbox::new();
        outbox.set_longest_run(socket.longest_run());
        Self {
            timer: Box::pin(sleep_until(handle.clock.instant(0))),
            inbox: Inbox::new(runs),
            socket,
            handle,
            acceptor: None,
            sessions: Vec::new(),
            free: Vec::new(),
            by_peer: HashMap::new(),
            strangers: Strangers::new(RandomState::new(), 0),
            timers: Timers::default(),
            armed: None,
            outbox,
            stalled: Vec::new(),
            answering: Vec::new(),
            wakers: Vec::new(),
            requests: Requests::default(),
            counters: Counters::default(),
        }
    }

    pub fn handle(&self) -> &Arc<DriverHandle> {
        &self.handle
    }

    /// Opens a session from here.
    pub fn open(&mut self, peer: SocketAddr, conv: u32, config: &Config) -> Arc<Session> {
        self.counters.active_opens += 1;
        let path = Path { peer, from: None };
        let local = self.socket.local_addr();
        let slot = self.insert(path, local, conv, config, config.fec);
        // invariant: it was inserted a moment ago.
        let entry = self.sessions[slot as usize].as_ref().expect("a session");
        entry.session.clone()
    }

    fn insert(
        &mut self,
        path: Path,
        local: SocketAddr,
        conv: u32,
        config: &Config,
        fec: Option<Shape>,
    ) -> u32 {
        let now = self.handle.clock.now();
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sessions.push(None);
            (self.sessions.len() - 1) as u32
        });
        let challenged = self.acceptor.is_some();
        let shards = fec.map(|shape| Box::new(Shards::new(shape, challenged, now)));
        let kcp = Kcp::new(conv, &config.settings());
        let state = State::new(kcp, shards, config.silence(), now);
        let handle = self.handle.clone();
        let session = Arc::new(Session::new(path.peer, local, handle, slot, state));
        // invariant: a slot that is free was given up, or has just been made.
        self.sessions[slot as usize] = Some(Entry {
            session,
            conv,
            path,
        });
        self.by_peer.insert(path.peer, slot);
        if let Some(acceptor) = &self.acceptor {
            acceptor.session_opened();
        }
        let count = self.by_peer.len() as u64;
        self.counters.connections_max = self.counters.connections_max.max(count);
        slot
    }

    /// Forgets a session. `broken` is what its stream is told, if it is still there.
    fn remove(&mut self, slot: u32, broken: io::ErrorKind) {
        // invariant: slots stay, with or without a session.
        let Some(entry) = self.sessions[slot as usize].take() else {
            return;
        };
        self.free.push(slot);
        self.timers.remove(slot);
        self.by_peer.remove(&entry.path.peer);
        let mut state = entry.session.lock();
        if !matches!(state.phase, Phase::Broken(_)) {
            state.phase = Phase::Broken(broken);
        }
        self.wakers.extend(state.ready().into_iter().flatten());
        self.counters
            .add_session(state.kcp.stats(), state.fec_stats());
        drop(state);
        if let Some(acceptor) = &self.acceptor {
            acceptor.session_ended();
        }
    }

    /// Receives what is there, as much as one call gives. Pending when there is nothing (more).
    fn poll_receive(&mut self, cx: &mut Context<'_>, now: u64) -> Poll<()> {
        match ready!(self.socket.poll_receive(cx, &mut self.inbox)) {
            Ok(count) => {
                let inbox = std::mem::replace(&mut self.inbox, Inbox::new(0));
                for (meta, bytes) in inbox.runs(count) {
                    self.take_in(cx, meta, bytes, now);
                }
                self.inbox = inbox;
            }
            Err(error) => self.refused(&error),
        }
        Poll::Ready(())
    }

    /// The peer of a client has no socket there.
    fn refused(&mut self, error: &io::Error) {
        if self.acceptor.is_none() && error.kind() == io::ErrorKind::ConnectionRefused {
            for slot in 0..self.sessions.len() {
                self.remove(slot as u32, io::ErrorKind::ConnectionRefused);
            }
        }
    }

    /// Takes in the datagrams of one run, which are of one peer.
    fn take_in(&mut self, cx: &mut Context<'_>, meta: &RecvMeta, bytes: &[u8], now: u64) {
        let peer = canonical(meta.addr);
        let mut datagrams = bytes
            .chunks(meta.stride.max(1))
            .map(|bytes| (bytes, Incoming::parse(bytes)))
            .peekable();
        while let Some((bytes, first)) = datagrams.peek() {
            let slot = first
                .as_ref()
                .ok()
                .and_then(|first| self.receiver(peer, bytes, first, meta, now));
            let Some((slot, opened)) = slot else {
                datagrams.next();
                continue;
            };
            // invariant: the slot was found a moment ago.
            let entry = self.sessions[slot as usize].as_ref().expect("a session");
            let conv = entry.conv;
            let arrived = opened.then(|| entry.session.clone());
            let mut state = entry.session.lock();
            if opened {
                let kept = self.strangers.take((peer, conv));
                let incoming = kept.datagrams().map(Incoming::parse);
                incoming.flatten().for_each(|it| state.input(&it, now));
            }
            while let Some((_, incoming)) = datagrams.next_if(|(_, next)| is_of(next, conv)) {
                if let Ok(incoming) = incoming {
                    state.input(&incoming, now);
                }
            }
            let reader = state.wake_reader();
            drop(state);
            match reader {
                Some(reader) => {
                    self.wakers.push(reader);
                    self.answering.push(slot);
                }
                None => self.drive(cx, slot, now),
            }
            if let Some((session, acceptor)) = arrived.zip(self.acceptor.as_ref()) {
                acceptor.put(session);
            }
        }
    }

    /// The session that a datagram belongs to, and whether it has just opened it. What belongs to
    /// none is dealt with.
    fn receiver(
        &mut self,
        peer: SocketAddr,
        datagram: &[u8],
        incoming: &Incoming<'_>,
        meta: &RecvMeta,
        now: u64,
    ) -> Option<(u32, bool)> {
        let known = self.by_peer.get(&peer).copied();
        let Some(payload) = incoming.payload() else {
            self.counters.stranger_datagrams += u64::from(known.is_none());
            return known.map(|slot| (slot, false));
        };
        // invariant: slots stay, with or without a session.
        let entry = known.and_then(|slot| self.sessions[slot as usize].as_ref());
        if let Some((entry, slot)) = entry.zip(known)
            && conversation(payload) == Some(entry.conv)
        {
            return Some((slot, false));
        }
        let acceptor = self.acceptor.clone().filter(|acceptor| acceptor.is_open());
        let from = meta.dst_ip.filter(|_| self.socket.has_many_addresses());
        let path = Path { peer, from };
        match acceptor.zip(Claim::read(payload)) {
            Some((acceptor, Claim::Opens(conv))) => {
                let config = acceptor.config();
                // Clients of kcp-go without error correction take nothing with it.
                let has_fec = matches!(incoming, Incoming::Shard(_));
                let fec = has_fec && config.fec.is_some();
                if has_fec && !fec {
                    acceptor.warn_of_fec(peer);
                }
                let (challenge, given_up) = self.strangers.open(path, conv, fec, datagram, now);
                self.counters.refused_opens += given_up;
                for _ in 0..COPIES {
                    self.challenge(&challenge, config.session.receive_window);
                }
                None
            }
            Some((acceptor, Claim::Answers(conv, timestamp)))
                // A late answer of a conversation before the one that is there takes no place.
                if (known.is_none() || self.strangers.is_waiting((peer, conv)))
                    && self.strangers.is_proof((peer, conv), timestamp, now) =>
            {
                if !acceptor.has_room() {
                    self.counters.refused_opens += 1;
                    return None;
                }
                if let Some(slot) = known {
                    // The client has started anew behind the same port.
                    self.remove(slot, io::ErrorKind::ConnectionReset);
                }
                self.counters.passive_opens += 1;
                let mut local = self.socket.local_addr();
                if let Some(from) = from {
                    local.set_ip(from);
                }
                let config = acceptor.config();
                let has_fec = matches!(incoming, Incoming::Shard(_));
                let fec = config.fec.filter(|_| has_fec);
                let slot = self.insert(path, local, conv, &config, fec);
                Some((slot, true))
            }
            Some((_, Claim::Sends(conv))) if self.strangers.keep((peer, conv), datagram) => None,
            _ => {
                self.counters.stranger_datagrams += 1;
                None
            }
        }
    }

    /// Sends a challenge, if there is room: who is not challenged sends again.
    fn challenge(&mut self, challenge: &Challenge, window: u16) {
        let Some(space) = self.outbox.space() else {
            return;
        };
        let len = challenge.len();
        // invariant: there is space for a datagram of any length, of which this has the least, and a header in it.
        let datagram = &mut space[..len];
        datagram[len - HEADER_LEN..].copy_from_slice(&challenge.encode(window));
        if challenge.fec {
            fec::write_header(datagram, 0);
        }
        self.outbox.commit(len, challenge.path);
    }

    /// Challenges those again that have not answered.
    fn challenge_again(&mut self, now: u64) {
        while let Some(challenge) = self.strangers.poll(now) {
            if let Some(acceptor) = &self.acceptor {
                let window = acceptor.config().session.receive_window;
                self.challenge(&challenge, window);
            }
        }
    }

    /// Drives a session: sends what it has to send, wakes who waits for it.
    fn drive(&mut self, cx: &mut Context<'_>, slot: u32, now: u64) {
        loop {
            let Some(entry) = self
                .sessions
                .get_mut(slot as usize)
                .and_then(Option::as_mut)
            else {
                return;
            };
            let mut state = entry.session.lock();
            let next = state.drive(now, entry.path, &mut self.outbox);
            self.wakers.extend(state.ready().into_iter().flatten());
            if let Next::At(at) = next {
                // What is due later than before is found out then.
                let at = at.map(|at| at.max(now + 1));
                if let Some(at) = at
                    && self.timers.get(slot).is_none_or(|set| at < set)
                {
                    self.timers.set(slot, at);
                }
            }
            drop(state);
            match next {
                Next::At(_) => return,
                Next::Gone => return self.remove(slot, io::ErrorKind::TimedOut),
                Next::Full => {
                    if self.poll_flush(cx).is_pending() {
                        self.stalled.push(slot);
                        return;
                    }
                }
            }
        }
    }

    fn drive_answering(&mut self, cx: &mut Context<'_>, now: u64) {
        let mut answering = std::mem::take(&mut self.answering);
        for slot in answering.drain(..) {
            self.drive(cx, slot, now);
        }
        self.answering = answering;
    }

    /// Empties the outbox.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.outbox.is_empty() {
            match ready!(self.socket.poll_send(cx, &self.outbox)) {
                Ok(sent) => self.outbox.advance(sent),
                Err(error) => {
                    // What is lost is sent again.
                    tracing::trace!(%error, "datagrams not sent");
                    self.outbox.advance(1);
                    self.refused(&error);
                }
            }
        }
        Poll::Ready(())
    }

    /// Does what streams and others asked for.
    fn take_requests(&mut self, cx: &mut Context<'_>, now: u64) {
        let mut requests = self.handle.take(std::mem::take(&mut self.requests));
        for slot in requests.slots.drain(..) {
            self.drive(cx, slot, now);
        }
        for reply in requests.counters.drain(..) {
            let _ = reply.send(self.count());
        }
        self.requests = requests;
    }

    fn count(&self) -> Counters {
        let mut counters = Counters {
            connections: self.by_peer.len() as u64,
            half_open: self.strangers.len() as u64,
            ..self.counters
        };
        for entry in self.sessions.iter().flatten() {
            let state = entry.session.lock();
            counters.add_session(state.kcp.stats(), state.fec_stats());
        }
        counters
    }

    fn wake(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }

    /// Whether there is anything this driver could still be needed for.
    fn is_done(&self) -> bool {
        let is_idle = self.by_peer.is_empty() && self.outbox.is_empty();
        is_idle && self.acceptor.as_ref().is_none_or(|it| it.is_over())
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = [self.timers.next(), self.strangers.deadline()];
        let Some(next) = due.into_iter().flatten().min() else {
            return Poll::Pending;
        };
        if self.armed.is_none_or(|armed| next < armed) {
            self.timer.as_mut().reset(self.handle.clock.instant(next));
            self.armed = Some(next);
        }
        let fired = self.timer.as_mut().poll(cx);
        if fired.is_ready() {
            self.armed = None;
        }
        fired
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.handle.waker.register(cx.waker());
        for _ in 0..ROUNDS {
            let now = this.handle.clock.now();
            this.drive_answering(cx, now);
            let received = this.poll_receive(cx, now);
            this.take_requests(cx, now);
            while let Some(slot) = this.timers.pop(now) {
                this.drive(cx, slot, now);
            }
            this.challenge_again(now);
            // Who is woken can work while this sends.
            this.wake();
            let sent = this.poll_flush(cx);
            if sent.is_ready() && !this.stalled.is_empty() {
                for slot in std::mem::take(&mut this.stalled) {
                    this.drive(cx, slot, now);
                }
                continue;
            }
            this.wake();
            if this.is_done() {
                return Poll::Ready(());
            }
            if !this.answering.is_empty() {
                // It is its turn again when those woken have had theirs.
                break;
            }
            if received.is_pending() && this.poll_timer(cx).is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        for slot in 0..self.sessions.len() {
            self.remove(slot as u32, io::ErrorKind::ConnectionAborted);
        }
        self.wake();
        self.handle.close();
    }
}

/// Whether a datagram is for conversation `conv`. One that is nothing at all is for nobody.
fn is_of(incoming: &Result<Incoming<'_>, fec::FecError>, conv: u32) -> bool {
    match incoming.as_ref().map(Incoming::payload) {
        Ok(Some(payload)) => conversation(payload) == Some(conv),
        Ok(None) => true,
        Err(_) => false,
    }
}

/// An address as it is compared: the flow label is none of its parts.
fn canonical(mut addr: SocketAddr) -> SocketAddr {
    if let SocketAddr::V6(addr) = &mut addr {
        addr.set_flowinfo(0);
    }
    addr
}
