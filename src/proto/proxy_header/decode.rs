//! Parsing of the PROXY protocol header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// First bytes of a version 2 header.
pub(super) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Length of the longest header of version 1, bytes.
const MAX_TEXT: usize = 107;
const TEXT_START: &[u8] = b"PROXY ";
/// Length of the fixed part of a version 2 header: signature, version and command, family and
/// protocol, length of the rest.
const BINARY_START: usize = 16;

/// Parsed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Addresses of the connection behind this one.
    ///
    /// `None` if the sender speaks for itself, or for a client without an IP address.
    pub addresses: Option<Addresses>,
    /// Length of the header, bytes, at most 65,551.
    ///
    /// Bytes behind the addresses of version 2 may not have arrived yet; they are to be skipped.
    pub len: usize,
}

/// Both ends of the connection that the sender has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    pub client: SocketAddr,
    /// Address that the client connected to.
    pub server: SocketAddr,
}

/// Reason for which bytes are not a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no PROXY protocol header")]
    Missing,
    #[error("malformed PROXY protocol header")]
    Malformed,
}

/// Parses the header at the start of `bytes`.
///
/// Returns `None` while more bytes are needed; 107 bytes are always enough.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Error> {
    if begins(bytes, TEXT_START) {
        parse_text(bytes)
    } else if begins(bytes, &SIGNATURE) {
        parse_binary(bytes)
    } else {
        Err(Error::Missing)
    }
}

/// Returns whether one of `bytes` and `start` is a prefix of the other.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    let len = bytes.len().min(start.len());
    // invariant: `len` is that of the shorter.
    bytes[..len] == start[..len]
}

fn parse_text(bytes: &[u8]) -> Result<Option<Header>, Error> {
    // invariant: as far as they go.
    let searched = &bytes[..bytes.len().min(MAX_TEXT)];
    let Some(end) = searched.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < MAX_TEXT {
            Ok(None)
        } else {
            Err(Error::Malformed)
        };
    };
    // invariant: the end was found in them.
    let line = bytes[..end].strip_prefix(TEXT_START);
    let line = line.and_then(|line| std::str::from_utf8(line).ok());
    let mut words = line.ok_or(Error::Malformed)?.split(' ');
    let len = end + 2;
    let is_v4 = match words.next() {
        // The rest of the line is to be ignored.
        Some("UNKNOWN") => {
            let addresses = None;
            return Ok(Some(Header { addresses, len }));
        }
        Some("TCP4") => true,
        Some("TCP6") => false,
        _ => return Err(Error::Malformed),
    };
    let mut word = || words.next().ok_or(Error::Malformed);
    let (client, server) = (text_ip(word()?, is_v4)?, text_ip(word()?, is_v4)?);
    let (client_port, server_port) = (text_port(word()?)?, text_port(word()?)?);
    if words.next().is_some() {
        return Err(Error::Malformed);
    }
    let addresses = Addresses::new((client, client_port), (server, server_port));
    Ok(Some(Header {
        addresses: Some(addresses),
        len,
    }))
}

fn text_ip(text: &str, is_v4: bool) -> Result<IpAddr, Error> {
    let ip = if is_v4 {
        text.parse().map(IpAddr::V4)
    } else {
        text.parse().map(IpAddr::V6)
    };
    ip.map_err(|_| Error::Malformed)
}

fn text_port(text: &str) -> Result<u16, Error> {
    let is_canonical =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let port = text.parse().ok().filter(|_| is_canonical);
    port.ok_or(Error::Malformed)
}

fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, Error> {
    let Some(&start) = bytes.first_chunk::<BINARY_START>() else {
        return Ok(None);
    };
    let [.., command, family, high, low] = start;
    let len = BINARY_START + usize::from(u16::from_be_bytes([high, low]));
    // The bytes after a LOCAL command are to be skipped.
    let nobody = Header {
        addresses: None,
        len,
    };
    match command {
        0x20 => return Ok(Some(nobody)),
        0x21 => {}
        _ => return Err(Error::Malformed),
    }
    let (family, protocol) = (family >> 4, family & 0xf);
    match (family, protocol) {
        // Families: none, IPv4, IPv6, Unix. Protocols: none, stream, datagram.
        (0..=3, 0) | (0 | 3, 1..=2) => Ok(Some(nobody)),
        (1, 1..=2) => binary_addresses(bytes, len, |ip: [u8; 4]| Ipv4Addr::from(ip).into()),
        (2, 1..=2) => binary_addresses(bytes, len, |ip: [u8; 16]| Ipv6Addr::from(ip).into()),
        _ => Err(Error::Malformed),
    }
}

/// Parses a header with two addresses of `N` bytes and their ports.
fn binary_addresses<const N: usize>(
    bytes: &[u8],
    len: usize,
    ip: impl Fn([u8; N]) -> IpAddr,
) -> Result<Option<Header>, Error> {
    if len < BINARY_START + 2 * (N + 2) {
        return Err(Error::Malformed);
    }
    let split = |bytes: &[u8]| -> Option<Addresses> {
        let (client, rest) = bytes.split_first_chunk::<N>()?;
        let (server, rest) = rest.split_first_chunk::<N>()?;
        let (client_port, rest) = rest.split_first_chunk::<2>()?;
        let server_port = rest.first_chunk::<2>()?;
        Some(Addresses::new(
            (ip(*client), u16::from_be_bytes(*client_port)),
            (ip(*server), u16::from_be_bytes(*server_port)),
        ))
    };
    let addresses = bytes.get(BINARY_START..).and_then(split);
    Ok(addresses.map(|addresses| Header {
        addresses: Some(addresses),
        len,
    }))
}

impl Addresses {
    /// Creates a pair of addresses; IPv4-mapped addresses become IPv4.
    fn new(client: (IpAddr, u16), server: (IpAddr, u16)) -> Self {
        let canonical = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
        Self {
            client: canonical(client),
            server: canonical(server),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{encode_v1, encode_v2};
    use super::*;
    use proptest::prelude::*;
    use proxy_header::{ParseConfig, ProxyHeader};

    const V4: (&str, &str) = ("192.0.2.1:56324", "198.51.100.2:443");
    const V6: (&str, &str) = ("[2001:db8::1]:1", "[2001:db8::2]:65535");

    fn addresses((client, server): (&str, &str)) -> Addresses {
        Addresses {
            client: client.parse().unwrap(),
            server: server.parse().unwrap(),
        }
    }

    /// Builds a version 2 header.
    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &len, rest].concat()
    }

    /// Checks a header parsed whole, with more bytes behind it, and cut at each byte; the first
    /// `needed` bytes are enough.
    #[track_caller]
    fn reads_from(header: &[u8], needed: usize, addresses: Option<Addresses>) {
        let len = header.len();
        let expected = Ok(Some(Header { addresses, len }));
        assert_eq!(parse(header), expected);
        assert_eq!(parse(&[header, b"\r\nPROXY \0"].concat()), expected);
        for cut in 0..len {
            let expected = if cut < needed { Ok(None) } else { expected };
            assert_eq!(parse(&header[..cut]), expected, "{cut}");
        }
    }

    #[track_caller]
    fn reads(header: &[u8], addresses: Option<Addresses>) {
        reads_from(header, header.len(), addresses);
    }

    #[test]
    fn both_versions_and_families() {
        for pair in [V4, V6] {
            let expected = addresses(pair);
            let (client, server) = (expected.client, expected.server);
            reads(&encode_v1(client, server), Some(expected));
            reads(&encode_v2(client, server), Some(expected));
        }
        let mapped = b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 56324 443\r\n";
        reads(mapped, Some(addresses(V4)));
        let ports = b"PROXY TCP4 192.0.2.1 192.0.2.2 0 65535\r\n";
        reads(ports, Some(addresses(("192.0.2.1:0", "192.0.2.2:65535"))));
    }

    #[test]
    fn the_sender_itself() {
        reads(b"PROXY UNKNOWN\r\n", None);
        let longest = format!(
            "PROXY UNKNOWN {} {0} 65535 65535\r\n",
            ["ffff"; 8].join(":")
        );
        assert_eq!(longest.len(), MAX_TEXT);
        reads(longest.as_bytes(), None);
        reads(&binary(0x20, 0, b""), None);
        reads(&binary(0x21, 0, b""), None);
        // A Unix socket.
        reads_from(&binary(0x21, 0x31, &[b'x'; 216]), BINARY_START, None);
        // With any family.
        for family in 0..=0xff {
            let local = binary(0x20, family, b"whatever");
            reads_from(&local, BINARY_START, None);
        }
        let longest = binary(0x20, 0x51, &[b'x'; 65_535]);
        assert_eq!(parse(&longest).unwrap().unwrap().len, longest.len());
    }

    #[test]
    fn what_stands_behind_the_addresses_is_skipped() {
        let whole = encode_v2(addresses(V4).client, addresses(V4).server);
        let mut rest = whole[BINARY_START..].to_vec();
        for len in [rest.len() + 1, 1000, 65_535] {
            rest.resize(len, 7);
            // Over TCP, and over UDP.
            for family in [0x11, 0x12] {
                let header = binary(0x21, family, &rest);
                reads_from(&header, whole.len(), Some(addresses(V4)));
            }
        }
    }

    #[test]
    fn what_is_no_header() {
        for bytes in [
            &b"\0"[..],
            b"GET / HTTP/1.1",
            b"PROXY\t",
            b"\r\n\r\n\0\r\nQUIT\r",
            b"P\r\n",
        ] {
            assert_eq!(parse(bytes), Err(Error::Missing), "{bytes:?}");
        }
        for line in [
            "PROXY ",
            "PROXY TCP5 192.0.2.1 192.0.2.2 1 2",
            "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2",
            "PROXY TCP4",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 ",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536",
            "PROXY TCP4 192.0.2.1 192.0.2 1 2",
            "PROXY TCP4 2001:db8::1 2001:db8::2 1 2",
            "PROXY TCP6 192.0.2.1 192.0.2.2 1 2",
        ] {
            let line = format!("{line}\r\n");
            assert_eq!(parse(line.as_bytes()), Err(Error::Malformed), "{line}");
        }
        assert_eq!(parse(b"PROXY TCP4 \xff\r\n"), Err(Error::Malformed));
        assert_eq!(
            parse(&[b"PROXY ".as_slice(), &[b'x'; 101]].concat()),
            Err(Error::Malformed)
        );
        for (command, family, len) in [
            (0x11, 0x11, 12),
            (0x22, 0x11, 12),
            (0x21, 0x41, 12),
            (0x21, 0x13, 12),
            (0x21, 0x11, 11),
            (0x21, 0x21, 35),
        ] {
            let bytes = binary(command, family, &vec![0; len]);
            assert_eq!(parse(&bytes), Err(Error::Malformed), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn an_independent_parser_agrees(
            v2: bool, v4: bool, local: bool, a: u128, b: u128, ports: (u16, u16), tail: Vec<u8>
        ) {
            let ip = |bits: u128| if v4 {
                IpAddr::V4(Ipv4Addr::from(bits as u32))
            } else {
                IpAddr::V6(Ipv6Addr::from(bits | 1 << 127))
            };
            let (client, server) = (SocketAddr::new(ip(a), ports.0), SocketAddr::new(ip(b), ports.1));
            let mut bytes = match (v2, local) {
                (true, true) => binary(0x20, 0x11, &a.to_be_bytes()[..12]),
                (true, false) => encode_v2(client, server),
                (false, true) => b"PROXY UNKNOWN\r\n".to_vec(),
                (false, false) => encode_v1(client, server),
            };
            bytes.extend_from_slice(&tail);
            let (theirs, len) = ProxyHeader::parse(&bytes, ParseConfig::default()).unwrap();
            let theirs = theirs.proxied_address().map(|proxied| Addresses {
                client: proxied.source,
                server: proxied.destination,
            });
            prop_assert_eq!(parse(&bytes), Ok(Some(Header { addresses: theirs, len })));
        }

        #[test]
        fn nothing_panics(bytes: Vec<u8>, start in 0..3) {
            let starts = [&b""[..], TEXT_START, &SIGNATURE];
            let whole = [starts[start as usize], &bytes].concat();
            // Enough bytes for a result.
            let enough = &whole[..whole.len().min(MAX_TEXT)];
            prop_assert_eq!(parse(enough), parse(&whole));
            prop_assert!(enough.len() < MAX_TEXT || parse(enough) != Ok(None));
            if let Ok(Some(header)) = parse(&whole) {
                prop_assert!(header.len <= BINARY_START + 65_535);
            }
        }
    }
}
