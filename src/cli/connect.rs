//! `stablegate connect`

use std::future::pending;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, interval_at, timeout};

use crate::client::scp::{Cutter, Options, Stream};
use crate::crypto::Dialect;
use crate::transport::Address;

/// How long to go on reading when the input has ended: scp has no half-close, so nothing tells
/// that an answer was the last one.
const QUIET: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(super) struct Connect {
    /// The gateway: `host:port` or `tcp://host:port`. With several, each new connection goes to
    /// the next.
    #[arg(required = true)]
    addresses: Vec<Address>,
    /// The host to be connected with.
    #[arg(long)]
    target: Option<String>,
    /// Handshake flags; 1 keeps the client's address from the server.
    #[arg(long, default_value_t = 0)]
    flags: u32,
    /// A further line of the handshake, for hooks; may be repeated.
    #[arg(long)]
    extra: Vec<String>,
    /// Use the handshake of goscon before June 2017.
    #[arg(long)]
    legacy_hmac: bool,
    /// Break the connection under the session, again and again.
    #[arg(long, value_parser = super::duration)]
    cut_every: Option<Duration>,
}

pub(super) async fn run(arguments: Connect) -> anyhow::Result<()> {
    let first = arguments.addresses[0].clone();
    let stream = Stream::connect(Options {
        addresses: arguments.addresses,
        target: arguments.target,
        flags: arguments.flags,
        extra: arguments.extra,
        dialect: if arguments.legacy_hmac {
            Dialect::Legacy
        } else {
            Dialect::Current
        },
        ..Options::new(first)
    })
    .await?;
    eprintln!("connected, session {}", stream.id());
    let cutting = cut(stream.cutter(), arguments.cut_every);
    tokio::select! {
        result = talk(stream) => result,
        () = cutting => Ok(()),
    }
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

/// Copies both ways until the session ends, or the input has ended and no more answers come.
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
