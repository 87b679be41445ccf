//! Async stream over a session that outlives its connections.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

use super::mailbox::{Counts, Handle, Mail, Mailbox, Refusal, Resume};
use super::{Core, Memory};

/// First polling interval for acknowledgements; the kernel gives no notification.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(100);
/// Upper bound of unread bytes in several lost connections; beyond it, offers wait for the reader.
///
/// About what the system buffers of one TCP connection.
const UNREAD: u64 = 512 * 1024;
/// Upper bound of lost connections with unread bytes; at it, offers wait for the reader.
const LOST: usize = 16;

/// Connection that carries a session.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// Returns how many written bytes the peer's system has not acknowledged.
    fn unacked(&self) -> usize;

    /// Returns whether the peer has closed or lost the connection.
    ///
    /// There may still be bytes to read.
    fn is_broken(&self) -> bool;

    /// Returns how many bytes have arrived and were not read, noticed by the runtime or not.
    ///
    /// These bytes stay readable after the connection breaks.
    fn unread(&self) -> usize;

    /// Closes the sending side; undelivered bytes go over another connection.
    ///
    /// Bytes that have arrived can still be read.
    fn abandon(&mut self);
}

/// One end of a resumable session: a byte stream over one connection after the other.
///
/// When a connection breaks, reads wait and writes fill the replay buffer until the peer is back
/// (see [`Handle`]) or `resume_wait` has passed; then reads fail with [`io::ErrorKind::TimedOut`].
/// A write takes as many bytes as can be replayed and waits when there is no room. `flush` waits
/// until a connection has taken all bytes, `shutdown` until the peer's system has acknowledged
/// them. Neither ends the session, as the protocols have no goodbye. Dropping the stream closes its
/// connection and ends the session at this end.
///
/// Bytes that a lost connection had acknowledged may be gone at the peer, so they count as received
/// and stay in that connection, which is kept until the reader has drained it. While several lost
/// connections hold many bytes, a peer that replaces one more connection waits for the reader. A
/// peer without a connection never waits, as the reader may be waiting for that peer.
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
    /// Rest of the handshake's answer, which goes to the connection before anything else.
    answer: Vec<u8>,
    /// Flag that the connection is lost and kept only to read the bytes it has delivered.
    broken: bool,
    /// Lost connections with unread bytes, oldest first.
    replaced: VecDeque<Replaced<C>>,
    /// Highest received count that the peer has been told.
    promised: u64,
    /// Number of unread bytes in lost connections, charged to the memory budget.
    held: usize,
    /// Unanswered offers, held back until the reader has caught up.
    waiting_offers: Vec<oneshot::Sender<Counts>>,
    mailbox: Arc<Mailbox<C>>,
    /// Waker of the tasks of both halves.
    both: Waker,
    resume_wait: Duration,
    /// Timer: with a connection, the next poll for acknowledgements; without, the end of
    /// `resume_wait`.
    timer: Option<Pin<Box<Sleep>>>,
    look: Duration,
    closing: Closing,
    end: Option<End>,
    resumes: u64,
}

/// Lost connection with unread bytes.
struct Replaced<C> {
    connection: C,
    /// Position up to which this connection is read.
    end: u64,
    /// Position at which the next connection starts, at most `end`.
    next: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    No,
    /// Only sent bytes are still delivered.
    Yes,
    /// The current connection has been half-closed.
    Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The session ended regularly.
    Eof,
    Refused(Refusal),
    TimedOut,
}

impl<C: Connection> Stream<C> {
    /// Creates a session on its first connection, and the handle that gives it further ones.
    pub fn new(core: Core, connection: C, resume_wait: Duration) -> (Self, Handle<C>) {
        let mailbox = Arc::new(Mailbox::default());
        let handle = Handle::new(mailbox.clone());
        let stream = Self {
            core,
            connection: Some(connection),
            answer: Vec::new(),
            broken: false,
            replaced: VecDeque::new(),
            promised: 0,
            held: 0,
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

    /// Returns the current connection, if there is one.
    pub fn connection(&self) -> Option<&C> {
        self.connection.as_ref().filter(|_| !self.broken)
    }

    /// Returns the current connection, for handshake messages written before the first session
    /// byte.
    pub fn connection_mut(&mut self) -> Option<&mut C> {
        self.connection.as_mut()
    }

    /// Returns the memory of the session in bytes, without its current connection.
    ///
    /// That is the replay buffer and the unread bytes of lost connections.
    pub fn memory(&self) -> usize {
        self.core.replay_memory() + self.held
    }

    /// Returns the number of unread bytes in lost connections.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Returns how often the session resumed.
    pub fn resumes(&self) -> u64 {
        self.resumes
    }

    /// Polls for room to write; ready with how many bytes a write would take, at least one.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.mailbox.writer.register(cx.waker());
        self.take_mail();
        loop {
            if self.end.is_some() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if self.core.room() < self.core.window() / 2 {
                self.acknowledge();
            }
            if self.core.room() > 0 {
                self.look = FIRST_LOOK;
                return Poll::Ready(Ok(self.core.room()));
            }
            ready!(self.poll_hand_over());
            ready!(self.poll_timer());
            self.look_for_a_break();
        }
    }

    /// Gives up the connection if it is broken, as no reader may be there to notice.
    fn look_for_a_break(&mut self) {
        if self.connection().is_some_and(C::is_broken) {
            self.lose_connection();
        }
    }

    /// Drives the session while it is neither read nor written; ready when the session has ended.
    ///
    /// Takes new connections, sends queued bytes and watches `resume_wait`.
    pub fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.mailbox.reader.register(cx.waker());
        self.take_mail();
        loop {
            if self.end.is_some() {
                return Poll::Ready(());
            }
            ready!(self.poll_hand_over());
            if self.connection().is_some() {
                return Poll::Pending;
            }
            ready!(self.poll_timer());
        }
    }

    /// Runs `future` and drives the session meanwhile.
    ///
    /// Returns `None` if the session ends first.
    pub async fn drive<F: Future>(&mut self, future: F) -> Option<F::Output> {
        tokio::pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll_drive(cx).map(|()| None),
        })
        .await
    }

    /// Delivers all written bytes, over further connections if need be, and ends the session.
    ///
    /// Ready once the peer has all bytes and has closed, or has taken none for `resume_wait`. Bytes
    /// that the peer still sends are dropped. Returns whether all bytes were delivered.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.closing == Closing::No {
            self.closing = Closing::Yes;
            self.timer = None;
            self.answer_offers();
        }
        self.mailbox.reader.register(cx.waker());
        self.take_mail();
        let mut space = [0; 4096];
        loop {
            if let Some(end) = self.end {
                return Poll::Ready(end == End::Eof);
            }
            let mut buf = ReadBuf::new(&mut space);
            if self.has_lost() {
                if self.poll_receive(cx, &mut buf).is_pending() {
                    ready!(self.poll_timer());
                }
                continue;
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
                if ready!(Pin::new(connection).poll_shutdown(cx)).is_err() {
                    self.lose_connection();
                    continue;
                }
                self.closing = Closing::Told;
            }
            if self.poll_receive(cx, &mut buf).is_pending() {
                ready!(self.poll_timer());
            }
        }
    }

    /// Handles the mail from other tasks; the caller has registered its waker.
    fn take_mail(&mut self) {
        while let Some(mail) = self.mailbox.take() {
            match mail {
                Mail::Offer(reply) => {
                    self.waiting_offers.retain(|offer| !offer.is_closed());
                    self.waiting_offers.push(reply);
                }
                Mail::Attach(resume) => {
                    self.attach(resume);
                    // The peer gets its answer even if the next mail brings another connection.
                    let _ = self.poll_hand_over();
                }
                Mail::Cut if self.connection().is_none() => {}
                // Bytes that the peer was told are received must not be lost any more.
                Mail::Cut if self.promised > self.kept() => self.lose_connection(),
                Mail::Cut => self.detach(false),
                Mail::Shrink => {
                    self.acknowledge();
                    self.core.shrink();
                }
                Mail::Refused(refusal) => self.give_up(refusal),
            }
            self.answer_offers();
            self.mailbox.wake_both();
        }
    }

    /// Answers waiting offers, unless the reader is too far behind for another connection.
    fn answer_offers(&mut self) {
        if self.waiting_offers.is_empty() {
            return;
        }
        let received = self.promised.max(self.delivered());
        let more = received > self.kept() && !self.broken;
        if self.closing == Closing::No && more && !self.replaced.is_empty() {
            let short = self.core.memory().is_some_and(Memory::is_short);
            let much = received - self.core.received() > UNREAD;
            if short || much || self.replaced.len() >= LOST {
                return;
            }
        }
        self.promised = received;
        for offer in std::mem::take(&mut self.waiting_offers) {
            let _ = offer.send(Counts::of(&self.core, received));
        }
    }

    /// Returns the position up to which the connection has delivered.
    fn delivered(&self) -> u64 {
        let read = match self.replaced.back() {
            Some(last) => last.next,
            None => self.core.received() - self.core.repeated(),
        };
        let unread = self.connection.as_ref().map_or(0, C::unread);
        self.core.received().max(read + unread as u64)
    }

    /// Returns the position up to which the connections before the current one have delivered.
    fn kept(&self) -> u64 {
        let last = self.replaced.back();
        last.map_or(0, |last| last.end).max(self.core.received())
    }

    /// Returns whether a lost connection has unread bytes.
    fn has_lost(&self) -> bool {
        self.broken || !self.replaced.is_empty()
    }

    /// Records how many bytes the peer's system has acknowledged.
    fn acknowledge(&mut self) {
        if let Some(unacked) = self.connection().map(C::unacked) {
            self.core.acknowledge(unacked);
        }
    }

    /// Reads from the oldest connection with unread bytes, or the current one.
    ///
    /// Ready when the state has changed, with or without bytes read.
    fn poll_receive(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<()> {
        let replaced = self.replaced.front_mut();
        let replaced = replaced.map(|replaced| &mut replaced.connection);
        let Some(connection) = replaced.or(self.connection.as_mut()) else {
            return Poll::Ready(());
        };
        let before = buf.filled().len();
        let result = ready!(Pin::new(connection).poll_read(cx, buf));
        // invariant: what is filled only grows.
        let delivered = &mut buf.filled_mut()[before..];
        let len = delivered.len();
        if result.is_err() || len == 0 {
            match self.replaced.is_empty() {
                true => self.closed_by_peer(result.is_ok()),
                false => self.lose_bytes(),
            }
        } else {
            let new = self.core.receive(delivered).len();
            delivered.copy_within(len - new.., 0);
            buf.set_filled(before + new);
            if self.has_lost() {
                self.leave_lost();
            }
        }
        self.answer_offers();
        Poll::Ready(())
    }

    /// Ends the session, as a connection delivered fewer bytes than the peer was told are received.
    fn lose_bytes(&mut self) {
        self.broken = false;
        self.replaced.clear();
        self.hold();
        self.finish(End::Refused(Refusal::BytesLost));
    }

    /// Closes lost connections that have been read to their end.
    fn leave_lost(&mut self) {
        while let Some(first) = self.replaced.front()
            && first.end <= self.core.received()
        {
            self.core.receive_from(first.next);
            self.replaced.pop_front();
        }
        if self.broken && self.replaced.is_empty() && self.promised <= self.core.received() {
            self.detach(false);
        }
        self.hold();
    }

    /// Charges the unread bytes of lost connections to the memory budget.
    fn hold(&mut self) {
        let end = if self.broken {
            self.promised
        } else {
            self.kept()
        };
        let bytes = end.saturating_sub(self.core.received()) as usize;
        if let Some(memory) = self.core.memory() {
            memory.resized(self.held, bytes);
        }
        self.held = bytes;
    }

    /// Handles the end of the connection, which ends a session that has delivered all bytes.
    fn closed_by_peer(&mut self, clean: bool) {
        let delivered = |connection: &C| connection.unacked() == 0;
        if clean && self.closing == Closing::Told && self.connection.as_ref().is_some_and(delivered)
        {
            self.finish(End::Eof);
        } else {
            self.detach(clean);
        }
    }

    fn attach(&mut self, resume: Resume<C>) {
        if self.core.resume(resume.received).is_err() {
            if self.connection().is_none() {
                self.mailbox.still_detached();
            }
            return;
        }
        let mut last = self.connection.replace(resume.connection);
        self.answer = resume.answer;
        last.iter_mut().for_each(C::abandon);
        self.broken = false;
        if let Some(connection) = last
            && self.promised > self.kept()
        {
            self.replaced.push_back(Replaced {
                connection,
                end: self.promised,
                next: resume.told,
            });
        } else if resume.told > self.kept() {
            return self.lose_bytes();
        } else if let Some(last) = self.replaced.back_mut() {
            last.next = resume.told;
        } else {
            self.core.receive_from(resume.told);
        }
        self.promised = self.kept();
        self.hold();
        self.timer = None;
        self.look = FIRST_LOOK;
        self.resumes += 1;
        self.note_use();
        self.mailbox.attached();
        if self.closing == Closing::Told {
            self.closing = Closing::Yes;
        }
    }

    /// Reports the use of the replay buffer, if memory has a limit.
    ///
    /// The time counts only once half of the limit is in use.
    fn note_use(&self) {
        if let Some(memory) = self.core.memory()
            && let Some(limit) = memory.limit()
        {
            let now = (memory.used() > limit / 2).then(|| memory.age());
            self.mailbox.used(self.core.replay_memory(), now);
        }
    }

    /// Handles a connection that broke at this side; bytes it has delivered still count.
    fn lose_connection(&mut self) {
        let delivered = self.delivered();
        if delivered <= self.kept() {
            return self.detach(false);
        }
        self.promised = self.promised.max(delivered);
        self.broken = true;
        self.hold();
        if let Some(connection) = &mut self.connection {
            connection.abandon();
        }
        self.detached(false);
    }

    fn detach(&mut self, clean: bool) {
        if let Some(mut connection) = self.connection.take() {
            if clean {
                self.core.acknowledge(connection.unacked());
            }
            connection.abandon();
        }
        let said = std::mem::take(&mut self.broken);
        self.hold();
        if !said {
            self.detached(clean);
        }
    }

    fn detached(&mut self, clean: bool) {
        self.timer = None;
        self.mailbox.detached(clean);
        // The other half may be waiting on the lost connection.
        self.mailbox.wake_both();
    }

    fn give_up(&mut self, refusal: Refusal) {
        let regular = refusal == Refusal::UnknownSession
            && self.mailbox.ended_cleanly()
            && self.core.is_acked();
        self.finish(if regular {
            End::Eof
        } else {
            End::Refused(refusal)
        });
    }

    fn finish(&mut self, end: End) {
        self.end = Some(end);
        if !self.broken {
            self.connection = None;
        }
        self.timer = None;
        self.waiting_offers.clear();
        self.mailbox.close();
    }

    /// Writes unsent bytes to the connection; ready when none are left or there is no connection.
    ///
    /// While pending, both halves are woken, as either may be polled next.
    fn poll_hand_over(&mut self) -> Poll<()> {
        while !self.broken
            && let Some(connection) = &mut self.connection
        {
            let cx = &mut Context::from_waker(&self.both);
            if !self.answer.is_empty() {
                match ready!(Pin::new(connection).poll_write(cx, &self.answer)) {
                    Ok(0) | Err(_) => self.lose_connection(),
                    Ok(len) if len == self.answer.len() => self.answer = Vec::new(),
                    Ok(len) => drop(self.answer.drain(..len)),
                }
                continue;
            }
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
                Ok(len) => self.core.written(len),
            }
        }
        Poll::Ready(())
    }

    /// Waits for the next poll for acknowledgements, or for the end of `resume_wait`.
    ///
    /// When ready, the caller checks its whole state again. Wakes both halves.
    fn poll_timer(&mut self) -> Poll<()> {
        let cx = &mut Context::from_waker(&self.both);
        let looking = self.connection().is_some() && self.closing == Closing::No;
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
        // The peer may need the replayed bytes before it sends anything.
        let _ = this.poll_hand_over();
        loop {
            match this.end {
                // Bytes delivered before the end are read before the end is reported.
                _ if this.has_lost() => {}
                Some(End::Eof) => return Poll::Ready(Ok(())),
                Some(End::Refused(refusal)) => {
                    let kind = io::ErrorKind::ConnectionReset;
                    return Poll::Ready(Err(io::Error::new(kind, refusal)));
                }
                Some(End::TimedOut) => {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                None if this.connection.is_none() => {
                    ready!(this.poll_timer());
                    continue;
                }
                None => {}
            }
            let before = buf.filled().len();
            ready!(this.poll_receive(cx, buf));
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
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
        // Bytes that the connection does not take now wait in the replay buffer.
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
            if self.connection().is_some() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_timer());
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.core.is_acked() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.as_mut().poll_flush(cx))?;
            self.acknowledge();
            if !self.core.is_acked() {
                ready!(self.poll_timer());
                self.look_for_a_break();
            }
        }
    }
}

impl<C> Drop for Stream<C> {
    fn drop(&mut self) {
        if let Some(memory) = self.core.memory() {
            memory.resized(self.held, 0);
        }
        self.mailbox.close();
    }
}

#[cfg(test)]
mod tests;
