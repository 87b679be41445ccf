//! Choice of one host among several.

use std::net::IpAddr;

use rand::Rng;

use super::settings::Choose;

/// Host that may be chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub addr: &'a str,
    /// Configured weight, at least 1.
    pub weight: u32,
    /// Part of the weight that counts now, up to 1.
    pub share: f64,
    pub sessions: u64,
}

/// Properties of a session that a choice may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Query<'a> {
    /// Name that the host must have, if any.
    pub name: Option<&'a str>,
    /// IP address of the client.
    pub client: IpAddr,
    /// Name that was asked for, whether or not a host has that name.
    pub target: Option<&'a str>,
}

/// Returns the index of the chosen candidate.
pub(super) fn choose(
    candidates: &[Candidate<'_>],
    how: Choose,
    wish: &Query<'_>,
    rng: &mut impl Rng,
) -> Option<usize> {
    match (how, wish.target) {
        (Choose::LeastSessions, _) => least(candidates, rng),
        (Choose::HashClient, _) => match wish.client.to_canonical() {
            IpAddr::V4(ip) => hashed(candidates, &ip.octets()),
            IpAddr::V6(ip) => hashed(candidates, &ip.octets()),
        },
        (Choose::HashTarget, Some(target)) => hashed(candidates, target.as_bytes()),
        (Choose::Weighted | Choose::HashTarget, _) => weighted(candidates, rng),
    }
}

fn weighted(candidates: &[Candidate<'_>], rng: &mut impl Rng) -> Option<usize> {
    let total: u64 = candidates.iter().map(Candidate::now).sum();
    if total == 0 {
        return None;
    }
    let mut at = rng.random_range(0..total);
    candidates.iter().position(|candidate| {
        let hit = at < candidate.now();
        at = at.saturating_sub(candidate.now());
        hit
    })
}

fn least(candidates: &[Candidate<'_>], rng: &mut impl Rng) -> Option<usize> {
    // Counts the session to be placed; ties are broken at random.
    let load = |candidate: &Candidate<'_>| (candidate.sessions + 1) as f64 / candidate.now() as f64;
    let loads = candidates
        .iter()
        .map(|candidate| (load(candidate), rng.random::<u32>()));
    let least = loads
        .enumerate()
        .min_by(|(_, (a, tie)), (_, (b, other))| a.total_cmp(b).then(tie.cmp(other)));
    least.map(|(at, _)| at)
}

/// Chooses by rendezvous hashing.
///
/// Each key has an order of preference among all possible hosts, so when a host is removed only its
/// own sessions move. A slow start does not change the order.
fn hashed(candidates: &[Candidate<'_>], key: &[u8]) -> Option<usize> {
    let score = |candidate: &Candidate<'_>| {
        let hash = mix(fnv(fnv(FNV_OFFSET, key), candidate.addr.as_bytes()));
        // Uniform between 0 and 1, both excluded.
        let place = ((hash >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
        -f64::from(candidate.weight) / place.ln()
    };
    let scores = candidates.iter().map(score).enumerate();
    let best = scores.max_by(|(_, a), (_, b)| a.total_cmp(b));
    best.map(|(at, _)| at)
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// Hashes `bytes` and a terminator by FNV-1a.
///
/// Several gateways must choose alike, so the result must not change.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
    step(
        bytes.iter().fold(hash, |hash, byte| step(hash, *byte)),
        0xff,
    )
}

/// Mixes all bits of a hash; the finalizer of MurmurHash3.
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

impl Candidate<'_> {
    /// Returns the current weight in thousandths, at least 1.
    fn now(&self) -> u64 {
        ((f64::from(self.weight) * 1000.0 * self.share) as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const DRAWS: usize = 20_000;

    fn candidate(addr: &str, weight: u32) -> Candidate<'_> {
        Candidate {
            addr,
            weight,
            share: 1.0,
            sessions: 0,
        }
    }

    fn wish(n: usize) -> Query<'static> {
        Query {
            name: None,
            client: IpAddr::from((n as u32).to_be_bytes()),
            target: None,
        }
    }

    /// Returns how many of many sessions each candidate gets.
    fn counts<const N: usize>(candidates: &[Candidate<'_>; N], how: Choose) -> [usize; N] {
        let mut rng = StdRng::seed_from_u64(1);
        let mut counts = [0; N];
        for n in 0..DRAWS {
            counts[choose(candidates, how, &wish(n), &mut rng).unwrap()] += 1;
        }
        counts
    }

    #[track_caller]
    fn are_near<const N: usize>(counts: [usize; N], parts: [f64; N]) {
        for (count, part) in counts.iter().zip(parts) {
            let expected = part * DRAWS as f64;
            let near = (*count as f64 - expected).abs() < 0.02 * DRAWS as f64;
            assert!(near, "{counts:?} are not {parts:?}");
        }
    }

    #[test]
    fn weights_are_kept() {
        let candidates = [
            candidate("x:1", 300),
            candidate("x:2", 100),
            candidate("x:3", 600),
        ];
        are_near(counts(&candidates, Choose::Weighted), [0.3, 0.1, 0.6]);
        are_near(counts(&candidates, Choose::HashClient), [0.3, 0.1, 0.6]);
        // Nothing was asked for.
        are_near(counts(&candidates, Choose::HashTarget), [0.3, 0.1, 0.6]);
    }

    #[test]
    fn a_slow_start_takes_less() {
        let slow = Candidate {
            share: 0.25,
            ..candidate("x:1", 100)
        };
        let candidates = [slow, candidate("x:2", 100)];
        are_near(counts(&candidates, Choose::Weighted), [0.2, 0.8]);
        are_near(counts(&candidates, Choose::HashClient), [0.5, 0.5]);
        let mut rng = StdRng::seed_from_u64(1);
        let mut chosen = |sessions| {
            let busy = Candidate {
                sessions,
                ..candidate("x:2", 100)
            };
            choose(&[slow, busy], Choose::LeastSessions, &wish(0), &mut rng)
        };
        assert_eq!([chosen(2), chosen(4)], [Some(1), Some(0)]);
    }

    #[test]
    fn the_fewest_sessions_for_the_weight() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut candidates = [
            candidate("x:1", 300),
            candidate("x:2", 100),
            candidate("x:3", 200),
        ];
        for _ in 0..600 {
            let chosen = choose(&candidates, Choose::LeastSessions, &wish(0), &mut rng);
            candidates[chosen.unwrap()].sessions += 1;
        }
        assert_eq!(
            candidates.map(|candidate| candidate.sessions),
            [300, 100, 200]
        );
        // Equals share.
        let equal = [candidate("x:1", 100), candidate("x:2", 100)];
        are_near(counts(&equal, Choose::LeastSessions), [0.5, 0.5]);
    }

    #[test]
    fn a_hash_stays_where_it_can() {
        let addrs: Vec<String> = (0..10).map(|n| format!("10.0.0.{n}:9000")).collect();
        let all: Vec<_> = addrs.iter().map(|addr| candidate(addr, 100)).collect();
        let fewer: Vec<_> = all.iter().filter(|c| c.addr != addrs[3]).copied().collect();
        let mut rng = StdRng::seed_from_u64(1);
        let mut of = |candidates: &[Candidate<'_>], n| {
            let chosen = choose(candidates, Choose::HashClient, &wish(n), &mut rng).unwrap();
            candidates[chosen].addr.to_owned()
        };
        let mut moved = 0;
        for n in 0..DRAWS {
            let (before, after) = (of(&all, n), of(&fewer, n));
            assert_eq!(before, of(&all, n));
            if before == addrs[3] {
                moved += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert!((DRAWS / 12..DRAWS / 8).contains(&moved), "{moved}");
    }

    #[test]
    fn the_hash_goes_by_what_it_should() {
        let mut rng = StdRng::seed_from_u64(1);
        let addrs: Vec<String> = (0..50).map(|n| format!("10.0.0.{n}:9000")).collect();
        let candidates: Vec<_> = addrs.iter().map(|addr| candidate(addr, 100)).collect();
        let mut of = |how, client: &str, target| {
            let wish = Query {
                name: None,
                client: client.parse().unwrap(),
                target,
            };
            choose(&candidates, how, &wish, &mut rng)
        };
        let client = Choose::HashClient;
        assert_eq!(
            of(client, "192.0.2.1", None),
            of(client, "::ffff:192.0.2.1", Some("x"))
        );
        assert_ne!(of(client, "192.0.2.1", None), of(client, "192.0.2.2", None));
        assert_ne!(
            of(client, "2001:db8::1", None),
            of(client, "2001:db8::2", None)
        );
        let target = Choose::HashTarget;
        assert_eq!(
            of(target, "192.0.2.1", Some("x")),
            of(target, "192.0.2.2", Some("x"))
        );
        assert_ne!(
            of(target, "192.0.2.1", Some("x")),
            of(target, "192.0.2.1", Some("y"))
        );
        // As other gateways have it.
        assert_eq!(of(target, "192.0.2.1", Some("room-1")), Some(FIXED));
        for how in [Choose::Weighted, Choose::LeastSessions, client, target] {
            assert_eq!(
                choose(&[], how, &wish(0), &mut StdRng::seed_from_u64(1)),
                None
            );
        }
    }

    const FIXED: usize = 33;
}
