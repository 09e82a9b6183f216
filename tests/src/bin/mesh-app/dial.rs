//! How clients connect: with a fresh socket or a used one, bound or not, blocking or not.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::args::Target;

/// Connects as `target` says.
pub(crate) async fn dial(target: &Target) -> io::Result<TcpStream> {
    let to = target.addr();
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(ip) = target.bind {
        socket.bind(&SocketAddr::new(target.form(ip), 0).into())?;
    }
    if let Some(first) = target.first {
        fail(&socket, SocketAddr::new(target.form(first.ip()), first.port()))?;
    }
    if target.blocking {
        // Nothing else runs in this process that could miss the thread.
        socket.connect(&to.into())?;
        socket.set_nonblocking(true)?;
        return TcpStream::from_std(socket.into());
    }
    socket.set_nonblocking(true)?;
    TcpSocket::from_std_stream(socket.into()).connect(to).await
}

/// Connects to where nobody listens: the socket has the traces of it afterwards.
fn fail(socket: &Socket, first: SocketAddr) -> io::Result<()> {
    match socket.connect(&first.into()) {
        Ok(()) => Err(io::Error::other("the first address took the connection")),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error),
    }
}

/// The address of any interface, of the family of `peer`.
pub(crate) fn any(peer: SocketAddr) -> SocketAddr {
    let ip: IpAddr = match peer {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 0)
}
