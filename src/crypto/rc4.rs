//! RC4, unrolled: the cipher is most of what a session costs beyond its system calls.

/// One direction of a session's cipher. Never reset, so that both ends stay in step.
#[derive(Clone)]
pub struct Rc4 {
    state: [u8; 256],
    i: u8,
    j: u8,
}

impl Rc4 {
    /// `key` is 1 to 256 bytes long.
    pub fn new(key: &[u8]) -> Self {
        let mut state: [u8; 256] = std::array::from_fn(|i| i as u8);
        let mut j = 0u8;
        for i in 0..256 {
            j = j.wrapping_add(state[i]).wrapping_add(key[i % key.len()]);
            state.swap(i, j.into());
        }
        Self { state, i: 0, j: 0 }
    }

    /// Encrypts or decrypts `data` where it stands.
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

    /// Encrypts or decrypts `from` into `to`, which is as long.
    pub fn apply_to(&mut self, from: &[u8], to: &mut [u8]) {
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
        self.i = self.i.wrapping_add(1);
        let a = self.state[usize::from(self.i)];
        self.j = self.j.wrapping_add(a);
        let b = self.state[usize::from(self.j)];
        self.state[usize::from(self.i)] = b;
        self.state[usize::from(self.j)] = a;
        self.state[usize::from(a.wrapping_add(b))]
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
        /// However the data is split, and whichever of the two ways is taken, the key stream
        /// goes on where it was.
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
