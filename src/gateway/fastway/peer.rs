//! Task of a physical connection.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::coop::has_budget_remaining;
use tokio::time::{Sleep, sleep_until};

use super::call::Call;
use super::dial::Dialler;
use super::end::End;
use super::switchboard::{Remote, Room, emit, emit_and_look};
use crate::config::Fastway as Settings;
use crate::gateway::live::Client;
use crate::gateway::state::State;
use crate::hooks::chain::Denied;
use crate::proto::fastway::{Dial, Frame, Peer};
use crate::timer::IdleTimer;
use crate::wire::fastway::{FramedLink, Outbox};

/// Most dials that wait for hooks; with more, the endpoint is not read from.
const MAX_WAITING: usize = 64;

/// Number of frames taken in before other tasks have their turn to write what came of them.
const TURN: usize = 256;

/// Physical connection whose endpoint has joined.
pub(super) struct Physical {
    pub link: FramedLink<Client>,
    pub remote: Arc<Remote>,
    pub peer: Peer,
    pub dialler: Dialler,
    pub silence: Option<IdleTimer>,
    dials: Dials,
    held: Option<Held>,
    stall: Stall,
}

/// Backpressure on an endpoint: it is not read from while a receiver of its frames has no room.
struct Held {
    room: Room,
    /// Frame to deliver next, once there is room.
    frame: Option<Frame>,
}

/// Timer that fires when others have waited long for room in an outbox.
struct Stall {
    limit: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Dials for hooks to decide, one after the other: an endpoint may tell their answers apart only by
/// their order.
#[derive(Default)]
struct Dials {
    waiting: VecDeque<(Dial, Box<Call>)>,
    deciding: Option<Pin<Box<dyn Future<Output = Decided> + Send>>>,
}

type Decided = (Dial, Box<Call>, Result<Option<u32>, Denied>);

impl Physical {
    pub fn new(
        link: FramedLink<Client>,
        remote: Arc<Remote>,
        peer: Peer,
        dialler: Dialler,
        settings: &Settings,
    ) -> Self {
        Self {
            link,
            remote,
            peer,
            dialler,
            silence: settings.idle.map(IdleTimer::new),
            dials: Dials::default(),
            held: None,
            stall: Stall {
                limit: settings.stall_timeout,
                timer: None,
            },
        }
    }

    /// Reads and writes until the connection ends.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut taken = 0;
        loop {
            if let Poll::Ready(end) = self.remote.outbox.poll_ended(cx) {
                return Poll::Ready(end);
            }
            // An endpoint without virtual connections gets no more frames.
            let drained = self.dialler.state.draining.is_cancelled() && self.is_idle();
            let room = &self.remote.room;
            let written = self
                .link
                .poll_write(cx, &self.remote.outbox, || room.notify_waiters());
            match written {
                Poll::Ready(Ok(())) if drained => return Poll::Ready(End::Drained),
                Poll::Ready(Err(error)) => return Poll::Ready(End::of(&error)),
                // Not when the write is pending only because the task's budget is used up.
                Poll::Pending if self.remote.outbox.beyond() > 0 && has_budget_remaining() => {
                    return Poll::Ready(End::Overflow(self.remote.outbox.limit()));
                }
                _ => {}
            }
            if self.stall.poll(cx, &self.remote.outbox).is_ready() {
                return Poll::Ready(End::Stalled(self.stall.limit));
            }
            self.poll_dials(cx);
            if !self.may_read(cx) {
                // The endpoint is not silent, but not read from. Reading would drive the client.
                if let Some(silence) = &mut self.silence {
                    silence.reset();
                }
                if self.link.stream_mut().poll_drive(cx).is_ready() {
                    return Poll::Ready(End::Broken(io::ErrorKind::TimedOut));
                }
                return Poll::Pending;
            }
            // What is left of the last read comes first.
            if self.held.is_none() {
                match self.link.poll_fill(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(End::of(&error)),
                    Poll::Pending => break,
                }
                if let Some(silence) = &mut self.silence {
                    silence.reset();
                }
            }
            match self.receive() {
                Ok(frames) => taken += frames,
                Err(error) => return Poll::Ready(error),
            }
            if taken >= TURN {
                cx.waker().wake_by_ref();
                break;
            }
        }
        self.poll_silence(cx)
    }

    /// Returns whether frames of the endpoint can be taken in now.
    fn may_read(&mut self, cx: &mut Context<'_>) -> bool {
        let held = self.held.as_mut();
        self.dials.waiting.len() < MAX_WAITING
            && held.is_none_or(|held| held.room.as_mut().poll(cx).is_ready())
    }

    /// Delivers what was written and waits until the endpoint has closed, too.
    ///
    /// An endpoint that still writes to a closed connection may lose what it has not read.
    pub async fn finish(&mut self) {
        let client = self.link.stream_mut();
        poll_fn(|cx| client.poll_finish(cx)).await;
        let _ = tokio::io::copy(client, &mut tokio::io::sink()).await;
    }

    /// Takes the endpoint out of the hub.
    ///
    /// Hooks that are deciding a dial of the endpoint finish, and are told the outcome.
    pub fn leave(&mut self) {
        let (state, peer) = (self.dialler.state.clone(), self.peer);
        state
            .environment
            .fastway
            .hub()
            .leave(peer, &mut emit(&state.connections));
        self.remote.room.notify_waiters();
        if let Some(deciding) = self.dials.deciding.take() {
            let connections = &self.dialler.state.connections;
            connections.spawn(async move { drop(decided(&state, peer, deciding.await)) });
        }
    }

    /// Passes the frames that were read to the hub, as far as there is room for them. Returns how
    /// many it passed.
    fn receive(&mut self) -> Result<usize, End> {
        let mut frames = 0;
        let mut next = self.held.take().and_then(|held| held.frame);
        let state = &self.dialler.state;
        let mut hub = state.environment.fastway.hub();
        loop {
            let frame = match next.take() {
                Some(frame) => frame,
                None => match self.link.next_frame().map_err(End::Violation)? {
                    Some(frame) => frame,
                    None => return Ok(frames),
                },
            };
            let to = hub.destination(self.peer, &frame);
            if let Some(room) = to.and_then(|to| to.full()) {
                let frame = Some(frame);
                self.held = Some(Held { room, frame });
                return Ok(frames);
            }
            frames += 1;
            if frame.conn() != 0 {
                let received = hub.receive(self.peer, frame, &mut emit(&state.connections));
                received.map_err(End::Violation)?;
                continue;
            }
            // Frames that come of a command are queued, room or not; the wait for room follows.
            let mut full = None;
            let mut emit = emit_and_look(&state.connections, &mut full);
            let dial = hub.receive(self.peer, frame, &mut emit);
            if let Some(dial) = dial.map_err(End::Violation)? {
                if state.draining.is_cancelled() {
                    state.metrics.answered_dial("draining");
                    hub.refuse(self.peer, dial, &mut emit);
                } else if let Some(call) = self.dialler.call(dial.from, dial.to) {
                    self.dials.waiting.push_back((dial, call));
                } else {
                    let to = dial.to;
                    let connected = hub.connect(self.peer, dial, to, None, &mut emit);
                    let refusal = connected.err().map(|(refusal, _)| refusal.label());
                    state.metrics.answered_dial(refusal.unwrap_or("connected"));
                }
            }
            drop(emit);
            if let Some(room) = full {
                self.held = Some(Held { room, frame: None });
                return Ok(frames);
            }
        }
    }

    fn poll_dials(&mut self, cx: &mut Context<'_>) {
        let dials = &mut self.dials;
        loop {
            if dials.deciding.is_none() {
                let Some((dial, mut call)) = dials.waiting.pop_front() else {
                    return;
                };
                dials.deciding = Some(Box::pin(async move {
                    let decision = call.decide().await;
                    (dial, call, decision)
                }));
            }
            let decision = dials.deciding.as_mut().map(|d| d.as_mut().poll(cx));
            let Some(Poll::Ready(decision)) = decision else {
                return;
            };
            dials.deciding = None;
            let full = decided(&self.dialler.state, self.peer, decision);
            if let (None, Some(room)) = (&self.held, full) {
                self.held = Some(Held { room, frame: None });
            }
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Some(silence) = &mut self.silence else {
            return Poll::Pending;
        };
        while silence.poll(cx).is_ready() {
            // An endpoint that may still come back to its session has its own limit for that.
            if self.link.stream_mut().is_away() {
                continue;
            }
            let state = &self.dialler.state;
            let mut hub = state.environment.fastway.hub();
            if let Err(error) = hub.idle(self.peer, &mut emit(&state.connections)) {
                return Poll::Ready(End::Violation(error));
            }
        }
        Poll::Pending
    }

    fn is_idle(&self) -> bool {
        let hub = self.dialler.state.environment.fastway.hub();
        hub.connections_of(self.peer) == 0
            && self.dials.deciding.is_none()
            && self.dials.waiting.is_empty()
    }
}

impl Stall {
    /// Polls the stall timer: ready when others have waited too long for room in `outbox`.
    fn poll(&mut self, cx: &mut Context<'_>, outbox: &Outbox<End>) -> Poll<()> {
        let Some(since) = outbox.waited_for() else {
            self.timer = None;
            return Poll::Pending;
        };
        let until = since + self.limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }
}

/// Carries out what hooks have decided about a dial of `peer`, which may have left meanwhile.
///
/// Returns the room to wait for before the next frame, if an outbox is full.
fn decided(state: &Arc<State>, peer: Peer, (dial, call, decision): Decided) -> Option<Room> {
    let (from, to) = (dial.from, dial.to);
    let mut full = None;
    let mut emit = emit_and_look(&state.connections, &mut full);
    let mut hub = state.environment.fastway.hub();
    let (label, call) = match decision {
        Ok(target) => {
            let target = target.unwrap_or(to);
            match hub.connect(peer, dial, target, Some(call), &mut emit) {
                Ok(conn) => {
                    drop(emit);
                    state.metrics.answered_dial("connected");
                    tracing::debug!(from, to, target, conn, "virtual connection opened");
                    return full;
                }
                Err((refusal, call)) => {
                    tracing::debug!(from, to, target, reason = refusal.label(), "refused");
                    (refusal.label(), call)
                }
            }
        }
        Err(Denied { hook, reason }) => {
            hub.refuse(peer, dial, &mut emit);
            tracing::info!(from, to, hook, reason, "dial denied");
            ("denied", Some(call))
        }
    };
    drop((hub, emit));
    state.metrics.answered_dial(label);
    if let Some(call) = call {
        state.connections.spawn(call.closed(0, 0, label));
    }
    full
}
