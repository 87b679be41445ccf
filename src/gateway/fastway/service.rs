//! Physical connections, from their handshake to their end.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::dial::Dialler;
use super::end::End;
use super::peer::Physical;
use super::switchboard::{Remote, emit};
use crate::config::diff::BindKey;
use crate::config::{self, Fastway as Settings};
use crate::gateway::gate::Permit;
use crate::gateway::generation::Generation;
use crate::gateway::live::{Account, Client, Registration, account, run};
use crate::gateway::state::{State, TableGuard};
use crate::hooks::chain::{Chain, HookContext};
use crate::hooks::{Attrs, Fastway, SessionInfo};
use crate::proto::fastway::queue::{Bounds, Pool};
use crate::proto::fastway::{Decoder, Identity, auth};
use crate::wire::fastway::{FramedLink, Outbox};

/// Size of one read from a client, which sends little, and from a server, which sends much; bytes.
const CLIENT_READ: usize = 4 * 1024;
const SERVER_READ: usize = 64 * 1024;

/// Session whose bytes are frames, with what decides about it.
pub(in crate::gateway) struct Service<'a> {
    pub state: &'a Arc<State>,
    pub generation: &'a Arc<Generation>,
    pub listener: &'a config::Listener,
    pub key: &'a BindKey,
    pub chain: &'a Chain,
    pub info: SessionInfo,
    pub registration: Registration,
}

/// Outcome of an endpoint that has left: what it moved and why it ended.
struct Served {
    endpoint: Option<u32>,
    received: u64,
    sent: u64,
    resumes: u64,
    end: End,
}

impl Service<'_> {
    /// Serves an endpoint to its end, logs the end and tells the hooks.
    pub async fn run(self, mut client: Client, permit: Permit, guard: Option<TableGuard>) {
        let started = Instant::now();
        let state = self.state;
        let record = self.registration.record().clone();
        let mut subject = HookContext {
            info: Arc::new(self.info.clone()),
            attrs: Attrs::new(),
            trace: Some(record.trace.clone()),
        };
        // Boxed and dropped before the connection idles.
        let entering = Box::pin(self.enter(&mut client, &mut subject));
        let entered = run(&state.shutdown, &record, entering).await;
        let served = match entered.unwrap_or_else(|stopped| Err(End::Stopped(stopped))) {
            Ok(server_id) => self.serve(client, &subject, server_id).await,
            Err(end) => Served {
                endpoint: None,
                received: 0,
                sent: 0,
                resumes: client.resumes(),
                end,
            },
        };
        let account = Account {
            service: account::Service::Fastway {
                endpoint: served.endpoint,
            },
            received: served.received,
            sent: served.sent,
            resumes: served.resumes,
            duration: started.elapsed(),
            reason: served.end.label(),
            detail: served.end.to_string(),
        };
        // Whoever reads of the end may rely on there being room, and on the session being gone.
        drop((permit, guard));
        Box::pin(account.close(self.chain, &mut subject, &record)).await;
    }

    /// Decides whether the endpoint may join. Returns the id of a server, `None` for a client.
    async fn enter(
        &self,
        client: &mut Client,
        subject: &mut HookContext,
    ) -> Result<Option<u32>, End> {
        let settings = &self.listener.fastway;
        let mut server_id = None;
        if self.listener.service == config::Service::FastwayServer {
            let handshake = authenticate(client, settings.auth_key.as_bytes());
            let id = timeout(settings.auth_timeout, handshake)
                .await
                .map_err(|_| End::LateHandshake)??;
            server_id = Some(id);
        }
        let mut info = self.info.clone();
        info.fastway = Some(Fastway {
            server_id,
            dial: None,
        });
        subject.info = Arc::new(info);
        self.registration.record().story().info = subject.info.clone();
        // The endpoint may lose its connection and come back meanwhile.
        let access = client.drive(self.chain.access(subject)).await;
        access.ok_or(End::Left)?.map_err(End::Denied)?;
        Ok(server_id)
    }

    async fn serve(&self, client: Client, subject: &HookContext, server_id: Option<u32>) -> Served {
        let settings = &self.listener.fastway;
        let (state, info) = (self.state, &subject.info);
        let switchboard = &state.environment.fastway;
        let (identity, bounds, read_size) = terms(settings, server_id, &switchboard.pool);
        let remote = Arc::new(Remote {
            outbox: Outbox::new(bounds),
            room: Arc::default(),
            addr: info.client_addr,
        });
        let (peer, id) =
            switchboard
                .hub()
                .join(identity, remote.clone(), &mut emit(&state.connections));
        tracing::info!(
            id = info.id,
            endpoint = id,
            listener = self.listener.name,
            client = %info.client_addr,
            "endpoint joined"
        );
        let dialler = Dialler {
            state: state.clone(),
            generation: self.generation.clone(),
            key: self.key.clone(),
            info: info.clone(),
        };
        let link = FramedLink::new(client, Decoder::new(settings.max_packet as u32, read_size));
        let mut physical = Physical::new(link, remote, peer, dialler, settings);
        let record = self.registration.record();
        record.story().endpoint = Some(id);
        let serving = async {
            let mut serve = async || {
                poll_fn(|cx| {
                    let end = physical.poll(cx);
                    let link = &mut physical.link;
                    record.publish(link.received, link.sent, link.stream_mut());
                    end
                })
                .await
            };
            let end = match state.draining.run_until_cancelled(serve()).await {
                Some(end) => end,
                // From here on the endpoint ends when it has no virtual connections left.
                None => serve().await,
            };
            if matches!(end, End::Drained) {
                physical.finish().await;
            }
            end
        };
        let end = {
            let serving = pin!(serving);
            let served = run(&state.shutdown, record, serving).await;
            served.unwrap_or_else(End::Stopped)
        };
        physical.leave();
        Served {
            endpoint: Some(id),
            received: physical.link.received,
            sent: physical.link.sent,
            resumes: physical.link.stream_mut().resumes(),
            end,
        }
    }
}

/// Returns what an endpoint joins as, the bounds of its outbox, and the size of one read.
fn terms(
    settings: &Settings,
    server_id: Option<u32>,
    pool: &Arc<Pool>,
) -> (Identity, Bounds, usize) {
    let bounds = |chunks, bytes| Bounds {
        chunks,
        bytes,
        pool: pool.clone(),
        pool_bytes: settings.queue_memory,
    };
    match server_id {
        Some(id) => {
            let version = settings.server_version;
            let identity = Identity::Server { version, id };
            let bounds = bounds(settings.server_queue, settings.server_queue_bytes);
            (identity, bounds, SERVER_READ)
        }
        None => {
            let identity = Identity::Client {
                version: settings.client_version,
                max_connections: settings.max_virtual_connections,
            };
            let bounds = bounds(settings.client_queue, settings.client_queue_bytes);
            (identity, bounds, CLIENT_READ)
        }
    }
}

/// Runs the handshake of a server and returns its id.
async fn authenticate(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    key: &[u8],
) -> Result<u32, End> {
    let challenge: auth::Challenge = rand::random();
    let mut answer = [0; auth::ANSWER_LEN];
    let asking = async {
        stream.write_all(&challenge).await?;
        stream.flush().await?;
        stream.read_exact(&mut answer).await
    };
    asking.await.map_err(|error| End::of(&error))?;
    auth::verify(&challenge, key, &answer).ok_or(End::Unauthorized)
}
