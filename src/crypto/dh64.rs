//! Diffie–Hellman over the largest 64-bit prime, generator 5.

const P: u64 = 0xffff_ffff_ffff_ffc5;
/// 2^64 mod P, the value of a carry out of 64 bits.
const CARRY: u128 = (u64::MAX - P + 1) as u128;
const G: u64 = 5;

/// Returns the public key of a private key; never 0.
pub fn public_key(private: u64) -> u64 {
    pow(G, private)
}

/// Returns whether `public` is valid as a peer's public key.
///
/// A key of 0 (mod P) is not, as the shared secret would be known to everybody.
pub fn is_public_key(public: u64) -> bool {
    !public.is_multiple_of(P)
}

/// Returns the secret shared with the peer that sent `public`.
///
/// Returns `None` if `public` is not a valid [public key](is_public_key).
pub fn shared_secret(private: u64, public: u64) -> Option<u64> {
    is_public_key(public).then(|| pow(public % P, private))
}

fn pow(mut base: u64, mut exponent: u64) -> u64 {
    let mut product = 1;
    while exponent > 0 {
        if exponent & 1 == 1 {
            product = mul(product, base);
        }
        base = mul(base, base);
        exponent >>= 1;
    }
    product
}

fn mul(a: u64, b: u64) -> u64 {
    let fold = |x: u128| (x >> 64) * CARRY + (x & u128::from(u64::MAX));
    // Twice folded, the product is below 2P.
    let x = fold(fold(u128::from(a) * u128::from(b)));
    (if x >= u128::from(P) {
        x - u128::from(P)
    } else {
        x
    }) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn multiplication_is_modular(a in 0..P, b in 0..P) {
            prop_assert_eq!(u128::from(mul(a, b)), u128::from(a) * u128::from(b) % u128::from(P));
        }
    }

    #[test]
    fn largest_factors() {
        assert_eq!(mul(P - 1, P - 1), 1);
        assert_eq!(mul(P - 1, 1), P - 1);
    }

    #[test]
    fn a_key_without_secret_is_refused() {
        assert_eq!(shared_secret(7, 0), None);
        assert_eq!(shared_secret(7, P), None);
    }
}
