//! Mailbox by which other tasks give a stream connections and commands, without a lock on the data
//! path.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Wake;

use atomic_waker::AtomicWaker;
use tokio::sync::{Notify, oneshot};

use super::core::{Core, NotReplayable};

use crate::sync::Mutex;

/// Handle that gives a [`Stream`](super::Stream) new connections.
///
/// A connection may be replaced after it broke or while it still works. Both ends of a session use
/// the handle alike:
///
/// 1. [`offer`](Self::offer) returns the byte counts of the stream, which the handshake of a resume
///    reports to the peer;
/// 2. [`Offer::attach`] puts the new connection in, and the old one is closed.
///
/// Until then the session continues over its old connection, if that still works: an
/// unauthenticated peer cannot hold up the authenticated one. Of several attached connections the
/// last one wins.
pub struct Handle<C> {
    mailbox: Arc<Mailbox<C>>,
}

/// Byte counts of a session at one moment, and the way to resume it over a new connection.
///
/// Dropping an offer changes nothing.
pub struct Offer<C> {
    mailbox: Arc<Mailbox<C>>,
    counts: Counts,
}

/// Error of an operation on a session that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session has ended")]
pub struct Ended;

/// Reason for which a peer does not resume a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The peer does not know the session any more.
    ///
    /// If the last connection was closed by an end of stream, that was the regular end of the
    /// session.
    #[error("the peer does not know the session any more")]
    UnknownSession,
    /// The peer cannot resume without loss of bytes.
    #[error("the peer cannot resume the session without loss")]
    BytesLost,
}

/// Memory that a session could free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spare {
    /// Time of the last write or resume under memory pressure, in milliseconds of the clock of the
    /// session's [`Memory`](super::Memory).
    pub active: u64,
    /// Size of the replay buffer, bytes; 0 from a request to shrink until the next write or resume.
    pub bytes: usize,
}

/// Byte counts of a session at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    received: u64,
    sent: u64,
    replay_start: u64,
}

/// New connection and the byte counts agreed on in its handshake.
pub(super) struct Resume<C> {
    pub connection: C,
    /// Number of bytes the peer has received.
    pub received: u64,
    /// Number of bytes the peer was told this end has received; the peer continues behind them.
    pub told: u64,
    /// Last message of the handshake, which goes out before the first byte of the session.
    pub answer: Vec<u8>,
}

pub(super) enum Mail<C> {
    Offer(oneshot::Sender<Counts>),
    Attach(Resume<C>),
    /// Breaks the current connection.
    Cut,
    /// Frees replay buffer memory that is not needed.
    Shrink,
    Refused(Refusal),
}

pub(super) struct Mailbox<C> {
    /// Queue of mail; `None` once the stream has ended.
    mail: Mutex<Option<VecDeque<Mail<C>>>>,
    /// Flag that mail is waiting, read without the lock.
    waiting: AtomicBool,
    pub reader: AtomicWaker,
    pub writer: AtomicWaker,
    detached: AtomicBool,
    ended_cleanly: AtomicBool,
    changed: Notify,
    spare_bytes: AtomicUsize,
    active: AtomicU64,
}

impl<C> Handle<C> {
    pub(super) fn new(mailbox: Arc<Mailbox<C>>) -> Self {
        Self { mailbox }
    }

    /// Returns the byte counts of the session, with the bytes its connection has delivered.
    ///
    /// Cancel safe.
    pub async fn offer(&self) -> Result<Offer<C>, Ended> {
        let (reply, counts) = oneshot::channel();
        self.mailbox.put(Mail::Offer(reply));
        Ok(Offer {
            counts: counts.await.map_err(|_| Ended)?,
            mailbox: self.mailbox.clone(),
        })
    }

    /// Waits until the session has no connection.
    pub async fn detached(&self) -> Result<(), Ended> {
        loop {
            let changed = self.mailbox.changed.notified();
            if self.mailbox.mail.lock().is_none() {
                return Err(Ended);
            }
            if self.mailbox.detached.load(Ordering::Acquire) {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Waits until the session has ended.
    pub async fn ended(&self) {
        loop {
            let changed = self.mailbox.changed.notified();
            if self.mailbox.mail.lock().is_none() {
                return;
            }
            changed.await;
        }
    }

    /// Breaks the current connection as a network failure would.
    ///
    /// Bytes that the connection has not delivered are lost with it.
    pub fn cut(&self) {
        self.mailbox.put(Mail::Cut);
    }

    /// Returns how much memory the session could free, and how recently it was used.
    pub fn spare(&self) -> Spare {
        Spare {
            active: self.mailbox.active.load(Ordering::Relaxed),
            bytes: self.mailbox.spare_bytes.load(Ordering::Relaxed),
        }
    }

    /// Asks the session to [free](Core::shrink) memory of its replay buffer.
    pub fn shrink(&self) {
        self.mailbox.spare_bytes.store(0, Ordering::Relaxed);
        self.mailbox.put(Mail::Shrink);
    }

    /// Ends the session, as the peer will not resume it.
    pub fn refused(&self, refusal: Refusal) {
        self.mailbox.put(Mail::Refused(refusal));
    }
}

impl<C> Clone for Handle<C> {
    fn clone(&self) -> Self {
        Self {
            mailbox: self.mailbox.clone(),
        }
    }
}

impl<C> Offer<C> {
    /// Returns the number of bytes received from the peer.
    pub fn received(&self) -> u64 {
        self.counts.received
    }

    /// Returns the number of bytes sent to the peer, received or not.
    pub fn sent(&self) -> u64 {
        self.counts.sent
    }

    /// Checks that all bytes a peer lacks can be sent again.
    ///
    /// `received` is the number of bytes the peer has.
    ///
    /// # Errors
    /// [`NotReplayable`] when the bytes are no longer kept, or were never sent.
    pub fn can_resume(&self, received: u64) -> Result<(), NotReplayable> {
        if (self.counts.replay_start..=self.counts.sent).contains(&received) {
            Ok(())
        } else {
            Err(NotReplayable)
        }
    }

    /// Attaches `connection`, over which the session resumes.
    ///
    /// `received` is the number of bytes the peer has; the peer has been told the counts of this
    /// offer. Returns how many bytes were to be sent again when the offer was made.
    ///
    /// If the session has ended meanwhile, or has sent so much that the bytes the peer lacks are no
    /// longer kept, the connection is closed and nothing else changes.
    pub fn attach(self, connection: C, received: u64) -> Result<u64, NotReplayable> {
        self.attach_with_answer(connection, received, Vec::new())
    }

    /// Attaches `connection` as [`attach`](Self::attach) does, and writes `answer` to it first.
    ///
    /// `answer` tells the peer the counts of this offer. A peer that has read it sends at once, and
    /// may be back over another connection in no time: what it has sent counts only if this one is
    /// attached by then.
    pub fn attach_with_answer(
        self,
        connection: C,
        received: u64,
        answer: Vec<u8>,
    ) -> Result<u64, NotReplayable> {
        self.can_resume(received)?;
        self.mailbox.attached();
        self.mailbox.put(Mail::Attach(Resume {
            connection,
            received,
            told: self.counts.received,
            answer,
        }));
        Ok(self.counts.sent - received)
    }
}

impl Counts {
    /// Returns the counts of `core`, with `received` bytes counted as received.
    ///
    /// `received` includes bytes that a connection has delivered and the session has not read.
    pub(super) fn of(core: &Core, received: u64) -> Self {
        Self {
            received,
            sent: core.sent(),
            replay_start: core.replay_start(),
        }
    }
}

impl<C> Mailbox<C> {
    /// Takes the oldest mail.
    pub fn take(&self) -> Option<Mail<C>> {
        if !self.waiting.load(Ordering::Acquire) {
            return None;
        }
        let mut mail = self.mail.lock();
        let first = mail.as_mut().and_then(VecDeque::pop_front);
        let more = mail.as_ref().is_some_and(|mail| !mail.is_empty());
        self.waiting.store(more, Ordering::Release);
        first
    }

    /// Records that the stream lost its connection, by an end of stream if `cleanly`.
    pub fn detached(&self, cleanly: bool) {
        self.ended_cleanly.store(cleanly, Ordering::Relaxed);
        self.detached.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub fn attached(&self) {
        self.detached.store(false, Ordering::Release);
    }

    /// Records that the stream is still without a connection, as it could not use the attached one.
    pub fn still_detached(&self) {
        self.detached.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub fn ended_cleanly(&self) -> bool {
        self.ended_cleanly.load(Ordering::Relaxed)
    }

    /// Records the size of the replay buffer after a write, and the time `now` under memory
    /// pressure.
    pub fn used(&self, bytes: usize, now: Option<u64>) {
        if let Some(now) = now {
            self.active.store(now, Ordering::Relaxed);
        }
        self.spare_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Closes the mailbox; waiting offers fail with [`Ended`].
    pub fn close(&self) {
        drop(self.mail.lock().take());
        self.changed.notify_waiters();
        self.wake_both();
    }

    pub fn wake_both(&self) {
        self.reader.wake();
        self.writer.wake();
    }

    /// Queues mail, or drops it if the stream has ended.
    fn put(&self, mail: Mail<C>) {
        let mut lock = self.mail.lock();
        let Some(box_) = lock.as_mut() else {
            return;
        };
        box_.push_back(mail);
        self.waiting.store(true, Ordering::Release);
        drop(lock);
        self.wake_both();
    }
}

impl<C: Send + 'static> Wake for Mailbox<C> {
    fn wake(self: Arc<Self>) {
        self.wake_both();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_both();
    }
}

impl<C> Default for Mailbox<C> {
    fn default() -> Self {
        Self {
            mail: Mutex::new(Some(VecDeque::new())),
            waiting: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            detached: AtomicBool::new(false),
            ended_cleanly: AtomicBool::new(false),
            changed: Notify::new(),
            spare_bytes: AtomicUsize::new(0),
            active: AtomicU64::new(0),
        }
    }
}
