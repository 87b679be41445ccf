//! HTTP server with bounded connections, of which one is always to be had.

use std::collections::VecDeque;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::time::writable;

/// Most connections at once; a further one takes the place of the oldest.
const CONNECTIONS: usize = 64;
/// Time limit for the head of a request, and for an idle connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit of a connection that others wait for. A probe sends its request at once.
const TURN: Duration = Duration::from_millis(500);
/// The longest head of a request, bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Pause when no connection can be accepted.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Accepts connections until `stop` is cancelled.
pub(super) async fn accept(
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
            // This connection has the last descriptor, which the next one needs.
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

/// Opens a spare descriptor, which is only there to be given up.
fn open_spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Answers the requests of one connection; without `keep_alive`, only the first.
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

/// Polls `serving` while the clock shows a date that can be written. Returns `None` if it does not.
///
/// Answers carry the date, and `serving` would panic.
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
