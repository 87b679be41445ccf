//! What leaves: datagrams put together from whatever is due.

use super::congestion::Congestion;
use super::machine::{Kcp, Probe, QUIET};
use super::recovery::Cause;
use super::rtt;
use super::segment::{Command, HEADER_LEN, Header, before};

/// First delay of a window probe and its limit, in milliseconds, growing by half
/// each time; current kcp-go. Older ones begin at 7 s, which the wire cannot tell.
const PROBE_FIRST: u32 = 500;
const PROBE_LIMIT: u32 = 120_000;

impl Kcp {
    /// Puts the next datagram to send into `out` and returns its length; `None`
    /// when there is nothing to send at `now`.
    ///
    /// Full segments come before anything shorter as far as order allows, so
    /// runs of datagrams have equal lengths.
    ///
    /// # Panics
    /// If `out` is shorter than the `mtu` of the settings, or what that was lifted or cut to.
    pub fn poll_transmit(&mut self, now: u32, out: &mut [u8]) -> Option<usize> {
        self.clock = now;
        if self.hold_until.is_some_and(|until| !before(now, until)) {
            self.hold_until = None;
        }
        let mut datagram = Datagram {
            // invariant: callers give room for the longest datagram.
            out: &mut out[..self.datagram_limit],
            used: 0,
        };
        self.put_probes(now, &mut datagram);
        if self.acks.has_strays() && self.acks_are_due(now) {
            self.put_acks(&mut datagram);
        }
        if self.put_resent(now, &mut datagram) {
            self.put_fresh(now, &mut datagram);
        }
        if datagram.used > 0 || self.acks_are_due(now) {
            self.put_acks(&mut datagram);
        }
        let len = datagram.used;
        if len == 0 {
            self.launched = false;
            self.release_when_quiet(now);
            return None;
        }
        self.stats.out_datagrams += 1;
        self.stats.out_datagram_bytes += len as u64;
        Some(len)
    }

    /// Tells when [`poll_transmit`](Self::poll_transmit) has to be called next if
    /// nothing happens before; `None` when there is nothing to send,
    /// acknowledge or probe. Once, a second after traffic that made
    /// the buffers grow, it asks for a call to give them back.
    pub fn next_deadline(&self) -> Option<u32> {
        let tell = self.must_tell_window.then_some(self.clock);
        let fresh = self
            .can_send_more()
            .then(|| self.hold_until.unwrap_or(self.clock));
        let probe = self.probe.as_ref().map(|probe| probe.at);
        [tell, fresh, probe, self.acks.due(), self.recovery.timer()]
            .into_iter()
            .flatten()
            .reduce(|a, b| if before(b, a) { b } else { a })
            .or_else(|| {
                self.is_wasteful()
                    .then(|| self.active_at.wrapping_add(QUIET))
            })
    }

    fn acks_are_due(&self, now: u32) -> bool {
        // As many as fill a datagram, kcp-go's measure too.
        self.acks
            .is_due(now, (self.datagram_limit / HEADER_LEN) as u32)
    }

    fn put_acks(&mut self, datagram: &mut Datagram<'_>) {
        while datagram.has_room(0)
            && let Some(echo) = self.acks.pop(self.receive.next_sn())
        {
            let header = self.header(Command::Ack, 0, echo.timestamp, echo.sn);
            self.put(datagram, &header, (&[], &[]));
        }
    }

    fn put_probes(&mut self, now: u32, datagram: &mut Datagram<'_>) {
        if std::mem::take(&mut self.must_tell_window) {
            let header = self.header(Command::WindowTell, 0, now, 0);
            self.put(datagram, &header, (&[], &[]));
        }
        // While something is in flight its acknowledgement brings the window.
        let blocked =
            self.peer_window == 0 && self.send.waiting() > 0 && self.send.in_flight() == 0;
        if !blocked {
            self.probe = None;
            return;
        }
        let probe = self.probe.get_or_insert(Probe {
            at: now.wrapping_add(PROBE_FIRST),
            wait: PROBE_FIRST,
        });
        if !before(now, probe.at) {
            probe.wait = (probe.wait + probe.wait / 2).min(PROBE_LIMIT);
            probe.at = now.wrapping_add(probe.wait);
            let header = self.header(Command::WindowAsk, 0, now, 0);
            self.put(datagram, &header, (&[], &[]));
        }
    }

    /// Gives whether there was room for all of them.
    fn put_resent(&mut self, now: u32, datagram: &mut Datagram<'_>) -> bool {
        let early = !self.launched && !self.can_send_now();
        let disorder = self.round_trip.disorder();
        while let Some((sn, cause)) = self.recovery.next(&self.send, now, early, disorder) {
            if !datagram.has_room(self.send.slot(sn).len.into()) {
                return false;
            }
            self.stats.retransmitted_segments += 1;
            let expired = u32::from(self.send.slot(sn).timeout);
            let timeout = self.round_trip.timeout();
            let timeout = match cause {
                Cause::Fast | Cause::Early => timeout,
                Cause::Timeout if self.nodelay => expired + timeout / 2,
                Cause::Timeout => expired + timeout,
            };
            self.put_push(sn, timeout, now, datagram);
            self.recovery.on_resent(sn, cause, now, &self.send);
            self.count_loss(sn, cause);
        }
        true
    }

    fn put_fresh(&mut self, now: u32, datagram: &mut Datagram<'_>) {
        while self.can_send_now() {
            if !datagram.has_room(self.send.slot(self.send.next_sn()).len.into()) {
                return;
            }
            let sn = self.send.launch();
            self.launched = true;
            self.put_push(sn, self.round_trip.timeout(), now, datagram);
            self.recovery.on_sent(self.send.slot(sn).resend_at);
        }
    }

    fn put_push(&mut self, sn: u32, timeout: u32, now: u32, datagram: &mut Datagram<'_>) {
        let timeout = timeout.min(rtt::MAX);
        let slot = self.send.slot_mut(sn);
        slot.transmissions = slot.transmissions.saturating_add(1);
        slot.timeout = timeout as u16;
        slot.resend_at = now.wrapping_add(timeout);
        let fragment = slot.fragment;
        let header = self.header(Command::Push, fragment, now, sn);
        datagram.put(&header, self.send.payload(sn));
        self.stats.out_segments += 1;
    }

    fn count_loss(&mut self, sn: u32, cause: Cause) {
        let counter = match cause {
            Cause::Fast => &mut self.stats.fast_retransmitted_segments,
            Cause::Early => &mut self.stats.early_retransmitted_segments,
            Cause::Timeout => &mut self.stats.lost_segments,
        };
        *counter += 1;
        let next_sn = self.send.next_sn();
        match &mut self.congestion {
            Some(congestion) if cause == Cause::Timeout => congestion.on_timeout(sn, next_sn),
            Some(congestion) => congestion.on_missing(sn, self.send.in_flight(), next_sn),
            None => {}
        }
    }

    fn can_send_now(&self) -> bool {
        self.hold_until.is_none() && self.can_send_more()
    }

    /// Whether something waits and the windows let it go.
    fn can_send_more(&self) -> bool {
        let window = self.peer_window.min(
            self.congestion
                .as_ref()
                .map_or(u32::MAX, Congestion::window),
        );
        self.send.waiting() > 0 && self.send.in_flight() < window
    }

    fn header(&mut self, command: Command, fragment: u8, timestamp: u32, sn: u32) -> Header {
        let window = self.receive.free() as u16;
        self.told_closed = window == 0;
        Header {
            conv: self.conv,
            command,
            fragment,
            window,
            timestamp,
            sn,
            una: self.receive.next_sn(),
        }
    }

    fn put(&mut self, datagram: &mut Datagram<'_>, header: &Header, payload: (&[u8], &[u8])) {
        datagram.put(header, payload);
        self.stats.out_segments += 1;
    }
}

/// A datagram being put together.
struct Datagram<'a> {
    out: &'a mut [u8],
    used: usize,
}

impl Datagram<'_> {
    fn has_room(&self, payload_len: usize) -> bool {
        self.used + HEADER_LEN + payload_len <= self.out.len()
    }

    fn put(&mut self, header: &Header, (first, second): (&[u8], &[u8])) {
        let len = (first.len() + second.len()) as u32;
        // invariant: callers have asked whether there is room.
        for part in [&header.encode(len)[..], first, second] {
            self.out[self.used..self.used + part.len()].copy_from_slice(part);
            self.used += part.len();
        }
    }
}
