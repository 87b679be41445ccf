//! Bytes that can be checked wherever one looks.

use std::sync::OnceLock;

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// Prime, so that no shift by a buffer's size goes unseen.
const BLOCK: usize = 1_000_003;

/// An endless sequence of bytes, with a position in it.
#[derive(Debug, Clone)]
pub struct Pattern {
    name: u64,
    position: u64,
}

impl Pattern {
    /// Patterns of different names differ.
    pub fn new(name: u64) -> Self {
        Self { name, position: 0 }
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes, at most `len`, at least one.
    pub fn next(&mut self, len: usize) -> &'static [u8] {
        let piece = self.peek(len);
        self.position += piece.len() as u64;
        piece
    }

    /// Checks that `bytes` are the next ones.
    #[track_caller]
    pub fn check(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let expected = self.peek(bytes.len());
            let (piece, rest) = bytes.split_at(expected.len());
            if piece != expected {
                let at = piece.iter().zip(expected).position(|(a, b)| a != b);
                let at = self.position + at.unwrap() as u64;
                panic!("pattern {}: wrong byte at {at}", self.name);
            }
            self.position += piece.len() as u64;
            bytes = rest;
        }
    }

    fn peek(&self, len: usize) -> &'static [u8] {
        static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
        let bytes = BYTES.get_or_init(|| {
            let mut bytes = vec![0; BLOCK];
            StdRng::seed_from_u64(1).fill_bytes(&mut bytes);
            bytes
        });
        let at = (self.position.wrapping_add(self.name.wrapping_mul(7919))) as usize % BLOCK;
        &bytes[at..(at + len).min(BLOCK)]
    }
}
