//! Relay of bytes between a client and its upstream, in one task.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::upstream::Upstream;
use crate::gateway::live::{Client, Record};

/// Most bytes moved in one step.
///
/// The buffer is on the stack of the thread that runs the session, so that an idle session has
/// none.
const CHUNK: usize = 16 * 1024;

/// Relay between two streams, with what was read from one and not yet taken by the other.
pub(super) struct Relay {
    pub client: Client,
    pub upstream: Upstream,
    /// Time for which nothing may move once one side has closed.
    linger: Option<Duration>,
    half_closed: Option<Box<HalfClosed>>,
    to_upstream: BytesMut,
    to_client: BytesMut,
    upload: Direction,
    download: Direction,
    upstream_failed: Option<io::ErrorKind>,
    /// Bytes read from the client that the upstream did not take.
    pub unforwarded: u64,
    /// Bytes read from the client, peeked ones included.
    pub received: u64,
    /// Bytes read from the upstream.
    pub sent: u64,
}

/// Progress of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Open,
    /// The source has ended; what is left, and the end itself, are still to be passed on.
    Ending,
    Done,
}

/// State of a plain session of which one side has closed and the other has not.
struct HalfClosed {
    /// Counts as of when something last moved; `last` is that time.
    moved: Moved,
    last: Instant,
    /// Timer for the earliest moment the limit can have passed; it is reset only when it fires.
    timer: Pin<Box<Sleep>>,
}

/// Counts that differ whenever something has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moved {
    received: u64,
    sent: u64,
    /// Bytes read that the other side has not taken.
    waiting: usize,
    /// Bytes written that the systems of both peers have not acknowledged.
    unacked: usize,
}

/// Reason why a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides signalled that nothing follows.
    Closed,
    /// One side signalled that nothing follows, and nothing moved with the other for too long.
    HalfClosed,
    /// The upstream ended the session and the client got everything.
    UpstreamClosed,
    /// The upstream ended the session, but the client did not take the rest.
    Undelivered,
    /// The connection to the upstream broke.
    UpstreamFailed(io::ErrorKind),
    /// The client's connection broke, and the session was not resumed in time, if it could have
    /// been.
    ClientGone(io::ErrorKind),
}

impl Relay {
    /// Returns a relay between `client` and `upstream`.
    ///
    /// The upstream gets `first` before all else, of which the last `peeked` bytes are the
    /// client's. `linger` is how long a plain session may move nothing once one side has closed.
    pub fn new(
        client: Client,
        upstream: Upstream,
        first: BytesMut,
        peeked: usize,
        linger: Option<Duration>,
    ) -> Self {
        Self {
            client,
            upstream,
            linger,
            half_closed: None,
            to_upstream: first,
            to_client: BytesMut::new(),
            upload: Direction::Open,
            download: Direction::Open,
            upstream_failed: None,
            unforwarded: 0,
            received: peeked as u64,
            sent: 0,
        }
    }

    /// Moves bytes until the session has ended, and updates its record.
    pub async fn run(&mut self, record: &Record) -> End {
        let end = poll_fn(|cx| {
            let end = self.poll(cx);
            record.publish(self.received, self.sent, &self.client);
            end
        })
        .await;
        self.unforwarded += self.to_upstream.len() as u64;
        if end != End::Closed || matches!(self.client, Client::Plain(_)) {
            return self.upstream_failed.map_or(end, End::UpstreamFailed);
        }
        // A resumable session has no half-close: its upstream has ended it, but the client gets
        // the rest.
        let delivered = poll_fn(|cx| {
            let delivered = self.client.poll_finish(cx);
            record.publish(self.received, self.sent, &self.client);
            delivered
        })
        .await;
        match self.upstream_failed {
            _ if !delivered => End::Undelivered,
            Some(kind) => End::UpstreamFailed(kind),
            None => End::UpstreamClosed,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Poll::Ready(Err(end)) = self.poll_upload(cx) {
            return Poll::Ready(end);
        }
        if let Poll::Ready(Err(end)) = self.poll_download(cx) {
            return Poll::Ready(end);
        }
        let uploaded = self.upload == Direction::Done;
        let downloaded = self.download == Direction::Done;
        let is_plain = matches!(self.client, Client::Plain(_));
        if downloaded && (uploaded || !is_plain) {
            return Poll::Ready(End::Closed);
        }
        let is_half_closed = is_plain && uploaded != downloaded;
        if is_half_closed && self.poll_half_closed(cx).is_ready() {
            return Poll::Ready(End::HalfClosed);
        }
        // Reading drives the client; without a read it is driven here.
        let read = self.upload == Direction::Open && self.to_upstream.is_empty();
        if !read && self.client.poll_drive(cx).is_ready() {
            return Poll::Ready(End::ClientGone(io::ErrorKind::TimedOut));
        }
        Poll::Pending
    }

    /// Polls the limit of a half-closed session: ready when nothing has moved for too long.
    fn poll_half_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.linger else {
            return Poll::Pending;
        };
        let (moved, now) = (self.moved(), Instant::now());
        let half_closed = self.half_closed.get_or_insert_with(|| {
            Box::new(HalfClosed {
                moved,
                last: now,
                timer: Box::pin(sleep_until(now + limit)),
            })
        });
        if half_closed.moved != moved {
            (half_closed.moved, half_closed.last) = (moved, now);
        }
        while half_closed.timer.as_mut().poll(cx).is_ready() {
            let over = half_closed.last + limit;
            if over <= now {
                return Poll::Ready(());
            }
            half_closed.timer.as_mut().reset(over);
        }
        Poll::Pending
    }

    fn moved(&self) -> Moved {
        Moved {
            received: self.received,
            sent: self.sent,
            waiting: self.to_upstream.len() + self.to_client.len(),
            unacked: self
                .client
                .unacked()
                .saturating_add(self.upstream.unacked()),
        }
    }

    /// Moves bytes from client to upstream. Ready with `Ok` when nothing is left to do.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut space = [MaybeUninit::uninit(); CHUNK];
        loop {
            while !self.to_upstream.is_empty() {
                match ready!(Pin::new(&mut self.upstream).poll_write(cx, &self.to_upstream)) {
                    Ok(len) => self.to_upstream.advance(len),
                    Err(_) => return self.upstream_takes_no_more(),
                }
            }
            self.to_upstream = BytesMut::new();
            match self.upload {
                Direction::Done => return Poll::Ready(Ok(())),
                Direction::Ending => {
                    // If it fails the upstream is gone, which the next read from it reports.
                    let _ = ready!(Pin::new(&mut self.upstream).poll_shutdown(cx));
                    self.upload = Direction::Done;
                    continue;
                }
                Direction::Open => {}
            }
            // Has a resumable upstream send what it holds.
            let _ = Pin::new(&mut self.upstream).poll_flush(cx);
            let mut buf = ReadBuf::uninit(&mut space);
            match ready!(Pin::new(&mut self.client).poll_read(cx, &mut buf)) {
                Ok(()) if buf.filled().is_empty() => match self.client {
                    Client::Plain(_) => self.upload = Direction::Ending,
                    Client::Resumable(_) => {
                        return Poll::Ready(Err(End::ClientGone(io::ErrorKind::UnexpectedEof)));
                    }
                },
                Ok(()) => {
                    let bytes = buf.filled();
                    self.received += bytes.len() as u64;
                    let taken = match Pin::new(&mut self.upstream).poll_write(cx, bytes) {
                        Poll::Ready(Ok(len)) => len,
                        Poll::Ready(Err(_)) => {
                            self.unforwarded += bytes.len() as u64;
                            return self.upstream_takes_no_more();
                        }
                        Poll::Pending => 0,
                    };
                    // invariant: a stream takes no more than it is given.
                    self.to_upstream.extend_from_slice(&bytes[taken..]);
                }
                Err(error) => return Poll::Ready(Err(End::ClientGone(error.kind()))),
            }
        }
    }

    /// Ends the upload. What the upstream still sends is delivered; reading from it finds its end.
    fn upstream_takes_no_more(&mut self) -> Poll<Result<(), End>> {
        self.upload = Direction::Done;
        self.unforwarded += self.to_upstream.len() as u64;
        self.to_upstream = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Moves bytes from upstream to client. Ready with `Ok` when nothing is left to do.
    fn poll_download(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut space = [MaybeUninit::uninit(); CHUNK];
        loop {
            while !self.to_client.is_empty() {
                match ready!(Pin::new(&mut self.client).poll_write(cx, &self.to_client)) {
                    Ok(len) => self.to_client.advance(len),
                    Err(error) => return Poll::Ready(Err(End::ClientGone(error.kind()))),
                }
            }
            self.to_client = BytesMut::new();
            match self.download {
                Direction::Done => return Poll::Ready(Ok(())),
                Direction::Ending => {
                    if matches!(self.client, Client::Plain(_)) {
                        ready!(self.client.poll_finish(cx));
                    }
                    self.download = Direction::Done;
                    continue;
                }
                Direction::Open => {}
            }
            let room = match ready!(self.client.poll_room(cx)) {
                Ok(room) => room.min(CHUNK),
                Err(error) => return Poll::Ready(Err(End::ClientGone(error.kind()))),
            };
            // invariant: `room` is `CHUNK` at most.
            let mut buf = ReadBuf::uninit(&mut space[..room]);
            match ready!(Pin::new(&mut self.upstream).poll_read(cx, &mut buf)) {
                Ok(()) if buf.filled().is_empty() => self.download = Direction::Ending,
                Ok(()) => {
                    let bytes = buf.filled();
                    self.sent += bytes.len() as u64;
                    let taken = match Pin::new(&mut self.client).poll_write(cx, bytes) {
                        Poll::Ready(Ok(len)) => len,
                        Poll::Ready(Err(error)) => {
                            return Poll::Ready(Err(End::ClientGone(error.kind())));
                        }
                        Poll::Pending => 0,
                    };
                    // invariant: a stream takes no more than it is given.
                    self.to_client.extend_from_slice(&bytes[taken..]);
                }
                Err(error) => {
                    self.upstream_failed = Some(error.kind());
                    self.download = Direction::Ending;
                    let _ = self.upstream_takes_no_more();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::pin::pin;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::yield_now;
    use tokio::time::{advance, pause};

    use super::*;
    use crate::transport;
    use crate::transport::tcp;

    const LIMIT: Duration = Duration::from_secs(10);
    const ALMOST: Duration = Duration::from_millis(9_999);
    /// Number of tasks that run before the runtime has looked at its timers and sockets again.
    const TURNS: usize = 256;
    /// Margin for a timer, which is up to a millisecond late.
    const REST: Duration = Duration::from_millis(2);

    /// Relay with its two ends. The clock is paused: moving bytes takes no time.
    struct Stage {
        relay: Relay,
        client: TcpStream,
        server: TcpStream,
    }

    impl Stage {
        async fn new() -> Self {
            let local = (Ipv4Addr::LOCALHOST, 0).into();
            let near = tcp::Listener::bind(local, None).unwrap();
            let client = TcpStream::connect(near.local_addr().unwrap())
                .await
                .unwrap();
            let far = TcpListener::bind(local).await.unwrap();
            let upstream = tcp::Stream::connect(far.local_addr().unwrap(), None)
                .await
                .unwrap();
            let relay = Relay::new(
                Client::Plain(transport::Stream::Tcp(near.accept().await.unwrap())),
                Upstream::Tcp(upstream),
                BytesMut::new(),
                0,
                Some(LIMIT),
            );
            let (server, _) = far.accept().await.unwrap();
            pause();
            // The paused clock does not advance while a task has something to do.
            tokio::spawn(async {
                loop {
                    yield_now().await;
                }
            });
            Self {
                relay,
                client,
                server,
            }
        }

        /// Polls the relay until it ends, or until the runtime has looked at its timers.
        async fn poll(&mut self) -> Poll<End> {
            for _ in 0..TURNS {
                let polled = poll_fn(|cx| Poll::Ready(self.relay.poll(cx))).await;
                if polled.is_ready() {
                    return polled;
                }
                yield_now().await;
            }
            Poll::Pending
        }

        /// Runs the relay until `future` is done; the relay must not end before.
        async fn until<T>(relay: &mut Relay, future: impl Future<Output = T>) -> T {
            let mut future = pin!(future);
            poll_fn(|cx| {
                assert_eq!(relay.poll(cx), Poll::Pending);
                future.as_mut().poll(cx)
            })
            .await
        }
    }

    /// Checks how long one side may be silent once the other has closed.
    async fn one_side_alone(server_closes: bool) {
        let mut stage = Stage::new().await;
        let Stage {
            relay,
            client,
            server,
        } = &mut stage;
        let (closing, other) = match server_closes {
            true => (server, client),
            false => (client, server),
        };
        // While both are open nothing limits them.
        advance(100 * LIMIT).await;
        Stage::until(relay, yield_now()).await;
        closing.shutdown().await.unwrap();
        assert_eq!(Stage::until(relay, other.read(&mut [0])).await.unwrap(), 0);
        // Slow, but it moves.
        for _ in 0..5 {
            advance(ALMOST).await;
            other.write_all(b"x").await.unwrap();
            Stage::until(relay, closing.read_exact(&mut [0]))
                .await
                .unwrap();
        }
        // The system takes its time to acknowledge the last of it.
        while relay.moved().unacked > 0 {
            Stage::until(relay, yield_now()).await;
        }
        Stage::until(relay, yield_now()).await;
        advance(ALMOST).await;
        assert_eq!(stage.poll().await, Poll::Pending);
        advance(REST).await;
        assert_eq!(stage.poll().await, Poll::Ready(End::HalfClosed));
    }

    #[tokio::test]
    async fn a_client_whose_server_has_closed() {
        one_side_alone(true).await;
    }

    #[tokio::test]
    async fn a_server_whose_client_has_closed() {
        one_side_alone(false).await;
    }

    /// Checks that bytes which the client takes from the gateway's system count as moved.
    #[tokio::test]
    async fn what_the_client_takes_from_the_system_moves() {
        let mut stage = Stage::new().await;
        let Stage {
            relay,
            client,
            server,
        } = &mut stage;
        let sent = vec![7; 1 << 20];
        let sending = async {
            server.write_all(&sent).await.unwrap();
            server.shutdown().await.unwrap();
        };
        Stage::until(relay, sending).await;
        let mut got = 0;
        let mut buffer = vec![0; 1024];
        while got < sent.len() {
            advance(ALMOST).await;
            let before = relay.moved();
            while got < sent.len() && relay.moved() == before {
                let len = Stage::until(relay, client.read(&mut buffer)).await.unwrap();
                assert_ne!(len, 0, "the end after {got} bytes");
                got += len;
            }
        }
        // The last of it may have moved since it was looked at, and no more.
        let mut end = Poll::Pending;
        for _ in 0..3 {
            advance(LIMIT).await;
            end = stage.poll().await;
            if end.is_ready() {
                break;
            }
        }
        assert_eq!(end, Poll::Ready(End::HalfClosed));
    }
}
