//! PROXY protocol header, which tells a server the client behind a connection: encoding and
//! parsing.
//!
//! Source: haproxy's `proxy-protocol.txt`, 2020/03/05. Both addresses of a header are of one
//! family. An IPv4-mapped address counts as IPv4; where the families still differ, the IPv4 address
//! is written as an IPv4-mapped IPv6 address.

mod decode;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use decode::SIGNATURE;
pub use decode::{Addresses, Error, Header, parse};

/// Byte for version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// Line of text.
    V1,
    /// Binary header.
    V2,
}

/// Encodes a header of version 1, a line of text with its line end.
pub fn encode_v1(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let (family, from, to): (_, IpAddr, IpAddr) = match pair(src, dst) {
        Pair::V4(from, to) => ("TCP4", from.into(), to.into()),
        Pair::V6(from, to) => ("TCP6", from.into(), to.into()),
    };
    format!(
        "PROXY {family} {from} {to} {} {}\r\n",
        src.port(),
        dst.port()
    )
    .into_bytes()
}

/// Encodes a header of version 2, binary, without TLVs.
pub fn encode_v2(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    let mut out = Vec::with_capacity(52);
    out.extend_from_slice(&SIGNATURE);
    out.push(VERSION_COMMAND);
    match pair(src, dst) {
        Pair::V4(from, to) => {
            out.extend_from_slice(&[TCP_OVER_IPV4, 0, 12]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        Pair::V6(from, to) => {
            out.extend_from_slice(&[TCP_OVER_IPV6, 0, 36]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
    }
    out.extend_from_slice(&src.port().to_be_bytes());
    out.extend_from_slice(&dst.port().to_be_bytes());
    out
}

/// Header of version 1 that names no addresses; [`UNKNOWN_V2`] is that of version 2.
pub const UNKNOWN_V1: &[u8] = b"PROXY UNKNOWN\r\n";
pub const UNKNOWN_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0";

/// Pair of addresses of one family.
enum Pair {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

fn pair(src: SocketAddr, dst: SocketAddr) -> Pair {
    let widen = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    match (src.ip().to_canonical(), dst.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Pair::V4(from, to),
        (from, to) => Pair::V6(widen(from), widen(to)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proxy_header::{ParseConfig, ProxyHeader};

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn check(src: SocketAddr, dst: SocketAddr, want_src: SocketAddr, want_dst: SocketAddr) {
        for header in [encode_v1(src, dst), encode_v2(src, dst)] {
            let (parsed, len) = ProxyHeader::parse(&header, ParseConfig::default()).unwrap();
            assert_eq!(len, header.len());
            let proxied = parsed.proxied_address().unwrap();
            assert_eq!((proxied.source, proxied.destination), (want_src, want_dst));
        }
    }

    #[test]
    fn text_is_as_documented() {
        assert_eq!(
            encode_v1(addr("192.0.2.1:56324"), addr("198.51.100.2:443")),
            b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
        );
        assert_eq!(
            encode_v1(addr("[2001:db8::1]:1"), addr("192.0.2.7:2")),
            b"PROXY TCP6 2001:db8::1 ::ffff:192.0.2.7 1 2\r\n"
        );
    }

    #[test]
    fn nobody_is_named() {
        for header in [UNKNOWN_V1, UNKNOWN_V2] {
            let (parsed, len) = ProxyHeader::parse(header, ParseConfig::default()).unwrap();
            assert_eq!(len, header.len());
            assert!(parsed.proxied_address().is_none());
            let ours = parse(header).unwrap().unwrap();
            assert!(ours.len == len && ours.addresses.is_none());
        }
    }

    #[test]
    fn mapped_addresses_count_as_ipv4() {
        let (src, dst) = (addr("[::ffff:192.0.2.1]:5"), addr("192.0.2.2:6"));
        check(src, dst, addr("192.0.2.1:5"), dst);
    }

    #[test]
    fn mixed_families_become_ipv6() {
        let (src, dst) = (addr("192.0.2.1:5"), addr("[2001:db8::9]:6"));
        check(src, dst, addr("[::ffff:192.0.2.1]:5"), dst);
        check(dst, src, dst, addr("[::ffff:192.0.2.1]:5"));
    }

    proptest! {
        #[test]
        fn an_independent_parser_agrees(
            v4: bool, a: u128, b: u128, from: u16, to: u16
        ) {
            let ip = |bits: u128| if v4 {
                IpAddr::V4(Ipv4Addr::from(bits as u32))
            } else {
                // Not IPv4-mapped.
                IpAddr::V6(Ipv6Addr::from(bits | 1 << 127))
            };
            let (src, dst) = (SocketAddr::new(ip(a), from), SocketAddr::new(ip(b), to));
            check(src, dst, src, dst);
        }
    }
}
