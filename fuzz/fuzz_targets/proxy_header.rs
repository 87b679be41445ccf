//! PROXY protocol headers: no input panics, and what is taken is the same when it comes in pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stablegate::proto::proxy_header::{MAX_LEN, parse};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    let Ok(Some(header)) = whole else {
        return;
    };
    assert!(header.len <= bytes.len() && header.len <= MAX_LEN);
    assert_eq!(parse(&bytes[..header.len]), whole);
    for cut in 0..header.len {
        assert_eq!(parse(&bytes[..cut]), Ok(None));
    }
});
