//! An echo server, and a client that sends it what it reads.
//!
//! ```text
//! cargo run --example echo serve 127.0.0.1:4000
//! cargo run --example echo 127.0.0.1:4000
//! ```

use std::io;
use std::net::SocketAddr;

use stablegate_kcp::{Config, Listener, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["serve", addr] => serve(parse(addr)?).await,
        [addr] => talk(parse(addr)?).await,
        _ => Err(io::Error::other("usage: echo [serve] ADDRESS:PORT")),
    }
}

fn parse(addr: &str) -> io::Result<SocketAddr> {
    addr.parse().map_err(io::Error::other)
}

async fn serve(addr: SocketAddr) -> io::Result<()> {
    let listener = Listener::bind(addr, &Config::default())?;
    eprintln!("listening on {}", listener.local_addr());
    loop {
        let stream = listener.accept().await;
        tokio::spawn(async move {
            let peer = stream.peer_addr();
            let (mut from, mut to) = split(stream);
            // Silence ends it: KCP has no end of stream.
            let error = copy(&mut from, &mut to).await.err();
            eprintln!("{peer} is gone: {error:?}");
        });
    }
}

async fn talk(addr: SocketAddr) -> io::Result<()> {
    let mut stream = Stream::connect(addr, &Config::default())?;
    for line in io::stdin().lines() {
        let line = line? + "\n";
        stream.write_all(line.as_bytes()).await?;
        let mut answer = vec![0; line.len()];
        stream.read_exact(&mut answer).await?;
        print!("{}", String::from_utf8_lossy(&answer));
    }
    Ok(())
}
