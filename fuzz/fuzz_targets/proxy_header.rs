//! PROXY protocol headers: no input panics, and what is taken is the same when it comes in pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stablegate::internal::proto::proxy_header::parse;

/// So many bytes always tell whether a header begins with them.
const ENOUGH: usize = 107;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    let enough = &bytes[..bytes.len().min(ENOUGH)];
    assert_eq!(parse(enough), whole);
    if enough.len() == ENOUGH {
        assert_ne!(whole, Ok(None));
    }
    let Ok(Some(header)) = whole else {
        return;
    };
    assert!(header.len <= 16 + 65_535);
    // From some byte on all of it is told, and nothing before.
    let told = (0..=enough.len()).find(|&cut| parse(&bytes[..cut]) != Ok(None));
    let told = told.expect("the whole tells");
    assert!(told <= header.len);
    for cut in told..=enough.len() {
        assert_eq!(parse(&bytes[..cut]), whole);
    }
});
