//! Accepting connections of HTTP, and telling the versions apart.

use std::io;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use mesh_tests::http::Seen;
use mesh_tests::report::{Event, Ready};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::reply::{Failures, Reply, reply};
use super::{serve_http1, serve_http2};
use crate::args::HttpServe;
use crate::{control, listen, tell};

/// The first bytes of clients of HTTP/2, as far as no method is like it (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// The state that connections share.
#[derive(Debug)]
pub(super) struct Site {
    pub name: String,
    log: bool,
    failures: Failures,
}

/// Serves until the input closes.
pub(crate) async fn run(options: HttpServe) -> Result<()> {
    let HttpServe { listen, name, log } = options;
    let site = Arc::new(Site { name, log, failures: Failures::default() });
    let listeners = listen.into_iter().map(listen::listen).collect::<Result<Vec<_>>>()?;
    let first = listeners.first().context("nowhere to listen")?;
    let addr = first.local_addr().context("cannot read the bound address")?;
    tell(&Event::Ready(Ready { addr }))?;
    let mut serving = JoinSet::new();
    for listener in listeners {
        serving.spawn(accept(listener, Arc::clone(&site)));
    }
    let mut control = control::lines();
    loop {
        tokio::select! {
            line = control.recv() => if line.is_none() { return Ok(()) },
            Some(ended) = serving.join_next() => ended??,
        }
    }
}

async fn accept(listener: TcpListener, site: Arc<Site>) -> Result<()> {
    let mut connections = JoinSet::new();
    for connection in 0.. {
        let (stream, _peer) = listener.accept().await.context("cannot accept")?;
        let site = Arc::clone(&site);
        connections.spawn(async move {
            // Its result is the client's to report.
            drop(one(&site, stream, connection).await);
        });
        while connections.try_join_next().is_some() {}
    }
    Ok(())
}

async fn one(site: &Arc<Site>, stream: TcpStream, connection: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut io = BufReader::new(stream);
    let first = io.fill_buf().await?;
    if first.starts_with(PREFACE) {
        serve_http2::run(site, io, connection).await
    } else {
        serve_http1::run(site, io, connection).await
    }
}

impl Site {
    /// Reports a request, and says what is answered.
    pub(super) fn answer(&self, seen: &Seen) -> io::Result<Reply> {
        self.report(seen);
        reply(seen, &self.failures).map_err(io::Error::other)
    }

    /// Reports a request.
    pub(super) fn report(&self, seen: &Seen) {
        if self.log {
            // A harness that stopped reading is the end of this process.
            drop(tell(&Event::Seen(seen.clone())));
        }
    }
}
