//! sproto's packing: no input panics or grows beyond its bound, and packing is undone by unpacking.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stablegate::internal::proto::sproto;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(raw) = sproto::unpack(bytes, 1 << 16) {
        assert!(raw.len() <= 1 << 16);
    }
    let packed = sproto::pack(bytes);
    let padded = bytes.len().next_multiple_of(8);
    let mut raw = sproto::unpack(&packed, padded).expect("what was packed can be unpacked");
    assert!(raw.len() == padded && raw[bytes.len()..].iter().all(|byte| *byte == 0));
    raw.truncate(bytes.len());
    assert_eq!(raw, bytes);
});
