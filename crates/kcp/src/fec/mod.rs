//! Forward error correction around KCP datagrams, as xtaci/kcp-go speaks it.
//!
//! Every datagram is a shard: LE32 id ‖ LE16 type (0xf1 data, 0xf2 parity) ‖ body. The body of a
//! data shard is LE16 size (payload + 2) ‖ payload. Ids count up; d data shards and the p parity
//! shards that follow them are a group, and any d of its shards bring back the rest. Parity is
//! computed over the bodies, zero-padded to the longest of the group. Ids wrap to 0 at the
//! greatest multiple of d + p below 2^32, so a group never straddles the wrap.
//! This is the FEC of kcp-go 5.4 (its `fec.go`), which later versions speak, too.
//!
//! Neither side keeps shards. Each adds them up in p rows per group as they pass, so an open
//! group costs at most p datagrams of memory and a closed one nothing.
//!
//! No I/O and no clock: a group is old by distance of ids. An owner that sees its session fall
//! idle can call `release` on both sides.

use thiserror::Error;

pub(crate) mod gf256;
pub(crate) mod reed_solomon;
mod shape;
pub(crate) mod shards;
#[cfg(test)]
mod tests;
pub use shape::{Shape, ShapeError};

use reed_solomon::{ReedSolomon, Rows};

/// Bytes to leave free in front of a payload for [`Encoder::seal`]: id, type and size.
pub const HEADER: usize = FRAME + 2;

/// The longest datagram accepted or made, in bytes, header included (kcp-go's `mtuLimit`).
pub const MAX_DATAGRAM: usize = 1500;

/// Groups the decoder keeps open: the newest seen and the three before it, as kcp-go does.
pub const OPEN_GROUPS: usize = 4;

/// Why a datagram was refused. All but the encoder's are the peer's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FecError {
    /// It ends before its header does.
    #[error("datagram shorter than a FEC header")]
    TooShort,
    /// It exceeds [`MAX_DATAGRAM`].
    #[error("datagram longer than {MAX_DATAGRAM} bytes")]
    TooLong,
    /// It is neither a data nor a parity shard; perhaps the peer has FEC turned off.
    #[error("not a FEC shard")]
    UnknownType,
    /// The size field of a data shard contradicts the datagram's length.
    #[error("size field does not match the datagram")]
    SizeMismatch,
    /// The id is one that wrapping skips.
    #[error("shard id past the wrap")]
    IdPastWrap,
    /// A data shard where a parity shard belongs, or the reverse: the peer's shape is another.
    #[error("shard type does not fit its place in the group")]
    Misplaced,
}

/// One received datagram, its header checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard<'a> {
    id: u32,
    kind: Kind,
    body: &'a [u8],
}

impl<'a> Shard<'a> {
    /// Reads a datagram's header.
    ///
    /// # Errors
    ///
    /// `TooShort`, `TooLong`, `UnknownType`, `SizeMismatch`.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, FecError> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(FecError::TooLong);
        }
        let (id, rest) = datagram.split_first_chunk().ok_or(FecError::TooShort)?;
        let (kind, body) = rest.split_first_chunk().ok_or(FecError::TooShort)?;
        let kind = match u16::from_le_bytes(*kind) {
            DATA => Kind::Data,
            PARITY => Kind::Parity,
            _ => return Err(FecError::UnknownType),
        };
        let size = body.first_chunk().ok_or(FecError::TooShort)?;
        if kind == Kind::Data && usize::from(u16::from_le_bytes(*size)) != body.len() {
            return Err(FecError::SizeMismatch);
        }
        Ok(Self {
            id: u32::from_le_bytes(*id),
            kind,
            body,
        })
    }

    /// What a data shard carries, to be delivered at once whatever the decoder makes of it; `None`
    /// for parity.
    pub fn payload(&self) -> Option<&'a [u8]> {
        match self.kind {
            Kind::Data => payload(self.body),
            Kind::Parity => None,
        }
    }
}

/// The sending side.
#[derive(Debug)]
pub struct Encoder {
    code: ReedSolomon,
    ids: Ids,
    next: u32,
    sums: Rows,
    /// The open group lost its sums to [`Encoder::release`] and goes without parity.
    unprotected: bool,
}

impl Encoder {
    /// Makes an encoder for groups of a shape, beginning at id 0.
    pub fn new(shape: Shape) -> Self {
        let code = ReedSolomon::new(shape);
        Self {
            ids: Ids::new(&code),
            sums: Rows::new(shape.parity(), FRAME),
            code,
            next: 0,
            unprotected: false,
        }
    }

    /// Begins with the next group: something else has the ids of this one. Before the first
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

    /// Gives back the memory of the open group, which will have no parity then: for sessions that
    /// fall idle. Ids go on as if its parity had been dropped.
    pub fn release(&mut self) {
        self.unprotected = self.ids.place(self.next) != 0;
        self.take_sums();
    }

    /// Heap bytes held for the open group: at most p × [`MAX_DATAGRAM`].
    pub fn heap_bytes(&self) -> usize {
        self.sums.heap_bytes()
    }

    fn take_sums(&mut self) -> Rows {
        let empty = Rows::new(self.code.parity_shards(), FRAME);
        std::mem::replace(&mut self.sums, empty)
    }
}

/// The parity datagrams of one group, all of the same length and back to back in one buffer, as
/// segmentation offload wants them.
#[derive(Debug, Clone)]
pub struct Parity(Rows);

impl Parity {
    /// The datagrams, headers included, in the order they are to be sent.
    pub fn datagrams(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.as_bytes().chunks_exact(self.datagram_len())
    }

    /// All datagrams without anything between.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Bytes of each datagram.
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

/// What happened on the receiving side, since the decoder was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Payloads recovered.
    pub recovered: u64,
    /// Shards [`Decoder::input`] refused, and recovered shards whose size field was impossible.
    /// What [`Shard::parse`] refuses is the caller's to count.
    pub errors: u64,
    /// Parity shards received, useless ones included.
    pub parity_shards: u64,
    /// Shards of groups that expired, or were released, with too few to recover anything.
    pub short_shards: u64,
}

/// The receiving side.
///
/// For each datagram: [`Shard::parse`], deliver [`Shard::payload`], then [`Decoder::input`] and
/// deliver what it recovered. A payload may come twice, recovered first and then late itself:
/// KCP's serial numbers sort that out.
#[derive(Debug)]
pub struct Decoder {
    code: ReedSolomon,
    ids: Ids,
    /// The number of the group that ends the window of open groups.
    newest: Option<u32>,
    groups: Vec<Group>,
    counters: Counters,
}

impl Decoder {
    /// Makes a decoder for groups of the peer's shape.
    pub fn new(shape: Shape) -> Self {
        let code = ReedSolomon::new(shape);
        Self {
            ids: Ids::new(&code),
            code,
            newest: None,
            groups: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Takes a shard into account and returns the missing payloads of its group if it was the one
    /// needed to recover them. Duplicates and shards of expired groups are ignored.
    ///
    /// # Errors
    ///
    /// `IdPastWrap`, `Misplaced`. The payload of a refused data shard is still good.
    pub fn input(&mut self, shard: &Shard<'_>) -> Result<Option<Recovered>, FecError> {
        let place = self
            .place(shard)
            .inspect_err(|_| self.counters.errors += 1)?;
        self.counters.parity_shards += u64::from(shard.kind == Kind::Parity);

        let Some(at) = self.open(self.ids.group(shard.id)) else {
            return Ok(None);
        };
        // invariant: it was found, or put, there.
        let (code, group) = (&self.code, &mut self.groups[at]);
        if group.settled || !group.seen.insert(place) {
            return Ok(None);
        }
        group.shards += 1;
        group.data_shards += usize::from(shard.kind == Kind::Data);
        if group.data_shards == code.data_shards() {
            group.settle();
            return Ok(None);
        }
        match shard.kind {
            Kind::Data => code.add_data(place, shard.body, &mut group.sums),
            Kind::Parity => {
                code.add_parity(place - code.data_shards(), shard.body, &mut group.sums);
            }
        }
        if group.shards < code.data_shards() {
            return Ok(None);
        }
        let recovered = Recovered(group.recover(code));
        group.settle();

        let good = recovered.payloads().count();
        self.counters.recovered += good as u64;
        self.counters.errors += (recovered.0.count() - good) as u64;
        Ok(Some(recovered))
    }

    /// Gives back the memory of all open groups, none of which will be recovered then: for
    /// sessions that fall idle.
    pub fn release(&mut self) {
        self.retain(|_| false);
        self.groups = Vec::new();
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Heap bytes held for open groups: at most [`OPEN_GROUPS`] × p × [`MAX_DATAGRAM`] and a few
    /// hundred.
    pub fn heap_bytes(&self) -> usize {
        let sums = self.groups.iter().map(|group| group.sums.heap_bytes());
        self.groups.capacity() * size_of::<Group>() + sums.sum::<usize>()
    }

    /// Where in its group a shard belongs, if its id can be and fits its type.
    fn place(&self, shard: &Shard<'_>) -> Result<usize, FecError> {
        if shard.id >= self.ids.limit {
            return Err(FecError::IdPastWrap);
        }
        let place = self.ids.place(shard.id);
        if (place < self.code.data_shards()) != (shard.kind == Kind::Data) {
            return Err(FecError::Misplaced);
        }
        Ok(place)
    }

    /// The index of group `number`, opened and older ones expired as needed; `None` if it is
    /// itself too old.
    fn open(&mut self, number: u32) -> Option<usize> {
        let newest = *self.newest.get_or_insert(number);
        let age = self.ids.age(number, newest);
        if (OPEN_GROUPS as u32..LATE_GROUPS).contains(&age) {
            return None;
        }
        // Anything else outside the window moves it: forward for a newer group, and back for one
        // so old that the window must have followed a stray id. A forged datagram thus costs the
        // groups then open, not all groups up to its id.
        if age >= LATE_GROUPS {
            self.newest = Some(number);
            let ids = self.ids;
            self.retain(|group| ids.age(group.number, number) < OPEN_GROUPS as u32);
        }
        if let Some(at) = self.groups.iter().position(|group| group.number == number) {
            return Some(at);
        }
        self.groups.push(Group {
            number,
            sums: Rows::new(self.code.parity_shards(), 0),
            ..Group::default()
        });
        Some(self.groups.len() - 1)
    }

    fn retain(&mut self, keep: impl Fn(&Group) -> bool) {
        let short = &mut self.counters.short_shards;
        self.groups.retain(|group| {
            let keep = keep(group);
            if !keep && !group.settled {
                *short += group.shards as u64;
            }
            keep
        });
    }
}

/// Recovered data shards of one group.
#[derive(Debug)]
pub struct Recovered(Rows);

impl Recovered {
    /// Their payloads, in the order of their ids. A shard whose size field cannot be is left out:
    /// some shard of its group was forged or damaged.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.0.count()).filter_map(|index| payload(self.0.row(index)))
    }
}

/// Id and type, which parity does not cover.
const FRAME: usize = 6;
const DATA: u16 = 0xf1;
const PARITY: u16 = 0xf2;

/// Shards this many groups behind the newest are taken for the peer's present place, and the
/// newest for a stray; nearer ones are merely late.
const LATE_GROUPS: u32 = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    Parity,
}

/// The circle of ids for one shape.
#[derive(Debug, Clone, Copy)]
struct Ids {
    /// Ids per group.
    size: u32,
    /// The id that is 0 again.
    limit: u32,
}

impl Ids {
    fn new(code: &ReedSolomon) -> Self {
        let size = u32::try_from(code.data_shards() + code.parity_shards())
            .expect("a code has at most 256 shards");
        let limit = u32::MAX / size * size;
        Self { size, limit }
    }

    fn place(self, id: u32) -> usize {
        (id % self.size) as usize
    }

    fn group(self, id: u32) -> u32 {
        id / self.size
    }

    /// The first id of the group after that of `id`.
    fn next_group(self, id: u32) -> u32 {
        (id - id % self.size + self.size) % self.limit
    }

    /// Groups from `number` on to `newest`, the way around the circle that wrapping goes: large
    /// if `number` is the newer one.
    fn age(self, number: u32, newest: u32) -> u32 {
        let groups = self.limit / self.size;
        (newest + groups - number) % groups
    }
}

#[derive(Debug, Default)]
struct Group {
    number: u32,
    /// Places of the shards received.
    seen: Places,
    shards: usize,
    data_shards: usize,
    /// The sum of everything received, each row wanting only the missing data and its parity.
    sums: Rows,
    /// Complete, by itself or by recovery; only remembered so that stragglers are recognised.
    settled: bool,
}

impl Group {
    /// The missing data shards. There are as many parity shards as those: the caller comes as
    /// soon as there are as many shards as data shards in a group.
    fn recover(&self, code: &ReedSolomon) -> Rows {
        let (data, parity) = (code.data_shards(), code.parity_shards());
        let missing: Vec<usize> = (0..data)
            .filter(|place| !self.seen.contains(*place))
            .collect();
        let rows = (0..parity).filter(|row| self.seen.contains(data + row));
        code.recover(&missing, &rows.collect::<Vec<usize>>(), &self.sums)
    }

    fn settle(&mut self) {
        self.settled = true;
        self.sums = Rows::default();
    }
}

/// A set of places in a group.
#[derive(Debug, Default)]
struct Places([u64; 4]);

impl Places {
    /// Whether `place` is new.
    fn insert(&mut self, place: usize) -> bool {
        let new = !self.contains(place);
        // invariant: a group has 256 shards at most.
        self.0[place / 64] |= 1 << (place % 64);
        new
    }

    fn contains(&self, place: usize) -> bool {
        // invariant: a group has 256 shards at most.
        self.0[place / 64] >> (place % 64) & 1 == 1
    }
}

/// Writes the header of data shard `id` into the first [`HEADER`] bytes of a datagram of at most
/// [`MAX_DATAGRAM`].
pub(crate) fn write_header(datagram: &mut [u8], id: u32) {
    write_frame(datagram, id, DATA);
    // invariant: callers give no datagram shorter than a header, of which these are parts.
    let body = &mut datagram[FRAME..];
    let size = u16::try_from(body.len()).expect("at most MAX_DATAGRAM");
    body[..2].copy_from_slice(&size.to_le_bytes());
}

fn write_frame(datagram: &mut [u8], id: u32, kind: u16) {
    // invariant: callers give no datagram shorter than a header.
    datagram[..4].copy_from_slice(&id.to_le_bytes());
    datagram[4..FRAME].copy_from_slice(&kind.to_le_bytes());
}

/// The payload of a data shard's body, which may be followed by padding; `None` if the size field
/// is impossible.
fn payload(body: &[u8]) -> Option<&[u8]> {
    let size = u16::from_le_bytes(*body.first_chunk()?);
    body.get(2..usize::from(size))
}
