//! UDP sockets as KCP wants them.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, ready};

use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket as RawSocket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::outbox::Outbox;
use super::send;
use crate::config::Kcp;

/// Bytes of the longest thing one system call receives: as much as a datagram's length can say.
const LONGEST: usize = 65_535;

/// A socket that sends and receives runs of datagrams.
#[derive(Debug)]
pub(super) struct Socket {
    inner: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
}

/// Space for what one system call receives. What is never used takes no memory.
#[derive(Debug)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    metas: Vec<RecvMeta>,
}

impl Inbox {
    /// For up to `runs` runs of datagrams.
    pub fn new(runs: usize) -> Self {
        Self {
            bytes: vec![0; runs * LONGEST],
            metas: vec![RecvMeta::default(); runs],
        }
    }

    /// The first `count` runs.
    pub fn runs(&self, count: usize) -> impl Iterator<Item = (&RecvMeta, &[u8])> {
        let runs = self.metas.iter().zip(self.bytes.chunks(LONGEST));
        runs.take(count)
            .map(|(meta, bytes)| (meta, &bytes[..meta.len.min(LONGEST)]))
    }
}

impl Socket {
    /// Opens the sockets of a bind, all on the same port.
    ///
    /// # Errors
    /// Those of the system; also if anybody else has a socket there, even one that would share it.
    pub fn bind(addr: SocketAddr, settings: &Kcp) -> io::Result<Vec<Self>> {
        let count = match settings.reuseport {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count.into(),
        };
        let first = open(addr)?;
        first.bind(&addr.into())?;
        // Only now: had it been willing to share before, it would have joined strangers there.
        first.set_reuse_port(true)?;
        let mut sockets = vec![Self::new(first, settings)?];
        let addr = sockets[0].local;
        for _ in 1..count {
            let further = open(addr)?;
            further.set_reuse_port(true)?;
            further.bind(&addr.into())?;
            sockets.push(Self::new(further, settings)?);
        }
        Ok(sockets)
    }

    /// Opens a socket that sends to and receives from `peer` alone.
    pub fn connect(peer: SocketAddr, settings: &Kcp) -> io::Result<Self> {
        let socket = open(peer)?;
        socket.connect(&peer.into())?;
        Self::new(socket, settings)
    }

    fn new(socket: RawSocket, settings: &Kcp) -> io::Result<Self> {
        set_buffer(
            &socket,
            libc::SO_RCVBUFFORCE,
            settings.read_buffer,
            RawSocket::set_recv_buffer_size,
        )?;
        set_buffer(
            &socket,
            libc::SO_SNDBUFFORCE,
            settings.write_buffer,
            RawSocket::set_send_buffer_size,
        )?;
        let inner = UdpSocket::from_std(socket.into())?;
        let local = inner.local_addr()?;
        let state = UdpSocketState::new(UdpSockRef::from(&inner))?;
        let socket = Self {
            inner,
            state,
            local,
        };
        socket.reset_options()?;
        Ok(socket)
    }

    /// Turns off again what QUIC wants and KCP does not.
    fn reset_options(&self) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 0)?;
        // Nobody looks for the path's limit here: a datagram that is too long for it had better
        // be cut on its way than be lost time and again.
        match self.local {
            SocketAddr::V4(_) => {
                self.set(
                    libc::IPPROTO_IP,
                    libc::IP_MTU_DISCOVER,
                    libc::IP_PMTUDISC_OMIT,
                )?;
                self.set(libc::IPPROTO_IP, libc::IP_RECVTOS, 0)?;
                if !self.has_many_addresses() {
                    self.set(libc::IPPROTO_IP, libc::IP_PKTINFO, 0)?;
                }
            }
            SocketAddr::V6(_) => {
                self.set(
                    libc::IPPROTO_IPV6,
                    libc::IPV6_MTU_DISCOVER,
                    libc::IPV6_PMTUDISC_WANT,
                )?;
                self.set(libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 0)?;
                self.set(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 0)?;
                if !self.has_many_addresses() {
                    self.set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 0)?;
                }
            }
        }
        Ok(())
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Whether a reply has to say which address it comes from.
    pub fn has_many_addresses(&self) -> bool {
        self.local.ip().is_unspecified()
    }

    /// How many datagrams one call sends.
    pub fn longest_run(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Receives as many runs as there are and as fit, and gives their number. An error is that of
    /// one datagram.
    pub fn poll_receive(&self, cx: &mut Context<'_>, inbox: &mut Inbox) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.inner.poll_recv_ready(cx))?;
            let mut received = 0;
            let most = inbox.metas.len();
            let result = self.inner.try_io(Interest::READABLE, || {
                let mut slices = inbox.bytes.chunks_mut(LONGEST);
                let mut slices: [IoSliceMut<'_>; quinn_udp::BATCH_SIZE] =
                    std::array::from_fn(|_| IoSliceMut::new(slices.next().unwrap_or_default()));
                let socket = UdpSockRef::from(&self.inner);
                received = self
                    .state
                    .recv(socket, &mut slices[..most], &mut inbox.metas)?;
                if received < most {
                    // It is empty, which a further call would only say again. What comes from now
                    // on makes it readable anew.
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(())
            });
            match result {
                Ok(()) => return Poll::Ready(Ok(received)),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                Err(_) if received > 0 => return Poll::Ready(Ok(received)),
                Err(_) => {}
            }
        }
    }

    /// Sends the first runs and gives their number. An error says that the first is lost, wholly
    /// or in part.
    pub fn poll_send(&self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<io::Result<usize>> {
        let descriptor = self.inner.as_raw_fd();
        loop {
            let sending = || send::send(descriptor, outbox.runs());
            match self.inner.try_io(Interest::WRITABLE, sending) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.inner.poll_send_ready(cx))?;
                }
                Err(error) if is_refused_run(&error) => {
                    return Poll::Ready(self.send_singly(outbox, error));
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// Sends the first run datagram by datagram: it was too long for the interface to be sent as
    /// one, or that cannot be done at all.
    fn send_singly(&self, outbox: &Outbox, error: io::Error) -> io::Result<usize> {
        let Some((run, bytes)) = outbox.runs().next() else {
            return Ok(0);
        };
        if bytes.len() <= run.size {
            return Err(error);
        }
        for datagram in bytes.chunks(run.size) {
            send::send(self.inner.as_raw_fd(), std::iter::once((run, datagram)))?;
        }
        Ok(1)
    }

    fn set(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        set(&SockRef::from(&self.inner), level, option, value)
    }
}

fn open(addr: SocketAddr) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if addr.is_ipv6() {
        // Beside a socket on the same port of IPv4.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Sets a buffer's size: beyond the limit of the system if this process may, or else as far as
/// that goes.
fn set_buffer(
    socket: &RawSocket,
    force: i32,
    size: usize,
    ask: impl FnOnce(&RawSocket, usize) -> io::Result<()>,
) -> io::Result<()> {
    let forced = i32::try_from(size)
        .map_err(io::Error::other)
        .and_then(|size| set(socket, libc::SOL_SOCKET, force, size));
    forced.or_else(|_| ask(socket, size))
}

fn set(socket: &RawSocket, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as `socket` lives, and all options set here are ints.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn is_refused_run(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE)
    )
}
