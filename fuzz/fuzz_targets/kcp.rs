//! Datagrams to a KCP session: segments and forward error correction. Nothing panics, and memory
//! stays within the window however many come.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stablegate_kcp::segment::Segment;
use stablegate_kcp::{Kcp, Settings, fec};

/// Far more than 64 segments of the largest size and their places take.
const HEAP: usize = 1 << 20;

fuzz_target!(|datagrams: Vec<(u8, Vec<u8>)>| {
    let settings = Settings {
        receive_window: 64,
        ..Settings::default()
    };
    let mut kcp = Kcp::new(1, &settings);
    let mut decoder = fec::Decoder::new(fec::Shape::new(3, 2).expect("a shape"));
    let mut out = [0; 1_500];
    let mut now = 0u32;
    for (pause, mut datagram) in datagrams {
        now = now.wrapping_add(u32::from(pause) * 10);
        let _ = Segment::decode(&datagram);
        if let Ok(shard) = fec::Shard::parse(&datagram)
            && let Ok(Some(recovered)) = decoder.input(&shard)
        {
            for payload in recovered.payloads() {
                let _ = kcp.handle_recovered(payload, now);
            }
        }
        // Most would not get past the conversation's number.
        if let Some(conv) = datagram.first_chunk_mut() {
            *conv = 1u32.to_le_bytes();
        }
        let _ = kcp.handle_datagram(&datagram, now);
        let _ = kcp.write(&datagram, now);
        while kcp.poll_transmit(now, &mut out).is_some() {}
        assert!(kcp.heap_size() + decoder.heap_size() < HEAP);
    }
});
