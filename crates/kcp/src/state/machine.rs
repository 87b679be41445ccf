//! The state machine of one session.

use super::acks::Acks;
use super::congestion::Congestion;
use super::receive_queue::ReceiveQueue;
use super::recovery::Recovery;
use super::rtt::{self, RoundTrip};
use super::segment::{HEADER_LEN, PEER_DATAGRAM_LIMIT};
use super::send_queue::{Cut, SendQueue};
use super::settings::Settings;
use crate::counters::Stats;

/// The window a peer is assumed to have until it tells; kcp-go's default.
const UNTOLD_WINDOW: u32 = 32;
/// Milliseconds without traffic after which grown buffers are given back.
pub(super) const QUIET: u32 = 1_000;
/// Bytes the lists of acknowledgements and retransmissions may keep meanwhile.
const KEPT_LISTS: usize = 256;
/// Bytes of the longest payload taken.
pub(super) const PAYLOAD_LIMIT: usize = PEER_DATAGRAM_LIMIT - HEADER_LEN;
/// The least datagram that has room for everything that must go together.
const LEAST_DATAGRAM: usize = 128;

/// Runs one KCP session: what arrives goes in, what to send and to deliver comes out.
///
/// It performs no I/O and knows no time of its own. `now` is milliseconds on any
/// monotonic clock, the same for every call and wrapping at 2^32; it is also
/// what goes on the wire as timestamp.
///
/// Whoever drives it, after any of [`handle_datagram`](Self::handle_datagram),
/// [`handle_recovered`](Self::handle_recovered), [`write`](Self::write),
/// [`read`](Self::read) or [`consume`](Self::consume), and when the deadline has
/// come,
///
/// 1. calls [`poll_transmit`](Self::poll_transmit) until it gives `None`, and
///    sends each datagram it gives, in order;
/// 2. then asks [`next_deadline`](Self::next_deadline), and calls 1 again no
///    later than that.
///
/// Several calls may come before 1, such as all datagrams of one batch. KCP has
/// no end of stream: the driver lingers until [`unacked`](Self::unacked)
/// is 0 and drops the session. It ends one that it has heard nothing from for
/// its read timeout.
///
/// ```
/// use stablegate_kcp::{InputError, Kcp, Settings};
///
/// /// Carries all that `from` has to send at `now`.
/// fn carry(from: &mut Kcp, to: &mut Kcp, now: u32) -> Result<(), InputError> {
///     let mut datagram = [0; 1500];
///     while let Some(len) = from.poll_transmit(now, &mut datagram) {
///         to.handle_datagram(&datagram[..len], now)?;
///     }
///     Ok(())
/// }
///
/// let settings = Settings::default();
/// let (mut client, mut server) = (Kcp::new(7, &settings), Kcp::new(7, &settings));
/// client.write(b"hello", 0);
/// carry(&mut client, &mut server, 0)?;
/// assert_eq!(server.chunk(), b"hello");
///
/// // It is acknowledged when the interval has passed.
/// let now = server.next_deadline().expect("an acknowledgement to send");
/// assert_eq!((client.unacked(), now), (5, 10));
/// carry(&mut server, &mut client, now)?;
/// assert_eq!(client.unacked(), 0);
/// # Ok::<(), InputError>(())
/// ```
#[derive(Debug)]
pub struct Kcp {
    pub(super) conv: u32,
    /// Bytes of the longest datagram sent.
    pub(super) datagram_limit: usize,
    pub(super) cut: Cut,
    pub(super) interval: u32,
    pub(super) nodelay: bool,
    pub(super) write_delay: bool,

    pub(super) send: SendQueue,
    pub(super) recovery: Recovery,
    pub(super) round_trip: RoundTrip,
    pub(super) congestion: Option<Congestion>,
    pub(super) peer_window: u32,
    pub(super) probe: Option<Probe>,
    /// Written data waits until then for more to fill its segment.
    pub(super) hold_until: Option<u32>,
    /// Something new left since `poll_transmit` last gave `None`.
    pub(super) launched: bool,

    pub(super) receive: ReceiveQueue,
    pub(super) acks: Acks,
    /// The peer last heard of a closed window.
    pub(super) told_closed: bool,
    pub(super) must_tell_window: bool,

    /// The latest `now`, and that of the last traffic.
    pub(super) clock: u32,
    pub(super) active_at: u32,
    pub(super) stats: Stats,
}

impl Kcp {
    /// Makes a session of conversation `conv`, which both ends agree on by the client
    /// picking it. Allocates nothing until there is data.
    pub fn new(conv: u32, settings: &Settings) -> Self {
        Self::starting_at(conv, settings, 0, 0)
    }

    /// Like [`new`](Self::new), with other first serial numbers than the wire's 0.
    pub(super) fn starting_at(conv: u32, settings: &Settings, send: u32, receive: u32) -> Self {
        let datagram_limit = usize::from(settings.mtu).clamp(LEAST_DATAGRAM, PEER_DATAGRAM_LIMIT);
        let send_window = u32::from(settings.send_window.max(1));
        let receive_window = u32::from(settings.receive_window.max(1));
        let interval = settings.interval.as_millis().clamp(1, rtt::MAX.into()) as u32;
        Self {
            conv,
            datagram_limit,
            cut: Cut {
                segment: datagram_limit - HEADER_LEN,
                window: send_window,
                stream: settings.stream,
            },
            interval,
            nodelay: settings.nodelay,
            write_delay: settings.write_delay,
            send: SendQueue::new(send),
            recovery: Recovery::new(settings.resend.into(), send),
            round_trip: RoundTrip::new(settings.nodelay, interval),
            congestion: (!settings.no_congestion).then(|| Congestion::new(send_window)),
            peer_window: UNTOLD_WINDOW,
            probe: None,
            hold_until: None,
            launched: false,
            receive: ReceiveQueue::new(receive, receive_window, PAYLOAD_LIMIT),
            acks: Acks::default(),
            told_closed: false,
            must_tell_window: false,
            clock: 0,
            active_at: 0,
            stats: Stats::default(),
        }
    }

    /// Returns the number of the conversation.
    pub fn conv(&self) -> u32 {
        self.conv
    }

    /// Takes bytes to send and returns how many; fewer than offered, down to 0,
    /// when the send window is full. [`writable`](Self::writable) grows again as
    /// the peer acknowledges.
    ///
    /// Outside stream mode the bytes taken are one message, in 32 fragments at
    /// most: the window of a kcp-go peer, who has to hold a whole message, may
    /// be no larger.
    pub fn write(&mut self, data: &[u8], now: u32) -> usize {
        let fresh = self.send.waiting() == 0;
        let taken = self.send.write(data, self.cut);
        if taken == 0 {
            return 0;
        }
        self.clock = now;
        self.active_at = now;
        self.stats.sent_bytes += taken as u64;
        if self.write_delay && fresh {
            self.hold_until = Some(now.wrapping_add(self.interval));
        }
        if self.writable() == 0 {
            self.hold_until = None;
        }
        taken
    }

    /// Tells whether [`write`](Self::write) needs the exact time.
    pub fn delays_writes(&self) -> bool {
        self.write_delay
    }

    /// Counts the bytes that [`write`](Self::write) has room for.
    pub fn writable(&self) -> usize {
        self.send.room(self.cut)
    }

    /// Returns the smoothed round-trip time in milliseconds, once there is one.
    pub fn round_trip(&self) -> Option<u32> {
        self.round_trip.mean()
    }

    /// Counts the bytes taken by [`write`](Self::write), from the first that the peer has not
    /// acknowledged on.
    pub fn unacked(&self) -> usize {
        self.send.unacked()
    }

    /// Copies received bytes to `out` and returns how many; 0 when there are none.
    /// Message boundaries do not show; see [`message_len`](Self::message_len).
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let mut copied = 0;
        while copied < out.len() && self.readable() > 0 {
            let chunk = self.chunk();
            let len = chunk.len().min(out.len() - copied);
            // invariant: `len` is what both have at most.
            out[copied..copied + len].copy_from_slice(&chunk[..len]);
            self.consume(len);
            copied += len;
        }
        copied
    }

    /// Counts the received bytes in order and not read.
    pub fn readable(&self) -> usize {
        self.receive.readable()
    }

    /// Returns the first received bytes, as many as lie together; empty when there are
    /// none. [`consume`](Self::consume) drops them.
    pub fn chunk(&self) -> &[u8] {
        self.receive.chunk()
    }

    /// Drops the first `len` received bytes, at most [`readable`](Self::readable).
    pub fn consume(&mut self, len: usize) {
        let len = len.min(self.readable());
        self.receive.consume(len);
        self.stats.received_bytes += len as u64;
        // Opening by single segments would have the peer send single segments.
        if self.told_closed && self.receive.free() >= (self.receive.window() / 4).max(1) {
            self.must_tell_window = true;
        }
    }

    /// Tells whether reading has opened a window that the peer knows to be closed, so that
    /// [`poll_transmit`](Self::poll_transmit) has something to send at once.
    pub fn must_tell_window(&self) -> bool {
        self.must_tell_window
    }

    /// Counts the unread bytes of the first message, once all its fragments are here. A
    /// peer in stream mode makes each segment a message.
    pub fn message_len(&self) -> Option<usize> {
        self.receive.message_len()
    }

    /// Returns what the session has counted.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Counts the heap bytes held.
    pub fn heap_size(&self) -> usize {
        self.send.heap_size()
            + self.receive.heap_size()
            + self.recovery.heap_size()
            + self.acks.heap_size()
    }

    /// Whether memory is held that nothing in flight or unread needs.
    pub(super) fn is_wasteful(&self) -> bool {
        let lists = self.recovery.heap_size() + self.acks.heap_size();
        self.send.is_wasteful() || self.receive.is_wasteful() || lists > KEPT_LISTS
    }

    pub(super) fn release_when_quiet(&mut self, now: u32) {
        if self.is_wasteful() && now.wrapping_sub(self.active_at) >= QUIET {
            self.send.release();
            self.receive.release();
            self.recovery.release();
            self.acks.release();
        }
    }
}

/// Asking for a closed window to open: next at `at`, asked after `wait` milliseconds.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) at: u32,
    pub(super) wait: u32,
}
