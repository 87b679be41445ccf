//! Messages of snet: no bytes panic, what is taken reads back as it is written, and no more is
//! asked for than belongs to a request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stablegate::internal::proto::snet::Version;
use stablegate::internal::proto::snet::message::{
    MAX_REQUEST, NewResponse, Request, ResumeResponse, response_len,
};

fuzz_target!(|bytes: &[u8]| {
    for only in [None, Some(Version::V1), Some(Version::V2)] {
        match Request::parse(bytes, only) {
            Ok(Some(request)) => {
                assert_eq!(Request::missing(bytes, only), 0);
                let version = request.version();
                assert!(only.is_none_or(|only| only == version));
                let again = match request {
                    Request::New(request) => request.to_bytes(),
                    Request::Resume(request) => request.to_bytes(),
                };
                assert_eq!(Request::parse(&again, Some(version)), Ok(Some(request)));
            }
            Ok(None) => {
                let missing = Request::missing(bytes, only);
                assert!(missing > 0 && bytes.len() + missing <= MAX_REQUEST);
            }
            Err(_) => {}
        }
    }
    for version in [Version::V1, Version::V2] {
        if let Ok(Some(response)) = NewResponse::parse(bytes, version) {
            assert_eq!(response.to_bytes(), bytes[..response_len(version)]);
        }
        if let Ok(Some(response)) = ResumeResponse::parse(bytes, version) {
            assert_eq!(response.to_bytes(), bytes[..response_len(version)]);
        }
    }
});
