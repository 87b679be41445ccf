//! FEC against the recorded exchanges of kcp-go (`vectors/kcp.json`).

use std::collections::BTreeMap;

use serde_json::Value;
use stablegate::transport::kcp::fec::{Decoder, Encoder, HEADER, Shard};

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/kcp.json");

/// What one side sent in one exchange, by shard id.
struct Flow {
    data: usize,
    parity: usize,
    datagrams: BTreeMap<u32, Vec<u8>>,
}

#[test]
fn our_encoder_makes_the_recorded_datagrams() {
    for flow in flows() {
        let mut encoder = Encoder::new(flow.data, flow.parity).unwrap();
        let mut next = 0;
        while let Some(recorded) = flow.datagrams.get(&next) {
            let mut ours = vec![0xaa; HEADER];
            ours.extend_from_slice(&recorded[HEADER..]);
            let parity = encoder.seal(&mut ours).unwrap();
            assert_eq!(ours, *recorded);
            next += 1;
            for datagram in parity.iter().flat_map(|parity| parity.datagrams()) {
                if let Some(recorded) = flow.datagrams.get(&next) {
                    assert_eq!(datagram, recorded);
                }
                next += 1;
            }
        }
        let last = flow.datagrams.last_key_value().unwrap().0;
        assert!(next > *last, "stopped before the end of the recording");
    }
}

#[test]
fn every_loss_parity_allows_is_recovered_from_the_recordings() {
    let mut losses = 0;
    for flow in flows() {
        let (data, size) = (flow.data, flow.data + flow.parity);
        let datagrams: Vec<&Vec<u8>> = flow.datagrams.values().collect();
        for group in datagrams.chunks_exact(size) {
            for kept in (0u32..1 << size).filter(|kept| kept.count_ones() as usize >= data) {
                let mut decoder = Decoder::new(data, flow.parity).unwrap();
                let mut recovered = Vec::new();
                for (_, datagram) in (0..).zip(group).filter(|(at, _)| kept >> at & 1 == 1) {
                    let shard = Shard::parse(datagram).unwrap();
                    if let Some(found) = decoder.input(&shard).unwrap() {
                        recovered.extend(found.payloads().map(<[u8]>::to_vec));
                    }
                }
                let lost = (0..)
                    .zip(&group[..data])
                    .filter(|(at, _)| kept >> at & 1 == 0);
                let lost: Vec<&[u8]> = lost.map(|(_, datagram)| &datagram[HEADER..]).collect();
                assert_eq!(recovered, lost);
                losses += lost.len();
            }
        }
    }
    assert!(losses > 1000, "only {losses} losses tried");
}

fn flows() -> Vec<Flow> {
    let text = std::fs::read_to_string(VECTORS).unwrap();
    let vectors: Value = serde_json::from_str(&text).unwrap();
    let mut flows = Vec::new();
    for exchange in vectors["exchanges"].as_array().unwrap() {
        let shards = |name: &str| exchange[name].as_u64().unwrap() as usize;
        if shards("fec_data") == 0 {
            continue;
        }
        for side in ["c", "s"] {
            let sent = exchange["datagrams"].as_array().unwrap().iter();
            let datagrams = sent.filter(|datagram| datagram[0] == side).map(|datagram| {
                let bytes = unhex(datagram[1].as_str().unwrap());
                (u32::from_le_bytes(*bytes.first_chunk().unwrap()), bytes)
            });
            flows.push(Flow {
                data: shards("fec_data"),
                parity: shards("fec_parity"),
                datagrams: datagrams.collect(),
            });
        }
    }
    flows
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}
