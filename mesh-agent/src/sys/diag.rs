//! `NETLINK_SOCK_DIAG`: which TCP sockets of a network namespace have a value in a socket storage,
//! and how to end one of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use aya::Pod;
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
    setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::sys::bpf::value;
use crate::sys::netlink::{Attributes, Malformed, Message, Messages, Writer, array};

/// `SOCK_DIAG_BY_FAMILY` (`include/uapi/linux/sock_diag.h`): a request, and each answer.
const BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY`; since Linux 4.5.
const DESTROY: u16 = 21;
/// `INET_DIAG_REQ_SK_BPF_STORAGES` (`include/uapi/linux/inet_diag.h`); since Linux 5.8.
const REQ_SK_BPF_STORAGES: u16 = 2;
/// `SK_DIAG_BPF_STORAGE_REQ_MAP_FD` (`include/uapi/linux/sock_diag.h`).
const REQ_MAP_FD: u16 = 1;
/// `INET_DIAG_SK_BPF_STORAGES`.
const SK_BPF_STORAGES: u16 = 20;
/// `SK_DIAG_BPF_STORAGE`.
const BPF_STORAGE: u16 = 1;
/// `SK_DIAG_BPF_STORAGE_MAP_VALUE`.
const MAP_VALUE: u16 = 3;
/// `INET_DIAG_CGROUP_ID` (`include/uapi/linux/inet_diag.h`).
const CGROUP_ID: u16 = 21;
/// Bytes of `struct inet_diag_sockid`.
const ID_BYTES: usize = 48;
/// Where the cookie is in it: the lower half, and the upper one.
const COOKIE: usize = 40;
/// Bytes of `struct inet_diag_msg` before its `id`: family, state, timer, retransmissions.
const BEFORE_ID: usize = 4;
/// Bytes of `struct inet_diag_msg`.
const MSG_BYTES: usize = 72;
/// Every state (`include/net/tcp_states.h`) in which a socket is or becomes a connection: all but
/// `TIME_WAIT` (6), `CLOSE` (7), `LISTEN` (10) and the kernel's own beyond `CLOSING` (11).
const STATES: u32 = 0b1011_0011_1110;
/// The kernel fills at most 32 KiB at once, or what one socket's storages take: at most 64 KiB.
const BUFFER_BYTES: usize = 128 * 1024;
/// How long the kernel may take for one answer, in seconds. It answers within the request.
const ANSWER_SECONDS: i64 = 5;

/// A connection to the kernel about the sockets of one network namespace. After an error a new one
/// is needed: answers may be left in it.
#[derive(Debug)]
pub struct Diag {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// `AF_INET` or `AF_INET6`.
    family: u8,
    /// `enum tcp_state` of the kernel.
    state: u8,
    /// `struct inet_diag_sockid` as the kernel said it: it wants it back unchanged.
    id: [u8; ID_BYTES],
}

/// The result for a socket that was to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was reset: its application reads `ECONNABORTED`, the other end an RST.
    Now,
    /// It was gone before.
    Before,
}

/// Why the kernel could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call failed.
    #[error("cannot ask the kernel about sockets")]
    Io(#[from] io::Error),
    /// The kernel said something that cannot be read.
    #[error("the kernel's answer about sockets cannot be read")]
    Malformed(#[from] Malformed),
    /// The kernel was built without it.
    #[error("the kernel lacks {0}")]
    Unsupported(&'static str),
}

impl Diag {
    /// Opens a connection for the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// No descriptor is left, or the kernel has no `NETLINK_SOCK_DIAG`.
    pub fn open() -> Result<Self, Error> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkSockDiag;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map_err(system)?;
        // To the kernel (port 0): from now on nobody else can send to it.
        connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(system)?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS)).map_err(system)?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    /// Gives `each` every TCP socket, of either family, that is or becomes a connection and has a
    /// value in the socket storage `map`, with that value. Needs `CAP_BPF`; since Linux 5.8.
    ///
    /// A socket that is made or ends meanwhile may be missing.
    ///
    /// # Errors
    ///
    /// The kernel refused, `map` is no socket storage or its values are not of `V`'s size; `each`
    /// may have been called before.
    pub fn with_storage<V: Pod>(
        &mut self,
        map: BorrowedFd<'_>,
        mut each: impl FnMut(Socket, V),
    ) -> Result<(), Error> {
        self.dump(Some(map), |socket, attributes| {
            let Some(bytes) = storage(attributes) else { return Ok(()) };
            each(socket, value(bytes).ok_or(Malformed)?);
            Ok(())
        })
    }

    /// Gives `each` every TCP socket, of either family, that is or becomes a connection and has no
    /// value in the socket storage `map`, with the id of its cgroup (0 where the kernel does not say
    /// it: it is built without cgroups, or older than the attribute).
    ///
    /// # Errors
    ///
    /// As for [`Diag::with_storage`].
    pub fn without_storage(
        &mut self,
        map: BorrowedFd<'_>,
        mut each: impl FnMut(Socket, u64),
    ) -> Result<(), Error> {
        self.dump(Some(map), |socket, attributes| {
            if storage(attributes.clone()).is_none() {
                each(socket, attributes.find(CGROUP_ID).and_then(value).unwrap_or_default());
            }
            Ok(())
        })
    }

    /// Ends a socket that was found before, whoever has it. Needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    ///
    /// The kernel refused, or was built without `CONFIG_INET_DIAG_DESTROY`.
    pub fn destroy(&mut self, socket: &Socket) -> Result<Ended, Error> {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
        self.ask(request(DESTROY, flags, socket.family, u32::MAX, &socket.id))?;
        let mut ended = None;
        self.answers(|message| {
            ended = match message.error() {
                None => return Ok(false),
                Some(Ok(())) => Some(Ended::Now),
                Some(Err(libc::ENOENT)) => Some(Ended::Before),
                Some(Err(libc::EOPNOTSUPP)) => {
                    return Err(Error::Unsupported("CONFIG_INET_DIAG_DESTROY"));
                }
                Some(Err(errno)) => return Err(io::Error::from_raw_os_error(errno).into()),
            };
            Ok(true)
        })?;
        ended.ok_or(Malformed.into())
    }

    /// Gives `each` every socket, with its attributes.
    fn dump(
        &mut self,
        map: Option<BorrowedFd<'_>>,
        mut each: impl FnMut(Socket, Attributes<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for family in [libc::AF_INET, libc::AF_INET6] {
            let Ok(family) = u8::try_from(family) else { continue };
            let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
            let mut writer = request(BY_FAMILY, flags, family, STATES, &[0; ID_BYTES]);
            if let Some(map) = map {
                let fd = map.as_raw_fd().cast_unsigned().to_ne_bytes();
                writer.nested(REQ_SK_BPF_STORAGES, |inside| inside.attribute(REQ_MAP_FD, &fd));
            }
            self.ask(writer)?;
            self.answers(|message| match (message.kind, message.error()) {
                (BY_FAMILY, _) => {
                    let (socket, attributes) = Socket::read(message.payload)?;
                    each(socket, attributes).map(|()| false)
                }
                (_, None) => Ok(false),
                (_, Some(Ok(()))) => Ok(true),
                // A kernel without IPv6 has no such sockets.
                (_, Some(Err(libc::ENOENT))) if i32::from(family) == libc::AF_INET6 => Ok(true),
                (_, Some(Err(libc::ENOENT))) => Err(Error::Unsupported("CONFIG_INET_TCP_DIAG")),
                (_, Some(Err(errno))) => Err(io::Error::from_raw_os_error(errno).into()),
            })?;
        }
        Ok(())
    }

    fn ask(&mut self, request: Writer) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = request.finish(self.sequence);
        send(self.fd.as_fd().as_raw_fd(), &bytes, MsgFlags::empty()).map_err(system)?;
        Ok(())
    }

    /// Reads messages that answer the last request, until `each` says that one is the last.
    fn answers(
        &mut self,
        mut each: impl FnMut(Message<'_>) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        loop {
            let fd = self.fd.as_fd().as_raw_fd();
            // With this flag the length is what the message had, not what fitted.
            let length = match recv(fd, &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => continue,
                other => other.map_err(system)?,
            };
            let bytes = self.buffer.get(..length).filter(|bytes| !bytes.is_empty());
            for message in Messages::new(bytes.ok_or(Malformed)?) {
                let message = message?;
                // A message that an earlier request left is not an answer to this one.
                if message.sequence == self.sequence && each(message)? {
                    return Ok(());
                }
            }
        }
    }
}

impl Socket {
    /// Reads `struct inet_diag_msg` and what follows it.
    fn read(payload: &[u8]) -> Result<(Self, Attributes<'_>), Malformed> {
        let (message, attributes) = payload.split_at_checked(MSG_BYTES).ok_or(Malformed)?;
        let [family, state, ..] = *message else { return Err(Malformed) };
        let id = array::<ID_BYTES>(message, BEFORE_ID)?;
        Ok((Self { family, state, id }, Attributes::new(attributes)))
    }

    /// Its own address.
    pub fn local(&self) -> SocketAddr {
        self.end(0, 4)
    }

    /// The other end's address.
    pub fn remote(&self) -> SocketAddr {
        self.end(2, 20)
    }

    /// Its cookie (`SO_COOKIE`): never used again while the system is up.
    pub fn cookie(&self) -> u64 {
        let word = |offset| array(&self.id, offset).map_or(0, u32::from_ne_bytes);
        u64::from(word(COOKIE + 4)) << 32 | u64::from(word(COOKIE))
    }

    /// `enum tcp_state` of the kernel (`include/net/tcp_states.h`): 1 is an established connection.
    pub const fn state(&self) -> u8 {
        self.state
    }

    /// The end whose port and address are at these offsets of `struct inet_diag_sockid`. An IPv4
    /// address that an IPv6 socket is connected to comes back as IPv4.
    fn end(&self, port: usize, addr: usize) -> SocketAddr {
        let port = array::<2>(&self.id, port).map_or(0, u16::from_be_bytes);
        let octets = array::<16>(&self.id, addr).unwrap_or_default();
        let ip = if i32::from(self.family) == libc::AF_INET {
            let [a, b, c, d, ..] = octets;
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            Ipv6Addr::from(octets).to_canonical()
        };
        SocketAddr::new(ip, port)
    }
}

/// A request with `struct inet_diag_req_v2`.
fn request(kind: u16, flags: i32, family: u8, states: u32, id: &[u8; ID_BYTES]) -> Writer {
    let mut writer = Writer::new(kind, flags);
    let tcp = u8::try_from(libc::IPPROTO_TCP).unwrap_or(6);
    writer.put(&[family, tcp, 0, 0]);
    writer.put(&states.to_ne_bytes());
    writer.put(id);
    writer
}

/// The value of the one storage that was asked for, if the socket has it.
fn storage(attributes: Attributes<'_>) -> Option<&[u8]> {
    let storages = attributes.find(SK_BPF_STORAGES)?;
    let storage = Attributes::new(storages).find(BPF_STORAGE)?;
    Attributes::new(storage).find(MAP_VALUE)
}

fn system(errno: Errno) -> Error {
    Error::Io(errno.into())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::sys::{bpf, cgroup};

    /// A connection on the loopback interface: client, server, and the listener.
    fn connection(addr: &str) -> (TcpStream, TcpStream, TcpListener) {
        let listener = TcpListener::bind(addr).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (client, server, listener)
    }

    fn canonical(addr: io::Result<SocketAddr>) -> SocketAddr {
        let addr = addr.unwrap();
        SocketAddr::new(addr.ip().to_canonical(), addr.port())
    }

    /// Everything of this namespace, without storages.
    fn all() -> Vec<Socket> {
        let mut found = vec![];
        let mut diag = Diag::open().unwrap();
        diag.dump(None, |socket, _| {
            found.push(socket);
            Ok(())
        })
        .unwrap();
        found
    }

    #[track_caller]
    fn check(addr: &str) {
        let (client, server, listener) = connection(addr);
        let found = all();
        for end in [&client, &server] {
            let ends = (canonical(end.local_addr()), canonical(end.peer_addr()));
            let mut of_end =
                found.iter().filter(|socket| (socket.local(), socket.remote()) == ends);
            let socket = of_end.next().unwrap();
            assert_eq!((socket.state(), of_end.next()), (1, None));
            assert_ne!(socket.cookie(), 0);
        }
        let address = canonical(listener.local_addr());
        let of_listener = found.iter().filter(|socket| socket.local() == address);
        assert_eq!(of_listener.count(), 1, "the listener itself is not wanted");
    }

    #[test]
    fn finds_both_ends_of_a_connection() {
        check("127.0.0.1:0");
    }

    #[test]
    fn finds_an_ipv4_connection_of_ipv6_sockets() {
        check("[::ffff:127.0.0.1]:0");
    }

    #[test]
    fn the_kernel_says_whose_cgroup_a_socket_is_of() {
        let (client, _server, _listener) = connection("127.0.0.1:0");
        let ends = (canonical(client.local_addr()), canonical(client.peer_addr()));
        let mut of_client = None;
        let mut diag = Diag::open().unwrap();
        diag.dump(None, |socket, attributes| {
            if (socket.local(), socket.remote()) == ends {
                of_client = attributes.find(CGROUP_ID).and_then(value);
            }
            Ok(())
        })
        .unwrap();
        let own = cgroup::own(&cgroup::root().unwrap()).unwrap();
        assert_eq!(of_client, Some(cgroup::id(&own).unwrap()));
    }

    #[test]
    fn a_storage_is_found_by_its_attributes() {
        let mut writer = Writer::new(BY_FAMILY, 0);
        writer.put(&[7; MSG_BYTES]);
        writer.attribute(8, &[1]);
        writer.nested(SK_BPF_STORAGES, |inside| {
            inside.nested(BPF_STORAGE, |storage| {
                storage.attribute(2, &9_u32.to_ne_bytes());
                storage.attribute(MAP_VALUE, &42_u64.to_ne_bytes());
            });
        });
        let bytes = writer.finish(0);
        let message = Messages::new(&bytes).next().unwrap().unwrap();
        let (socket, attributes) = Socket::read(message.payload).unwrap();
        assert_eq!(socket, Socket { family: 7, state: 7, id: [7; ID_BYTES] });
        let value = storage(attributes).unwrap();
        assert_eq!(bpf::value(value), Some(42_u64));
        assert_eq!(bpf::value::<u32>(value), None);
    }

    proptest! {
        #[test]
        fn any_message_is_read(bytes in vec(any::<u8>(), 0..300)) {
            match Socket::read(&bytes) {
                Ok((socket, attributes)) => {
                    storage(attributes);
                    let _any = (socket.local(), socket.remote(), socket.cookie());
                }
                Err(Malformed) => prop_assert!(bytes.len() < MSG_BYTES),
            }
        }
    }
}
