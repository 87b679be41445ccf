//! A session as one async stream, whatever becomes of its connections.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use super::Core;
use super::mailbox::{Counts, Handle, Mail, Mailbox, Refusal, Resume};

/// How long to wait before looking again whether the peer has acknowledged more: nothing tells.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(100);
/// Bytes read ahead of the reader from connections that were lost, beyond which no further
/// connection is taken.
const DRAINED: usize = 4 << 20;
/// More than what one connection holds, the largest window of KCP full of the longest segments,
/// bytes: what it has acknowledged the peer may no longer have, so all of that is read.
const ONE_CONNECTION: usize = 64 << 20;

/// What a session runs over, one at a time.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// How many of the bytes written to it there are from the first on that the peer's system has
    /// not acknowledged.
    fn undelivered(&self) -> usize;

    /// Whether the peer has closed or lost it. There may still be bytes to read.
    fn is_broken(&self) -> bool;

    /// Closes it: what it has not delivered goes over another.
    fn abandon(self);

    /// Reads what has arrived, whether the runtime knows of it yet or not: nothing read is the end
    /// of stream, [`WouldBlock`](io::ErrorKind::WouldBlock) that nothing is there. Wakes nobody
    /// later.
    fn read_now(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()>;
}

/// One end of a resumable session: bytes in, bytes out, over one connection after the other.
///
/// When a connection breaks, reads wait and writes go on filling the replay buffer until the peer
/// is back (see [`Handle`]) or `resume_wait` has passed; then reads give [`io::ErrorKind::TimedOut`].
/// A write is taken as far as it can be replayed and waits beyond that. `flush` waits until a
/// connection has taken all bytes, `shutdown` until the peer's system has acknowledged them;
/// neither ends the session, as the protocols have no goodbye. Dropping the stream closes its
/// connection and ends the session at this end.
///
/// Reading and writing are cancel safe. The halves of a split stream may be used by two tasks.
///
/// ```text
///                connection breaks              resume_wait passes
///  ┌─► Attached ───────────────────► Detached ─────────────────────► Ended
///  │     │  │ ▲                         │                              ▲
///  └─────┘  │ └──────── Attach ─────────┘                              │
///  Attach   └──── finish: peer has everything ─────────────────────────┘
/// ```
pub struct Stream<C> {
    core: Core,
    connection: Option<C>,
    /// What a connection had delivered when the peer was told how much that is, decrypted.
    drained: BytesMut,
    /// Those who ask how far the stream got, until its reader has caught up.
    waiting_offers: Vec<oneshot::Sender<Counts>>,
    mailbox: Arc<Mailbox<C>>,
    /// Wakes the tasks of both halves.
    both: Waker,
    resume_wait: Duration,
    /// Attached: when to look for acknowledgements again. Detached: when to give up.
    timer: Option<Pin<Box<Sleep>>>,
    look: Duration,
    closing: Closing,
    end: Option<End>,
    resumes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// All that is left is to deliver what was sent.
    Yes,
    /// The current connection has been told that nothing follows.
    Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nothing more will come.
    Eof,
    Refused(Refusal),
    TimedOut,
}

impl<C: Connection> Stream<C> {
    /// A new session on its first connection, and the handle by which it gets further ones.
    pub fn new(core: Core, connection: C, resume_wait: Duration) -> (Self, Handle<C>) {
        let mailbox = Arc::new(Mailbox::default());
        let handle = Handle::new(mailbox.clone());
        let stream = Self {
            core,
            connection: Some(connection),
            drained: BytesMut::new(),
            waiting_offers: Vec::new(),
            both: Waker::from(mailbox.clone()),
            mailbox,
            resume_wait,
            timer: None,
            look: FIRST_LOOK,
            closing: Closing::No,
            end: None,
            resumes: 0,
        };
        (stream, handle)
    }

    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The current connection, if there is one.
    pub fn connection(&self) -> Option<&C> {
        self.connection.as_ref()
    }

    /// The current connection, for what a handshake still has to write before the first byte of
    /// the session.
    pub fn connection_mut(&mut self) -> Option<&mut C> {
        self.connection.as_mut()
    }

    /// How often the session went on over a new connection.
    pub fn resumes(&self) -> u64 {
        self.resumes
    }

    /// How many bytes a write would take; waits until that is at least one.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.mailbox.writer.register(cx.waker());
        self.take_mail();
        loop {
            if self.end.is_some() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if let Some(connection) = &self.connection
                && self.core.room() < self.core.window() / 2
            {
                self.core.confirm(connection.undelivered());
            }
            if self.core.room() > 0 {
                self.look = FIRST_LOOK;
                return Poll::Ready(Ok(self.core.room()));
            }
            ready!(self.poll_hand_over());
            ready!(self.poll_timer());
            // Nobody may be reading who would find out.
            if self.connection.as_ref().is_some_and(C::is_broken) {
                self.lose_connection();
            }
        }
    }

    /// Lets the session do what it must while nobody reads or writes: change connections, send
    /// what waits, give up. Ready when it has ended.
    pub fn poll_attend(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.mailbox.reader.register(cx.waker());
        self.take_mail();
        loop {
            if self.end.is_some() {
                return Poll::Ready(());
            }
            if self.connection.is_some() {
                ready!(self.poll_hand_over());
            }
            if self.connection.is_some() {
                return Poll::Pending;
            }
            ready!(self.poll_timer());
        }
    }

    /// Runs `future` while the session is attended to. `None` if the session ends first.
    pub async fn attend<F: Future>(&mut self, future: F) -> Option<F::Output> {
        tokio::pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll_attend(cx).map(|()| None),
        })
        .await
    }

    /// Delivers what was written, over further connections if need be, and ends the session:
    /// ready once the peer has everything and has closed, or `resume_wait` has passed in which it
    /// took nothing. What the peer still sends is dropped. Returns whether everything was
    /// delivered.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.closing == Closing::No {
            self.closing = Closing::Yes;
            self.timer = None;
            self.drained = BytesMut::new();
            self.answer_offers();
        }
        self.mailbox.reader.register(cx.waker());
        self.take_mail();
        let mut space = [0; 4096];
        loop {
            if let Some(end) = self.end {
                return Poll::Ready(end == End::Eof);
            }
            let before = self.core.unsent_len();
            let waits = self.poll_hand_over().is_pending();
            if self.core.unsent_len() != before {
                self.timer = None;
            }
            if waits {
                ready!(self.poll_timer());
                continue;
            }
            let Some(connection) = &mut self.connection else {
                ready!(self.poll_timer());
                continue;
            };
            if self.closing == Closing::Yes {
                if ready!(Pin::new(&mut *connection).poll_shutdown(cx)).is_err() {
                    self.lose_connection();
                    continue;
                }
                self.closing = Closing::Told;
            }
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(connection).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    self.core.receive(buf.filled_mut());
                }
                Poll::Ready(result) => self.closed_by_peer(result.is_ok()),
                Poll::Pending => ready!(self.poll_timer()),
            }
        }
    }

    /// Takes what other tasks left in the mailbox. The caller has registered its waker there.
    fn take_mail(&mut self) {
        while let Some(mail) = self.mailbox.take() {
            match mail {
                Mail::Offer(reply) => {
                    self.waiting_offers.push(reply);
                    self.answer_offers();
                }
                Mail::Attach(resume) => self.attach(resume),
                Mail::Cut if self.connection.is_some() => self.detach(false),
                Mail::Cut => {}
                Mail::Shrink => {
                    if let Some(connection) = &self.connection {
                        self.core.confirm(connection.undelivered());
                    }
                    self.core.shrink();
                }
                Mail::Refused(refusal) => self.give_up(refusal),
            }
            self.mailbox.wake_both();
        }
    }

    /// Says how far the stream got, unless its reader is too far behind for another connection.
    fn answer_offers(&mut self) {
        if self.waiting_offers.is_empty() || self.drained.len() >= DRAINED {
            return;
        }
        self.drain();
        for offer in std::mem::take(&mut self.waiting_offers) {
            let _ = offer.send(Counts::of(&self.core));
        }
    }

    /// Reads what the connection has delivered: a peer that comes back need not keep that.
    fn drain(&mut self) {
        let mut space = [0; 16 * 1024];
        let mut left = ONE_CONNECTION;
        while let Some(connection) = &mut self.connection
            && left > 0
        {
            let mut buf = ReadBuf::new(&mut space);
            match connection.read_now(&mut buf) {
                Ok(()) if !buf.filled().is_empty() => {
                    left = left.saturating_sub(buf.filled().len());
                    let new = self.core.receive(buf.filled_mut());
                    if self.closing == Closing::No {
                        self.drained.extend_from_slice(new);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                result => self.closed_by_peer(result.is_ok()),
            }
        }
    }

    /// The connection has ended. If that was all it was there for, the session has too.
    fn closed_by_peer(&mut self, clean: bool) {
        let delivered = |connection: &C| connection.undelivered() == 0;
        if clean && self.closing == Closing::Told && self.connection.as_ref().is_some_and(delivered)
        {
            self.finish(End::Eof);
        } else {
            self.detach(clean);
        }
    }

    fn attach(&mut self, resume: Resume<C>) {
        if self.core.resume(resume.received, resume.told).is_err() {
            if self.connection.is_none() {
                self.mailbox.still_detached();
            }
            return;
        }
        if let Some(old) = self.connection.replace(resume.connection) {
            old.abandon();
        }
        self.timer = None;
        self.look = FIRST_LOOK;
        self.resumes += 1;
        self.note_use();
        self.mailbox.attached();
        if self.closing == Closing::Told {
            self.closing = Closing::Yes;
        }
    }

    /// Nobody asks where there is no limit.
    fn note_use(&self) {
        if let Some(memory) = self.core.memory()
            && memory.limit().is_some()
        {
            let bytes = self.core.replay_memory();
            self.mailbox.used(bytes, memory.age());
        }
    }

    /// The connection is broken, as far as this side has found. What it had delivered counts.
    fn lose_connection(&mut self) {
        self.drain();
        if self.connection.is_some() {
            self.detach(false);
        }
    }

    fn detach(&mut self, clean: bool) {
        if let Some(connection) = self.connection.take() {
            if clean {
                self.core.confirm(connection.undelivered());
            }
            connection.abandon();
        }
        self.timer = None;
        self.mailbox.detached(clean);
        // The other half may be waiting for what will not come.
        self.mailbox.wake_both();
    }

    fn give_up(&mut self, refusal: Refusal) {
        let regular = refusal == Refusal::UnknownSession
            && self.mailbox.ended_cleanly()
            && self.core.is_confirmed();
        self.finish(if regular {
            End::Eof
        } else {
            End::Refused(refusal)
        });
    }

    fn finish(&mut self, end: End) {
        self.end = Some(end);
        self.connection = None;
        self.timer = None;
        self.waiting_offers.clear();
        self.mailbox.close();
    }

    /// Writes what waits to the connection. Ready when nothing waits, or there is no connection
    /// (any more). When it is not, both halves are woken once it can go on: which of them is
    /// polled next is not known.
    fn poll_hand_over(&mut self) -> Poll<()> {
        while let Some(connection) = &mut self.connection {
            let cx = &mut Context::from_waker(&self.both);
            let (a, b) = self.core.unsent();
            if a.is_empty() {
                break;
            }
            let connection = Pin::new(connection);
            let written = if b.is_empty() {
                connection.poll_write(cx, a)
            } else {
                connection.poll_write_vectored(cx, &[io::IoSlice::new(a), io::IoSlice::new(b)])
            };
            match ready!(written) {
                Ok(0) | Err(_) => self.lose_connection(),
                Ok(len) => self.core.handed(len),
            }
        }
        Poll::Ready(())
    }

    /// Waits for the moment to look again, or to give up. Each time it is ready the caller looks
    /// at everything again. Wakes both halves.
    fn poll_timer(&mut self) -> Poll<()> {
        let cx = &mut Context::from_waker(&self.both);
        let looking = self.connection.is_some() && self.closing == Closing::No;
        let after = if looking { self.look } else { self.resume_wait };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(after)));
        ready!(timer.as_mut().poll(cx));
        self.timer = None;
        self.waiting_offers.retain(|offer| !offer.is_closed());
        if looking {
            self.look = (self.look * 2).min(LAST_LOOK);
        } else if self.waiting_offers.is_empty() {
            self.finish(End::TimedOut);
        }
        Poll::Ready(())
    }
}

impl<C: Connection> AsyncRead for Stream<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.mailbox.reader.register(cx.waker());
        this.take_mail();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // What the peer has to get again may be what it must have before it says anything.
        let _ = this.poll_hand_over();
        loop {
            if !this.drained.is_empty() {
                let len = this.drained.len().min(buf.remaining());
                // invariant: it is their number at most.
                buf.put_slice(&this.drained[..len]);
                this.drained.advance(len);
                if this.drained.is_empty() {
                    this.drained = BytesMut::new();
                }
                this.answer_offers();
                return Poll::Ready(Ok(()));
            }
            match this.end {
                Some(End::Eof) => return Poll::Ready(Ok(())),
                Some(End::Refused(refusal)) => {
                    let kind = io::ErrorKind::ConnectionReset;
                    return Poll::Ready(Err(io::Error::new(kind, refusal)));
                }
                Some(End::TimedOut) => {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                None => {}
            }
            let Some(connection) = &mut this.connection else {
                ready!(this.poll_timer());
                continue;
            };
            let before = buf.filled().len();
            match ready!(Pin::new(connection).poll_read(cx, buf)) {
                Ok(()) if buf.filled().len() > before => {
                    // invariant: what is filled has grown.
                    let delivered = &mut buf.filled_mut()[before..];
                    let len = delivered.len();
                    let new = this.core.receive(delivered).len();
                    delivered.copy_within(len - new.., 0);
                    buf.set_filled(before + new);
                    if new > 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                result => this.closed_by_peer(result.is_ok()),
            }
        }
    }
}

impl<C: Connection> AsyncWrite for Stream<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx))?;
        let len = self.core.push(bytes);
        self.note_use();
        // What the connection does not take now waits in the replay buffer.
        let _ = self.poll_hand_over();
        Poll::Ready(Ok(len))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.mailbox.writer.register(cx.waker());
        self.take_mail();
        loop {
            if self.end.is_some() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            ready!(self.poll_hand_over());
            if self.connection.is_some() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_timer());
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.core.is_confirmed() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.as_mut().poll_flush(cx))?;
            if let Some(connection) = &self.connection {
                let undelivered = connection.undelivered();
                self.core.confirm(undelivered);
            }
            if !self.core.is_confirmed() {
                ready!(self.poll_timer());
            }
        }
    }
}

impl<C> Drop for Stream<C> {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}

#[cfg(test)]
mod tests;
