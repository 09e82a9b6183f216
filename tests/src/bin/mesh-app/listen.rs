//! Accepting connections.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use mesh_tests::report::{Event, Ready};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use crate::args::Serve;
use crate::{control, serve, tell};

/// Connections that wait to be accepted; the lab's namespaces allow as many (`somaxconn`).
const BACKLOG: u32 = 4096;

/// Serves until the input closes.
pub(crate) async fn run(serve: Serve) -> Result<()> {
    let listener = listen(serve.listen)?;
    let addr = listener.local_addr().context("cannot read the bound address")?;
    tell(&Event::Ready(Ready { addr }))?;
    let mut control = control::lines();
    let (begin, begun) = watch::channel(!serve.late);
    loop {
        tokio::select! {
            line = control.recv() => match line {
                None => return Ok(()),
                Some(_) => drop(begin.send_replace(true)),
            },
            accepted = listener.accept() => {
                let (stream, peer) = accepted.context("cannot accept")?;
                let (serve, mut begun) = (serve.clone(), begun.clone());
                tokio::spawn(async move {
                    // A closed channel is the end of this process.
                    let _began = begun.wait_for(|begun| *begun).await.is_ok();
                    serve::run(&serve, stream, peer).await;
                });
            }
        }
    }
}

/// Listens at an address that may have been used a moment ago.
pub(crate) fn listen(addr: SocketAddr) -> Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.context("cannot make a socket")?;
    socket.set_reuseaddr(true).context("cannot set SO_REUSEADDR")?;
    socket.bind(addr).with_context(|| format!("cannot bind {addr}"))?;
    socket.listen(BACKLOG).with_context(|| format!("cannot listen on {addr}"))
}
