//! Datagrams on their way to the socket, in runs that one system call sends.

use std::net::{IpAddr, SocketAddr};

use crate::state::segment::PEER_DATAGRAM_LIMIT;

/// Bytes after which the outbox is to be emptied, and the most of one run: what UDP takes in one
/// call, less the headers of IPv6.
const LIMIT: usize = 65_000;

/// Where a datagram goes, and from which of our addresses if the socket has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    pub peer: SocketAddr,
    pub from: Option<IpAddr>,
}

/// Datagrams to one peer, all of one length but the last, which may be shorter.
#[derive(Debug)]
pub(crate) struct Run {
    pub path: Path,
    pub size: usize,
    start: usize,
    len: usize,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    used: usize,
    runs: Vec<Run>,
    /// Runs that are sent already.
    sent: usize,
    /// Datagrams of one run, at most.
    longest: usize,
}

impl Outbox {
    pub fn new() -> Self {
        Self {
            bytes: Vec::new(),
            used: 0,
            runs: Vec::new(),
            sent: 0,
            longest: 1,
        }
    }

    /// Sets how many datagrams the socket sends in one call.
    pub fn set_longest_run(&mut self, datagrams: usize) {
        self.longest = datagrams;
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Room for one datagram of any length; `None` when the outbox is to be emptied first.
    pub fn space(&mut self) -> Option<&mut [u8]> {
        if self.used + PEER_DATAGRAM_LIMIT > LIMIT {
            return None;
        }
        if self.bytes.len() < LIMIT {
            // Pages that are never used are never there.
            self.bytes = vec![0; LIMIT];
        }
        // invariant: there are `LIMIT` bytes, which was just compared.
        Some(&mut self.bytes[self.used..self.used + PEER_DATAGRAM_LIMIT])
    }

    /// Takes the first `len` bytes of the [`space`](Self::space) as a datagram.
    pub fn commit(&mut self, len: usize, path: Path) {
        let start = self.used;
        self.used += len;
        if let Some(run) = self.runs.last_mut()
            && run.path == path
            && len <= run.size
            && run.len % run.size == 0
            && run.len + len <= LIMIT
            && run.len / run.size < self.longest
        {
            run.len += len;
            return;
        }
        self.runs.push(Run {
            path,
            size: len,
            start,
            len,
        });
    }

    /// Adds a datagram even if there is no [`space`](Self::space).
    pub fn push(&mut self, datagram: &[u8], path: Path) {
        let end = self.used + datagram.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        // invariant: they have just been made as many.
        self.bytes[self.used..end].copy_from_slice(datagram);
        self.commit(datagram.len(), path);
    }

    /// The runs to send.
    pub fn runs(&self) -> impl Iterator<Item = (&Run, &[u8])> {
        // invariant: no more are sent than there are, and runs are of what was used.
        let runs = self.runs[self.sent..].iter();
        runs.map(|run| (run, &self.bytes[run.start..run.start + run.len]))
    }

    /// Notes that the first `count` runs are done with.
    pub fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.runs.len() {
            self.runs.clear();
            self.sent = 0;
            self.used = 0;
            self.bytes.truncate(LIMIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u16) -> Path {
        Path {
            peer: SocketAddr::from(([127, 0, 0, 1], port)),
            from: None,
        }
    }

    fn put(outbox: &mut Outbox, len: usize, port: u16) -> bool {
        let Some(space) = outbox.space() else {
            return false;
        };
        space[..len].fill(port as u8);
        outbox.commit(len, path(port));
        true
    }

    /// Sends two runs at a time.
    fn drain(outbox: &mut Outbox) -> Vec<(u16, usize, usize)> {
        let mut sent = Vec::new();
        while !outbox.is_empty() {
            let before = sent.len();
            for (run, bytes) in outbox.runs().take(2) {
                let port = run.path.peer.port();
                assert!(bytes.iter().all(|byte| *byte == port as u8));
                sent.push((port, run.size, bytes.len()));
            }
            outbox.advance(sent.len() - before);
        }
        sent
    }

    #[test]
    fn equal_lengths_to_one_peer_are_one_run() {
        let mut outbox = Outbox::new();
        outbox.set_longest_run(4);
        for (len, port) in [(100, 1), (100, 1), (60, 1), (60, 1), (100, 1), (100, 2)] {
            assert!(put(&mut outbox, len, port));
        }
        let expected = [(1, 100, 260), (1, 60, 60), (1, 100, 100), (2, 100, 100)];
        assert_eq!(drain(&mut outbox), expected);
        for _ in 0..5 {
            put(&mut outbox, 100, 3);
        }
        outbox.push(&[3; 100], path(3));
        assert_eq!(drain(&mut outbox), [(3, 100, 400), (3, 100, 200)]);
    }

    #[test]
    fn full_until_emptied_but_for_what_must_in() {
        let mut outbox = Outbox::new();
        outbox.set_longest_run(64);
        let mut count = 0;
        while put(&mut outbox, 1400, 1) {
            count += 1;
        }
        assert_eq!(count, 46);
        for _ in 0..128 {
            outbox.push(&[1; 1400], path(1));
        }
        let lens = drain(&mut outbox).iter().map(|run| run.2).sum::<usize>();
        assert_eq!(lens, (46 + 128) * 1400);
        assert!(put(&mut outbox, 1400, 1));
    }
}
