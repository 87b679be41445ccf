//! Client of scp.
//!
//! ```
//! use stablegate::client::{Address, Stream, scp};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! # use stablegate::{Config, Gateway};
//! # #[tokio::main(flavor = "multi_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let config: Config = "
//! # listeners: [{name: game, bind: ['tcp://127.0.0.1:0'], session: scp}]
//! # hosts: [{name: echo, addr: 'builtin:echo'}]
//! # ".parse()?;
//! # let gateway = Gateway::builder(config).start().await?;
//! # let addrs = gateway.local_addrs().await;
//! # let gateway_address = format!("tcp://{}", addrs[0].1);
//!
//! let address: Address = gateway_address.parse()?;
//! let mut session = Stream::connect(scp::Options::new(address)).await?;
//! session.write_all(b"before").await?;
//! // As a network would; the session comes back by itself, and nothing is lost.
//! session.cutter().cut();
//! session.write_all(b" and after").await?;
//! let mut back = [0; 16];
//! session.read_exact(&mut back).await?;
//! assert_eq!(&back, b"before and after");
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use tokio::io::AsyncWriteExt;

use super::dial::kcp_settings;
use super::stream::{Dialling, Opened, Protocol, ResumeError};
use crate::proto::scp::client::{Hello, Ticket};
use crate::proto::scp::message::{Code, NewResponse, ResumeResponse};
use crate::proto::scp::{self, widen};
use crate::session::{Core, Offer, Refusal};
use crate::transport::{self, Address, kcp};
use crate::wire;
use crate::wire::scp::{read_record, write_record};

pub use super::error::Error;
pub use super::stream::{Cutter, Stream};
pub use crate::crypto::Dialect;
pub use crate::proto::scp::FLAG_NO_ANNOUNCEMENT;

/// Settings of an scp session.
#[derive(Debug, Clone)]
pub struct Options {
    /// Addresses of the gateway, not empty.
    ///
    /// The first connection goes to the first address, each further connection to the next in turn.
    pub addresses: Vec<Address>,
    /// Host to be connected with; `None` leaves the choice to the gateway.
    pub target: Option<String>,
    /// Flags of the handshake, such as [`FLAG_NO_ANNOUNCEMENT`].
    pub flags: u32,
    /// Further lines of the handshake, for hooks.
    pub extra: Vec<String>,
    /// Dialect of the handshake.
    pub dialect: Dialect,
    /// Bytes sent on each connection before the handshake: a PROXY protocol header, or nothing.
    pub preface: Bytes,
    /// Time limit of a connect with its handshake.
    ///
    /// For a resume the limit is at most a quarter of the share of `resume_wait` that each address
    /// has.
    pub handshake_timeout: Duration,
    /// Time after which an unsuccessful resume is given up, and the session with it.
    pub resume_wait: Duration,
    /// Size of the replay buffer, bytes; half of that may be in flight.
    pub replay_buffer: usize,
    /// First and longest pause after a failed resume.
    ///
    /// The pause doubles with each failure, and is shortened at random by up to half. The first
    /// attempt comes without a pause.
    pub backoff: (Duration, Duration),
    /// Silence after which the system probes a TCP connection (keepalive); `None` for never.
    pub keepalive: Option<Duration>,
    /// Settings of KCP connections; error correction must match the gateway's.
    pub kcp: kcp::Config,
}

impl Options {
    /// Creates settings for one address, with the defaults of the original.
    pub fn new(address: Address) -> Self {
        Self {
            addresses: vec![address],
            target: None,
            flags: 0,
            extra: Vec::new(),
            dialect: Dialect::Current,
            preface: Bytes::new(),
            handshake_timeout: Duration::from_secs(30),
            resume_wait: Duration::from_secs(30),
            replay_buffer: 64 * 1024,
            backoff: (Duration::from_millis(50), Duration::from_secs(2)),
            keepalive: None,
            kcp: kcp_settings(),
        }
    }
}

impl Protocol for Options {
    type Ticket = Ticket;

    fn dialling(&self) -> Dialling {
        Dialling {
            addresses: self.addresses.clone(),
            handshake_timeout: self.handshake_timeout,
            resume_wait: self.resume_wait,
            kcp: self.kcp.clone(),
        }
    }

    async fn open(&self, connection: &mut transport::Stream) -> Result<Opened<Ticket>, Error> {
        let (request, hello) = Hello::new(
            rand::rng().random(),
            self.dialect,
            self.target.clone(),
            self.flags,
            &self.extra,
        );
        connection.keep_alive(self.keepalive)?;
        connection.write_all(&self.preface).await?;
        write_record(connection, request).await?;
        let response = NewResponse::parse(&read_record(connection).await?)?;
        let ticket = hello.answered(&response)?;
        let cipher = ticket.secret().cipher();
        Ok(Opened {
            id: ticket.id().into(),
            ticket,
            core: Core::new(Some(cipher.clone()), Some(cipher), self.replay_buffer),
        })
    }

    async fn resume(
        &self,
        ticket: &mut Ticket,
        connection: &mut transport::Stream,
        offer: &Offer<transport::Stream>,
    ) -> Result<u64, ResumeError> {
        connection.keep_alive(self.keepalive)?;
        connection.write_all(&self.preface).await?;
        write_record(connection, ticket.resume(offer.received())).await?;
        let response = ResumeResponse::parse(&read_record(connection).await?)?;
        let refusal = match response.code {
            Code::Ok => {
                let lost = || refused(Refusal::BytesLost, Code::NotAcceptable);
                return widen(response.received, offer.sent()).ok_or_else(lost);
            }
            code @ (Code::NetworkError | Code::Expired) => {
                return Err(Error::Refused(code.to_string()).into());
            }
            Code::NotFound => Refusal::UnknownSession,
            _ => Refusal::BytesLost,
        };
        Err(refused(refusal, response.code))
    }

    fn pause(&self, failures: u32) -> Duration {
        let (first, longest) = self.backoff;
        let doubled = first.saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
        doubled
            .min(longest)
            .mul_f64(rand::rng().random_range(0.5..1.0))
    }
}

fn refused(refusal: Refusal, code: Code) -> ResumeError {
    ResumeError::Refused(refusal, code.to_string())
}

impl From<wire::Error<scp::Error>> for Error {
    fn from(error: wire::Error<scp::Error>) -> Self {
        match error {
            wire::Error::Silent(error) | wire::Error::Io(error) => Self::Handshake(error),
            wire::Error::Protocol(error) => Self::Scp(error),
        }
    }
}
