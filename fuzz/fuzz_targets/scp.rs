//! Handshake messages: no text panics, and what is taken reads back as it is written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stablegate::internal::proto::scp::message::{NewResponse, Request, ResumeResponse};
use stablegate::internal::proto::scp::record;

fuzz_target!(|text: &[u8]| {
    if let Some(header) = text.first_chunk() {
        let _ = record::body_len(*header);
    }
    match Request::parse(text) {
        Ok(Request::New(request)) => {
            let again = Request::parse(request.to_string().as_bytes());
            // Lines of the client are text with replacements, and an empty last one is lost.
            assert!(matches!(again, Ok(Request::New(again)) if again.public == request.public));
        }
        Ok(Request::Resume(request)) => {
            let again = Request::parse(request.to_string().as_bytes());
            let Ok(Request::Resume(again)) = again else {
                panic!("{again:?}");
            };
            let facts = |r: &stablegate::internal::proto::scp::message::ResumeRequest| {
                (r.id, r.index, r.received)
            };
            assert_eq!(facts(&again), facts(&request));
        }
        Err(_) => {}
    }
    if let Ok(response) = NewResponse::parse(text) {
        assert_eq!(
            NewResponse::parse(response.to_string().as_bytes()),
            Ok(response)
        );
    }
    if let Ok(response) = ResumeResponse::parse(text) {
        assert_eq!(
            ResumeResponse::parse(response.to_string().as_bytes()),
            Ok(response)
        );
    }
});
