//! Datagrams: a server that sends them back, and a client that sends one.

use std::io;
use std::time::Instant;

use anyhow::{Context as _, Result};
use mesh_tests::report::{Connection, Event, Ready, Stage};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::args::{Serve, Target};
use crate::{client, control, dial, tell};

/// The text that the client sends.
const TEXT: &[u8] = b"datagram";

/// Sends datagrams back until the input closes.
pub(crate) async fn serve(serve: &Serve) -> Result<()> {
    let socket = UdpSocket::bind(serve.listen).await.context("cannot bind")?;
    tell(&Event::Ready(Ready { addr: socket.local_addr().context("cannot read the address")? }))?;
    let mut control = control::lines();
    let mut buffer = [0; 1500];
    loop {
        tokio::select! {
            line = control.recv() => if line.is_none() { return Ok(()) },
            received = socket.recv_from(&mut buffer) => {
                let (length, peer) = received.context("cannot receive")?;
                socket.send_to(&buffer[..length], peer).await.context("cannot send")?;
            }
        }
    }
}

/// Sends one datagram, reads it back, and reports.
pub(crate) async fn run(target: &Target) -> Result<()> {
    let start = Instant::now();
    let mut seen = Connection::default();
    let result = match timeout(target.timeout(), exchange(target, &mut seen)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    };
    seen.total_us = client::micros(start);
    seen.error = result.err().map(|error| client::name(&error));
    tell(&Event::Connection(seen))
}

async fn exchange(target: &Target, seen: &mut Connection) -> io::Result<()> {
    let to = target.addr();
    let socket = UdpSocket::bind(dial::any(to)).await?;
    socket.connect(to).await?;
    seen.stage = Stage::Exchange;
    (seen.peername, seen.local) = (Some(socket.peer_addr()?), Some(socket.local_addr()?));
    socket.send(TEXT).await?;
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).await?;
    if &answer[..length] != TEXT {
        return Err(io::Error::other("another echo"));
    }
    seen.stage = Stage::Done;
    Ok(())
}
