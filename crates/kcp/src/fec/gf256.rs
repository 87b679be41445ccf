//! Arithmetic in GF(2^8), and the one bulk operation the codec needs.
//!
//! Bytes are polynomials over GF(2) modulo x^8 + x^4 + x^3 + x^2 + 1 (0x11d), the field of
//! Backblaze's and klauspost's Reed–Solomon codecs. Addition is xor.
//!
//! The bulk operation is [`Kernel::add_products`]: one source, multiplied by a different
//! coefficient for each of several destination rows, added to those rows. Encoding a data shard
//! into all parity rows, and spreading a parity shard over all missing data shards, are both
//! exactly that.

use std::fmt;

/// An implementation of the bulk operation that this machine can run.
///
/// There is no way to name one the CPU lacks: they come from [`Kernel::best`] and
/// [`Kernel::available`], which ask it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kernel(Isa);

impl Kernel {
    /// The fastest kernel of this machine.
    pub fn best() -> Kernel {
        Kernel::available().next().unwrap_or(Kernel(Isa::Portable))
    }

    /// All kernels of this machine, the fastest first, the portable one last.
    pub fn available() -> impl Iterator<Item = Kernel> {
        Isa::FASTEST_FIRST
            .iter()
            .filter(|isa| isa.detected())
            .map(|isa| Kernel(*isa))
    }

    /// A name for logs and benches.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Isa::Ssse3 => "ssse3",
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => "neon",
            Isa::Portable => "portable",
        }
    }

    /// Adds `factors[i] · source` to row `i`, which starts at `rows[i * stride]` and is
    /// `source.len()` bytes long, for every `i`. Up to four rows share one pass over the source.
    ///
    /// # Panics
    ///
    /// If the rows overlap (`source` longer than `stride`) or reach past the end of `rows`.
    pub fn add_products(self, factors: &[u8], source: &[u8], rows: &mut [u8], stride: usize) {
        if factors.is_empty() || source.is_empty() {
            return;
        }
        // invariant: callers make rows as long as what they add.
        assert!(source.len() <= stride, "rows overlap");
        assert!(
            (factors.len() - 1) * stride + source.len() <= rows.len(),
            "rows reach past the buffer"
        );
        match self.0 {
            // SAFETY: `Isa::detected` found the features of each of these on this CPU, or there
            // would be no such `Kernel`.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2::add_products(factors, source, rows, stride) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Ssse3 => unsafe { ssse3::add_products(factors, source, rows, stride) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { neon::add_products(factors, source, rows, stride) },
            Isa::Portable => portable(factors, source, rows, stride),
        }
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `a · b`.
pub fn mul(a: u8, b: u8) -> u8 {
    // invariant: there is a table for each byte, of two by 16 products.
    let products = &NIBBLE_PRODUCTS[usize::from(a)];
    products[usize::from(b & 15)] ^ products[16 + usize::from(b >> 4)]
}

/// `a / b`; for `b` = 0, which has no inverse, 0.
pub fn div(a: u8, b: u8) -> u8 {
    // The non-zero elements are a group of order 255, so b^254 is the inverse:
    // 254 = 2 + 4 + … + 128.
    let mut square = b;
    (0..7).fold(a, |product, _| {
        square = mul(square, square);
        mul(product, square)
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Ssse3,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
}

impl Isa {
    const FASTEST_FIRST: &[Isa] = &[
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2,
        #[cfg(target_arch = "x86_64")]
        Isa::Ssse3,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon,
        Isa::Portable,
    ];

    /// Whether this CPU has what the kernel is compiled for.
    fn detected(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Isa::Ssse3 => is_x86_feature_detected!("ssse3"),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            Isa::Portable => true,
        }
    }
}

/// For each factor its products with 0…15, then with 0x00, 0x10 … 0xf0. Multiplication
/// distributes over xor, so two look-ups multiply a byte, and two byte shuffles a whole vector.
static NIBBLE_PRODUCTS: [[u8; 32]; 256] = {
    let mut table = [[0; 32]; 256];
    let mut factor = 0;
    while factor < 256 {
        let mut nibble = 0;
        while nibble < 16 {
            // invariant: the loops end before the table does.
            table[factor][nibble] = shift_and_add(factor as u8, nibble as u8);
            table[factor][16 + nibble] = shift_and_add(factor as u8, (nibble << 4) as u8);
            nibble += 1;
        }
        factor += 1;
    }
    table
};

const fn shift_and_add(a: u8, b: u8) -> u8 {
    const POLYNOMIAL: u16 = 0x11d;
    let mut shifted = a as u16;
    let mut sum = 0;
    let mut bit = 0;
    while bit < 8 {
        if b >> bit & 1 == 1 {
            sum ^= shifted;
        }
        shifted <<= 1;
        if shifted & 0x100 != 0 {
            shifted ^= POLYNOMIAL;
        }
        bit += 1;
    }
    sum as u8
}

/// Sums the products with each bit of a byte. That takes more steps than two look-ups, but steps
/// that compilers turn into vectors on any machine, and so thrice the speed.
fn portable(factors: &[u8], source: &[u8], rows: &mut [u8], stride: usize) {
    for (factor, row) in factors.iter().zip(rows.chunks_mut(stride)) {
        let products: [u8; 8] = std::array::from_fn(|bit| mul(*factor, 1 << bit));
        for (sum, byte) in row.iter_mut().zip(source) {
            for (bit, product) in products.iter().enumerate() {
                *sum ^= if byte >> bit & 1 == 1 { *product } else { 0 };
            }
        }
    }
}

/// The loop every vector kernel shares, for vectors of `$width` bytes; sources below that go to
/// `$shorter`. The module it is used in supplies `load`, `store`, `and`, `xor`, `prepare` (a
/// factor into whatever `times` wants) and `times`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! vector_kernel {
    ($features:literal, $width:literal, $shorter:path) => {
        #[target_feature(enable = $features)]
        pub fn add_products(factors: &[u8], source: &[u8], rows: &mut [u8], stride: usize) {
            if source.len() < $width {
                return $shorter(factors, source, rows, stride);
            }
            // The tables of four rows fit into the registers of every instruction set here.
            for (four, rows) in factors.chunks(4).zip(rows.chunks_mut(4 * stride)) {
                match *four {
                    [a] => group([a], source, rows, stride),
                    [a, b] => group([a, b], source, rows, stride),
                    [a, b, c] => group([a, b, c], source, rows, stride),
                    [a, b, c, d] => group([a, b, c, d], source, rows, stride),
                    _ => unreachable!("chunks of one to four"),
                }
            }
        }

        #[target_feature(enable = $features)]
        fn group<const N: usize>(factors: [u8; N], source: &[u8], rows: &mut [u8], stride: usize) {
            let mut prepared = [prepare(0); N];
            for (prepared, factor) in prepared.iter_mut().zip(factors) {
                *prepared = prepare(factor);
            }
            let mut rest = rows.chunks_mut(stride);
            let mut rows: [&mut [u8]; N] = std::array::from_fn(|_| {
                let row = rest.next().expect("the caller checked that the rows fit");
                // invariant: rows are as long as the source, as `add_products` has checked.
                &mut row[..source.len()]
            });

            let (blocks, tail) = source.as_chunks::<$width>();
            for (index, block) in blocks.iter().enumerate() {
                let vector = load(block);
                for (row, factor) in rows.iter_mut().zip(prepared) {
                    // invariant: rows are as long as the source.
                    let sum = &mut row.as_chunks_mut::<$width>().0[index];
                    store(sum, xor(load(sum), times(vector, factor)));
                }
            }

            if tail.is_empty() {
                return;
            }
            // The last full vector overlaps blocks already added: blank what it shares with them.
            let last = source
                .last_chunk()
                .expect("checked to be longer than a vector");
            // invariant: a tail is shorter than a vector.
            let mask = MASKS[tail.len()..].first_chunk().expect("a tail is short");
            let vector = and(load(last), load(mask));
            for (row, factor) in rows.iter_mut().zip(prepared) {
                let sum = row.last_chunk_mut().expect("as long as the source");
                store(sum, xor(load(sum), times(vector, factor)));
            }
        }

        /// From offset n on, a vector whose last n bytes are ones and whose others are zeros.
        static MASKS: [u8; 2 * $width] = {
            let mut masks = [0; 2 * $width];
            let mut at = $width;
            while at < 2 * $width {
                // invariant: the loop ends before they do.
                masks[at] = 0xff;
                at += 1;
            }
            masks
        };
    };
}

#[cfg(target_arch = "x86_64")]
mod ssse3 {
    use std::arch::x86_64::*;

    vector_kernel!("ssse3", 16, super::portable);

    #[target_feature(enable = "ssse3")]
    fn load(bytes: &[u8; 16]) -> __m128i {
        // SAFETY: 16 readable bytes; the instruction takes any alignment.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    #[target_feature(enable = "ssse3")]
    fn store(bytes: &mut [u8; 16], vector: __m128i) {
        // SAFETY: 16 writable bytes; the instruction takes any alignment.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), vector) }
    }

    #[target_feature(enable = "ssse3")]
    fn and(a: __m128i, b: __m128i) -> __m128i {
        _mm_and_si128(a, b)
    }

    #[target_feature(enable = "ssse3")]
    fn xor(a: __m128i, b: __m128i) -> __m128i {
        _mm_xor_si128(a, b)
    }

    #[target_feature(enable = "ssse3")]
    fn prepare(factor: u8) -> [__m128i; 2] {
        // invariant: there is a table for each byte.
        let (halves, _) = super::NIBBLE_PRODUCTS[usize::from(factor)].as_chunks();
        [load(&halves[0]), load(&halves[1])]
    }

    #[target_feature(enable = "ssse3")]
    fn times(vector: __m128i, [low, high]: [__m128i; 2]) -> __m128i {
        let nibble = _mm_set1_epi8(15);
        let lows = _mm_and_si128(vector, nibble);
        let highs = _mm_and_si128(_mm_srli_epi64::<4>(vector), nibble);
        _mm_xor_si128(_mm_shuffle_epi8(low, lows), _mm_shuffle_epi8(high, highs))
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    // AVX2 includes SSSE3. Acknowledgements, with bodies of 26 bytes, take this path.
    vector_kernel!("avx2", 32, super::ssse3::add_products);

    #[target_feature(enable = "avx2")]
    fn load(bytes: &[u8; 32]) -> __m256i {
        // SAFETY: 32 readable bytes; the instruction takes any alignment.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx2")]
    fn store(bytes: &mut [u8; 32], vector: __m256i) {
        // SAFETY: 32 writable bytes; the instruction takes any alignment.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector) }
    }

    #[target_feature(enable = "avx2")]
    fn and(a: __m256i, b: __m256i) -> __m256i {
        _mm256_and_si256(a, b)
    }

    #[target_feature(enable = "avx2")]
    fn xor(a: __m256i, b: __m256i) -> __m256i {
        _mm256_xor_si256(a, b)
    }

    /// Both halves of a 256-bit shuffle look into their own copy of the table.
    #[target_feature(enable = "avx2")]
    fn prepare(factor: u8) -> [__m256i; 2] {
        // invariant: there is a table for each byte.
        let both = load(&super::NIBBLE_PRODUCTS[usize::from(factor)]);
        [
            _mm256_permute2x128_si256::<0x00>(both, both),
            _mm256_permute2x128_si256::<0x11>(both, both),
        ]
    }

    #[target_feature(enable = "avx2")]
    fn times(vector: __m256i, [low, high]: [__m256i; 2]) -> __m256i {
        let nibble = _mm256_set1_epi8(15);
        let lows = _mm256_and_si256(vector, nibble);
        let highs = _mm256_and_si256(_mm256_srli_epi64::<4>(vector), nibble);
        _mm256_xor_si256(
            _mm256_shuffle_epi8(low, lows),
            _mm256_shuffle_epi8(high, highs),
        )
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    vector_kernel!("neon", 16, super::portable);

    #[target_feature(enable = "neon")]
    fn load(bytes: &[u8; 16]) -> uint8x16_t {
        // SAFETY: 16 readable bytes; the instruction takes any alignment.
        unsafe { vld1q_u8(bytes.as_ptr()) }
    }

    #[target_feature(enable = "neon")]
    fn store(bytes: &mut [u8; 16], vector: uint8x16_t) {
        // SAFETY: 16 writable bytes; the instruction takes any alignment.
        unsafe { vst1q_u8(bytes.as_mut_ptr(), vector) }
    }

    #[target_feature(enable = "neon")]
    fn and(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        vandq_u8(a, b)
    }

    #[target_feature(enable = "neon")]
    fn xor(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        veorq_u8(a, b)
    }

    #[target_feature(enable = "neon")]
    fn prepare(factor: u8) -> [uint8x16_t; 2] {
        // invariant: there is a table for each byte.
        let (halves, _) = super::NIBBLE_PRODUCTS[usize::from(factor)].as_chunks();
        [load(&halves[0]), load(&halves[1])]
    }

    #[target_feature(enable = "neon")]
    fn times(vector: uint8x16_t, [low, high]: [uint8x16_t; 2]) -> uint8x16_t {
        let lows = vandq_u8(vector, vdupq_n_u8(15));
        let highs = vshrq_n_u8::<4>(vector);
        veorq_u8(vqtbl1q_u8(low, lows), vqtbl1q_u8(high, highs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_is_a_field() {
        for a in 0..=255 {
            assert_eq!(mul(a, 1), a);
            assert_eq!(mul(a, 0), 0);
            for b in 1..=255 {
                assert_eq!(mul(a, b), shift_and_add(b, a));
                assert_eq!(mul(div(a, b), b), a);
            }
        }
        // 0x11d itself: x^7 · x = x^4 + x^3 + x^2 + 1.
        assert_eq!(mul(0x80, 2), 0x1d);
    }

    #[test]
    fn every_kernel_agrees_with_the_definition_at_every_length_and_alignment() {
        let noise = noise(4096);
        for kernel in Kernel::available() {
            for length in (0..200).chain([1399, 1400, 1402, 1498, 1500]) {
                for rows in [1, 2, 3, 4, 5, 9] {
                    let (from, into) = (length % 67, length % 61);
                    let source = &noise[from..from + length];
                    let factors = &noise[4000..4000 + rows];
                    let stride = length + length % 5;
                    let mut got = noise[into..].repeat(5)[..into + rows * stride].to_vec();
                    let mut expected = got.clone();
                    kernel.add_products(factors, source, &mut got[into..], stride);
                    for (row, factor) in factors.iter().enumerate() {
                        for (at, byte) in source.iter().enumerate() {
                            expected[into + row * stride + at] ^= mul(*factor, *byte);
                        }
                    }
                    assert_eq!(got, expected, "{kernel:?}, {rows} rows of {length}");
                }
            }
        }
    }

    #[test]
    fn every_kernel_multiplies_every_pair() {
        let all: Vec<u8> = (0..=255).collect();
        for kernel in Kernel::available() {
            for factor in 0..=255 {
                let mut row = [0; 256];
                kernel.add_products(&[factor], &all, &mut row, 256);
                for (byte, product) in all.iter().zip(row) {
                    assert_eq!(product, mul(factor, *byte), "{kernel:?}");
                }
            }
        }
    }

    #[test]
    fn the_last_row_may_be_cut_short() {
        for kernel in Kernel::available() {
            let mut rows = [0; 150];
            kernel.add_products(&[1, 1], &[7; 50], &mut rows, 100);
            assert_eq!((rows[49], rows[50], rows[149]), (7, 0, 7), "{kernel:?}");
        }
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..length).map(|_| next()).collect()
    }
}
