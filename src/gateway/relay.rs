//! The proxy service: bytes to and fro between a client and its upstream, in one task.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client::Client;
use super::upstream::Upstream;

/// The most moved in one step. The space lies on the stack of the thread that happens to run the
/// session, so that an idle session has none.
const CHUNK: usize = 16 * 1024;

/// Two streams, and what was read from one but not yet taken by the other.
pub(super) struct Relay {
    pub client: Client,
    pub upstream: Upstream,
    to_upstream: BytesMut,
    to_client: BytesMut,
    upload: Direction,
    download: Direction,
    upstream_failed: Option<io::ErrorKind>,
    /// Bytes read from the client that the upstream did not take any more.
    pub unforwarded: u64,
    /// Bytes read from the client, peeked ones included.
    pub received: u64,
    /// Bytes read from the upstream.
    pub sent: u64,
}

/// How far one direction got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Open,
    /// The source has ended; what is left and the end itself are to be passed on.
    Ending,
    Done,
}

/// Why a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Both sides said that nothing follows.
    Closed,
    /// The upstream ended the session and the client got everything.
    UpstreamClosed,
    /// The upstream ended the session, but the client did not come for the rest.
    Undelivered,
    /// The connection to the upstream broke.
    UpstreamFailed(io::ErrorKind),
    /// The client's connection broke, and it did not come back in time if it could have.
    ClientGone(io::ErrorKind),
}

impl Relay {
    /// `first` is what the upstream gets first, of which the last `peeked` bytes are the client's.
    pub fn new(client: Client, upstream: Upstream, first: BytesMut, peeked: usize) -> Self {
        Self {
            client,
            upstream,
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

    /// Moves bytes until the session has ended.
    pub async fn run(&mut self) -> End {
        let end = poll_fn(|cx| self.poll(cx)).await;
        self.unforwarded += self.to_upstream.len() as u64;
        if end != End::Closed || matches!(self.client, Client::Plain(_)) {
            return self.upstream_failed.map_or(end, End::UpstreamFailed);
        }
        // A resumable session has no half-close: its upstream has ended it, but the client gets
        // the rest.
        let delivered = poll_fn(|cx| self.client.poll_finish(cx)).await;
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
        let ended = match self.client {
            Client::Plain(_) => self.upload == Direction::Done,
            Client::Resumable(_) => true,
        };
        if ended && self.download == Direction::Done {
            return Poll::Ready(End::Closed);
        }
        // A client that is read is attended to by that.
        let read = self.upload == Direction::Open && self.to_upstream.is_empty();
        if !read && self.client.poll_attend(cx).is_ready() {
            return Poll::Ready(End::ClientGone(io::ErrorKind::TimedOut));
        }
        Poll::Pending
    }

    /// Client to upstream. Ready with `Ok` when nothing is left to do.
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
                    // If it fails the upstream is gone, which reading from it tells.
                    let _ = ready!(Pin::new(&mut self.upstream).poll_shutdown(cx));
                    self.upload = Direction::Done;
                    continue;
                }
                Direction::Open => {}
            }
            // A resuming upstream sends on what it holds.
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
                    self.to_upstream.extend_from_slice(&bytes[taken..]);
                }
                Err(error) => return Poll::Ready(Err(End::ClientGone(error.kind()))),
            }
        }
    }

    /// What the upstream has still sent is delivered; reading it finds the end.
    fn upstream_takes_no_more(&mut self) -> Poll<Result<(), End>> {
        self.upload = Direction::Done;
        self.unforwarded += self.to_upstream.len() as u64;
        self.to_upstream = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// Upstream to client. Ready with `Ok` when nothing is left to do.
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
