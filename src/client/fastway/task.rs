//! Task that does all reading and writing of an endpoint.

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

/// Size of one read, bytes.
const READ: usize = 16 * 1024;

/// Time limit for writing the queued frames of a closed endpoint.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Runs an endpoint until it ends.
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
                // A session that has ended gives its reason only to readers.
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
            // The queued ping wakes this task again.
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
                // The dialling task may have given up.
                let _ = dial.send(Err(Error::Refused));
            }
            EndpointEvent::Connected { dial, conn, remote } => {
                let slot = self.slot(conn, remote);
                state.connections.insert(conn, slot.inbox.clone());
                drop(state);
                // A connection that no task waits for is closed when its slot is dropped.
                let _ = dial.send(Ok(slot));
            }
            EndpointEvent::Incoming { conn, remote } => {
                let slot = self.slot(conn, remote);
                state.connections.insert(conn, slot.inbox.clone());
                drop(state);
                // A connection beyond the limit is closed when its slot is dropped.
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
                    // The message was sent before our close arrived.
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

    /// Ends all connections and pending dials of an endpoint that has ended.
    fn finish(&self, end: Error) {
        let mut state = self.state();
        let connections = std::mem::take(&mut state.connections);
        // Dropped with it are the dials that wait for an answer.
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
