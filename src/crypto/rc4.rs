//! RC4, unrolled, as the cipher is most of what a session costs beyond its system calls.

/// Cipher state of one direction of a session.
///
/// Never reset, so that both ends stay in step.
#[derive(Clone)]
pub struct Rc4 {
    /// Permutation of bytes, stored in 16 bits: single-byte stores cost a third of the speed.
    state: [u16; 256],
    /// Index of the next swap, one ahead of what descriptions of RC4 call i.
    i: u32,
    j: u32,
    /// Value at `i`, read in advance by the step before, so that no step waits for the store of the
    /// last one.
    at_i: u32,
}

impl Rc4 {
    /// Creates a cipher from a key of 1 to 256 bytes.
    pub fn new(key: &[u8]) -> Self {
        let mut state: [u16; 256] = std::array::from_fn(|i| i as u16);
        let mut j = 0u8;
        for (i, key) in (0..256).zip(key.iter().cycle()) {
            // invariant: `i` is below 256.
            j = j.wrapping_add(state[i] as u8).wrapping_add(*key);
            state.swap(i, j.into());
        }
        Self {
            at_i: state[1].into(),
            state,
            i: 1,
            j: 0,
        }
    }

    /// Encrypts or decrypts `data` in place.
    pub fn apply(&mut self, data: &mut [u8]) {
        let mut words = data.chunks_exact_mut(8);
        for word in &mut words {
            let mixed = self.word() ^ u64::from_le_bytes((&*word).try_into().expect("8 bytes"));
            word.copy_from_slice(&mixed.to_le_bytes());
        }
        for byte in words.into_remainder() {
            *byte ^= self.byte();
        }
    }

    /// Encrypts or decrypts `from` into `to`, which has the same length.
    pub fn apply_to(&mut self, from: &[u8], to: &mut [u8]) {
        // invariant: callers cut both to one length.
        assert_eq!(from.len(), to.len());
        let mut source = from.chunks_exact(8);
        let mut target = to.chunks_exact_mut(8);
        for (from, to) in (&mut source).zip(&mut target) {
            let mixed = self.word() ^ u64::from_le_bytes(from.try_into().expect("8 bytes"));
            to.copy_from_slice(&mixed.to_le_bytes());
        }
        for (from, to) in source.remainder().iter().zip(target.into_remainder()) {
            *to = from ^ self.byte();
        }
    }

    #[inline(always)]
    fn word(&mut self) -> u64 {
        let mut word = 0;
        for shift in 0..8 {
            word |= u64::from(self.byte()) << (shift * 8);
        }
        word
    }

    #[inline(always)]
    fn byte(&mut self) -> u8 {
        let a = self.at_i;
        self.j = (self.j + a) & 0xff;
        let next = (self.i + 1) & 0xff;
        // invariant: all of these are below 256, by their masks.
        let at_next = u32::from(self.state[next as usize]);
        let b = u32::from(self.state[self.j as usize]);
        self.state[self.j as usize] = a as u16;
        self.state[self.i as usize] = b as u16;
        // Unless it has just been swapped away.
        self.at_i = if self.j == next { a } else { at_next };
        self.i = next;
        self.state[((a + b) & 0xff) as usize] as u8
    }
}

impl std::fmt::Debug for Rc4 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Rc4 { .. }")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Checks that the key stream continues however the data is split, in place or not.
        #[test]
        fn pieces_and_ways_agree(
            data: Vec<u8>,
            cuts in proptest::collection::vec((0usize..40, any::<bool>()), 0..20),
        ) {
            let key = b"a key of some length";
            let mut whole = data.clone();
            Rc4::new(key).apply(&mut whole);

            let mut cipher = Rc4::new(key);
            let mut pieces = data.clone();
            let mut rest = &mut pieces[..];
            for (len, in_place) in cuts {
                let (piece, tail) = rest.split_at_mut(len.min(rest.len()));
                if in_place {
                    cipher.apply(piece);
                } else {
                    let plain = piece.to_vec();
                    cipher.apply_to(&plain, piece);
                }
                rest = tail;
            }
            cipher.apply(rest);
            prop_assert_eq!(pieces, whole);
        }
    }
}
