//! The baseline: one loop over a socket and the crate `kcp`, with lazy timers.

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use kcp::Kcp;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::outbox::Outbox;

const LONGEST: usize = 65_535;

struct Session {
    kcp: Kcp<Outbox>,
    outbox: Outbox,
    /// Echo that did not fit in the window.
    pending: Vec<u8>,
    due: u32,
    touched: bool,
}

pub fn serve(addr: SocketAddr) -> (SocketAddr, Pin<Box<dyn Future<Output = ()>>>) {
    let socket =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("an option");
    socket.set_recv_buffer_size(4 << 20).expect("a buffer");
    socket.set_send_buffer_size(4 << 20).expect("a buffer");
    socket.bind(&addr.into()).expect("a port");
    let socket = UdpSocket::from_std(socket.into()).expect("a runtime");
    let addr = socket.local_addr().expect("bound");
    (addr, Box::pin(run(socket)))
}

async fn run(socket: UdpSocket) {
    let state = UdpSocketState::new((&socket).into()).expect("a socket");
    let mut bytes = vec![0; BATCH_SIZE * LONGEST];
    let mut metas = [RecvMeta::default(); BATCH_SIZE];
    let mut sessions = HashMap::<SocketAddr, Session>::new();
    let mut scratch = vec![0; 64 * 1024];
    let epoch = Instant::now();
    loop {
        let now = epoch.elapsed().as_millis() as u32;
        let due = sessions.values().map(|session| session.due).min();
        let wait = Duration::from_millis(due.map_or(1_000, |due| due.saturating_sub(now)).into());
        let _ = tokio::time::timeout(wait, socket.readable()).await;
        let received = socket.try_io(Interest::READABLE, || {
            let mut chunks = bytes.chunks_mut(LONGEST);
            let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
                std::array::from_fn(|_| IoSliceMut::new(chunks.next().expect("enough")));
            state.recv((&socket).into(), &mut slices, &mut metas)
        });
        let now = epoch.elapsed().as_millis() as u32;
        let runs = metas.iter().zip(bytes.chunks(LONGEST));
        for (meta, bytes) in runs.take(received.unwrap_or(0)) {
            for datagram in bytes[..meta.len].chunks(meta.stride) {
                let conv = kcp::get_conv(datagram);
                let session = sessions
                    .entry(meta.addr)
                    .or_insert_with(|| Session::new(conv));
                if session.kcp.conv() != conv {
                    // Another client has got the port of one that is gone.
                    *session = Session::new(conv);
                }
                let _ = session.kcp.input(datagram);
                session.touched = true;
            }
        }
        for (peer, session) in &mut sessions {
            if session.touched || session.due <= now {
                session.attend(now, &mut scratch);
                send(&socket, &state, *peer, &session.outbox);
            }
        }
    }
}

impl Session {
    fn new(conv: u32) -> Self {
        let outbox = Outbox::default();
        let mut kcp = Kcp::new_stream(conv, outbox.clone());
        kcp.set_mtu(1400).expect("usable");
        kcp.set_wndsize(2048, 2048);
        kcp.set_nodelay(true, 10, 2, true);
        Self {
            kcp,
            outbox,
            pending: Vec::new(),
            due: 0,
            touched: false,
        }
    }

    fn attend(&mut self, now: u32, scratch: &mut [u8]) {
        let echoed = self.echo(scratch);
        self.kcp.update(now).expect("the outbox takes all");
        if echoed {
            self.kcp.flush().expect("the outbox takes all");
        }
        self.due = now + self.kcp.check(now).max(1);
        self.touched = false;
    }

    fn echo(&mut self, scratch: &mut [u8]) -> bool {
        let mut echoed = false;
        loop {
            if self.kcp.wait_snd() >= 2048 {
                return echoed;
            }
            if !self.pending.is_empty() {
                self.kcp.send(&self.pending).expect("room");
                self.pending.clear();
                echoed = true;
            }
            match self.kcp.recv(scratch) {
                Ok(len) if len > 0 => self.pending.extend_from_slice(&scratch[..len]),
                _ => return echoed,
            }
        }
    }
}

/// Sends what is in the outbox, runs of equal datagrams at once.
fn send(socket: &UdpSocket, state: &UdpSocketState, peer: SocketAddr, outbox: &Outbox) {
    let (bytes, ends) = &mut *outbox.0.borrow_mut();
    let mut at = 0;
    let mut start = 0;
    while at < ends.len() {
        let size = ends[at] - start;
        let mut end = ends[at];
        at += 1;
        while at < ends.len()
            && (end - start).is_multiple_of(size)
            && ends[at] - end <= size
            && ends[at] - start <= 65_000
        {
            end = ends[at];
            at += 1;
        }
        let transmit = Transmit {
            destination: peer,
            ecn: None,
            contents: &bytes[start..end],
            segment_size: Some(size),
            src_ip: None,
        };
        let _ = socket.try_io(Interest::WRITABLE, || {
            state.try_send(socket.into(), &transmit)
        });
        start = end;
    }
    bytes.clear();
    ends.clear();
}
