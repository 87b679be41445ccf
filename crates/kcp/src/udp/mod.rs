//! UDP sockets as KCP wants them.

mod outbox;
mod send;

pub(crate) use outbox::{Outbox, Path};

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::task::{Context, Poll, ready};

use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::config::Config;

/// Bytes of the longest thing one system call receives: as much as a datagram's length can say.
const LONGEST: usize = 65_535;

/// A socket that sends and receives runs of datagrams.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Registered for reading alone: it would be reported as writable each time that a datagram
    /// has left, and the loop woken for nothing.
    inner: AsyncFd<RawSocket>,
    /// The same socket, registered for writing while its buffer is full.
    full: Option<AsyncFd<OwnedFd>>,
    state: UdpSocketState,
    local: SocketAddr,
}

/// Space for what one system call receives. What is never used takes no memory.
#[derive(Debug)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    metas: Vec<RecvMeta>,
    /// Bytes of a run, on the average of late.
    average: usize,
}

impl Inbox {
    /// For up to `runs` runs of datagrams.
    pub fn new(runs: usize) -> Self {
        Self {
            bytes: vec![0; runs * LONGEST],
            metas: vec![RecvMeta::default(); runs],
            average: 0,
        }
    }

    /// How many runs to receive next: about as many as fill one. More of them would be out of the
    /// processor's cache again by the time that they are read, answered and sent.
    fn appetite(&self) -> usize {
        (LONGEST / self.average.max(1)).clamp(1, self.metas.len())
    }

    /// Learns from the first `count` runs how long they are.
    fn note(&mut self, count: usize) {
        // invariant: no more are received than there are places.
        for meta in &self.metas[..count] {
            self.average = (15 * self.average + meta.len) / 16;
        }
    }

    /// The first `count` runs.
    pub fn runs(&self, count: usize) -> impl Iterator<Item = (&RecvMeta, &[u8])> {
        let runs = self.metas.iter().zip(self.bytes.chunks(LONGEST));
        runs.take(count)
            // invariant: the bytes come in pieces of `LONGEST`.
            .map(|(meta, bytes)| (meta, &bytes[..meta.len.min(LONGEST)]))
    }
}

impl Socket {
    /// Opens the sockets of a bind, all on the same port.
    ///
    /// # Errors
    /// Those of the system; also if anybody else has a socket there, even one that would share it.
    pub fn bind(addr: SocketAddr, config: &Config) -> io::Result<Vec<Self>> {
        let count = match config.reuseport {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count.into(),
        };
        let first = open(addr)?;
        first.bind(&addr.into())?;
        // Only now: had it been willing to share before, it would have joined strangers there.
        first.set_reuse_port(true)?;
        let mut sockets = vec![Self::new(first, config)?];
        let addr = sockets[0].local;
        for _ in 1..count {
            let further = open(addr)?;
            further.set_reuse_port(true)?;
            further.bind(&addr.into())?;
            sockets.push(Self::new(further, config)?);
        }
        Ok(sockets)
    }

    /// Opens a socket that sends to and receives from `peer` alone.
    pub fn connect(peer: SocketAddr, config: &Config) -> io::Result<Self> {
        let socket = open(peer)?;
        socket.connect(&peer.into())?;
        Self::new(socket, config)
    }

    fn new(socket: RawSocket, config: &Config) -> io::Result<Self> {
        set_buffer(
            &socket,
            libc::SO_RCVBUFFORCE,
            config.read_buffer,
            RawSocket::set_recv_buffer_size,
        )?;
        set_buffer(
            &socket,
            libc::SO_SNDBUFFORCE,
            config.write_buffer,
            RawSocket::set_send_buffer_size,
        )?;
        let local = socket.local_addr()?.as_socket();
        let local = local.ok_or(io::ErrorKind::Unsupported)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let socket = Self {
            inner: watch(socket, Interest::READABLE)?,
            full: None,
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
            let mut ready = ready!(self.inner.poll_read_ready(cx))?;
            let most = inbox.appetite();
            let mut slices = inbox.bytes.chunks_mut(LONGEST);
            let mut slices: [IoSliceMut<'_>; quinn_udp::BATCH_SIZE] =
                std::array::from_fn(|_| IoSliceMut::new(slices.next().unwrap_or_default()));
            let socket = UdpSockRef::from(self.inner.get_ref());
            let result = self
                .state
                // invariant: `most` is the number of metas, which is that of slices.
                .recv(socket, &mut slices[..most], &mut inbox.metas);
            match result {
                Ok(count) => {
                    inbox.note(count);
                    if count < most {
                        // It is empty, which a further call would only say again. What comes from
                        // now on makes it readable anew.
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Sends the first runs and gives their number. An error says that the first is lost, wholly
    /// or in part.
    pub fn poll_send(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<io::Result<usize>> {
        loop {
            if let Some(full) = &self.full {
                let _ = ready!(full.poll_write_ready(cx))?;
                self.full = None;
            }
            match send::send(self.inner.as_raw_fd(), outbox.runs()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.await_room()?;
                }
                Err(error) if is_refused_run(&error) => {
                    return Poll::Ready(self.send_singly(outbox, error));
                }
                result => return Poll::Ready(result),
            }
        }
    }

    /// Has sending wait until there is room in the socket's buffer.
    fn await_room(&mut self) -> io::Result<()> {
        let socket = self.inner.get_ref().as_fd().try_clone_to_owned()?;
        self.full = Some(watch(socket, Interest::WRITABLE)?);
        Ok(())
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
        set(self.inner.get_ref(), level, option, value)
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

fn watch<S: AsFd + AsRawFd>(socket: S, interest: Interest) -> io::Result<AsyncFd<S>> {
    // SAFETY: it is given what owns its descriptor, which no kind of socket here ever changes.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn long_runs_are_received_one_at_a_time() {
        let mut inbox = Inbox::new(8);
        let mut receive = |len: usize, calls: usize| {
            for _ in 0..calls {
                let count = inbox.appetite();
                inbox.metas[..count].iter_mut().for_each(|it| it.len = len);
                inbox.note(count);
            }
            inbox.appetite()
        };
        assert_eq!(receive(100, 0), 8, "nothing is known yet");
        assert_eq!(receive(60_000, 20), 1);
        assert_eq!(
            receive(100, 1),
            1,
            "one acknowledgement does not change that"
        );
        assert_eq!(receive(100, 100), 8);
        assert_eq!(receive(20_000, 100), 3);
    }

    #[tokio::test]
    async fn sends_once_there_is_room() {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config {
            reuseport: 1,
            ..Config::default()
        };
        let receiver = Socket::bind(local, &config).unwrap().remove(0);
        let mut sender = Socket::connect(receiver.local_addr(), &config).unwrap();
        let mut outbox = Outbox::new();
        let mut inbox = Inbox::new(1);
        // Nothing fills a socket to the host itself, which takes everything at once.
        for text in ["one", "two"] {
            let path = Path {
                peer: receiver.local_addr(),
                from: None,
            };
            outbox.push(text.as_bytes(), path);
            sender.await_room().unwrap();
            let sent = poll_fn(|cx| sender.poll_send(cx, &outbox)).await;
            outbox.advance(sent.unwrap());
            let received = poll_fn(|cx| receiver.poll_receive(cx, &mut inbox)).await;
            let (meta, bytes) = inbox.runs(received.unwrap()).next().unwrap();
            assert_eq!((meta.addr, bytes), (sender.local_addr(), text.as_bytes()));
        }
        assert!(outbox.is_empty() && sender.full.is_none());
    }
}
