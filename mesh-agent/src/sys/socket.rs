//! Socket options that the standard library lacks.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::sockopt::{AcceptConn, IpBindAddressNoPort};
use nix::sys::socket::{MsgFlags, getsockopt, recv, setsockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// `TCP_RTO_MAX_MS` (include/uapi/linux/tcp.h; since Linux 6.15): the longest time between two
/// retransmissions, or two probes of a closed window. 1 s to 120 s.
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// Keepalive probes without an answer after which a peer is gone.
const PROBES: u32 = 3;

/// Retransmissions without an answer after which it is gone: `net.ipv4.tcp_retries2`, by default.
const RETRIES: u32 = 15;

/// How long a TCP peer may leave without an answer whatever the kernel sends it, until its
/// connection fails (`ETIMEDOUT`). At least 15 s.
///
/// - A connection without data under way is probed after half of it, then every sixth of it, three
///   times (`SO_KEEPALIVE`): also one of which one side has ended.
/// - Data under way, and a window that the peer keeps closed, are probed every fifteenth of it at
///   the longest, 15 times (`TCP_RTO_MAX_MS`). Before Linux 6.15 intervals double up to 2 minutes,
///   which makes 15 minutes in all.
///
/// A peer that answers and does not read is left alone: an application may be slow for as long as it
/// likes. `TCP_USER_TIMEOUT` would end its connection, whether it answers or not (since Linux 5.11),
/// and so is for peers that always read: [`limit_unacknowledged`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerTimeout(Duration);

impl PeerTimeout {
    /// The shortest, in seconds: a retransmission every second.
    pub const MIN_SECS: u64 = 15;

    /// At least [`Self::MIN_SECS`].
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(if secs < Self::MIN_SECS { Self::MIN_SECS } else { secs }))
    }

    /// All of it.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Silence before the first probe.
    fn idle(self) -> Duration {
        self.0.saturating_sub(self.interval() * PROBES)
    }

    /// Silence after a probe; whole seconds, as the kernel takes them.
    fn interval(self) -> Duration {
        Duration::from_secs(self.0.as_secs() / (2 * u64::from(PROBES)))
    }

    /// Settings of keepalive: after how long, how often, how many times.
    pub fn keepalive(self) -> (Duration, Duration, u32) {
        (self.idle(), self.interval(), PROBES)
    }

    /// The longest time between two retransmissions.
    fn max_retransmission(self) -> Duration {
        (self.0 / RETRIES).clamp(Duration::from_secs(1), Duration::from_mins(2))
    }
}

/// `SO_NETNS_COOKIE` (include/uapi/asm-generic/socket.h; since Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the network namespace in which the socket was made.
///
/// # Errors
///
/// The kernel is older than 5.14.
pub fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = MaybeUninit::<u64>::zeroed();
    let mut length: libc::socklen_t = 8; // bytes of the `u64`
    // JUSTIFICATION: no crate of ours knows this option.
    // SAFETY: the descriptor is open; value and length point to memory of the size stated.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            cookie.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // JUSTIFICATION: the kernel filled it.
    // SAFETY: an integer that was zeroed before.
    Ok(unsafe { cookie.assume_init() })
}

/// The cookie of the calling thread's network namespace.
///
/// # Errors
///
/// No socket can be made, or the kernel is older than 5.14.
pub fn current_netns_cookie() -> io::Result<u64> {
    netns_cookie(Socket::new(Domain::UNIX, Type::DGRAM, None)?)
}

/// Where the peer of a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Anywhere: it may vanish without a word.
    Remote,
    /// In the socket's own namespace: the kernel tells when it is gone. Fewer system calls, because
    /// every connection between nodes makes such a socket.
    Local,
}

/// A non-blocking TCP socket for the family of `addr`, made in the calling thread's namespace. It
/// notices that its peer is gone.
///
/// # Errors
///
/// No descriptor is left, or the family is not supported in this namespace.
pub fn tcp(addr: IpAddr, peer: Peer, timeout: PeerTimeout) -> io::Result<Socket> {
    let domain = if addr.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    keep_urgent(&socket)?;
    match peer {
        Peer::Remote => watch_peer(&socket, timeout)?,
        Peer::Local => {
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(timeout.idle()))?;
        }
    }
    Ok(socket)
}

/// Has urgent data read in its place among the rest (RFC 6093, section 3): read by itself, as `MSG_OOB`, it
/// would be missing in what is passed on. Of a listener, the connections that it accepts inherit it.
fn keep_urgent(socket: &Socket) -> io::Result<()> {
    socket.set_out_of_band_inline(true)
}

/// Binds a socket to a local address, and to no port: that is chosen when it connects, and may be in use for
/// another destination.
///
/// # Errors
///
/// The address is not of this namespace (`EADDRNOTAVAIL`).
pub fn bind_address(socket: &Socket, from: IpAddr) -> io::Result<()> {
    setsockopt(socket, IpBindAddressNoPort, &true)?;
    socket.bind(&SocketAddr::new(from, 0).into())
}

/// Makes the connection of a socket fail when its peer is gone; of a listener, the connections that it
/// accepts: they inherit its options.
fn watch_peer(socket: impl AsFd, timeout: PeerTimeout) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(timeout.idle());
    let keepalive = keepalive.with_interval(timeout.interval()).with_retries(PROBES);
    SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
    limit_retransmission(socket, timeout.max_retransmission())
}

/// Retransmits at least every `interval`. Kernels before 6.15 do as they are used to.
fn limit_retransmission(socket: impl AsFd, interval: Duration) -> io::Result<()> {
    let millis = libc::c_int::try_from(interval.as_millis()).unwrap_or(libc::c_int::MAX);
    let length: libc::socklen_t = 4; // bytes of the `c_int`
    // JUSTIFICATION: no crate of ours knows this option.
    // SAFETY: the descriptor is open; the value is an integer of the length stated.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            (&raw const millis).cast(),
            length,
        )
    };
    match nix::errno::Errno::result(result) {
        Ok(_) | Err(nix::errno::Errno::ENOPROTOOPT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A listener as the standard library makes it. At `[::]` it takes IPv4 connections too.
///
/// # Errors
///
/// The address is in use or not of this namespace.
pub fn listen_all(addr: SocketAddr, timeout: PeerTimeout) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(addr)?;
    watch_peer(&listener, timeout)?;
    Ok(listener)
}

/// Takes a listener that another process has opened, if it is one of TCP at `addr` in the calling thread's
/// namespace. `None`: it is something else, and is closed.
///
/// # Errors
///
/// The kernel does not tell, or does not take the options of a listener.
pub fn adopt(
    descriptor: OwnedFd,
    addr: SocketAddr,
    timeout: PeerTimeout,
) -> io::Result<Option<std::net::TcpListener>> {
    let socket = Socket::from(descriptor);
    let listens = socket.protocol()? == Some(Protocol::TCP)
        && getsockopt(&socket, AcceptConn)?
        && socket.local_addr()?.as_socket() == Some(addr)
        && netns_cookie(&socket)? == current_netns_cookie()?;
    if !listens {
        return Ok(None);
    }
    watch_peer(&socket, timeout)?;
    keep_urgent(&socket)?;
    Ok(Some(socket.into()))
}

/// Ends a connection when data has been under way for `timeout`, or the peer's window closed, also
/// if the peer answers (`TCP_USER_TIMEOUT`): for tunnels, whose agents always read.
///
/// # Errors
///
/// The socket is not TCP.
pub fn limit_unacknowledged(socket: impl AsFd, timeout: PeerTimeout) -> io::Result<()> {
    SockRef::from(&socket).set_tcp_user_timeout(Some(timeout.0))
}

/// How a listener is made.
#[derive(Clone, Copy, Debug)]
pub struct ListenerOptions {
    /// Connections that may wait to be accepted (`listen(2)`, capped by `net.core.somaxconn`).
    pub backlog: i32,
    /// For the peers whose connections it accepts.
    pub peer_timeout: PeerTimeout,
}

/// A non-blocking listener, made in the calling thread's namespace, whether the address is one of that
/// or not. One for an IPv6 address takes no IPv4 connections.
///
/// # Errors
///
/// The address is in use.
pub fn listen(addr: SocketAddr, options: ListenerOptions) -> io::Result<std::net::TcpListener> {
    let socket = tcp(addr.ip(), Peer::Remote, options.peer_timeout)?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

/// Looks at what is to be read next, and leaves it there.
///
/// # Errors
///
/// Those of `recv(2)`.
pub fn peek(socket: impl AsFd, into: &mut [u8]) -> io::Result<usize> {
    use std::os::fd::AsRawFd as _;
    Ok(recv(socket.as_fd().as_raw_fd(), into, MsgFlags::MSG_PEEK)?)
}

/// Makes the next `close(2)` a reset (RST) instead of an orderly end.
///
/// # Errors
///
/// The socket is not TCP.
pub fn reset_on_close(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle connection, one with data under way and one with a closed window each take as long as
    /// the setting says, or a little less.
    #[test]
    fn a_peer_is_gone_after_the_timeout_in_every_state() {
        for secs in [15, 16, 20, 90, 119, 3600] {
            let timeout = PeerTimeout::from_secs(secs);
            let idle = timeout.idle() + timeout.interval() * PROBES;
            assert_eq!(idle, Duration::from_secs(secs));
            assert!(timeout.idle() >= timeout.interval() * PROBES, "{secs}");
            let probed = timeout.max_retransmission() * RETRIES;
            assert!(probed <= Duration::from_secs(secs), "{secs}");
            assert_eq!(timeout.idle().subsec_nanos() + timeout.interval().subsec_nanos(), 0);
        }
        assert_eq!(PeerTimeout::from_secs(1), PeerTimeout::from_secs(PeerTimeout::MIN_SECS));
    }

    /// Keepalive of a socket: whether, after how long, how often, how many times.
    fn options(socket: &SockRef<'_>) -> (bool, Duration, Duration, u32) {
        (
            socket.keepalive().unwrap(),
            socket.tcp_keepalive_time().unwrap(),
            socket.tcp_keepalive_interval().unwrap(),
            socket.tcp_keepalive_retries().unwrap(),
        )
    }

    #[test]
    fn accepted_and_dialed_sockets_watch_their_peers() {
        let peer_timeout = PeerTimeout::from_secs(60);
        let ours = ListenerOptions { backlog: 1, peer_timeout };
        let listener = listen("127.0.0.1:0".parse().unwrap(), ours).unwrap();
        let addr = listener.local_addr().unwrap();
        let dialed = tcp(addr.ip(), Peer::Remote, peer_timeout).unwrap();
        dialed.set_nonblocking(false).unwrap();
        dialed.connect(&addr.into()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let secs = Duration::from_secs;
        let expect = (true, secs(30), secs(10), 3);
        assert_eq!(options(&SockRef::from(&dialed)), expect);
        assert_eq!(options(&SockRef::from(&accepted)), expect);
        assert_eq!(SockRef::from(&accepted).tcp_user_timeout().unwrap(), None);
        limit_unacknowledged(&accepted, peer_timeout).unwrap();
        assert_eq!(SockRef::from(&accepted).tcp_user_timeout().unwrap(), Some(secs(60)));
    }

    #[test]
    fn only_a_listener_at_the_very_address_is_taken() {
        let timeout = PeerTimeout::from_secs(60);
        let listener = listen_all("127.0.0.1:0".parse().unwrap(), timeout).unwrap();
        let addr = listener.local_addr().unwrap();
        let taken = |descriptor: OwnedFd, addr| {
            adopt(descriptor, addr, timeout).unwrap().map(|taken| taken.local_addr().unwrap())
        };
        let copy = || OwnedFd::from(listener.try_clone().unwrap());
        assert_eq!(taken(copy(), addr), Some(addr));
        assert_eq!(taken(copy(), SocketAddr::new([0, 0, 0, 0].into(), addr.port())), None);
        assert_eq!(taken(copy(), SocketAddr::new(addr.ip(), 1)), None);
        let dialed = std::net::TcpStream::connect(addr).unwrap();
        let local = dialed.local_addr().unwrap();
        assert_eq!(taken(dialed.into(), local), None);
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = other.local_addr().unwrap();
        assert_eq!(taken(other.into(), local), None);
        let bound = tcp(addr.ip(), Peer::Remote, timeout).unwrap();
        bound.bind(&SocketAddr::new(addr.ip(), 0).into()).unwrap();
        let local = bound.local_addr().unwrap().as_socket().unwrap();
        assert_eq!(taken(bound.into(), local), None);
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(taken(unix.into(), addr), None);
    }

    #[test]
    fn two_sockets_of_a_namespace_have_one_cookie() {
        let first = current_netns_cookie().unwrap();
        assert_ne!(first, 0);
        assert_eq!(first, current_netns_cookie().unwrap());
    }
}
