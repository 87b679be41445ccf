//! A gateway that keeps game connections alive.
//!
//! Clients speak a resumable session protocol over a transport of their choice; the gateway
//! forwards each session to a server and hides network breaks from both. A library user needs four
//! things:
//!
//! - [`Gateway`], which runs inside the program, from a [`Config`] or a configuration file;
//! - [`hooks`], to decide in Rust who gets in and where a session goes;
//! - [`client`], to dial a gateway: streams that resume by themselves, and fastway's endpoints;
//! - [`config`], the configuration as values.
//!
//! [`admin`] is the admin interface, for a gateway that is to have one; [`gateway`] has what goes with
//! [`Gateway`].
//!
//! # A gateway inside a program
//!
//! ```
//! use stablegate::client::{Address, Stream, scp};
//! use stablegate::{Config, Gateway};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "multi_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config: Config = "
//! listeners: [{name: game, bind: ['tcp://127.0.0.1:0'], session: scp}]
//! hosts: [{name: echo, addr: 'builtin:echo'}]
//! "
//! .parse()?;
//! let gateway = Gateway::builder(config).start().await?;
//!
//! let (_, addr) = gateway.local_addrs().await[0];
//! let address: Address = format!("tcp://{addr}").parse()?;
//! let mut session = Stream::connect(scp::Options::new(address)).await?;
//! session.write_all(b"hello").await?;
//! let mut back = [0; 5];
//! session.read_exact(&mut back).await?;
//! assert_eq!(&back, b"hello");
//!
//! gateway.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # A decision in Rust
//!
//! ```
//! use std::future::{Future, ready};
//! use std::pin::Pin;
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use stablegate::client::{Address, Stream, scp};
//! use stablegate::hooks::{Answer, Call, Hook, Question, Reply};
//! use stablegate::{Config, Gateway};
//! use tokio::io::AsyncReadExt;
//!
//! /// Lets in those who ask for the lobby, and nobody else.
//! struct LobbyOnly;
//!
//! impl Hook for LobbyOnly {
//!     fn name(&self) -> &str {
//!         "lobby-only"
//!     }
//!
//!     fn call(&self, call: Call) -> Pin<Box<dyn Future<Output = Reply> + Send>> {
//!         let answer = match call.question {
//!             Question::Access if call.info.target.as_deref() != Some("lobby") => Answer::Deny {
//!                 reason: "not the lobby".to_owned(),
//!             },
//!             _ => Answer::Pass,
//!         };
//!         Box::pin(ready(Reply {
//!             answer: Ok(answer),
//!             attrs: call.attrs,
//!             cost: Duration::ZERO,
//!         }))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "multi_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config: Config = "
//! listeners: [{name: game, bind: ['tcp://127.0.0.1:0'], session: scp}]
//! hosts: [{name: lobby, addr: 'builtin:echo'}]
//! "
//! .parse()?;
//! let gateway = Gateway::builder(config)
//!     .hook(Arc::new(LobbyOnly))
//!     .start()
//!     .await?;
//!
//! let (_, addr) = gateway.local_addrs().await[0];
//! let address: Address = format!("tcp://{addr}").parse()?;
//! let mut denied = Stream::connect(scp::Options {
//!     target: Some("vault".to_owned()),
//!     ..scp::Options::new(address)
//! })
//! .await?;
//! // The session ends before its first byte.
//! assert!(!matches!(denied.read(&mut [0]).await, Ok(1..)));
//! # Ok(())
//! # }
//! ```
//!
//! `ARCHITECTURE.md` in the repository has the layers behind this face and the ways through them.

#![warn(missing_docs)]

pub mod admin;
#[allow(missing_docs, reason = "the command's own")]
mod cli;
pub mod client;
pub mod config;
#[allow(missing_docs, reason = "not of the public face")]
mod crypto;
#[allow(missing_docs, reason = "not of the public face")]
mod files;
pub mod gateway;
pub mod hooks;
#[allow(missing_docs, reason = "not of the public face")]
mod hosts;
mod io;
mod metrics;
mod processor;
#[allow(missing_docs, reason = "not of the public face")]
mod proto;
#[allow(missing_docs, reason = "not of the public face")]
mod resolver;
#[allow(missing_docs, reason = "not of the public face")]
mod session;
mod sync;
mod timer;
#[allow(missing_docs, reason = "not of the public face")]
mod transport;
mod wire;

pub use config::Config;
pub use gateway::Gateway;

/// What the binary, tests, benches and fuzzing need. It changes without notice.
#[doc(hidden)]
pub mod internal {
    pub mod cli {
        pub use crate::cli::*;
    }
    pub mod crypto {
        pub use crate::crypto::*;
    }
    pub mod files {
        pub use crate::files::*;
    }
    pub mod proto {
        pub use crate::proto::*;
    }
    pub mod session {
        pub use crate::session::*;
    }
    pub mod transport {
        pub use crate::transport::*;
    }
}
