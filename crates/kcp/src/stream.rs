//! A session as a stream of bytes.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::Config;
use crate::counters::{FecStats, Stats};
use crate::driver::Driver;
use crate::session::{Phase, Session, State};
use crate::udp::Socket;

/// Reads and writes a KCP session as a stream of bytes.
///
/// KCP has no end of stream. So:
///
/// - A peer that is gone shows by silence only: reads fail with
///   [`TimedOut`](io::ErrorKind::TimedOut) when no data has come for the configured
///   `read_timeout`. If another session has taken its place behind the same address they fail with
///   [`ConnectionReset`](io::ErrorKind::ConnectionReset).
/// - Shutting the stream says nothing to the peer. Reads then go on until everything written is
///   acknowledged and the peer has been quiet for a second, and give an end of stream; if nothing
///   more is acknowledged for 15 s they fail with `TimedOut`.
/// - What was written when the stream is dropped is still delivered, until the peer has
///   acknowledged nothing more for 15 s.
///
/// Reading and writing are cancel safe. What a write takes is on its way, a flush waits for nothing.
pub struct Stream {
    session: Arc<Session>,
}

impl Stream {
    pub(super) fn new(session: Arc<Session>) -> Self {
        Self { session }
    }

    /// Connects to `peer` on a socket of its own. Nothing is sent before the first write,
    /// so nobody may be there; where the peer's system says so, reads and writes fail with
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused).
    ///
    /// Must be called within a runtime.
    ///
    /// # Errors
    /// Those of the system.
    pub fn connect(peer: SocketAddr, config: &Config) -> io::Result<Self> {
        let socket = Socket::connect(peer, config)?;
        let mut driver = Driver::dialling(socket);
        let session = driver.open(peer, rand::random(), config);
        tokio::spawn(driver);
        Ok(Self::new(session))
    }

    /// Returns the address of the peer.
    pub fn peer_addr(&self) -> SocketAddr {
        self.session.peer
    }

    /// Returns the address that the peer sends to.
    pub fn local_addr(&self) -> SocketAddr {
        self.session.local
    }

    /// Returns the number of the conversation.
    pub fn conv(&self) -> u32 {
        self.session.lock().kcp.conv()
    }

    /// Counts the bytes written, from the first that the peer has not acknowledged on.
    pub fn unacked(&self) -> usize {
        self.session.lock().kcp.unacked()
    }

    /// Returns the smoothed round-trip time, once there is one.
    pub fn round_trip(&self) -> Option<Duration> {
        let milliseconds = self.session.lock().kcp.round_trip()?;
        Some(Duration::from_millis(milliseconds.into()))
    }

    /// Resets the session: what it has not delivered yet never is. The peer is not told.
    pub fn reset(mut self) {
        self.abandon();
    }

    /// Abandons the session as [`reset`](Self::reset) does, but what has arrived can still be read.
    pub fn abandon(&mut self) {
        let mut state = self.session.lock();
        if !matches!(state.phase, Phase::Broken(_)) {
            state.phase = Phase::Reset;
            self.session.ask(state);
        }
    }

    /// Tells whether the session has ended, for whatever reason. There may still be bytes to read.
    pub fn is_broken(&self) -> bool {
        matches!(self.session.lock().phase, Phase::Broken(_))
    }

    /// Counts the bytes that have arrived in order and were not read.
    pub fn unread(&self) -> usize {
        self.session.lock().kcp.readable()
    }

    /// Returns what the session has counted.
    pub fn stats(&self) -> Stats {
        *self.session.lock().kcp.stats()
    }

    /// Returns what its forward error correction has counted, if that is on.
    pub fn fec_stats(&self) -> Option<FecStats> {
        self.session.lock().fec_stats().copied()
    }

    fn write(&mut self, cx: &mut Context<'_>, slices: &[&[u8]]) -> Poll<io::Result<usize>> {
        let mut state = self.session.lock();
        match state.phase {
            Phase::Open => {}
            Phase::Broken(kind) => return Poll::Ready(Err(kind.into())),
            _ => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
        // What is written leaves, and gets its timestamp, when the driver next looks.
        let now = match state.kcp.delays_writes() {
            true => self.session.clock().now(),
            false => state.now,
        };
        let now = state.timestamp(now);
        let mut taken = 0;
        for slice in slices {
            let len = state.kcp.write(slice, now);
            taken += len;
            if len < slice.len() {
                break;
            }
        }
        if taken == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            wait(&mut state.writer, cx);
            return Poll::Pending;
        }
        self.session.ask(state);
        Poll::Ready(Ok(taken))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.session.lock();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if state.kcp.readable() > 0 {
            copy(&mut state, buf);
            if state.kcp.must_tell_window() {
                self.session.ask(state);
            }
            return Poll::Ready(Ok(()));
        }
        match state.phase {
            Phase::Broken(kind) => Poll::Ready(Err(kind.into())),
            Phase::Eof => Poll::Ready(Ok(())),
            _ => {
                wait(&mut state.reader, cx);
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, &[bytes])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices {
            [first, second, ..] => self.write(cx, &[first, second]),
            [first] => self.write(cx, &[first]),
            [] => Poll::Ready(Ok(0)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.session.lock().phase {
            Phase::Broken(kind) => Poll::Ready(Err(kind.into())),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.session.lock();
        match state.phase {
            Phase::Broken(kind) => return Poll::Ready(Err(kind.into())),
            Phase::Open => {
                state.phase = Phase::Shut(self.session.clock().now());
                self.session.ask(state);
            }
            Phase::Shut(_) | Phase::Eof | Phase::Lingering(_) | Phase::Reset => {}
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.session.leave();
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream({} to {})", self.session.local, self.session.peer)
    }
}

fn copy(state: &mut MutexGuard<'_, State>, buf: &mut ReadBuf<'_>) {
    while buf.remaining() > 0 && state.kcp.readable() > 0 {
        let chunk = state.kcp.chunk();
        let len = chunk.len().min(buf.remaining());
        // invariant: `len` is its length at most.
        buf.put_slice(&chunk[..len]);
        state.kcp.consume(len);
    }
}

fn wait(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}
