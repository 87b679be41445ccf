//! Client of snet.
//!
//! ```
//! use stablegate::client::{Address, Stream, snet};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! # use stablegate::{Config, Gateway};
//! # #[tokio::main(flavor = "multi_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let config: Config = "
//! # listeners: [{name: game, bind: ['tcp://127.0.0.1:0'], session: snet}]
//! # hosts: [{name: echo, addr: 'builtin:echo'}]
//! # ".parse()?;
//! # let gateway = Gateway::builder(config).start().await?;
//! # let addrs = gateway.local_addrs().await;
//! # let gateway_address = format!("tcp://{}", addrs[0].1);
//!
//! let address: Address = gateway_address.parse()?;
//! let options = snet::Options {
//!     version: snet::Version::V1,
//!     ..snet::Options::new(address)
//! };
//! let mut session = Stream::connect(options).await?;
//! session.write_all(b"hello").await?;
//! let mut back = [0; 5];
//! session.read_exact(&mut back).await?;
//! assert_eq!(&back, b"hello");
//! # Ok(())
//! # }
//! ```

use std::io;
use std::time::Duration;

use rand::Rng;

use super::dial::kcp_settings;
use super::stream::{Dialling, Opened, Protocol, ResumeError};
use crate::proto::snet::client::{Hello, Ticket};
use crate::proto::snet::message::{Counts, NewResponse, ResumeResponse};
use crate::proto::snet::{self, server};
use crate::session::{Core, Offer, Refusal};
use crate::transport::{self, Address, kcp};
use crate::wire::snet::{read_response, write_message};

pub use super::error::Error;
pub use super::stream::{Cutter, Stream};
pub use crate::proto::snet::Version;

/// Settings of an snet session.
#[derive(Debug, Clone)]
pub struct Options {
    /// Addresses of the gateway, not empty.
    ///
    /// The first connection goes to the first address, each further connection to the next in turn.
    pub addresses: Vec<Address>,
    /// Version of the wire format.
    pub version: Version,
    /// Flag that payload is encrypted.
    ///
    /// This is not on the wire: the gateway must be set alike.
    pub encrypt: bool,
    /// Time limit of a connect with its handshake.
    ///
    /// For a resume the limit is at most a quarter of the share of `resume_wait` that each address
    /// has.
    pub handshake_timeout: Duration,
    /// Time after which an unsuccessful resume is given up, and the session with it.
    ///
    /// By default there is no limit but the gateway's, which refuses the session once it has given
    /// the session up.
    ///
    /// In version 1 a refusal is a closed connection, and three closed connections in a row count
    /// as a refusal. KCP cannot signal a close, so over KCP version 1 knows no refusal: set a
    /// limit.
    pub resume_wait: Duration,
    /// Size of the replay buffer, bytes; half of that may be in flight.
    pub replay_buffer: usize,
    /// Pause after a failed resume; the first attempt comes without one.
    pub retry: Duration,
    /// Settings of KCP connections; error correction must match the gateway's.
    pub kcp: kcp::Config,
}

impl Options {
    /// Creates settings for one address, version 2, encrypted, with the defaults of the original.
    pub fn new(address: Address) -> Self {
        Self {
            addresses: vec![address],
            version: Version::V2,
            encrypt: true,
            handshake_timeout: Duration::from_secs(10),
            resume_wait: Duration::MAX,
            replay_buffer: 64 * 1024,
            retry: Duration::from_secs(3),
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
        let (request, hello) = Hello::new(rand::rng().random(), self.version);
        write_message(connection, &request.to_bytes()).await?;
        let response = read_response(connection, self.version).await?;
        let response = NewResponse::parse(&response, self.version)?;
        // invariant: that many bytes are a response.
        let opened = hello.answered(&response.expect("a whole response"))?;
        if let Some(proof) = opened.proof {
            write_message(connection, &proof).await?;
        }
        Ok(Opened {
            id: opened.ticket.id(),
            ticket: opened.ticket,
            core: Core::new(
                self.encrypt.then_some(opened.incoming),
                self.encrypt.then_some(opened.outgoing),
                self.replay_buffer,
            ),
        })
    }

    async fn resume(
        &self,
        ticket: &mut Ticket,
        connection: &mut transport::Stream,
        offer: &Offer<transport::Stream>,
    ) -> Result<u64, ResumeError> {
        let ours = Counts {
            sent: offer.sent(),
            received: offer.received(),
        };
        write_message(connection, &ticket.resume(ours).to_bytes()).await?;
        let response = match read_response(connection, self.version).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(match self.version {
                    Version::V1 => ResumeError::Closed,
                    Version::V2 => error.into(),
                });
            }
            response => response?,
        };
        let response = match ResumeResponse::parse(&response, self.version) {
            Err(error @ snet::Error::Refused) => {
                let reason = error.to_string();
                return Err(ResumeError::Refused(Refusal::UnknownSession, reason));
            }
            // invariant: that many bytes are a response.
            response => response?.expect("a whole response"),
        };
        if !ours.fit(response.counts) {
            let reason = server::Refusal::NotAcceptable.to_string();
            return Err(ResumeError::Refused(Refusal::BytesLost, reason));
        }
        if let Some(proof) = ticket.prove(&response) {
            write_message(connection, &proof).await?;
        }
        Ok(response.counts.received)
    }

    fn pause(&self, _failures: u32) -> Duration {
        self.retry
    }
}
