//! A chat through a fastway gateway: one server, two clients, all in this process. Runs to its end
//! by itself: `cargo run --example fastway_chat`.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use stablegate::client::fastway::{Connection, Endpoint, Options};
use stablegate::gateway::Gateway;
use tokio::net::TcpStream;
use tokio::sync::broadcast;

/// The chat server's id, which clients dial.
const CHAT: u32 = 1;

const CONFIG: &str = "
admin: ''
listeners:
  - {name: clients, bind: ['tcp://127.0.0.1:0'], session: plain, service: fastway-client}
  - {name: servers, bind: ['tcp://127.0.0.2:0'], session: plain, service: fastway-server}
fastway: {auth_key: chat key}";

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let config = std::env::temp_dir().join(format!("fastway_chat.{}.yaml", std::process::id()));
    std::fs::write(&config, CONFIG)?;
    let gateway = Gateway::from_file(&config).start().await?;
    let addrs = gateway.local_addrs().await;
    let addrs = addrs.iter().map(|(_, addr)| *addr);
    let (clients, servers): (Vec<_>, Vec<_>) = addrs.partition(|a| a.ip() == Ipv4Addr::LOCALHOST);
    let stream = TcpStream::connect(&*servers).await?;
    let server = Endpoint::server(stream, CHAT, b"chat key", Options::default()).await?;
    tokio::spawn(serve(server));

    let alice = join(&clients, "alice").await?;
    let bob = join(&clients, "bob").await?;
    println!("alice hears: {}", hear(&alice).await?);
    alice.send("hello, who is there?").await?;
    println!("bob hears:   {}", hear(&bob).await?);
    bob.send("only me").await?;
    println!("alice hears: {}", hear(&alice).await?);
    bob.close();
    println!("alice hears: {}", hear(&alice).await?);
    drop((alice, bob));

    gateway.shutdown().await;
    Ok(std::fs::remove_file(&config)?)
}

/// Enters the chat with a name.
async fn join(gateway: &[SocketAddr], name: &'static str) -> Result<Connection> {
    let client = Endpoint::client(TcpStream::connect(gateway).await?, Options::default());
    let connection = loop {
        match client.dial(CHAT).await {
            Ok(connection) => break connection,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    connection.send(name).await?;
    // Once welcomed, it hears all that is said.
    println!("{name} is told: {}", hear(&connection).await?);
    Ok(connection)
}

async fn hear(connection: &Connection) -> Result<String> {
    Ok(String::from_utf8(connection.receive().await?.to_vec())?)
}

/// Tells everyone what anyone says.
async fn serve(server: Endpoint) {
    let said = broadcast::Sender::<(u32, String)>::new(16);
    while let Ok(connection) = server.accept().await {
        tokio::spawn(talk(connection, said.clone()));
    }
}

async fn talk(member: Connection, said: broadcast::Sender<(u32, String)>) -> Result<()> {
    let name = hear(&member).await?;
    let mut heard = said.subscribe();
    let say = |what: &str| said.send((member.id(), format!("{name}{what}")));
    say(" is here")?;
    member.send(format!("welcome, {name}")).await?;
    loop {
        tokio::select! {
            line = hear(&member) => {
                say(&line.as_ref().map_or(" has left".to_owned(), |line| format!(": {line}")))?;
                line?;
            }
            Ok((from, line)) = heard.recv() => if from != member.id() {
                member.send(line).await?;
            },
        }
    }
}
