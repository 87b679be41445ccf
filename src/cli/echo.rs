//! Command `stablegate echo`.

use std::net::SocketAddr;

use tokio::net::TcpListener;

#[derive(clap::Args)]
pub(super) struct Echo {
    /// Where to listen.
    #[arg(default_value = "127.0.0.1:9000")]
    addr: SocketAddr,
}

pub(super) async fn run(arguments: Echo) -> anyhow::Result<()> {
    let listener = TcpListener::bind(arguments.addr).await?;
    tracing::info!(addr = %listener.local_addr()?, "listening");
    loop {
        let (mut connection, client) = listener.accept().await?;
        tracing::info!(%client, "connected");
        tokio::spawn(async move {
            let (mut from, mut to) = connection.split();
            let result = tokio::io::copy(&mut from, &mut to).await;
            let error = result.as_ref().err().map(tracing::field::display);
            tracing::info!(%client, bytes = result.as_ref().ok(), error, "closed");
        });
    }
}
