//! The client's end of snet.
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

/// What to dial, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the gateway is. The first connection goes to the first address, each further one to
    /// the next in turn. Not empty.
    pub addresses: Vec<Address>,
    /// The version that is spoken.
    pub version: Version,
    /// Whether payload is encrypted. Nothing on the wire says so: the gateway must be set alike.
    pub encrypt: bool,
    /// Limit of one connect with its handshake. One that is to come back has no more than the share
    /// of its address of `resume_wait`.
    pub handshake_timeout: Duration,
    /// How long to try to come back before the session is given up. By default there is no limit
    /// but the gateway's: when that has given the session up it refuses it.
    ///
    /// In version 1 a refusal is a closed connection, and three of those in a row are taken for
    /// one. Over KCP, which has no way to say that a connection is closed, version 1 knows no
    /// refusal: set a limit.
    pub resume_wait: Duration,
    /// Bytes kept to be sent again; half of that may be in flight.
    pub replay_buffer: usize,
    /// The pause after a failed try to come back. The first try comes without one.
    pub retry: Duration,
    /// What connections over KCP are made with. Error correction must be as the gateway has it.
    pub kcp: kcp::Config,
}

impl Options {
    /// One address, version 2, encrypted, and the defaults of the original.
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
