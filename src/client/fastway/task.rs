//! The one task of an endpoint: all its reading and writing.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::{Interval, MissedTickBehavior, interval_at, timeout};

use super::error::Error;
use super::inbox::Inbox;
use super::shared::{Shared, Slot};
use crate::proto::fastway::{Decoder, EndpointEvent, Frame};
use crate::timer::IdleTimer;
use crate::wire::fastway::FramedLink;

/// Room for one read, bytes.
const READ: usize = 16 * 1024;

/// How long the stream may take for the last bytes of a closed endpoint.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Runs the endpoint to its end.
pub(super) async fn run<S>(shared: Arc<Shared>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let options = &shared.options;
    let mut pings = interval_at(tokio::time::Instant::now() + options.ping, options.ping);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut task = Task {
        link: FramedLink::new(stream, Decoder::new(options.max_packet, READ)),
        shared: shared.clone(),
        pings,
        silence: IdleTimer::new(options.timeout),
    };
    let end = poll_fn(|cx| task.poll(cx)).await;
    shared.outbox.end(end);
    if end == Error::Closed {
        let link = &mut task.link;
        let rest = async {
            poll_fn(|cx| link.poll_write(cx, &shared.outbox, || ())).await?;
            link.stream_mut().shutdown().await
        };
        let _ = timeout(LAST_WORDS, rest).await;
    }
    shared.finish(end);
}

struct Task<S> {
    link: FramedLink<S>,
    shared: Arc<Shared>,
    pings: Interval,
    silence: IdleTimer,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Task<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        loop {
            if let Poll::Ready(end) = self.shared.outbox.poll_ended(cx) {
                return Poll::Ready(end);
            }
            let room = &self.shared.room;
            let written = self
                .link
                .poll_write(cx, &self.shared.outbox, || room.notify_waiters());
            if let Poll::Ready(Err(error)) = written {
                // A session that has ended says why only to those who read.
                let error = match self.link.poll_fill(cx) {
                    Poll::Ready(Err(reason)) => reason,
                    _ => error,
                };
                return Poll::Ready(Error::Lost(error.kind()));
            }
            match self.link.poll_fill(cx) {
                Poll::Ready(Ok(())) => self.silence.reset(),
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(match error.kind() {
                        io::ErrorKind::UnexpectedEof => Error::Closed,
                        kind => Error::Lost(kind),
                    });
                }
                Poll::Pending => break,
            }
            if let Err(error) = self.receive() {
                return Poll::Ready(error.into());
            }
        }
        while self.pings.poll_tick(cx).is_ready() {
            let ping = self.shared.state().protocol.ping();
            // What it leaves wakes us again.
            self.shared.outbox.push_anyway(ping);
        }
        self.silence.poll(cx).map(|()| Error::TimedOut)
    }

    fn receive(&mut self) -> Result<(), crate::proto::fastway::Error> {
        while let Some(frame) = self.link.next_frame()? {
            self.shared.receive(frame)?;
        }
        Ok(())
    }
}

impl Shared {
    fn receive(self: &Arc<Self>, frame: Frame) -> Result<(), crate::proto::fastway::Error> {
        let mut state = self.state();
        match state.protocol.receive(frame)? {
            EndpointEvent::Send(frame) => {
                self.outbox.push_anyway([frame]);
            }
            EndpointEvent::Nothing => {}
            EndpointEvent::Refused { dial } => {
                // Whoever dialled may have given up.
                let _ = dial.send(Err(Error::Refused));
            }
            EndpointEvent::Connected { dial, conn, remote } => {
                let slot = self.slot(conn, remote);
                state.connections.insert(conn, slot.inbox.clone());
                drop(state);
                // One that nobody waits for closes itself when it is dropped.
                let _ = dial.send(Ok(slot));
            }
            EndpointEvent::Incoming { conn, remote } => {
                let slot = self.slot(conn, remote);
                state.connections.insert(conn, slot.inbox.clone());
                drop(state);
                // The same if too many wait.
                let _ = self.incoming.push(slot);
            }
            EndpointEvent::Closed { conn } => {
                let inbox = state.connections.remove(&conn);
                drop(state);
                if let Some(inbox) = inbox {
                    inbox.end(Error::Closed);
                    self.room.notify_waiters();
                }
            }
            EndpointEvent::Data { conn, payload } => {
                let Some(inbox) = state.connections.get(&conn) else {
                    // It crossed our close.
                    return Ok(());
                };
                if inbox.push(payload).is_err() {
                    inbox.end(Error::Overflow);
                    state.connections.remove(&conn);
                    let frame = state.protocol.close(conn);
                    self.outbox.push_anyway([frame]);
                    self.room.notify_waiters();
                }
            }
        }
        Ok(())
    }

    fn slot(self: &Arc<Self>, id: u32, remote: u32) -> Slot {
        Slot {
            id,
            remote,
            inbox: Arc::new(Inbox::new(self.options.receive_queue)),
            shared: self.clone(),
        }
    }

    /// Nothing will come any more.
    fn finish(&self, end: Error) {
        let mut state = self.state();
        let connections = std::mem::take(&mut state.connections);
        // With it the dials that wait.
        let version = state.protocol.version();
        let protocol = std::mem::replace(
            &mut state.protocol,
            crate::proto::fastway::Endpoint::new(version),
        );
        drop(state);
        drop(protocol);
        for inbox in connections.into_values() {
            inbox.end(end);
        }
        self.incoming.end(end);
        drop(self.incoming.drain());
        self.room.notify_waiters();
        self.done.cancel();
    }
}
