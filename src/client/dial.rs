//! Connections to a gateway.

use std::net::SocketAddr;
use std::{io, vec};

use rand::seq::SliceRandom;

use super::error::Error;
use crate::transport::kcp::segment::PEER_DATAGRAM_LIMIT;
use crate::transport::{self, Address, Transport, kcp, tcp};

/// Bytes that the system may hold of what arrived and was not read. They are lost with the
/// connection although acknowledged, so with what is in flight they must fit in the peer's replay
/// buffer, of 64 KiB by default. (Linux takes twice the value to account for its overhead.)
const RECEIVE_BUFFER: u32 = 16 * 1024;

/// The settings of KCP connections that suit a client: the original's, but no more may wait to be
/// read than over TCP, for the same reason.
pub fn kcp_settings() -> kcp::Config {
    kcp::Config {
        session: kcp::Settings {
            receive_window: (2 * RECEIVE_BUFFER / PEER_DATAGRAM_LIMIT as u32) as u16,
            ..kcp::Settings::default()
        },
        ..kcp::Config::default()
    }
}

/// The addresses of a gateway's name, in random order.
///
/// Cancel safe. No time limit of its own.
pub(super) async fn resolve(address: &Address) -> Result<vec::IntoIter<SocketAddr>, Error> {
    let found = tokio::net::lookup_host(&address.authority).await;
    let found = found.map_err(|error| Error::Connect(address.clone(), error))?;
    let mut addrs: Vec<_> = found.collect();
    addrs.shuffle(&mut rand::rng());
    Ok(addrs.into_iter())
}

/// Connects to the next of the addresses that `address` has that accepts, and leaves those behind
/// it. (Over KCP the first one does, as far as can be told.)
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
