//! Admin interface over HTTP: shows what the gateway is doing, and takes a few commands.
//!
//! `routes` defines the requests, `guard` who may make them. The interface never holds up
//! sessions: it serves a bounded number of connections at once, requests are small and have a
//! deadline, and answers are paged. Nor do peers that keep connections open, or a process without
//! descriptors, hold up the interface: probes are always answered.

mod guard;
mod http;
mod metrics;
mod problem;
mod process;
mod routes;
mod sessions;
mod status;
mod time;

use std::io;
use std::net::SocketAddr;

use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use crate::gateway::ServeAdmin;
use guard::Guard;

/// Opens an address for a gateway's admin interface, for
/// [`Builder::admin`](crate::gateway::Builder::admin).
///
/// # Errors
/// Those of the system. Must be called within a runtime.
pub fn open(addr: SocketAddr) -> io::Result<ServeAdmin> {
    let listener = std::net::TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let addr = listener.local_addr()?;
    Ok(Box::new(move |gateway, until| {
        tracing::info!(%addr, "admin interface open");
        let guard = Guard {
            gateway,
            is_exposed: !addr.ip().is_loopback(),
        };
        let service = TowerToHyperService::new(routes::router(guard));
        tokio::spawn(http::accept(listener, service, until));
    }))
}
