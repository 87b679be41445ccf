//! Base64 of RFC 4648, which is read with and without padding.

use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const EITHER_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// Base64 (§4), written with padding.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, EITHER_PADDING);

/// Base64 for URLs (§5), written without padding.
pub(crate) const BASE64_URL: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, EITHER_PADDING.with_encode_padding(false));
