//! fastway endpoints: clients and servers with many virtual connections over one stream.
//!
//! An [`Endpoint`] runs over any stream: a TCP or KCP connection, or a resumable session, over
//! which the endpoint survives the loss of connections. Endpoints and connections are handles: all
//! clones stand for the same endpoint or connection, any task may use them, and dropping the last
//! clone closes it.
//!
//! ```
//! use stablegate::client::fastway::{Endpoint, Options};
//! use tokio::net::TcpStream;
//! # use stablegate::{Config, Gateway};
//! # #[tokio::main(flavor = "multi_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let config: Config = "
//! # listeners: [{name: clients, bind: ['tcp://127.0.0.1:0'], session: plain, service: fastway-client}, {name: servers, bind: ['tcp://127.0.0.2:0'], session: plain, service: fastway-server}]
//! # fastway: {auth_key: sesame}
//! # ".parse()?;
//! # let gateway = Gateway::builder(config).start().await?;
//! # let addrs = gateway.local_addrs().await;
//! # let at = |ip: &str| addrs.iter().find(|(_, addr)| addr.ip().to_string() == ip).unwrap().1;
//! # let (for_clients, for_servers) = (at("127.0.0.1"), at("127.0.0.2"));
//!
//! let stream = TcpStream::connect(for_servers).await?;
//! let server = Endpoint::server(stream, 7, b"sesame", Options::default()).await?;
//! let client = Endpoint::client(TcpStream::connect(for_clients).await?, Options::default());
//!
//! let dialled = loop {
//!     // Until the server has joined, a dial is refused.
//!     if let Ok(connection) = client.dial(7).await {
//!         break connection;
//!     }
//! };
//! let accepted = server.accept().await?;
//! dialled.send("ping").await?;
//! assert_eq!(&accepted.receive().await?[..], b"ping");
//! # Ok(())
//! # }
//! ```

mod connection;
mod endpoint;
mod error;
mod inbox;
mod options;
mod shared;
mod task;

pub use connection::Connection;
pub use endpoint::Endpoint;
pub use error::Error;
pub use options::Options;

pub use crate::proto::fastway::Version;
