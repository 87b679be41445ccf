//! Dialling of a gateway.

use std::net::SocketAddr;
use std::{io, vec};

use rand::seq::SliceRandom;

use super::error::Error;
use crate::transport::kcp::segment::PEER_DATAGRAM_LIMIT;
use crate::transport::{self, Address, Transport, kcp, tcp};

/// Receive buffer of a TCP connection, bytes.
///
/// Buffered bytes are acknowledged and lost with the connection, so together with those in flight
/// they must fit in the peer's replay buffer, of 64 KiB by default. (Linux doubles the value to
/// account for its overhead.)
const RECEIVE_BUFFER: u32 = 16 * 1024;

/// Returns settings of KCP connections that suit a client.
///
/// They are those of the original, with the receive window bounded as the receive buffer is over
/// TCP: unread bytes are lost with the connection and must fit in the peer's replay buffer.
pub fn kcp_settings() -> kcp::Config {
    kcp::Config {
        session: kcp::Settings {
            receive_window: (2 * RECEIVE_BUFFER / PEER_DATAGRAM_LIMIT as u32) as u16,
            ..kcp::Settings::default()
        },
        ..kcp::Config::default()
    }
}

/// Resolves the addresses of a gateway, in random order.
///
/// Cancel safe. No time limit of its own.
pub(super) async fn resolve(address: &Address) -> Result<vec::IntoIter<SocketAddr>, Error> {
    let found = tokio::net::lookup_host(&address.authority).await;
    let found = found.map_err(|error| Error::Connect(address.clone(), error))?;
    let mut addrs: Vec<_> = found.collect();
    addrs.shuffle(&mut rand::rng());
    Ok(addrs.into_iter())
}

/// Connects to the first of `addrs` that accepts, and leaves those behind it.
///
/// Over KCP the first address counts as accepting, as a connection is not confirmed before bytes
/// are sent.
///
/// Cancel safe. No time limit of its own.
pub(super) async fn dial(
    address: &Address,
    addrs: &mut vec::IntoIter<SocketAddr>,
    kcp: &kcp::Config,
) -> Result<transport::Stream, Error> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in addrs {
        let connected = match address.transport {
            Transport::Tcp => tcp::Stream::connect(addr, Some(RECEIVE_BUFFER))
                .await
                .map(transport::Stream::Tcp),
            Transport::Kcp => kcp::Stream::connect(addr, kcp).map(transport::Stream::Kcp),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(Error::Connect(address.clone(), last))
}
