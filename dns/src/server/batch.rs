//! Datagrams by the batch: one system call receives what waits, one sends the answers.
//!
//! The only module of this tree with `unsafe`, because the two calls work on arrays of headers that point into buffers,
//! and pointing anew before each call is what a batch is there to save. The memory is made once and pointed into from then
//! on. What was received is read, and what is to be sent is written, by safe code.
#![allow(unsafe_code, reason = "recvmmsg and sendmmsg over headers that are prepared once")]
#![allow(clippy::unnecessary_cast, reason = "lengths in the headers have other types in other C libraries")]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::{self, NonNull};

use nix::libc::{self, c_uint, c_void, iovec, mmsghdr};

use super::Reply;

/// Datagrams of one batch. Beyond some thirty, a system call is a small part of what each of them costs, while answers
/// wait for the last one of their batch.
pub(crate) const BATCH: usize = 32;
/// Longest query that is read: as long as the answers may be that we offer to take part in (1232), and an odd number of
/// cache lines, so that the first lines of all buffers do not compete for the same few places of the cache. A longer
/// one is cut, and then it is malformed.
const QUERY_ROOM: usize = 1344;
/// Room for the longest socket address that a datagram comes from, `sockaddr_in6`.
const NAME_ROOM: usize = 28;
/// Room for one control message that says where a datagram was sent to: 16 bytes of header and at most 20 of address.
const CONTROL_ROOM: usize = 48;
/// Offset of what a control message says, behind its header.
const CONTROL_HEAD: usize = size_of::<libc::cmsghdr>();

/// Whether each datagram says which address it was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// The socket has one address: it need not.
    One,
    /// The socket has all addresses: an answer has to go out from the one asked.
    All,
}

/// The address that a query was sent to, from which the answer goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SentTo {
    /// The one the socket is bound to.
    Bound,
    V4(Ipv4Addr),
    /// With the index of the interface, which link-local addresses need; else 0.
    V6(Ipv6Addr, u32),
}

/// One datagram that was received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet<'a> {
    pub(crate) query: &'a [u8],
    pub(crate) source: SocketAddr,
    pub(crate) sent_to: SentTo,
}

/// How many replies the system took, and how many it did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) taken: u64,
    pub(crate) failed: u64,
}

/// What the system calls point into. `received[i]` points to `names[i]`, `controls[i]` and, through `parts_in[i]`, to
/// `queries[i]` for as long as the memory lives. Every bit pattern is a value of each field.
struct Memory {
    received: [mmsghdr; BATCH],
    sending: [mmsghdr; BATCH],
    parts_in: [iovec; BATCH],
    parts_out: [iovec; BATCH],
    names: [Name; BATCH],
    controls: [Control; BATCH],
    queries: [[u8; QUERY_ROOM]; BATCH],
}

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Name([u8; NAME_ROOM]);

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_ROOM]);

/// The buffers of one worker, used by one thread.
pub(crate) struct Batch {
    /// From `Box::into_raw`, so that moving the batch moves nothing that is pointed to.
    memory: NonNull<Memory>,
    /// One for each answer; they grow to the longest datagram that is ever sent, and stay.
    replies: Vec<Vec<u8>>,
    control_room: usize,
    received: usize,
    ready: usize,
}

impl Batch {
    /// Buffers for a socket of this kind.
    pub(crate) fn new(door: Door) -> Self {
        // SAFETY: all fields of `Memory` are integers, raw pointers, or arrays of them, for which zero is a value.
        let memory: Box<Memory> = unsafe { Box::new_zeroed().assume_init() };
        let memory = NonNull::from(Box::leak(memory));
        let control_room = match door {
            Door::One => 0,
            Door::All => CONTROL_ROOM,
        };
        let at = memory.as_ptr();
        for i in 0..BATCH {
            // SAFETY: `at` is valid, aligned and ours alone, and `i` is within its arrays. The pointers that are stored
            // come from `at` itself, not from a reference, so that later references do not make them invalid.
            unsafe {
                (*at).parts_in[i].iov_base = (&raw mut (*at).queries[i]).cast::<c_void>();
                (*at).parts_in[i].iov_len = QUERY_ROOM;
                let header = &raw mut (*at).received[i].msg_hdr;
                (*header).msg_name = (&raw mut (*at).names[i]).cast::<c_void>();
                (*header).msg_namelen = NAME_ROOM as _;
                (*header).msg_iov = &raw mut (*at).parts_in[i];
                (*header).msg_iovlen = 1;
                (*header).msg_control = (&raw mut (*at).controls[i]).cast::<c_void>();
                (*header).msg_controllen = control_room as _;
                let header = &raw mut (*at).sending[i].msg_hdr;
                (*header).msg_iov = &raw mut (*at).parts_out[i];
                (*header).msg_iovlen = 1;
            }
        }
        Self { memory, replies: vec![Vec::new(); BATCH], control_room, received: 0, ready: 0 }
    }

    /// Waits for a datagram, and takes what waits behind it as well. Nothing may have come in spite of `Ok`.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let (before, room) = (self.received, self.control_room);
        // The kernel wrote over the lengths of what it used.
        for header in &mut self.memory().received[..before] {
            header.msg_hdr.msg_namelen = NAME_ROOM as _;
            header.msg_hdr.msg_controllen = room as _;
        }
        self.received = 0;
        let received = &raw mut self.memory().received;
        // SAFETY: the headers point to memory that lives as long as `self`, is as long as they say, and is borrowed by
        // nobody while `self` is borrowed mutably. No more than `BATCH` are written.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                received.cast(),
                BATCH as c_uint,
                libc::MSG_WAITFORONE as _,
                ptr::null_mut(),
            )
        };
        match usize::try_from(got) {
            Ok(got) => self.received = got.min(BATCH),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// How many datagrams wait for an answer.
    pub(crate) fn len(&self) -> usize {
        self.received
    }

    /// Hands each datagram to `answer`, with the emptied buffer that the reply to it is to be written to.
    pub(crate) fn answer_each(&mut self, mut answer: impl FnMut(Packet<'_>, &mut Vec<u8>) -> Reply) {
        let received = self.received;
        self.ready = 0;
        // SAFETY: the memory is valid and initialized, and reached through `self` alone, which is borrowed mutably.
        let memory = unsafe { self.memory.as_mut() };
        for i in 0..received {
            let header = memory.received[i].msg_hdr;
            let Some(source) = memory.names[i].addr(header.msg_namelen as usize) else { continue };
            let query = &memory.queries[i][..(memory.received[i].msg_len as usize).min(QUERY_ROOM)];
            let sent_to = memory.controls[i].turn(header.msg_controllen as usize);
            let reply = &mut self.replies[self.ready];
            reply.clear();
            if answer(Packet { query, source, sent_to }, reply) != Reply::Send {
                continue;
            }
            let answer = &mut memory.sending[self.ready].msg_hdr;
            answer.msg_name = header.msg_name;
            answer.msg_namelen = header.msg_namelen;
            (answer.msg_control, answer.msg_controllen) = match sent_to {
                SentTo::Bound => (ptr::null_mut(), 0),
                SentTo::V4(_) | SentTo::V6(..) => (header.msg_control, header.msg_controllen),
            };
            self.ready += 1;
        }
    }

    /// Sends all replies, without waiting for a system that does not take them.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>) -> Sent {
        let ready = std::mem::take(&mut self.ready);
        for i in 0..ready {
            let (base, len) = (self.replies[i].as_mut_ptr(), self.replies[i].len());
            let part = &mut self.memory().parts_out[i];
            part.iov_base = base.cast::<c_void>();
            part.iov_len = len;
        }
        let (mut sent, mut failed) = (0, 0);
        while sent < ready {
            let rest = &raw mut self.memory().sending[sent..ready];
            // SAFETY: the headers `sent..ready` were set by `answer_each` to names and controls in our memory, and above
            // to replies, which `self` owns; nothing of it is changed before the call returns.
            let done = unsafe {
                libc::sendmmsg(socket.as_raw_fd(), rest.cast(), (ready - sent) as c_uint, libc::MSG_DONTWAIT as _)
            };
            match usize::try_from(done) {
                Ok(done) if done > 0 => sent += done,
                _ if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                // The first of the rest cannot be sent; those behind it may.
                _ => {
                    failed += 1;
                    sent += 1;
                }
            }
        }
        Sent { taken: ready as u64 - failed, failed }
    }

    fn memory(&mut self) -> &mut Memory {
        // SAFETY: the memory is valid and initialized, and reached through `self` alone, which is borrowed mutably.
        unsafe { self.memory.as_mut() }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: the pointer comes from a box, and is not used again.
        drop(unsafe { Box::from_raw(self.memory.as_ptr()) });
    }
}

impl Name {
    /// The address as the kernel wrote it, in so many bytes.
    fn addr(&self, len: usize) -> Option<SocketAddr> {
        let name = self.0.get(..len)?;
        let family = i32::from(u16::from_ne_bytes(*name.first_chunk()?));
        let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
        match family {
            libc::AF_INET => {
                let ip: [u8; 4] = *name.get(4..)?.first_chunk()?;
                Some(SocketAddrV4::new(ip.into(), port).into())
            }
            libc::AF_INET6 => {
                let ip: [u8; 16] = *name.get(8..)?.first_chunk()?;
                let flow = u32::from_ne_bytes(*name.get(4..)?.first_chunk()?);
                let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
                Some(SocketAddrV6::new(ip.into(), port, flow, scope).into())
            }
            _ => None,
        }
    }
}

impl Control {
    /// The address that the control message of so many bytes names, and the message turned into the one that sends from
    /// there.
    fn turn(&mut self, len: usize) -> SentTo {
        let Some((head, said)) = self.0.get_mut(..len).and_then(|all| all.split_at_mut_checked(CONTROL_HEAD)) else {
            return SentTo::Bound;
        };
        // Level and type are the last two fields of the header.
        let field =
            |from_end: usize| i32::from_ne_bytes(*head[CONTROL_HEAD - from_end..].first_chunk().expect("4 bytes"));
        match (field(8), field(4)) {
            // `in_pktinfo`: index, local address, address of the header.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let Some(info) = said.first_chunk_mut::<12>() else { return SentTo::Bound };
                let ip: [u8; 4] = *info.last_chunk().expect("4 of 12 bytes");
                // Only the address goes back: which interface leads to the asker is for routing to say.
                info[..4].fill(0);
                info[4..8].copy_from_slice(&ip);
                SentTo::V4(ip.into())
            }
            // `in6_pktinfo`: address, index.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let Some(info) = said.first_chunk_mut::<20>() else { return SentTo::Bound };
                let ip = Ipv6Addr::from(*info.first_chunk::<16>().expect("16 of 20 bytes"));
                if !ip.is_unicast_link_local() {
                    info[16..].fill(0);
                }
                SentTo::V6(ip, u32::from_ne_bytes(*info.last_chunk().expect("4 of 20 bytes")))
            }
            _ => SentTo::Bound,
        }
    }
}
