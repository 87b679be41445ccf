//! Reading and writing of fastway frames on a stream, for gateway and endpoints.
//!
//! One task reads and writes; any task may queue frames.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::MutexGuard;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use crate::proto::fastway::queue::{BATCH, Bounds, Queue};
use crate::proto::fastway::{Decoder, Error, Frame};
use crate::sync::Mutex;

/// Size up to which frames are copied together, bytes, for a stream without vectored writes.
const COPIED: usize = 16 * 1024;

/// Framed stream of a physical connection.
pub(crate) struct FramedLink<S> {
    stream: S,
    decoder: Decoder,
    batch: VecDeque<Bytes>,
    unflushed: bool,
    /// Number of bytes read.
    pub received: u64,
    /// Number of bytes written.
    pub sent: u64,
}

/// Queue of frames to write, with the waker of its writer and the reason `E` of its end.
pub(crate) struct Outbox<E>(Mutex<State<E>>);

struct State<E> {
    queue: Queue,
    end: Option<E>,
    writer: Option<Waker>,
    /// Time since which a sender waits for room.
    waited_for: Option<Instant>,
}

/// Result of [`Outbox::push`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    Taken,
    Full,
    /// The outbox has ended.
    Ended,
}

impl<E: Clone> Outbox<E> {
    pub fn new(bounds: Bounds) -> Self {
        Self(Mutex::new(State {
            queue: Queue::new(bounds),
            end: None,
            writer: None,
            waited_for: None,
        }))
    }

    /// Queues a frame, given as `chunks`; queues nothing if the queue is full.
    ///
    /// When the queue is full, the sender waits for room, which [`FramedLink::poll_write`] reports.
    pub fn push(&self, chunks: impl IntoIterator<Item = Bytes>) -> Pushed {
        let mut state = self.state();
        if state.end.is_some() {
            return Pushed::Ended;
        }
        if state.queue.len() >= state.queue.limit() || state.queue.is_full() {
            state.wait_for_room();
            return Pushed::Full;
        }
        state.leave(chunks);
        Pushed::Taken
    }

    /// Queues a frame even beyond the limit; drops it if the outbox has ended.
    ///
    /// Returns how many chunks are beyond the limit. If there are any, the writer is woken, so that
    /// it has had its turn before it is found to be [behind](Self::beyond).
    pub fn push_anyway(&self, chunks: impl IntoIterator<Item = Bytes>) -> usize {
        let mut state = self.state();
        if state.end.is_none() {
            state.leave(chunks);
        }
        let beyond = state.beyond();
        if beyond > 0 {
            state.wake();
        }
        beyond
    }

    /// Returns how many chunks are queued beyond the limit.
    pub fn beyond(&self) -> usize {
        self.state().beyond()
    }

    /// Returns whether the queue holds as many bytes as it should.
    pub fn is_full(&self) -> bool {
        self.state().is_full()
    }

    /// Returns whether the queue holds as many bytes as it should; if so, the caller waits for
    /// room.
    ///
    /// [`FramedLink::poll_write`] reports when there is room.
    pub fn waits_for_room(&self) -> bool {
        let mut state = self.state();
        let full = state.is_full();
        if full {
            state.wait_for_room();
        }
        full
    }

    /// Returns the time since which a sender waits for room.
    pub fn waited_for(&self) -> Option<Instant> {
        self.state().waited_for
    }

    /// Ends the outbox: it takes no more frames and the writer is told why.
    ///
    /// The first reason stays.
    pub fn end(&self, end: E) {
        let mut state = self.state();
        state.end.get_or_insert(end);
        state.wake();
    }

    /// Polls for the end of the outbox; ready with its reason.
    ///
    /// While pending, the task is woken by the end and by frames queued from now on.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<E> {
        let mut state = self.state();
        match &mut state.writer {
            Some(writer) => writer.clone_from(cx.waker()),
            writer => *writer = Some(cx.waker().clone()),
        }
        match &state.end {
            Some(end) => Poll::Ready(end.clone()),
            None => Poll::Pending,
        }
    }

    /// Returns the reason for which the outbox has ended, if it has.
    pub fn ended(&self) -> Option<E> {
        self.state().end.clone()
    }

    /// Returns the limit of queued chunks.
    pub fn limit(&self) -> usize {
        self.state().queue.limit()
    }

    /// Moves the next chunks to `batch`; those moved before have been written.
    ///
    /// Returns whether senders that wait for room may continue.
    fn take(&self, batch: &mut VecDeque<Bytes>) -> bool {
        let mut state = self.state();
        state.queue.take(batch);
        let low = state.queue.is_low() && state.queue.len() <= state.queue.limit() / 2;
        low && state.waited_for.take().is_some()
    }

    fn state(&self) -> MutexGuard<'_, State<E>> {
        self.0.lock()
    }
}

impl<E> State<E> {
    fn beyond(&self) -> usize {
        self.queue.len().saturating_sub(self.queue.limit())
    }

    fn is_full(&self) -> bool {
        self.end.is_none() && self.queue.is_full()
    }

    /// Starts a wait for room and wakes the writer, which may watch how long the wait takes.
    fn wait_for_room(&mut self) {
        if self.waited_for.is_none() {
            self.waited_for = Some(Instant::now());
            self.wake();
        }
    }

    fn leave(&mut self, chunks: impl IntoIterator<Item = Bytes>) {
        let idle = self.queue.is_empty();
        for chunk in chunks {
            self.queue.push(chunk);
        }
        // A writer with queued frames has been woken for them, or waits for the stream.
        if idle {
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> FramedLink<S> {
    pub fn new(stream: S, decoder: Decoder) -> Self {
        Self {
            stream,
            decoder,
            batch: VecDeque::new(),
            unflushed: false,
            received: 0,
            sent: 0,
        }
    }

    pub fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Reads available bytes.
    ///
    /// An end of stream is an error of kind `UnexpectedEof`.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = Pin::new(&mut self.stream);
        match ready!(poll_read_buf(stream, cx, self.decoder.space()))? {
            0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            len => {
                self.received += len as u64;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Returns the next complete frame of the bytes read.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        self.decoder.next_frame()
    }

    /// Writes the queued frames; ready when none are left.
    ///
    /// Frames queued before the outbox ended are still written. `room` is called when senders that
    /// wait for room may continue.
    pub fn poll_write<E: Clone>(
        &mut self,
        cx: &mut Context<'_>,
        outbox: &Outbox<E>,
        mut room: impl FnMut(),
    ) -> Poll<io::Result<()>> {
        loop {
            if self.batch.is_empty() {
                if outbox.take(&mut self.batch) {
                    room();
                }
                if self.batch.is_empty() {
                    return self.poll_flush(cx);
                }
                if !self.stream.is_write_vectored() {
                    copy_together(&mut self.batch);
                }
            }
            let stream = Pin::new(&mut self.stream);
            let mut slices = [IoSlice::new(&[]); BATCH];
            for (slice, frame) in slices.iter_mut().zip(&self.batch) {
                *slice = IoSlice::new(frame);
            }
            // invariant: `BATCH` is all of them.
            let slices = &slices[..self.batch.len().min(BATCH)];
            let mut len = ready!(stream.poll_write_vectored(cx, slices))?;
            if len == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.sent += len as u64;
            while let Some(front) = self.batch.front_mut() {
                if len < front.len() {
                    front.advance(len);
                    break;
                }
                len -= front.len();
                self.batch.pop_front();
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// Merges small chunks into few large ones.
fn copy_together(batch: &mut VecDeque<Bytes>) {
    if batch.len() < 2 {
        return;
    }
    let mut copy = BytesMut::new();
    for frame in std::mem::take(batch) {
        if !copy.is_empty() && copy.len() + frame.len() > COPIED {
            batch.push_back(copy.split().freeze());
        }
        if frame.len() > COPIED {
            batch.push_back(frame);
        } else {
            copy.extend_from_slice(&frame);
        }
    }
    if !copy.is_empty() {
        batch.push_back(copy.freeze());
    }
}
