//! Sessions from end to end: the gateway's process between real sockets.

mod delivery;
mod handshake;
mod resume;
mod stopping;

use stablegate::internal::crypto::Dialect;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::common::{Gateway, Raw, Server, scp_to, soon};

/// So often a bystander is answered while something does not happen that would have by then.
const WHILE: u64 = 200;

async fn echo_gateway() -> Gateway {
    Gateway::start(&scp_to("builtin:echo", "")).await
}

/// A gateway to this server, and a session to the gateway itself that has all echoed.
async fn watched_gateway(server: &Server) -> (Gateway, Bystander) {
    let gateway = Gateway::start(&format!(
        "listeners: [{{name: game, bind: ['tcp://127.0.0.1:0'], session: scp}}]\n\
         hosts: [{{name: server, addr: '{}'}}, {{name: echo, addr: 'builtin:echo'}}]",
        server.addr
    ))
    .await;
    let bystander = Bystander::start(&gateway).await;
    (gateway, bystander)
}

/// A session that is answered again and again, so that others can be told to be held up without a
/// clock.
struct Bystander {
    answers: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Bystander {
    /// With the gateway's host `echo`.
    async fn start(gateway: &Gateway) -> Self {
        let mut session = Raw::open(gateway.addr(), Dialect::Current, "\necho").await;
        let (count, answers) = watch::channel(0);
        let task = tokio::spawn(async move {
            loop {
                session.echo("meanwhile").await;
                count.send_modify(|count| *count += 1);
            }
        });
        Self { answers, task }
    }

    /// What comes of a future, or nothing if the bystander is answered many times before it ends.
    async fn outlasts<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut answers = self.answers.clone();
        let enough = *answers.borrow() + WHILE;
        tokio::select! {
            output = future => Some(output),
            answered = soon("answers to a bystander", answers.wait_for(|now| *now >= enough)) => {
                answered.unwrap();
                None
            }
        }
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.task.abort();
    }
}
