//! The loop of one socket and all its sessions.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use quinn_udp::RecvMeta;
use tokio::time::{Sleep, sleep_until};

use super::counters::Counters;
use super::listener::Acceptor;
use super::outbox::{Outbox, Path};
use super::segment::{conversation, opener};
use super::session::{Link, Mail, Next, Phase, Session, State};
use super::shards::{Incoming, Shards};
use super::socket::{Inbox, Socket};
use super::state::Kcp;
use super::stream::Stream;
use super::timers::Timers;
use super::{HALF_OPEN, HALF_OPEN_PER_SOURCE, REPLACEABLE};
use crate::config;

/// Rounds before other tasks have their turn.
const ROUNDS: usize = 16;

/// Owns a socket's sessions: receives, hands out, sends, keeps the time. One task for each socket;
/// it ends when nobody accepts from it any more and all sessions are gone.
///
/// It sleeps until a datagram comes, a stream asks for it, or the first of its sessions is due.
pub(super) struct Driver {
    socket: Socket,
    link: Arc<Link>,
    /// Takes new sessions; a client has none.
    acceptor: Option<Arc<Acceptor>>,
    sessions: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_peer: HashMap<SocketAddr, u32>,
    half_open: HashMap<IpAddr, u32>,
    /// Half-open sessions and when they were opened, the oldest first. Those that are none any more
    /// leave when they come to the front.
    unproven: VecDeque<(u32, u64)>,
    timers: Timers,
    timer: Pin<Box<Sleep>>,
    /// What the timer is set to.
    armed: Option<u64>,
    inbox: Inbox,
    outbox: Outbox,
    /// Sessions that had more to send than the outbox took.
    stalled: Vec<u32>,
    /// Sessions with something new to read. They are looked after when their readers have had the
    /// chance to answer, so that the answer goes with what there is to send anyway.
    answering: Vec<u32>,
    wakers: Vec<Waker>,
    mail: Mail,
    /// Everything but the sessions that are there.
    counters: Counters,
}

/// A session as its loop knows it.
struct Entry {
    session: Arc<Session>,
    conv: u32,
    /// The one that it replaced: late datagrams of that do not replace it in turn.
    replaced: Option<u32>,
    path: Path,
    half_open: bool,
    opened: u64,
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
        self.await;
        acceptor.driver_ended();
    }

    fn new(socket: Socket, runs: usize) -> Self {
        let link = Arc::new(Link::new());
        let mut outbox = Outbox::new();
        outbox.set_longest_run(socket.longest_run());
        Self {
            timer: Box::pin(sleep_until(link.clock.instant(0))),
            inbox: Inbox::new(runs),
            socket,
            link,
            acceptor: None,
            sessions: Vec::new(),
            free: Vec::new(),
            by_peer: HashMap::new(),
            half_open: HashMap::new(),
            unproven: VecDeque::new(),
            timers: Timers::default(),
            armed: None,
            outbox,
            stalled: Vec::new(),
            answering: Vec::new(),
            wakers: Vec::new(),
            mail: Mail::default(),
            counters: Counters::default(),
        }
    }

    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Opens a session from here.
    pub fn open(&mut self, peer: SocketAddr, conv: u32, settings: &config::Kcp) -> Stream {
        self.counters.active_opens += 1;
        let path = Path { peer, from: None };
        let local = self.socket.local_addr();
        let (session, _) = self.insert(path, local, conv, None, settings, settings.fec());
        Stream::new(session)
    }

    fn insert(
        &mut self,
        path: Path,
        local: SocketAddr,
        conv: u32,
        replaced: Option<u32>,
        settings: &config::Kcp,
        fec: Option<(usize, usize)>,
    ) -> (Arc<Session>, u32) {
        let now = self.link.clock.now();
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sessions.push(None);
            (self.sessions.len() - 1) as u32
        });
        let shards = fec
            .and_then(|shape| Shards::new(shape, now).ok())
            .map(Box::new);
        let kcp = Kcp::new(conv, &super::settings_of(settings));
        let silence = settings.read_timeout.map(|limit| limit.as_millis() as u64);
        let half_open = self.acceptor.is_some();
        let state = State::new(kcp, shards, silence, now, !half_open);
        let link = self.link.clone();
        let session = Arc::new(Session::new(path.peer, local, link, slot, state));
        // invariant: a slot that is free was given up, or has just been made.
        self.sessions[slot as usize] = Some(Entry {
            session: session.clone(),
            conv,
            replaced,
            path,
            half_open,
            opened: now,
        });
        self.by_peer.insert(path.peer, slot);
        if let Some(acceptor) = &self.acceptor {
            acceptor.session_opened();
        }
        if half_open {
            *self.half_open.entry(source(path.peer)).or_default() += 1;
            self.counters.half_open += 1;
            self.unproven.push_back((slot, now));
        }
        let count = self.by_peer.len() as u64;
        self.counters.max_established = self.counters.max_established.max(count);
        (session, slot)
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
        self.proven(entry.path.peer, entry.half_open);
        let mut state = entry.session.lock();
        if !matches!(state.phase, Phase::Broken(_)) {
            state.phase = Phase::Broken(broken);
        }
        self.wakers.extend(state.ready().into_iter().flatten());
        self.counters
            .add_session(state.kcp.stats(), state.fec_counters());
        drop(state);
        if let Some(acceptor) = &self.acceptor {
            acceptor.session_ended();
        }
    }

    fn proven(&mut self, peer: SocketAddr, was_half_open: bool) {
        if !was_half_open {
            return;
        }
        self.counters.half_open -= 1;
        let source = source(peer);
        if let Some(count) = self.half_open.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.half_open.remove(&source);
            }
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
            .map(Incoming::parse)
            .peekable();
        while let Some(first) = datagrams.peek() {
            let slot = first
                .as_ref()
                .ok()
                .and_then(|first| self.receiver(peer, first, meta));
            let Some((slot, opened)) = slot else {
                self.counters.strangers += 1;
                datagrams.next();
                continue;
            };
            // invariant: the slot was found a moment ago.
            let entry = self.sessions[slot as usize].as_ref().expect("a session");
            let conv = entry.conv;
            let arrived = opened.then(|| entry.session.clone());
            let mut state = entry.session.lock();
            while let Some(incoming) = datagrams.next_if(|next| is_of(next, conv)) {
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
                None => self.attend(cx, slot, now),
            }
            if let Some((session, acceptor)) = arrived.zip(self.acceptor.as_ref()) {
                acceptor.put(Stream::new(session));
            }
        }
    }

    /// The session that a datagram belongs to, and whether it has just opened it.
    fn receiver(
        &mut self,
        peer: SocketAddr,
        incoming: &Incoming<'_>,
        meta: &RecvMeta,
    ) -> Option<(u32, bool)> {
        let known = self.by_peer.get(&peer).copied();
        let Some(payload) = incoming.payload() else {
            return known.map(|slot| (slot, false));
        };
        // invariant: slots stay, with or without a session.
        let entry = known.and_then(|slot| self.sessions[slot as usize].as_ref());
        if let Some((entry, slot)) = entry.zip(known)
            && conversation(payload) == Some(entry.conv)
        {
            return Some((slot, false));
        }
        let acceptor = self
            .acceptor
            .clone()
            .filter(|acceptor| acceptor.has_room())?;
        let conv = opener(payload)?;
        let now = self.link.clock.now();
        let mut replaced = None;
        if let Some(entry) = entry {
            // The client has started anew behind the same port.
            let hasty = entry.half_open && now < entry.opened + REPLACEABLE;
            if entry.replaced == Some(conv) || hasty {
                return None;
            }
            replaced = Some(entry.conv);
        }
        // One that is half-open itself leaves its place.
        let is_half_open = entry.is_some_and(|entry| entry.half_open);
        if !is_half_open && !self.has_place(peer, now) {
            self.counters.refused_opens += 1;
            return None;
        }
        if let Some(slot) = known {
            self.remove(slot, io::ErrorKind::ConnectionReset);
        }
        self.counters.passive_opens += 1;
        let mut local = self.socket.local_addr();
        let from = meta.dst_ip.filter(|_| self.socket.has_many_addresses());
        if let Some(from) = from {
            local.set_ip(from);
        }
        let path = Path { peer, from };
        let settings = acceptor.settings();
        // Clients of kcp-go without error correction take nothing with it.
        let has_fec = matches!(incoming, Incoming::Shard(_));
        let fec = settings.fec().filter(|_| has_fec);
        if has_fec && fec.is_none() {
            acceptor.warn_of_fec(peer);
        }
        let (_, slot) = self.insert(path, local, conv, replaced, &settings, fec);
        Some((slot, true))
    }

    /// Whether there may be another half-open session, of this peer. When there are as many as may
    /// be, the oldest gives way, unless it is too young to have been able to prove itself.
    fn has_place(&mut self, peer: SocketAddr, now: u64) -> bool {
        let of_source = self.half_open.get(&source(peer)).copied().unwrap_or(0);
        if of_source >= HALF_OPEN_PER_SOURCE {
            return false;
        }
        let oldest = loop {
            let Some(&(slot, opened)) = self.unproven.front() else {
                break None;
            };
            // invariant: slots stay, with or without a session.
            let entry = self.sessions[slot as usize].as_ref();
            if entry.is_some_and(|entry| entry.half_open && entry.opened == opened) {
                break Some((slot, opened));
            }
            self.unproven.pop_front();
        };
        if self.counters.half_open < HALF_OPEN {
            return true;
        }
        let Some((slot, _)) = oldest.filter(|(_, opened)| opened + REPLACEABLE <= now) else {
            return false;
        };
        self.remove(slot, io::ErrorKind::TimedOut);
        true
    }

    /// Looks after a session: sends what it has to send, wakes who waits for it.
    fn attend(&mut self, cx: &mut Context<'_>, slot: u32, now: u64) {
        loop {
            let Some(entry) = self
                .sessions
                .get_mut(slot as usize)
                .and_then(Option::as_mut)
            else {
                return;
            };
            let mut state = entry.session.lock();
            let next = state.attend(now, entry.path, &mut self.outbox);
            self.wakers.extend(state.ready().into_iter().flatten());
            let became_proven = entry.half_open && !state.is_half_open();
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
            if became_proven {
                entry.half_open = false;
                let peer = entry.path.peer;
                self.proven(peer, true);
            }
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

    fn attend_answering(&mut self, cx: &mut Context<'_>, now: u64) {
        let mut answering = std::mem::take(&mut self.answering);
        for slot in answering.drain(..) {
            self.attend(cx, slot, now);
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
    fn take_mail(&mut self, cx: &mut Context<'_>, now: u64) {
        let mut mail = self.link.receive(std::mem::take(&mut self.mail));
        for slot in mail.slots.drain(..) {
            self.attend(cx, slot, now);
        }
        for reply in mail.counters.drain(..) {
            let _ = reply.send(self.count());
        }
        self.mail = mail;
    }

    fn count(&self) -> Counters {
        let mut counters = Counters {
            established: self.by_peer.len() as u64,
            ..self.counters
        };
        for entry in self.sessions.iter().flatten() {
            let state = entry.session.lock();
            counters.add_session(state.kcp.stats(), state.fec_counters());
        }
        counters
    }

    fn wake(&mut self) {
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
    }

    /// Whether there is anything this loop could still be needed for.
    fn is_done(&self) -> bool {
        let is_idle = self.by_peer.is_empty() && self.outbox.is_empty();
        is_idle && self.acceptor.as_ref().is_none_or(|it| it.is_over())
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(next) = self.timers.next() else {
            return Poll::Pending;
        };
        if self.armed.is_none_or(|armed| next < armed) {
            self.timer.as_mut().reset(self.link.clock.instant(next));
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
        this.link.waker.register(cx.waker());
        for _ in 0..ROUNDS {
            let now = this.link.clock.now();
            this.attend_answering(cx, now);
            let received = this.poll_receive(cx, now);
            this.take_mail(cx, now);
            while let Some(slot) = this.timers.pop(now) {
                this.attend(cx, slot, now);
            }
            // Who is woken can work while this sends.
            this.wake();
            let sent = this.poll_flush(cx);
            if sent.is_ready() && !this.stalled.is_empty() {
                for slot in std::mem::take(&mut this.stalled) {
                    this.attend(cx, slot, now);
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
        self.link.close();
    }
}

/// Whether a datagram is for conversation `conv`. One that is nothing at all is for nobody.
fn is_of(incoming: &Result<Incoming<'_>, super::fec::FecError>, conv: u32) -> bool {
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

/// Whom half-open sessions are counted for: an address of IPv4, a network of IPv6.
fn source(peer: SocketAddr) -> IpAddr {
    match peer.ip() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !u128::from(u64::MAX)).into()),
    }
}
