//! The configuration file: no text panics, and what is taken reads back from its dump.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use stablegate::config::Config;

fuzz_target!(|text: &str| {
    let path = Path::new("/etc/stablegate/config.yaml");
    if let Ok(config) = Config::parse(text, path)
        && let Ok(dump) = config.dump()
    {
        assert_eq!(Config::parse(&dump, path).as_ref(), Ok(&config), "{dump}");
    }
});
