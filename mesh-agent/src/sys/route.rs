//! `NETLINK_ROUTE`: networks whose addresses are local to a network namespace.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd as _;

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
    setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::sys::netlink::{Messages, Writer};

/// The loopback device of every network namespace.
const LOOPBACK: u32 = 1;
/// How long the kernel may take for its answer, in seconds. It answers within the request.
const ANSWER_SECONDS: i64 = 5;
/// `RTPROT_…` of the routes: nobody else's (`rt_protos`).
const PROTOCOL: u8 = 0x6d;

/// The change of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Add,
    Remove,
}

/// Makes all addresses of a network local to the calling thread's namespace, as `127.0.0.0/8` is for IPv4.
/// Needs `CAP_NET_ADMIN`. Addresses that are local already are no error.
///
/// # Errors
///
/// The kernel refused: the namespace has no IPv6, for example, or its loopback device is down.
pub fn add_local(network: Ipv6Addr, bits: u8) -> io::Result<()> {
    change(Change::Add, network, bits, libc::EEXIST)
}

/// Undoes [`add_local`]. Addresses that are not local are no error.
///
/// # Errors
///
/// The kernel refused.
pub fn remove_local(network: Ipv6Addr, bits: u8) -> io::Result<()> {
    change(Change::Remove, network, bits, libc::ESRCH)
}

fn change(change: Change, network: Ipv6Addr, bits: u8, done: i32) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let kernel = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    connect(kernel.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&kernel, ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
    send(kernel.as_raw_fd(), &request(change, network, bits), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    for message in Messages::new(answer.get(..length).unwrap_or_default()) {
        match message.map_err(io::Error::other)?.error() {
            Some(Err(errno)) if errno == done => return Ok(()),
            Some(Err(errno)) => return Err(io::Error::from_raw_os_error(errno)),
            Some(Ok(())) => return Ok(()),
            None => {}
        }
    }
    Err(io::Error::other("the kernel does not say whether a route was changed"))
}

/// `struct rtmsg` (`include/uapi/linux/rtnetlink.h`), the network, and the device.
fn request(change: Change, network: Ipv6Addr, bits: u8) -> Vec<u8> {
    let (kind, flags) = match change {
        Change::Add => (libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL),
        Change::Remove => (libc::RTM_DELROUTE, 0),
    };
    let mut request = Writer::new(kind, libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags);
    let family = u8::try_from(libc::AF_INET6).unwrap_or_default();
    let (no_source, no_tos) = (0, 0);
    let head = [family, bits, no_source, no_tos, libc::RT_TABLE_LOCAL, PROTOCOL];
    request.put(&[&head[..], &[libc::RT_SCOPE_UNIVERSE, libc::RTN_LOCAL, 0, 0, 0, 0]].concat());
    request.attribute(libc::RTA_DST, &network.octets());
    request.attribute(libc::RTA_OIF, &LOOPBACK.to_ne_bytes());
    request.finish(1)
}
