//! TCP transport.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, sink};
use tokio::net::{TcpListener, TcpStream};

use crate::proto::proxy_header;
use crate::timer::IdleTimer;

const BACKLOG: i32 = 1024;
/// Bytes of a PROXY protocol header that are peeked at once; most headers are shorter.
const HEADER_STEP: usize = 256;

/// Settings of an accepted connection.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Silence after which the connection counts as broken; `None` for no limit.
    pub read_timeout: Option<Duration>,
    /// Silence after which the system probes the connection (keepalive); `None` for never.
    pub keepalive: Option<Duration>,
    /// Flag that small packets are sent at once (`TCP_NODELAY`).
    pub nodelay: bool,
}

/// TCP listener.
#[derive(Debug)]
pub struct Listener(TcpListener);

/// TCP connection with a limit on silence.
#[derive(Debug)]
pub struct Stream {
    inner: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    silence: Option<Box<IdleTimer>>,
}

/// Reason for which no PROXY protocol header was read.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The connection ended before its first byte.
    #[error(transparent)]
    Silent(io::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] proxy_header::Error),
}

impl Listener {
    /// Opens a listening socket.
    ///
    /// `receive_buffer` bounds the unread bytes that the system holds of each connection.
    pub fn bind(addr: SocketAddr, receive_buffer: Option<usize>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        if addr.is_ipv6() {
            // Allows another listener on the same port of IPv4.
            socket.set_only_v6(true)?;
        }
        if let Some(size) = receive_buffer {
            // Accepted connections inherit both.
            socket.set_recv_buffer_size(size)?;
            // Urgent bytes stay in the stream, as the peer counts them.
            socket.set_out_of_band_inline(true)?;
        }
        socket.bind(&addr.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into()).map(Self)
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Accepts the next connection.
    ///
    /// Cancel safe.
    pub async fn accept(&self) -> io::Result<Stream> {
        let (inner, peer) = self.0.accept().await?;
        Stream::new(inner, peer)
    }
}

impl Stream {
    fn new(inner: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            local: inner.local_addr()?,
            inner,
            peer,
            silence: None,
        })
    }

    /// Connects to an address.
    ///
    /// `receive_buffer` bounds the unread bytes that the system holds.
    pub async fn connect(addr: SocketAddr, receive_buffer: Option<u32>) -> io::Result<Self> {
        let socket = match addr {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        if let Some(size) = receive_buffer {
            socket.set_recv_buffer_size(size)?;
            SockRef::from(&socket).set_out_of_band_inline(true)?;
        }
        let inner = socket.connect(addr).await?;
        inner.set_nodelay(true)?;
        Self::new(inner, addr)
    }

    pub fn configure(&mut self, settings: &Settings) -> io::Result<()> {
        self.inner.set_nodelay(settings.nodelay)?;
        self.keep_alive(settings.keepalive)?;
        let silence = settings.read_timeout.map(IdleTimer::new);
        self.silence = silence.map(Box::new);
        Ok(())
    }

    /// Sets keepalive: the system probes the connection when it has been silent for `time`.
    pub fn keep_alive(&self, time: Option<Duration>) -> io::Result<()> {
        let Some(time) = time else {
            return Ok(());
        };
        let keepalive = TcpKeepalive::new().with_time(time).with_interval(time);
        SockRef::from(&self.inner).set_tcp_keepalive(&keepalive)
    }

    /// Reads a PROXY protocol header, and not a byte beyond it.
    ///
    /// Afterwards the addresses of this stream are those that the header names.
    pub async fn read_proxy_header(&mut self) -> Result<(), HeaderError> {
        let mut bytes = Vec::new();
        let header = loop {
            let mut step = [0; HEADER_STEP];
            let read = bytes.len();
            let len = match self.inner.peek(&mut step).await {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                peeked => peeked,
            };
            let len = len.map_err(|error| match bytes.is_empty() {
                true => HeaderError::Silent(error),
                false => HeaderError::Io(error),
            })?;
            // invariant: no more is read than there is room for.
            bytes.extend_from_slice(&step[..len]);
            let header = proxy_header::parse(&bytes)?;
            // All bytes of an incomplete header belong to it.
            let own = header.map_or(len, |header| len.min(header.len - read));
            // invariant: it is `len` at most.
            self.inner.read_exact(&mut step[..own]).await?;
            if let Some(header) = header {
                break (header, read + own);
            }
        };
        let (header, read) = header;
        let rest = (header.len - read) as u64;
        if rest > 0 {
            let mut rest_of_it = (&mut self.inner).take(rest);
            if tokio::io::copy(&mut rest_of_it, &mut sink()).await? < rest {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        if let Some(addresses) = header.addresses {
            (self.peer, self.local) = (addresses.client, addresses.server);
        }
        Ok(())
    }

    /// Resets the connection; undelivered bytes are dropped.
    pub fn reset(self) {
        // If this fails, the connection is closed in the ordinary way.
        let _ = SockRef::from(&self.inner).set_linger(Some(Duration::ZERO));
    }

    /// Returns the address of the peer, or of the client that its PROXY protocol header names.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Returns the smoothed round-trip time, if the system has measured one.
    pub fn round_trip(&self) -> Option<Duration> {
        // SAFETY: all of it may be zero.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut len = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the descriptor is open as long as `inner` lives, and no more than `len` bytes
        // are written to `info`.
        let result = unsafe {
            libc::getsockopt(
                self.inner.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut len,
            )
        };
        let known = result == 0 && info.tcpi_rtt > 0;
        known.then(|| Duration::from_micros(info.tcpi_rtt.into()))
    }

    /// Returns how many written bytes the peer's system has not acknowledged, sent or not.
    pub fn unacked(&self) -> usize {
        let mut queued: libc::c_int = 0;
        // SAFETY: the descriptor is open as long as `inner` lives, and TIOCOUTQ, which is
        // SIOCOUTQ, writes one int.
        let result = unsafe { libc::ioctl(self.inner.as_raw_fd(), libc::TIOCOUTQ, &mut queued) };
        if result == 0 {
            usize::try_from(queued).unwrap_or(0)
        } else {
            // Without an answer, count all bytes as undelivered.
            usize::MAX
        }
    }
}

impl Stream {
    /// Returns how many bytes have arrived and were not read, noticed by the runtime or not.
    pub fn unread(&self) -> usize {
        let mut len: libc::c_int = 0;
        // SAFETY: the descriptor is open as long as `inner` lives, and FIONREAD writes one int.
        let result = unsafe { libc::ioctl(self.inner.as_raw_fd(), libc::FIONREAD, &mut len) };
        // This does not fail on a connected socket.
        debug_assert_eq!(result, 0);
        usize::try_from(len).unwrap_or(0)
    }

    /// Half-closes the connection; bytes that have arrived can still be read.
    pub fn end(&self) {
        // This fails if the connection is already gone.
        let _ = SockRef::from(&self.inner).shutdown(Shutdown::Write);
    }

    /// Returns whether the peer has closed or reset the connection.
    ///
    /// There may still be bytes to read.
    pub fn is_broken(&self) -> bool {
        let mut state = libc::pollfd {
            fd: self.inner.as_raw_fd(),
            events: libc::POLLRDHUP,
            revents: 0,
        };
        // SAFETY: one initialised entry, whose descriptor is open as long as `inner` lives.
        unsafe { libc::poll(&mut state, 1, 0) > 0 }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.inner).poll_read(cx, buf);
        match &mut this.silence {
            None => result,
            Some(silence) if result.is_ready() => {
                silence.reset();
                result
            }
            Some(silence) => silence
                .poll(cx)
                .map(|()| Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::proxy_header::{encode_v1, encode_v2};
    use tokio::io::AsyncWriteExt;
    use tokio::task::yield_now;

    /// Returns how many bytes have arrived and were not read.
    fn waiting(socket: libc::c_int) -> libc::c_int {
        let mut len = 0;
        // SAFETY: FIONREAD writes one int.
        let result = unsafe { libc::ioctl(socket, libc::FIONREAD, &mut len) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        len
    }

    async fn pair() -> (TcpStream, Stream) {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        client.set_nodelay(true).unwrap();
        (client, listener.accept().await.unwrap())
    }

    #[tokio::test]
    async fn a_header_is_read_in_any_pieces_and_nothing_beyond() {
        let (client, server) = (
            "[2001:db8::1]:1".parse().unwrap(),
            "[2001:db8::2]:2".parse().unwrap(),
        );
        for header in [encode_v1(client, server), encode_v2(client, server)] {
            let whole = [&header[..], b"beyond"].concat();
            for cut in 1..whole.len() {
                let (mut far, mut near) = pair().await;
                let socket = near.inner.as_raw_fd();
                let reading = async {
                    near.read_proxy_header().await.unwrap();
                    near
                };
                let writing = async {
                    far.write_all(&whole[..cut]).await.unwrap();
                    // All of a part has been taken when it is looked at.
                    while cut < header.len() && waiting(socket) > 0 {
                        yield_now().await;
                    }
                    far.write_all(&whole[cut..]).await.unwrap();
                    far
                };
                let (mut near, far) = tokio::join!(reading, writing);
                assert_eq!((near.peer_addr(), near.local_addr()), (client, server));
                drop(far);
                let mut rest = Vec::new();
                near.read_to_end(&mut rest).await.unwrap();
                assert_eq!(rest, b"beyond", "{cut}");
            }
        }
    }

    #[tokio::test]
    async fn a_header_that_ends_early() {
        let header = encode_v2("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        for len in 0..header.len() {
            let (mut far, mut near) = pair().await;
            far.write_all(&header[..len]).await.unwrap();
            drop(far);
            let result = near.read_proxy_header().await;
            let ((Err(HeaderError::Io(error)), 1..) | (Err(HeaderError::Silent(error)), 0)) =
                (&result, len)
            else {
                panic!("{len} {result:?}");
            };
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{len}");
        }
    }

    /// Checks that bytes behind the addresses of a header are skipped, and no byte beyond the
    /// header.
    #[tokio::test]
    async fn what_a_header_may_have_behind_its_addresses_is_skipped() {
        let (client, server) = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let plain = encode_v2(client, server);
        for len in [13, 300, 5000, 65_535_u16] {
            let mut header = plain.clone();
            header[14..16].copy_from_slice(&len.to_be_bytes());
            header.resize(16 + usize::from(len), 7);
            let beyond = [&header, &b"beyond"[..]].concat();
            for (whole, is_whole) in [(&beyond[..], true), (&header[..header.len() - 1], false)] {
                let (mut far, mut near) = pair().await;
                let whole = whole.to_vec();
                let writing = tokio::spawn(async move { far.write_all(&whole).await });
                let result = near.read_proxy_header().await;
                if !is_whole {
                    assert!(matches!(result, Err(HeaderError::Io(_))), "{result:?}");
                    continue;
                }
                result.unwrap();
                assert_eq!((near.peer_addr(), near.local_addr()), (client, server));
                writing.await.unwrap().unwrap();
                let mut rest = Vec::new();
                near.read_to_end(&mut rest).await.unwrap();
                assert_eq!(rest, b"beyond", "{len}");
            }
        }
    }

    /// Checks that all bytes counted as unread can be read, urgent or not, after a close or a
    /// reset.
    #[tokio::test]
    async fn what_is_unread_is_counted_and_read() {
        for (urgent, reset) in [(false, false), (true, false), (false, true), (true, true)] {
            let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), Some(64 * 1024)).unwrap();
            let addr = listener.local_addr().unwrap();
            let mut far = TcpStream::connect(addr).await.unwrap();
            let mut near = listener.accept().await.unwrap();
            far.write_all(b"unread").await.unwrap();
            if urgent {
                SockRef::from(&far).send_out_of_band(b"!").unwrap();
                far.write_all(b"more").await.unwrap();
            }
            let len = if urgent { 11 } else { 6 };
            while near.unread() < len {
                yield_now().await;
            }
            if reset {
                SockRef::from(&far)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            }
            drop(far);
            while !near.is_broken() {
                yield_now().await;
            }
            assert_eq!(near.unread(), len);
            assert_eq!(near.write_all(b"too late").await.is_err(), reset);
            near.end();
            assert_eq!(near.unread(), len, "{urgent} {reset}");
            let mut bytes = vec![0; len];
            near.read_exact(&mut bytes).await.unwrap();
            assert!(bytes.starts_with(b"unread"));
            assert_eq!(near.unread(), 0);
        }
    }
}
