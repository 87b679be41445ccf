//! The sending side.

use super::ids::Ids;
use super::reed_solomon::{ReedSolomon, Rows};
use super::shape::Shape;
use super::wire::{FRAME, FecError, HEADER, MAX_DATAGRAM, PARITY, write_frame, write_header};

/// Protects what one side sends.
#[derive(Debug)]
pub struct Encoder {
    pub(super) code: ReedSolomon,
    pub(super) ids: Ids,
    pub(super) next: u32,
    sums: Rows,
    /// The open group lost its sums to [`Encoder::release`] and goes without parity.
    unprotected: bool,
}

impl Encoder {
    /// Makes an encoder for groups of a shape, beginning at id 0.
    pub fn new(shape: Shape) -> Self {
        Self {
            ids: Ids::new(shape),
            sums: Rows::new(shape.parity(), FRAME),
            code: ReedSolomon::new(shape),
            next: 0,
            unprotected: false,
        }
    }

    /// Skips the rest of the group: something else has the ids of this one. Before the first
    /// datagram.
    pub fn skip_group(&mut self) {
        self.next = self.ids.next_group(self.next);
    }

    /// Writes the header into the first [`HEADER`] bytes of `datagram`, the rest of which is the
    /// payload. The last data shard of a group yields the group's parity, to be sent after it.
    ///
    /// Parity may be dropped: its ids are used up all the same. kcp-go drops it when 500 ms or
    /// more lie between a group's last data shard and the one before.
    ///
    /// # Errors
    ///
    /// `TooShort` if there is no room for the header, `TooLong` if the datagram exceeds
    /// [`MAX_DATAGRAM`]. No id is used then.
    pub fn seal(&mut self, datagram: &mut [u8]) -> Result<Option<Parity>, FecError> {
        if datagram.len() < HEADER {
            return Err(FecError::TooShort);
        }
        if datagram.len() > MAX_DATAGRAM {
            return Err(FecError::TooLong);
        }
        write_header(datagram, self.next);
        // invariant: it is not shorter than a header, of which this is a part.
        let body = &datagram[FRAME..];
        let place = self.ids.place(self.next);
        self.next += 1;
        if !self.unprotected {
            self.code.add_data(place, body, &mut self.sums);
        }
        if place + 1 < self.code.data_shards() {
            return Ok(None);
        }
        let first = self.next;
        self.next = self.ids.next_group(first);
        let sums = self.take_sums();
        if std::mem::take(&mut self.unprotected) {
            return Ok(None);
        }
        Ok(Some(Parity::frame(sums, self.code.parity_shards(), first)))
    }

    /// Releases the memory of the open group, which will have no parity then: for sessions that
    /// fall idle. Ids go on as if its parity had been dropped.
    pub fn release(&mut self) {
        self.unprotected = self.ids.place(self.next) != 0;
        self.take_sums();
    }

    /// Counts the heap bytes held for the open group: at most p × [`MAX_DATAGRAM`].
    pub fn heap_size(&self) -> usize {
        self.sums.heap_size()
    }

    fn take_sums(&mut self) -> Rows {
        let empty = Rows::new(self.code.parity_shards(), FRAME);
        std::mem::replace(&mut self.sums, empty)
    }
}

/// Holds the parity datagrams of one group, all of the same length and back to back in one buffer, as
/// segmentation offload wants them.
#[derive(Debug, Clone)]
pub struct Parity(Rows);

impl Parity {
    /// Iterates over the datagrams, headers included, in the order they are to be sent.
    pub fn datagrams(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.as_bytes().chunks_exact(self.datagram_len())
    }

    /// Returns all datagrams without anything between.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Counts the bytes of each datagram.
    pub fn datagram_len(&self) -> usize {
        self.0.stride()
    }

    fn frame(mut sums: Rows, count: usize, first: u32) -> Self {
        for index in 0..count {
            write_frame(sums.framed_mut(index), first + index as u32, PARITY);
        }
        Self(sums)
    }
}
