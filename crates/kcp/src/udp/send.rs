//! Sending many runs of datagrams with one system call.
//!
//! quinn-udp, which does the receiving, sends one run per call and sets a traffic class with each.
//! For small datagrams to many peers the calls are what costs: this took 7 % off a small message.

use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::net::IpAddr;
use std::os::fd::RawFd;

use socket2::SockAddr;

use super::outbox::Run;

/// Runs per call, at most.
pub(super) const BATCH: usize = 32;

/// Bytes of control messages: a segment size and a source address.
const CONTROL: usize = 80;

/// Where the kernel wants control messages to begin.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control([u8; CONTROL]);

/// Sends the first runs and gives their number, at least one. An error is that of the first.
pub(super) fn send<'a>(
    socket: RawFd,
    runs: impl Iterator<Item = (&'a Run, &'a [u8])>,
) -> io::Result<usize> {
    let mut peers = [const { MaybeUninit::<SockAddr>::uninit() }; BATCH];
    let mut slices = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; BATCH];
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
    let mut count = 0;
    for (run, bytes) in runs.take(BATCH) {
        // invariant: `count` is below `BATCH`, of which there are as many of each.
        let peer = peers[count].write(SockAddr::from(run.path.peer));
        let slice = slices[count].write(libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        });
        // SAFETY: all of its fields are numbers and pointers, which may be zero.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_name = peer.as_ptr().cast_mut().cast();
        header.msg_namelen = peer.len();
        header.msg_iov = slice;
        header.msg_iovlen = 1;
        let segment = (bytes.len() > run.size).then_some(run.size as u16);
        if segment.is_some() || run.path.from.is_some() {
            // invariant: the same.
            let control = controls[count].write(Control([0; CONTROL]));
            header.msg_control = control.0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL;
            header.msg_controllen = fill(&header, segment, run.path.from);
        }
        // invariant: the same.
        messages[count].write(libc::mmsghdr {
            msg_hdr: header,
            msg_len: 0,
        });
        count += 1;
    }
    // SAFETY: the first `count` messages are set, and so is all that they point to, which outlives
    // the call; the kernel only reads what is sent.
    let sent = unsafe { libc::sendmmsg(socket, messages.as_mut_ptr().cast(), count as u32, 0) };
    match usize::try_from(sent) {
        Ok(sent) => Ok(sent),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Puts control messages into the space that `header` has for them, and gives their length.
fn fill(header: &libc::msghdr, segment: Option<u16>, from: Option<IpAddr>) -> usize {
    let mut used = 0;
    // SAFETY: there are CONTROL bytes, aligned, zeroed, and enough for a segment size and the
    // longer of the two kinds of address; each value is written where its message's data lies.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        let mut put = |level, kind, value: *const u8, len: usize| {
            (*next).cmsg_level = level;
            (*next).cmsg_type = kind;
            (*next).cmsg_len = libc::CMSG_LEN(len as u32) as _;
            std::ptr::copy_nonoverlapping(value, libc::CMSG_DATA(next), len);
            used += libc::CMSG_SPACE(len as u32) as usize;
            next = libc::CMSG_NXTHDR(header, next);
        };
        if let Some(segment) = segment {
            let value = (&raw const segment).cast();
            put(libc::SOL_UDP, libc::UDP_SEGMENT, value, size_of::<u16>());
        }
        match from {
            Some(IpAddr::V4(ip)) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr {
                        s_addr: u32::from_ne_bytes(ip.octets()),
                    },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                let value = (&raw const info).cast();
                put(
                    libc::IPPROTO_IP,
                    libc::IP_PKTINFO,
                    value,
                    size_of_val(&info),
                );
            }
            Some(IpAddr::V6(ip)) => {
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr {
                        s6_addr: ip.octets(),
                    },
                    ipi6_ifindex: 0,
                };
                let value = (&raw const info).cast();
                put(
                    libc::IPPROTO_IPV6,
                    libc::IPV6_PKTINFO,
                    value,
                    size_of_val(&info),
                );
            }
            None => {}
        }
    }
    used
}
