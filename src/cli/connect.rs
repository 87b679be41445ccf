//! Command `stablegate connect`.

use std::future::pending;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, interval_at, timeout};

use crate::client::{Cutter, Stream, kcp, kcp_settings, scp, snet};
use crate::crypto::Dialect;
use crate::proto::snet::Version;
use crate::transport::Address;

/// Time to go on reading when the input has ended.
///
/// No session protocol has a half-close, so nothing tells that an answer was the last one.
const QUIET: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(super) struct Connect {
    /// The gateway: `host:port`, `tcp://host:port` or `kcp://host:port`. With several, each new
    /// connection goes to the next, whatever its transport.
    #[arg(required = true)]
    addresses: Vec<Address>,
    /// The session protocol: `scp`, or `snet`, which may be followed by `,v1` for its first
    /// version and `,plain` for no encryption.
    #[arg(long, default_value = "scp")]
    session: Session,
    /// The host to be connected with. Only scp can ask for one.
    #[arg(long)]
    target: Option<String>,
    /// Handshake flags of scp; 1 keeps the client's address from the server.
    #[arg(long)]
    flags: Option<u32>,
    /// A further line of the handshake of scp, for hooks; may be repeated.
    #[arg(long)]
    extra: Vec<String>,
    /// Use the handshake of goscon before June 2017.
    #[arg(long)]
    legacy_hmac: bool,
    /// Over KCP, add error correction: as the gateway has it, fec_data/fec_parity such as 10/3.
    #[arg(long, value_parser = fec)]
    fec: Option<(usize, usize)>,
    /// Break the connection under the session, again and again.
    #[arg(long, value_parser = super::duration)]
    cut_every: Option<Duration>,
}

/// Session protocol that is spoken to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    Scp,
    Snet { version: Version, encrypt: bool },
}

impl FromStr for Session {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, rest) = text.split_once(',').unwrap_or((text, ""));
        let options = rest.split(',').filter(|option| !option.is_empty());
        match protocol {
            "scp" if rest.is_empty() => Ok(Self::Scp),
            "snet" => {
                let (mut version, mut encrypt) = (Version::V2, true);
                for option in options {
                    match option {
                        "v1" => version = Version::V1,
                        "plain" => encrypt = false,
                        _ => return Err(format!("snet has no option `{option}`")),
                    }
                }
                Ok(Self::Snet { version, encrypt })
            }
            _ => Err("write scp, snet or snet,v1,plain".to_owned()),
        }
    }
}

pub(super) async fn run(arguments: Connect) -> anyhow::Result<()> {
    let stream = connect(arguments.session, &arguments).await?;
    eprintln!("connected, session {}", stream.id());
    let cutting = cut(stream.cutter(), arguments.cut_every);
    tokio::select! {
        result = talk(stream) => result,
        () = cutting => Ok(()),
    }
}

async fn connect(session: Session, arguments: &Connect) -> anyhow::Result<Stream> {
    let addresses = arguments.addresses.clone();
    let first = addresses[0].clone();
    // Without data or parity there is no error correction.
    let fec = arguments.fec;
    let kcp = kcp::Config {
        fec: fec.and_then(|(data, parity)| kcp::fec::Shape::new(data, parity).ok()),
        ..kcp_settings()
    };
    let stream = match session {
        Session::Scp => {
            Stream::connect(scp::Options {
                addresses,
                target: arguments.target.clone(),
                flags: arguments.flags.unwrap_or_default(),
                extra: arguments.extra.clone(),
                dialect: if arguments.legacy_hmac {
                    Dialect::Legacy
                } else {
                    Dialect::Current
                },
                kcp,
                ..scp::Options::new(first)
            })
            .await
        }
        Session::Snet { version, encrypt } => {
            anyhow::ensure!(
                arguments.target.is_none()
                    && arguments.flags.is_none()
                    && arguments.extra.is_empty()
                    && !arguments.legacy_hmac,
                "--target, --flags, --extra and --legacy-hmac go with --session scp"
            );
            Stream::connect(snet::Options {
                addresses,
                version,
                encrypt,
                kcp,
                ..snet::Options::new(first)
            })
            .await
        }
    };
    // The error's message contains its causes.
    stream.map_err(anyhow::Error::msg)
}

/// Reads `data/parity`.
fn fec(text: &str) -> Result<(usize, usize), String> {
    let number = |text: &str| text.parse().ok().filter(|number| *number <= 128);
    text.split_once('/')
        .and_then(|(data, parity)| Some((number(data)?, number(parity)?)))
        .ok_or_else(|| "write it like 10/3, both at most 128".to_owned())
}

async fn cut(cutter: Cutter, every: Option<Duration>) {
    let Some(period) = every else {
        return pending().await;
    };
    let mut ticks = interval_at(Instant::now() + period, period);
    loop {
        ticks.tick().await;
        eprintln!("-- cutting the connection");
        cutter.cut();
    }
}

/// Copies both ways until the session ends, or until the input has ended and no more answers come.
async fn talk(stream: Stream) -> anyhow::Result<()> {
    let (mut from, mut to) = tokio::io::split(stream);
    let (ended, mut input_ended) = tokio::sync::oneshot::channel();
    let sending = tokio::spawn(async move {
        let result = match tokio::io::copy(&mut tokio::io::stdin(), &mut to).await {
            Ok(_) => to.shutdown().await,
            Err(error) => Err(error),
        };
        let _ = ended.send(());
        result
    });
    let mut output = tokio::io::stdout();
    let mut buffer = vec![0; 16 * 1024];
    let mut last = false;
    loop {
        let reading = from.read(&mut buffer);
        let read = if last {
            match timeout(QUIET, reading).await {
                Ok(read) => read,
                Err(_) => break,
            }
        } else {
            tokio::select! {
                read = reading => read,
                _ = &mut input_ended => {
                    last = true;
                    continue;
                }
            }
        };
        match read.context("the session was lost")? {
            0 => {
                eprintln!("the gateway closed the session");
                return Ok(());
            }
            len => {
                output.write_all(&buffer[..len]).await?;
                output.flush().await?;
            }
        }
    }
    sending.await?.context("the session was lost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_as_they_are_written() {
        let snet = |version, encrypt| Ok(Session::Snet { version, encrypt });
        for (text, session) in [
            ("scp", Ok(Session::Scp)),
            ("snet", snet(Version::V2, true)),
            ("snet,v1", snet(Version::V1, true)),
            ("snet,plain", snet(Version::V2, false)),
            ("snet,plain,v1", snet(Version::V1, false)),
        ] {
            assert_eq!(text.parse::<Session>(), session);
        }
        for text in ["", "scp,v1", "snet,v3", "tcp"] {
            assert!(text.parse::<Session>().is_err(), "{text:?}");
        }
    }
}
