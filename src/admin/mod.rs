//! The admin interface: what the gateway is doing, over HTTP, and the few things one can tell it.
//!
//! [`routes`] has what can be asked, [`guard`] who may ask. It never stands in the way of
//! sessions: there are at most [`CONNECTIONS`] connections at once, their requests must come in
//! time and are small, and answers are paged. Nor do those who keep connections, or a process
//! without descriptors, stand in its way: probes are always answered.

mod guard;
mod routes;
mod token;

use std::collections::VecDeque;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::gateway::{Gateway, writable};
use guard::Guard;
pub(crate) use token::Token;

/// Connections at once; a further one takes the place of the oldest.
const CONNECTIONS: usize = 64;
/// How long the head of a request may take, and how long a connection may idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may take that others wait for. A probe sends its request at once.
const TURN: Duration = Duration::from_millis(500);
/// The longest head of a request, bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Pause when no connection can be accepted.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// An open socket that nobody serves yet.
pub(crate) struct Socket {
    listener: TcpListener,
    addr: SocketAddr,
}

/// Serves until it is dropped; requests that have begun are still answered.
pub(crate) struct Server {
    _stop: DropGuard,
}

impl Socket {
    /// Must be called within a runtime.
    pub fn open(addr: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let addr = listener.local_addr()?;
        Ok(Self { listener, addr })
    }

    /// Answers for a gateway as long as that is there and `until` is not cancelled.
    pub fn serve(self, gateway: Weak<Gateway>, until: CancellationToken) -> Server {
        tracing::info!(addr = %self.addr, "admin interface open");
        let guard = Guard {
            gateway,
            is_exposed: !self.addr.ip().is_loopback(),
        };
        let service = TowerToHyperService::new(routes::router(guard));
        tokio::spawn(accept(self.listener, service, until.clone()));
        Server {
            _stop: until.drop_guard(),
        }
    }
}

/// Accepts connections until it is told to stop.
async fn accept(
    listener: TcpListener,
    service: TowerToHyperService<axum::Router>,
    stop: CancellationToken,
) {
    // In the order of their arrival.
    let mut live = VecDeque::<AbortHandle>::new();
    let mut spare = None;
    loop {
        spare = spare.or_else(open_spare);
        let accepting = poll_fn(|cx| poll_accept(&listener, &mut spare, cx));
        let Some(accepted) = stop.run_until_cancelled(accepting).await else {
            return;
        };
        let Ok(connection) = accepted else {
            sleep(EXHAUSTED).await;
            continue;
        };
        spare = spare.or_else(open_spare);
        let serving = serve(connection, service.clone(), stop.clone(), spare.is_some());
        if spare.is_none() {
            // It has the last descriptor, which the next one needs.
            let _ = timeout(TURN, serving).await;
            continue;
        }
        live.retain(|connection| !connection.is_finished());
        if live.len() >= CONNECTIONS
            && let Some(oldest) = live.pop_front()
        {
            oldest.abort();
        }
        live.push_back(tokio::spawn(serving).abort_handle());
    }
}

/// Accepts a connection, with the spare descriptor if there is no other.
fn poll_accept(
    listener: &TcpListener,
    spare: &mut Option<File>,
    cx: &mut Context<'_>,
) -> Poll<io::Result<TcpStream>> {
    let mut accepted = listener.poll_accept(cx);
    if let Poll::Ready(Err(_)) = accepted
        && spare.take().is_some()
    {
        accepted = listener.poll_accept(cx);
        if accepted.is_pending() {
            // Linux says that there is no descriptor even when there is no connection.
            *spare = open_spare();
        }
    }
    accepted.map_ok(|(connection, _)| connection)
}

/// A descriptor for no use but to be given up.
fn open_spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Answers the requests of one connection, or the first.
async fn serve(
    connection: TcpStream,
    service: TowerToHyperService<axum::Router>,
    stop: CancellationToken,
    keep_alive: bool,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .keep_alive(keep_alive)
        .max_buf_size(MAX_HEAD);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(connection), service));
    let ended = stop.run_until_cancelled(dated(serving.as_mut())).await;
    // How a connection ends is its client's affair.
    if ended.is_none() {
        serving.as_mut().graceful_shutdown();
        let _ = dated(serving).await;
    }
}

/// Polls what looks at the clock for the date of its answers, and panics where that cannot be
/// written. `None` if it cannot.
async fn dated<F: Future>(mut serving: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| {
        let now = SystemTime::now();
        if writable(now) == now {
            return serving.as_mut().poll(cx).map(Some);
        }
        let now = humantime::format_rfc3339_seconds(writable(now));
        tracing::warn!(clock = %now, "the clock is wrong, so the admin interface cannot answer");
        Poll::Ready(None)
    })
    .await
}

/// An answer that says what is wrong: `{"error": {"message": …}}`.
#[derive(Debug, Serialize)]
pub(crate) struct Problem {
    #[serde(skip)]
    status: StatusCode,
    error: Fault,
}

/// What is wrong, and where in which file if it is in one.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Fault {
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// From 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The key of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl Problem {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let error = Fault {
            message: message.into(),
            file: None,
            line: None,
            key: None,
        };
        Self { status, error }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = (status, Json(self)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
