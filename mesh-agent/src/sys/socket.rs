//! Socket options that the standard library lacks.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{MsgFlags, recv};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

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

/// A non-blocking TCP socket for the family of `addr`, made in the calling thread's namespace.
///
/// # Errors
///
/// No descriptor is left, or the family is not supported in this namespace.
pub fn tcp(addr: IpAddr) -> io::Result<Socket> {
    let domain = if addr.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket)
}

/// How a listener is made.
#[derive(Clone, Copy, Debug)]
pub struct ListenerOptions {
    /// Connections that may wait to be accepted (`listen(2)`, capped by `net.core.somaxconn`).
    pub backlog: i32,
    /// Several listeners share the port, and the kernel spreads connections among them.
    pub reuse_port: bool,
}

/// A non-blocking listener, made in the calling thread's namespace. One for an IPv6 address takes
/// no IPv4 connections.
///
/// # Errors
///
/// The address is in use or not of this namespace.
pub fn listen(addr: SocketAddr, options: ListenerOptions) -> io::Result<std::net::TcpListener> {
    let socket = tcp(addr.ip())?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&addr.into())?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

/// Probes a quiet peer after `idle`, every `interval`, and gives it up after nine probes.
///
/// # Errors
///
/// The socket is not TCP.
pub fn keep_alive(socket: impl AsFd, idle: Duration, interval: Duration) -> io::Result<()> {
    let options = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(9);
    SockRef::from(&socket).set_tcp_keepalive(&options)
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

    #[test]
    fn two_sockets_of_a_namespace_have_one_cookie() {
        let first = current_netns_cookie().unwrap();
        assert_ne!(first, 0);
        assert_eq!(first, current_netns_cookie().unwrap());
    }
}
