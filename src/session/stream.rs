//! A session as one async stream, whatever becomes of its connections.

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

/// How long to wait before looking again whether the peer has acknowledged more: nothing tells.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LAST_LOOK: Duration = Duration::from_millis(100);
/// Bytes that lost connections together may have delivered and the reader not taken, if there are
/// several: about what the system holds of one over TCP.
const UNREAD: u64 = 512 * 1024;
/// Lost connections of which the reader may not have taken everything.
const LOST: usize = 16;

/// What a session runs over, one at a time.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// How many of the bytes written to it there are from the first on that the peer's system has
    /// not acknowledged.
    fn undelivered(&self) -> usize;

    /// Whether the peer has closed or lost it. There may still be bytes to read.
    fn is_broken(&self) -> bool;

    /// How many bytes have arrived that were not read, whether the runtime knows of them yet or
    /// not. They stay there to be read, whatever becomes of the connection.
    fn unread(&self) -> usize;

    /// Closes it towards the peer: what it has not delivered goes over another. What has arrived
    /// can still be read.
    fn abandon(&mut self);
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
/// What a connection had acknowledged when it was lost the peer may no longer have. It stays where
/// it is, in the connection, which is kept until the reader has taken it. If several were lost and
/// there is much in them, a peer that wants to replace one more waits until the reader has caught
/// up; one that has no connection never does, as the reader may be waiting for it.
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
    /// The connection takes nothing more; what it has delivered is still to be read.
    broken: bool,
    /// Connections before, which have delivered what is still to be read.
    replaced: VecDeque<Replaced<C>>,
    /// The most bytes that the peer has been told to have been received.
    promised: u64,
    /// Bytes to be read from connections that were lost, which count as memory of the session.
    held: usize,
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

/// A connection of which not everything has been read.
struct Replaced<C> {
    connection: C,
    /// The position up to which it is read.
    end: u64,
    /// The position from which on the next one goes on, which may be before.
    next: u64,
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

    /// The current connection, if there is one.
    pub fn connection(&self) -> Option<&C> {
        self.connection.as_ref().filter(|_| !self.broken)
    }

    /// The current connection, for what a handshake still has to write before the first byte of
    /// the session.
    pub fn connection_mut(&mut self) -> Option<&mut C> {
        self.connection.as_mut()
    }

    /// What it takes beside its connection: the replay buffer, and what lost connections have
    /// delivered and nobody has read, bytes.
    pub fn memory(&self) -> usize {
        self.core.replay_memory() + self.held
    }

    /// Bytes that lost connections have delivered and nobody has read.
    pub fn held(&self) -> usize {
        self.held
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
            if self.core.room() < self.core.window() / 2 {
                self.confirm();
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

    /// Notes that the connection has broken: nobody may be reading who would find out.
    fn look_for_a_break(&mut self) {
        if self.connection().is_some_and(C::is_broken) {
            self.lose_connection();
        }
    }

    /// Lets the session do what it must while nobody reads or writes: change connections, send
    /// what waits, give up. Ready when it has ended.
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

    /// Runs `future` while the session is attended to. `None` if the session ends first.
    pub async fn drive<F: Future>(&mut self, future: F) -> Option<F::Output> {
        tokio::pin!(future);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => self.poll_drive(cx).map(|()| None),
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

    /// Takes what other tasks left in the mailbox. The caller has registered its waker there.
    fn take_mail(&mut self) {
        while let Some(mail) = self.mailbox.take() {
            match mail {
                Mail::Offer(reply) => {
                    self.waiting_offers.retain(|offer| !offer.is_closed());
                    self.waiting_offers.push(reply);
                }
                Mail::Attach(resume) => self.attach(resume),
                Mail::Cut if self.connection().is_none() => {}
                // What the peer has been told of is not lost any more.
                Mail::Cut if self.promised > self.kept() => self.lose_connection(),
                Mail::Cut => self.detach(false),
                Mail::Shrink => {
                    self.confirm();
                    self.core.shrink();
                }
                Mail::Refused(refusal) => self.give_up(refusal),
            }
            self.answer_offers();
            self.mailbox.wake_both();
        }
    }

    /// Says how far the stream got, unless its reader is too far behind for another connection.
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

    /// The position up to which the connection has delivered.
    fn delivered(&self) -> u64 {
        let read = match self.replaced.back() {
            Some(last) => last.next,
            None => self.core.received() - self.core.repeated(),
        };
        let unread = self.connection.as_ref().map_or(0, C::unread);
        self.core.received().max(read + unread as u64)
    }

    /// The position up to which those before the connection have delivered.
    fn kept(&self) -> u64 {
        let last = self.replaced.back();
        last.map_or(0, |last| last.end).max(self.core.received())
    }

    /// Whether there are lost connections of which not everything has been read.
    fn has_lost(&self) -> bool {
        self.broken || !self.replaced.is_empty()
    }

    /// Notes what the connection's system has acknowledged.
    fn confirm(&mut self) {
        if let Some(undelivered) = self.connection().map(C::undelivered) {
            self.core.confirm(undelivered);
        }
    }

    /// Reads from the connection whose turn it is, if there is one. Ready when anything has
    /// changed, read or not.
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

    /// A connection had less than it said, which the peer has been told.
    fn lose_bytes(&mut self) {
        self.broken = false;
        self.replaced.clear();
        self.hold();
        self.finish(End::Refused(Refusal::BytesLost));
    }

    /// Closes lost connections of which everything has been read.
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

    /// Notes how much is to be read from lost connections.
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
        if self.core.resume(resume.received).is_err() {
            if self.connection().is_none() {
                self.mailbox.still_detached();
            }
            return;
        }
        let mut last = self.connection.replace(resume.connection);
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

    /// Nobody asks where there is no limit, and nobody compares as long as it is far.
    fn note_use(&self) {
        if let Some(memory) = self.core.memory()
            && let Some(limit) = memory.limit()
        {
            let now = (memory.used() > limit / 2).then(|| memory.age());
            self.mailbox.used(self.core.replay_memory(), now);
        }
    }

    /// The connection is broken, as far as this side has found. What it had delivered counts.
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
                self.core.confirm(connection.undelivered());
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
        if !self.broken {
            self.connection = None;
        }
        self.timer = None;
        self.waiting_offers.clear();
        self.mailbox.close();
    }

    /// Writes what waits to the connection. Ready when nothing waits, or there is no connection
    /// (any more). When it is not, both halves are woken once it can go on: which of them is
    /// polled next is not known.
    fn poll_hand_over(&mut self) -> Poll<()> {
        while !self.broken
            && let Some(connection) = &mut self.connection
        {
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
        // What the peer has to get again may be what it must have before it says anything.
        let _ = this.poll_hand_over();
        loop {
            match this.end {
                // What was delivered before the end is to be read before it.
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
            if self.connection().is_some() {
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
            self.confirm();
            if !self.core.is_confirmed() {
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
