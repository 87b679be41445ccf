//! Dialling a gateway: streams that survive the loss of their connections, and fastway's endpoints
//! over any stream.

pub mod fastway;
pub mod scp;

use std::io;

use rand::seq::SliceRandom;

use crate::config::Transport;
use crate::transport::{self, Address, tcp};

/// Bytes that the system may hold of what arrived and was not read. They are lost with the
/// connection although acknowledged, so with what is in flight they must fit in the peer's replay
/// buffer, of 64 KiB by default. (Linux takes twice the value to account for its overhead.)
const RECEIVE_BUFFER: u32 = 16 * 1024;

/// Connects to one of the addresses that the name has, in random order until one accepts.
///
/// Cancel safe. No time limit of its own.
async fn dial(address: &Address) -> io::Result<transport::Stream> {
    let mut addrs: Vec<_> = tokio::net::lookup_host(&address.authority).await?.collect();
    addrs.shuffle(&mut rand::rng());
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in addrs {
        let connected = match address.transport {
            Transport::Tcp => tcp::Stream::connect(addr, Some(RECEIVE_BUFFER))
                .await
                .map(transport::Stream::Tcp),
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
