//! What arrives: segments of the peer and what they change.

use thiserror::Error;

use super::acks::Echo;
use super::machine::{Kcp, PAYLOAD_LIMIT};
use super::receive_queue::Taken;
use super::rtt;
use super::segment::{Command, HEADER_LEN, Segment, SegmentError};

/// Tells why a datagram, or the rest of it, was refused; always the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InputError {
    /// What is no segment.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A segment of another conversation, which is named.
    #[error("segment of conversation {0:#010x} in this one")]
    OtherConversation(u32),
    /// A payload of so many bytes, beyond the longest datagram.
    #[error("payload of {0} bytes is longer than a datagram may carry")]
    Oversized(usize),
    /// An acknowledgement of what was never sent.
    #[error("peer has received everything below {0}, which was never sent")]
    NeverSent(u32),
}

/// What an acknowledgement tells of the round trip.
enum Answer {
    /// To what was sent then.
    To(u32),
    /// To one of several copies, the last of which had this timeout.
    ToAnyCopy(u32),
}

/// Where a datagram comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Network,
    Recovered,
}

impl Kcp {
    /// Takes in a datagram from the peer, any number of segments.
    ///
    /// Ignores fewer trailing bytes than a header, as kcp-go does. `now` as for the whole
    /// [`Kcp`].
    ///
    /// # Errors
    /// The first bad segment ends the datagram: those before it count, the
    /// session goes on.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: u32) -> Result<(), InputError> {
        self.stats.in_datagrams += 1;
        self.stats.in_datagram_bytes += datagram.len() as u64;
        self.handle(datagram, now, Origin::Network)
    }

    /// Takes in a datagram that a layer below pieced together again (FEC). Being
    /// late, it says nothing about the peer's window or the round trip.
    ///
    /// # Errors
    /// As [`handle_datagram`](Self::handle_datagram).
    pub fn handle_recovered(&mut self, datagram: &[u8], now: u32) -> Result<(), InputError> {
        self.handle(datagram, now, Origin::Recovered)
    }

    fn handle(&mut self, datagram: &[u8], now: u32, origin: Origin) -> Result<(), InputError> {
        self.clock = now;
        self.active_at = now;
        let una = self.send.una();
        let in_flight = self.send.in_flight();
        let mut answer = None;
        let result = self.handle_segments(datagram, now, origin, una, &mut answer);
        if result.is_err() {
            self.stats.in_errors += 1;
        }
        if let Some(answer) = answer
            && origin == Origin::Network
        {
            match answer {
                Answer::To(sent_at) => self.round_trip.sample(now.wrapping_sub(sent_at)),
                Answer::ToAnyCopy(timeout) => self.round_trip.doubt(timeout),
            }
        }
        let acked = self.send.una().wrapping_sub(una);
        if acked > 0 {
            self.hold_until = None;
            self.recovery.on_una(&self.send);
            if let Some(congestion) = &mut self.congestion {
                congestion.on_acked(acked, in_flight, self.send.una());
            }
        }
        result
    }

    /// Leaves in `answer` what the last acknowledgement tells. Before the datagram everything from
    /// `una` on was in flight.
    fn handle_segments(
        &mut self,
        datagram: &[u8],
        now: u32,
        origin: Origin,
        una: u32,
        answer: &mut Option<Answer>,
    ) -> Result<(), InputError> {
        let mut rest = datagram;
        loop {
            let (segment, behind) = Segment::decode(rest)?;
            self.handle_segment(&segment, now, origin)?;
            let header = segment.header;
            let was_in_flight = header.sn.wrapping_sub(una) < self.send.next_sn().wrapping_sub(una);
            let is_echo = header.command == Command::Ack
                && was_in_flight
                && now.wrapping_sub(header.timestamp) <= rtt::MAX;
            if is_echo {
                self.recovery.on_echo(header.timestamp);
                // What was acknowledged a moment ago still stands there.
                let slot = self.send.slot(header.sn);
                let is_last_copy = header.timestamp == slot.sent_at();
                *answer = Some(match slot.transmissions > 1 && is_last_copy {
                    true => Answer::ToAnyCopy(slot.timeout.into()),
                    false => Answer::To(header.timestamp),
                });
            }
            if behind.len() < HEADER_LEN {
                return Ok(());
            }
            rest = behind;
        }
    }

    fn handle_segment(
        &mut self,
        segment: &Segment<'_>,
        now: u32,
        origin: Origin,
    ) -> Result<(), InputError> {
        let Segment { header, payload } = *segment;
        if header.conv != self.conv {
            return Err(InputError::OtherConversation(header.conv));
        }
        if payload.len() > PAYLOAD_LIMIT {
            return Err(InputError::Oversized(payload.len()));
        }
        if !self.send.was_sent_below(header.una) {
            return Err(InputError::NeverSent(header.una));
        }
        self.stats.in_segments += 1;
        self.send.acknowledge_below(header.una);
        // An older una comes with an older window, overtaken on the way.
        if origin == Origin::Network && header.una == self.send.una() {
            self.peer_window = header.window.into();
        }
        match header.command {
            Command::Push => self.take_push(segment, now, origin),
            Command::Ack => {
                if self.send.acknowledge(header.sn) {
                    self.recovery.on_acked(header.sn);
                }
            }
            Command::WindowAsk => self.must_tell_window = true,
            Command::WindowTell => {}
        }
        Ok(())
    }

    fn take_push(&mut self, segment: &Segment<'_>, now: u32, origin: Origin) {
        let header = segment.header;
        let taken = self
            .receive
            .insert(header.sn, header.fragment, segment.payload);
        if taken != Taken::New && origin == Origin::Network {
            self.stats.repeated_segments += 1;
        }
        // A repeat is acknowledged too: the first answer may have been lost.
        if taken != Taken::Beyond {
            let echo = Echo {
                sn: header.sn,
                timestamp: header.timestamp,
            };
            // An empty one, such as a challenge, is sent for its answer alone.
            let wait = match segment.payload.is_empty() {
                true => 0,
                false => self.interval,
            };
            self.acks.note(
                echo,
                self.receive.next_sn(),
                now.wrapping_add(wait),
                self.receive.window() as usize,
            );
        }
    }
}
