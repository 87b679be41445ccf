//! Subset of sproto that a gateway needs: structs of integers, booleans and strings, the
//! zero-packing, and goscon's announcement.
//!
//! The wire facts are those of cloudwu/sproto (`sproto.c`) and ejoy/goscon; the vectors in
//! `tests/vectors/sproto.json` hold this module to them byte for byte.

/// Highest tag of a field.
///
/// A gap before the field must fit in one 16-bit skip entry.
pub const MAX_TAG: u16 = 0x7fff;

/// Value of a field.
///
/// Booleans are the integers 0 and 1 on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field<'a> {
    Integer(i64),
    Boolean(bool),
    String(&'a [u8]),
}

/// Error of encoding or unpacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SprotoError {
    #[error("field tags must grow and stay within 0..={MAX_TAG}")]
    Tags,
    #[error("a string is longer than 4 GiB")]
    TooLong,
    #[error("packed data ends in the middle of a word")]
    Truncated,
    #[error("unpacked data is larger than {0} bytes")]
    TooLarge(usize),
}

/// Encodes one struct from its fields in order of their tags.
pub fn encode(fields: &[(u16, Field<'_>)]) -> Result<Vec<u8>, SprotoError> {
    let mut header: Vec<u16> = Vec::with_capacity(fields.len() + 1);
    let mut data = Vec::new();
    let mut next = 0;
    for &(tag, field) in fields {
        if tag < next || tag > MAX_TAG {
            return Err(SprotoError::Tags);
        }
        if tag > next {
            header.push(2 * (tag - next) - 1);
        }
        next = tag + 1;
        header.push(match field {
            Field::Boolean(value) => inline(u16::from(value)),
            Field::Integer(value @ 0..0x7fff) => inline(value as u16),
            Field::Integer(value) => {
                match i32::try_from(value) {
                    Ok(small) => push_data(&mut data, &small.to_le_bytes())?,
                    Err(_) => push_data(&mut data, &value.to_le_bytes())?,
                }
                0
            }
            Field::String(bytes) => {
                push_data(&mut data, bytes)?;
                0
            }
        });
    }
    // Each field and each gap takes an entry, at most one per tag, so tags below 0x8000 fit.
    let count = u16::try_from(header.len()).map_err(|_| SprotoError::Tags)?;
    let mut out = Vec::with_capacity(2 + 2 * header.len() + data.len());
    out.extend_from_slice(&count.to_le_bytes());
    for entry in header {
        out.extend_from_slice(&entry.to_le_bytes());
    }
    out.extend_from_slice(&data);
    Ok(out)
}

/// Packs `raw`, padded with zeros to whole words of eight bytes.
pub fn pack(raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + raw.len() / 8 + 2);
    // Index in `out` of the count of the open run.
    let mut run: Option<usize> = None;
    for chunk in raw.chunks(8) {
        let mut word = [0; 8];
        // invariant: a chunk has 8 bytes at most.
        word[..chunk.len()].copy_from_slice(chunk);
        let set = word.iter().filter(|&&byte| byte != 0).count();
        match run {
            // invariant: the count was written there.
            Some(at) if set >= 6 && out[at] < 255 => {
                out[at] += 1;
                out.extend_from_slice(&word);
            }
            _ if set == 8 => {
                out.extend_from_slice(&[0xff, 0]);
                run = Some(out.len() - 1);
                out.extend_from_slice(&word);
            }
            _ => {
                run = None;
                let tag = out.len();
                out.push(0);
                for (bit, &byte) in word.iter().enumerate() {
                    if byte != 0 {
                        // invariant: the tag was written there.
                        out[tag] |= 1 << bit;
                        out.push(byte);
                    }
                }
            }
        }
    }
    out
}

/// Unpacks what [`pack`] returned, with the padding.
///
/// Never returns or reserves more than `max` bytes.
pub fn unpack(packed: &[u8], max: usize) -> Result<Vec<u8>, SprotoError> {
    let mut out = Vec::new();
    let mut rest = packed;
    while let Some((&tag, after)) = rest.split_first() {
        rest = after;
        if tag == 0xff {
            let (&count, after) = rest.split_first().ok_or(SprotoError::Truncated)?;
            let len = (usize::from(count) + 1) * 8;
            let words = after.get(..len).ok_or(SprotoError::Truncated)?;
            room(&out, len, max)?;
            out.extend_from_slice(words);
            // invariant: as many were taken from there above.
            rest = &after[len..];
        } else {
            room(&out, 8, max)?;
            for bit in 0..8 {
                if tag & (1 << bit) == 0 {
                    out.push(0);
                } else {
                    let (&byte, after) = rest.split_first().ok_or(SprotoError::Truncated)?;
                    out.push(byte);
                    rest = after;
                }
            }
        }
    }
    Ok(out)
}

/// Encodes goscon's announcement of a new session.
///
/// Package and body are packed as one buffer, framed with a 2-byte big-endian length. `remote` is
/// the client's address and `local` the gateway's, both `host:port`.
///
/// Addresses that do not fit in a frame are cut; socket addresses always fit.
pub fn announcement(kind: u32, remote: &str, local: &str) -> Vec<u8> {
    const LONGEST: usize = 1024;
    // invariant: as far as it goes.
    let cut = |address: &str| address.as_bytes()[..address.len().min(LONGEST)].to_vec();
    let (remote, local) = (cut(remote), cut(local));
    let package = encode(&[(0, Field::Integer(i64::from(kind))), (2, Field::Integer(0))]);
    let body = encode(&[(0, Field::String(&remote)), (1, Field::String(&local))]);
    let mut raw = package.expect("tags grow and are small");
    raw.extend_from_slice(&body.expect("tags grow and strings are short"));
    let packed = pack(&raw);
    let len = u16::try_from(packed.len()).expect("two kilobytes pack into less than a frame");
    let mut frame = Vec::with_capacity(2 + packed.len());
    frame.extend_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(&packed);
    frame
}

fn inline(value: u16) -> u16 {
    (value + 1) * 2
}

fn push_data(data: &mut Vec<u8>, bytes: &[u8]) -> Result<(), SprotoError> {
    let len = u32::try_from(bytes.len()).map_err(|_| SprotoError::TooLong)?;
    data.extend_from_slice(&len.to_le_bytes());
    data.extend_from_slice(bytes);
    Ok(())
}

fn room(out: &[u8], more: usize, max: usize) -> Result<(), SprotoError> {
    if max - out.len() < more {
        return Err(SprotoError::TooLarge(max));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../tests/vectors/sproto.json")).unwrap()
    }

    fn hex(value: &Value) -> Vec<u8> {
        let text = value.as_str().unwrap();
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn announcements_match_the_vectors() {
        for vector in vectors()["announce"].as_array().unwrap() {
            let kind = vector["type"].as_u64().unwrap() as u32;
            let remote = vector["remote_addr"].as_str().unwrap();
            let local = vector["local_addr"].as_str().unwrap();
            let header =
                encode(&[(0, Field::Integer(i64::from(kind))), (2, Field::Integer(0))]).unwrap();
            assert_eq!(header, hex(&vector["header_hex"]), "type {kind}");
            let body = encode(&[
                (0, Field::String(remote.as_bytes())),
                (1, Field::String(local.as_bytes())),
            ])
            .unwrap();
            assert_eq!(body, hex(&vector["body_hex"]));
            let raw = [header, body].concat();
            assert_eq!(pack(&raw), hex(&vector["packed_hex"]));
            assert_eq!(announcement(kind, remote, local), hex(&vector["frame_hex"]));
        }
    }

    #[test]
    fn packing_matches_the_vectors() {
        for vector in vectors()["pack"].as_array().unwrap() {
            let raw = hex(&vector["raw_hex"]);
            let packed = hex(&vector["packed_hex"]);
            assert_eq!(pack(&raw), packed);
            let back = unpack(&packed, 1 << 16).unwrap();
            assert_eq!(back[..raw.len()], raw);
            assert!(back[raw.len()..].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn every_cut_of_packed_data_is_refused_or_whole() {
        let packed = hex(&vectors()["announce"][0]["packed_hex"]);
        for cut in 0..packed.len() {
            match unpack(&packed[..cut], 1 << 16) {
                Ok(out) => assert_eq!(out.len() % 8, 0),
                Err(error) => assert_eq!(error, SprotoError::Truncated),
            }
        }
    }

    #[test]
    fn integers_take_the_smallest_form() {
        let one = |value| encode(&[(0, Field::Integer(value))]).unwrap();
        assert_eq!(one(0x7ffe), [1, 0, 0xfe, 0xff]);
        assert_eq!(one(0x7fff), [1, 0, 0, 0, 4, 0, 0, 0, 0xff, 0x7f, 0, 0]);
        assert_eq!(one(-1), [1, 0, 0, 0, 4, 0, 0, 0, 255, 255, 255, 255]);
        assert_eq!(
            one(1 << 40),
            [1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
        );
        assert_eq!(
            encode(&[(3, Field::Boolean(true))]).unwrap(),
            [2, 0, 5, 0, 4, 0]
        );
    }

    #[test]
    fn bad_tags_are_refused() {
        let field = Field::Integer(0);
        assert_eq!(encode(&[(1, field), (1, field)]), Err(SprotoError::Tags));
        assert_eq!(encode(&[(2, field), (1, field)]), Err(SprotoError::Tags));
        assert_eq!(encode(&[(0x8000, field)]), Err(SprotoError::Tags));
        assert!(encode(&[(0x7fff, field)]).is_ok());
    }

    #[test]
    fn unpacking_is_bounded() {
        assert_eq!(unpack(&[0; 4], 31), Err(SprotoError::TooLarge(31)));
        assert_eq!(unpack(&[0; 4], 32).unwrap().len(), 32);
        let run = [&[0xff, 255][..], &[1; 2048]].concat();
        assert_eq!(unpack(&run, 2047), Err(SprotoError::TooLarge(2047)));
        assert_eq!(unpack(&run, 2048).unwrap().len(), 2048);
    }

    proptest! {
        #[test]
        fn pack_round_trips(raw in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..6000)) {
            let back = unpack(&pack(&raw), raw.len() + 8).unwrap();
            prop_assert_eq!(&back[..raw.len()], &raw[..]);
            prop_assert!(back.len() < raw.len() + 8);
        }

        #[test]
        fn unpack_takes_anything(packed in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(out) = unpack(&packed, 1000) {
                prop_assert!(out.len() <= 1000);
            }
        }
    }
}
