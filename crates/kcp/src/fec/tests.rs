use proptest::prelude::*;

use super::wire::{Kind, payload};
use super::*;

fn shape(data: usize, parity: usize) -> Shape {
    Shape::new(data, parity).unwrap()
}

const OVERHEAD: usize = 1024;

#[test]
fn datagrams_look_as_documented() {
    let mut encoder = Encoder::new(shape(2, 1));
    let mut first = datagram(b"abc");
    assert!(encoder.seal(&mut first).unwrap().is_none());
    assert_eq!(first, b"\0\0\0\0\xf1\0\x05\0abc");
    let mut second = datagram(b"z");
    let parity = encoder.seal(&mut second).unwrap().unwrap();
    assert_eq!(second, b"\x01\0\0\0\xf1\0\x03\0z");
    let parity: Vec<&[u8]> = parity.datagrams().collect();
    assert_eq!(parity.len(), 1);
    assert_eq!(parity[0][..6], *b"\x02\0\0\0\xf2\0");
    assert_eq!(parity[0].len(), first.len());
    assert_eq!(encoder.heap_size(), 0);
}

#[test]
fn lone_data_shards_have_themselves_as_parity() {
    let mut encoder = Encoder::new(shape(1, 1));
    let mut only = datagram(b"hello");
    let parity = encoder.seal(&mut only).unwrap().unwrap();
    assert_eq!(parity.as_bytes()[6..], only[6..]);
}

#[test]
fn every_loss_parity_allows_is_recovered() {
    let (data, parity) = (4, 3);
    let (payloads, datagrams) = group(&mut Encoder::new(shape(data, parity)));
    for kept in 0u32..1 << (data + parity) {
        let kept = |place: usize| kept >> place & 1 == 1;
        let mut decoder = Decoder::new(shape(data, parity));
        let left: Vec<&Vec<u8>> = (0..)
            .zip(&datagrams)
            .filter_map(|(place, datagram)| kept(place).then_some(datagram))
            .collect();
        let mut got: Vec<Vec<u8>> = left
            .iter()
            .flat_map(|datagram| delivered(&mut decoder, datagram))
            .collect();
        got.sort();
        let mut expected: Vec<Vec<u8>> = payloads
            .iter()
            .enumerate()
            .filter(|(place, _)| left.len() >= data || kept(*place))
            .map(|(_, payload)| payload.clone())
            .collect();
        expected.sort();
        assert_eq!(got, expected);
        assert_eq!(decoder.stats().errors, 0);
        if left.len() >= data {
            assert!(decoder.heap_size() < OVERHEAD);
        }
    }
}

#[test]
fn parity_may_come_first_and_data_backwards() {
    let (payloads, datagrams) = group(&mut Encoder::new(shape(10, 3)));
    let mut decoder = Decoder::new(shape(10, 3));
    let got: Vec<Vec<u8>> = datagrams
        .iter()
        .rev()
        .flat_map(|datagram| delivered(&mut decoder, datagram))
        .collect();
    assert_eq!(decoder.stats().recovered, 3);
    for payload in payloads {
        assert!(got.contains(&payload));
    }
}

#[test]
fn ids_wrap_to_a_whole_group() {
    for (data, parity) in [(2, 1), (10, 3), (128, 128), (1, 1)] {
        let mut encoder = Encoder::new(shape(data, parity));
        let limit = encoder.ids.limit;
        let size = (data + parity) as u32;
        assert_eq!(limit % size, 0);
        assert!(u32::MAX - limit < size);
        encoder.next = limit - 2 * size;

        let mut decoder = Decoder::new(shape(data, parity));
        for start in [limit - 2 * size, limit - size, 0, size] {
            let (payloads, datagrams) = group(&mut encoder);
            for (datagram, id) in datagrams.iter().zip(start..) {
                assert_eq!(datagram[..4], id.to_le_bytes());
            }
            let got: Vec<Vec<u8>> = datagrams[1..]
                .iter()
                .flat_map(|datagram| delivered(&mut decoder, datagram))
                .collect();
            assert!(got.contains(&payloads[0]));
        }
        assert_eq!(decoder.stats().recovered, 4);
        assert_eq!(decoder.groups.len(), 4);
    }
}

#[test]
fn ids_that_wrapping_skips_are_refused() {
    let mut decoder = Decoder::new(shape(2, 1));
    // 2^32 - 1 is a multiple of 3, so it is the only one.
    assert_eq!(
        decoder
            .input(&shard(u32::MAX, Kind::Data, &[2, 0]))
            .unwrap_err(),
        FecError::IdPastWrap
    );
    assert!(
        decoder
            .input(&shard(u32::MAX - 1, Kind::Parity, &[2, 0]))
            .is_ok()
    );
    assert_eq!(decoder.stats().errors, 1);
}

#[test]
fn another_shape_is_noticed_but_its_data_still_read() {
    let mut decoder = Decoder::new(shape(2, 1));
    let (payloads, datagrams) = group(&mut Encoder::new(shape(3, 1)));
    let third = Shard::parse(&datagrams[2]).unwrap();
    assert_eq!(decoder.input(&third).unwrap_err(), FecError::Misplaced);
    assert_eq!(third.payload(), Some(&payloads[2][..]));
}

#[test]
fn duplicates_do_not_count() {
    let (_, datagrams) = group(&mut Encoder::new(shape(3, 2)));
    let mut decoder = Decoder::new(shape(3, 2));
    for place in [0, 0, 0, 3, 3, 3, 0] {
        let shard = Shard::parse(&datagrams[place]).unwrap();
        assert!(decoder.input(&shard).unwrap().is_none());
    }
    let last = Shard::parse(&datagrams[4]).unwrap();
    assert_eq!(decoder.input(&last).unwrap().unwrap().payloads().count(), 2);
    assert!(decoder.input(&last).unwrap().is_none());
    assert_eq!(decoder.stats().recovered, 2);
}

#[test]
fn groups_expire_by_distance() {
    let mut encoder = Encoder::new(shape(3, 1));
    let groups: Vec<_> = (0..=OPEN_GROUPS).map(|_| group(&mut encoder)).collect();
    let mut decoder = Decoder::new(shape(3, 1));
    for (_, datagrams) in &groups {
        delivered(&mut decoder, &datagrams[0]);
        delivered(&mut decoder, &datagrams[1]);
    }
    assert_eq!(decoder.stats().short_shards, 2);
    // The oldest is gone, the one after it not.
    assert_eq!(
        delivered(&mut decoder, &groups[0].1[3]),
        Vec::<Vec<u8>>::new()
    );
    assert_eq!(
        delivered(&mut decoder, &groups[1].1[3]),
        [groups[1].0[2].clone()]
    );
    assert_eq!(decoder.stats().recovered, 1);
}

#[test]
fn a_stray_id_does_not_deafen_the_decoder() {
    let mut encoder = Encoder::new(shape(2, 1));
    let mut decoder = Decoder::new(shape(2, 1));
    for stray in [3_000_000_000, 1_000_000_002, 600] {
        let (_, before) = group(&mut encoder);
        delivered(&mut decoder, &before[0]);
        decoder.input(&shard(stray, Kind::Data, &[2, 0])).unwrap();
        let (payloads, datagrams) = group(&mut encoder);
        delivered(&mut decoder, &datagrams[0]);
        let recovered = delivered(&mut decoder, &datagrams[2]);
        assert_eq!(recovered, payloads[1..], "after {stray}");
    }
}

#[test]
fn parity_shorter_than_data_and_nonsense_sizes_are_errors_at_most() {
    let data = shard(0, Kind::Data, &[9, 0, 1, 2, 3, 4, 5, 6, 7]);
    for body in [&[1, 0][..], &[0xff; 3], &[0; 40]] {
        let mut decoder = Decoder::new(shape(2, 1));
        decoder.input(&data).unwrap();
        let parity = shard(2, Kind::Parity, body);
        let recovered = decoder.input(&parity).unwrap().unwrap();
        let good = recovered.payloads().count() as u64;
        assert_eq!(decoder.stats().recovered, good);
        assert_eq!(decoder.stats().errors, 1 - good);
    }
    assert_eq!(payload(&[1, 0, 5]), None);
    assert_eq!(payload(&[4, 0, 5]), None);
    assert_eq!(payload(&[3, 0, 5, 0]), Some(&[5][..]));
    assert_eq!(payload(&[2, 0]), Some(&[][..]));
}

#[test]
fn complete_groups_hold_no_memory() {
    let mut encoder = Encoder::new(shape(10, 3));
    let mut decoder = Decoder::new(shape(10, 3));
    for _ in 0..6 {
        let (_, datagrams) = group(&mut encoder);
        for datagram in &datagrams[..9] {
            delivered(&mut decoder, datagram);
        }
        assert!(decoder.heap_size() > OVERHEAD);
        delivered(&mut decoder, &datagrams[9]);
        assert!(decoder.heap_size() < OVERHEAD);
        for datagram in &datagrams[10..] {
            delivered(&mut decoder, datagram);
        }
        assert!(decoder.heap_size() < OVERHEAD);
    }
    assert_eq!(decoder.stats().parity_shards, 18);
    assert_eq!(decoder.stats().short_shards, 0);
    assert_eq!(decoder.stats().recovered, 0);
}

#[test]
fn release_frees_open_groups_and_the_next_are_protected_again() {
    let mut encoder = Encoder::new(shape(2, 1));
    encoder.release();
    let mut decoder = Decoder::new(shape(2, 1));
    let mut only = datagram(b"before");
    encoder.seal(&mut only).unwrap();
    delivered(&mut decoder, &only);
    encoder.release();
    decoder.release();
    assert_eq!((encoder.heap_size(), decoder.heap_size()), (0, 0));
    assert_eq!(decoder.stats().short_shards, 1);

    assert!(encoder.seal(&mut datagram(b"after")).unwrap().is_none());
    let (payloads, datagrams) = group(&mut encoder);
    assert_eq!(datagrams[0][..4], [3, 0, 0, 0]);
    delivered(&mut decoder, &datagrams[1]);
    assert_eq!(delivered(&mut decoder, &datagrams[2]), payloads[..1]);
}

#[test]
fn malformed_datagrams_are_refused() {
    let good = b"\0\0\0\0\xf1\0\x03\0z";
    assert_eq!(Shard::parse(good).unwrap().payload(), Some(&b"z"[..]));
    for cut in 0..HEADER {
        assert_eq!(Shard::parse(&good[..cut]), Err(FecError::TooShort));
    }
    assert_eq!(Shard::parse(&good[..8]), Err(FecError::SizeMismatch));
    let kcp = b"\x37\xcc\xfd\xec\x51\0\0\x08\0\0";
    assert_eq!(Shard::parse(kcp), Err(FecError::UnknownType));
    assert_eq!(Shard::parse(&[0; MAX_DATAGRAM + 1]), Err(FecError::TooLong));
}

#[test]
fn datagrams_that_cannot_be_sealed_use_no_id() {
    let mut encoder = Encoder::new(shape(2, 1));
    assert_eq!(encoder.seal(&mut [0; 7]).unwrap_err(), FecError::TooShort);
    assert_eq!(
        encoder.seal(&mut [0; MAX_DATAGRAM + 1]).unwrap_err(),
        FecError::TooLong
    );
    let mut longest = [7; MAX_DATAGRAM];
    encoder.seal(&mut longest).unwrap();
    assert_eq!(longest[..8], [0, 0, 0, 0, 0xf1, 0, 0xd6, 5]);
}

proptest! {
    /// Shards that parse but mean nothing, near and far ids, against the stated bound.
    #[test]
    fn garbage_neither_panics_nor_grows(
        (data, parity) in (1usize..12, 1usize..6),
        shards in prop::collection::vec(
            (
                prop_oneof![0u32..200, any::<u32>(), u32::MAX - 100..=u32::MAX],
                any::<bool>(),
                prop::collection::vec(any::<u8>(), 2..80),
            ),
            0..200,
        ),
    ) {
        let mut decoder = Decoder::new(shape(data, parity));
        for (id, is_data, body) in &shards {
            let kind = if *is_data { Kind::Data } else { Kind::Parity };
            if let Ok(Some(recovered)) = decoder.input(&shard(*id, kind, body)) {
                recovered.payloads().for_each(|payload| assert!(payload.len() <= 78));
            }
            prop_assert!(decoder.groups.len() <= OPEN_GROUPS);
            prop_assert!(decoder.heap_size() <= OPEN_GROUPS * parity * 80 + OVERHEAD);
        }
    }

    #[test]
    fn random_bytes_never_panic(
        datagrams in prop::collection::vec(
            (0u8..8, prop::sample::select(vec![0xf1, 0xf2, 0x51]),
             prop::collection::vec(any::<u8>(), 0..40)),
            0..60,
        ),
    ) {
        let mut decoder = Decoder::new(shape(3, 2));
        for (id, kind, rest) in datagrams {
            let mut datagram = vec![id, 0, 0, 0, kind, 0];
            datagram.extend(rest);
            for bytes in [&datagram[..], &datagram[datagram.len() / 2..]] {
                if let Ok(shard) = Shard::parse(bytes) {
                    let _ = decoder.input(&shard);
                }
            }
        }
    }

    /// Over a network that loses, duplicates and reorders within the window, everything
    /// delivered was sent, and a group with enough shards left is whole.
    #[test]
    fn what_arrives_was_sent(
        (data, parity) in (1usize..8, 1usize..5),
        lens in prop::collection::vec(0usize..90, 1..60),
        fates in prop::collection::vec((0u8..4, 0usize..6), 200),
    ) {
        let mut encoder = Encoder::new(shape(data, parity));
        let mut decoder = Decoder::new(shape(data, parity));
        let mut sent = Vec::new();
        let mut wire = Vec::new();
        for (index, len) in lens.iter().enumerate() {
            let mut payload = vec![index as u8; *len];
            payload.push(index as u8);
            let mut sealed = datagram(&payload);
            let parity = encoder.seal(&mut sealed).unwrap();
            sent.push(payload);
            wire.push(sealed);
            if let Some(parity) = parity {
                wire.extend(parity.datagrams().map(<[u8]>::to_vec));
            }
        }

        let mut arriving = Vec::new();
        let mut survivors = vec![0; wire.len() / (data + parity)];
        for (at, datagram) in wire.iter().enumerate() {
            let (copies, delay) = fates[at % fates.len()];
            if copies > 0 && let Some(survivors) = survivors.get_mut(at / (data + parity)) {
                *survivors += 1;
            }
            for _ in 0..copies {
                arriving.push((at + delay, datagram));
            }
        }
        arriving.sort_by_key(|(at, _)| *at);
        let mut got = std::collections::HashSet::new();
        for (_, datagram) in arriving {
            for payload in delivered(&mut decoder, datagram) {
                prop_assert!(sent.contains(&payload));
                got.insert(payload);
            }
        }
        for (group, survivors) in survivors.iter().enumerate() {
            if *survivors >= data {
                for payload in &sent[group * data..(group + 1) * data] {
                    prop_assert!(got.contains(payload));
                }
            }
        }
        prop_assert_eq!(decoder.stats().errors, 0);
    }
}

/// What a receiver hands to KCP for one datagram.
fn delivered(decoder: &mut Decoder, datagram: &[u8]) -> Vec<Vec<u8>> {
    let shard = Shard::parse(datagram).unwrap();
    let recovered = decoder.input(&shard).unwrap();
    let recovered = recovered.iter().flat_map(Recovered::payloads);
    shard
        .payload()
        .into_iter()
        .chain(recovered)
        .map(<[u8]>::to_vec)
        .collect()
}

/// One group of distinct payloads, and its datagrams.
fn group(encoder: &mut Encoder) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut payloads, mut datagrams) = (Vec::new(), Vec::new());
    for index in 0..encoder.code.data_shards() {
        let payload: Vec<u8> = (0..=index * 37 % 301 + 200)
            .map(|at| (index + at * 7) as u8)
            .collect();
        let mut sealed = datagram(&payload);
        let parity = encoder.seal(&mut sealed).unwrap();
        payloads.push(payload);
        datagrams.push(sealed);
        if let Some(parity) = parity {
            datagrams.extend(parity.datagrams().map(<[u8]>::to_vec));
        }
    }
    (payloads, datagrams)
}

fn datagram(payload: &[u8]) -> Vec<u8> {
    [&[0; HEADER], payload].concat()
}

fn shard(id: u32, kind: Kind, body: &[u8]) -> Shard<'_> {
    Shard { id, kind, body }
}
