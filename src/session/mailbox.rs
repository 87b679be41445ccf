//! How a stream, owned by one task, gets connections from others: without a lock on its data path.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Wake;

use atomic_waker::AtomicWaker;
use tokio::sync::{Notify, oneshot};

use super::core::{Core, NotReplayable};

use crate::sync::Mutex;

/// Brings new connections to a [`Stream`](super::Stream) whose old one broke, or is about to be
/// replaced. Both ends of a session use it alike:
///
/// 1. [`offer`](Self::offer) tells how far the stream got, which the handshake of a resume reports
///    to the peer;
/// 2. [`Offer::attach`] puts the new connection in, the old one is closed.
///
/// Until then the session goes on over its old connection, if that still works: a peer that has
/// yet to prove who it is cannot hold up the one that has. Of several connections the last one
/// attached wins.
pub struct Handle<C> {
    mailbox: Arc<Mailbox<C>>,
}

/// How far a session got when it was asked, and the way to go on from there over a new
/// connection. Dropping it changes nothing.
pub struct Offer<C> {
    mailbox: Arc<Mailbox<C>>,
    counts: Counts,
}

/// The session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session has ended")]
pub struct Ended;

/// Why a peer does not resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It does not know the session any more. If the last connection ended with an end of stream,
    /// that was the session's own.
    #[error("the peer does not know the session any more")]
    UnknownSession,
    /// It cannot go on without loss.
    #[error("the peer cannot resume the session without loss")]
    BytesLost,
}

/// What a session could do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spare {
    /// When bytes were last sent to its peer while memory was not plenty, on a clock of the
    /// [`Memory`](super::Memory).
    pub active: u64,
    /// Bytes of its replay buffer; 0 when it has been asked and had no more.
    pub bytes: usize,
}

/// How far a session got.
#[derive(Debug, Clone, Copy)]
pub struct Counts {
    received: u64,
    sent: u64,
    replay_start: u64,
}

/// What a new connection and its peer go by.
pub(super) struct Resume<C> {
    pub connection: C,
    /// Bytes the peer has received.
    pub received: u64,
    /// Bytes the peer was told to have been received here: it goes on behind those.
    pub told: u64,
}

pub(super) enum Mail<C> {
    Offer(oneshot::Sender<Counts>),
    Attach(Resume<C>),
    /// Lose the connection.
    Cut,
    /// Free what is not needed.
    Shrink,
    Refused(Refusal),
}

pub(super) struct Mailbox<C> {
    /// `None` once the stream has ended.
    mail: Mutex<Option<VecDeque<Mail<C>>>>,
    /// Whether there is mail, so that looking costs no lock.
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

    /// How far the session got, what its connection has delivered included. Cancel safe.
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

    /// Breaks the current connection as the network would: what it has not delivered is lost with
    /// it.
    pub fn cut(&self) {
        self.mailbox.put(Mail::Cut);
    }

    /// What the session could do without.
    pub fn spare(&self) -> Spare {
        Spare {
            active: self.mailbox.active.load(Ordering::Relaxed),
            bytes: self.mailbox.spare_bytes.load(Ordering::Relaxed),
        }
    }

    /// Has it [free](Core::shrink) memory of its replay buffer.
    pub fn shrink(&self) {
        self.mailbox.spare_bytes.store(0, Ordering::Relaxed);
        self.mailbox.put(Mail::Shrink);
    }

    /// Ends the session: the peer will not resume it.
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
    /// Bytes received from the peer.
    pub fn received(&self) -> u64 {
        self.counts.received
    }

    /// Bytes sent to the peer, whether it has them or not.
    pub fn sent(&self) -> u64 {
        self.counts.sent
    }

    /// Whether a peer that has `received` bytes can be sent all it lacks.
    pub fn can_resume(&self, received: u64) -> Result<(), NotReplayable> {
        if (self.counts.replay_start..=self.counts.sent).contains(&received) {
            Ok(())
        } else {
            Err(NotReplayable)
        }
    }

    /// Goes on over `connection` with a peer that has `received` bytes and was told this offer's
    /// counts. Returns how many bytes were to be sent again when the offer was made.
    ///
    /// Should the session have ended since, or sent so much that the peer's bytes are no longer
    /// kept, the connection is closed and nothing changes.
    pub fn attach(self, connection: C, received: u64) -> Result<u64, NotReplayable> {
        self.can_resume(received)?;
        self.mailbox.attached();
        self.mailbox.put(Mail::Attach(Resume {
            connection,
            received,
            told: self.counts.received,
        }));
        Ok(self.counts.sent - received)
    }
}

impl Counts {
    /// Those of a session that has `received` bytes, or will have once it has read what its
    /// connection has delivered.
    pub(super) fn of(core: &Core, received: u64) -> Self {
        Self {
            received,
            sent: core.sent(),
            replay_start: core.replay_start(),
        }
    }
}

impl<C> Mailbox<C> {
    /// The oldest mail.
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

    /// Notes that the stream lost its connection, by an end of stream if `cleanly`.
    pub fn detached(&self, cleanly: bool) {
        self.ended_cleanly.store(cleanly, Ordering::Relaxed);
        self.detached.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub fn attached(&self) {
        self.detached.store(false, Ordering::Release);
    }

    /// Notes that the stream has lost its connection and could not use the one it got.
    pub fn still_detached(&self) {
        self.detached.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub fn ended_cleanly(&self) -> bool {
        self.ended_cleanly.load(Ordering::Relaxed)
    }

    /// Notes that a replay buffer of that size has been used, and when, if that matters.
    pub fn used(&self, bytes: usize, now: Option<u64>) {
        if let Some(now) = now {
            self.active.store(now, Ordering::Relaxed);
        }
        self.spare_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Takes no more mail; offers that wait find the session ended.
    pub fn close(&self) {
        drop(self.mail.lock().take());
        self.changed.notify_waiters();
        self.wake_both();
    }

    pub fn wake_both(&self) {
        self.reader.wake();
        self.writer.wake();
    }

    /// Leaves mail; it is dropped if the stream has ended.
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
