//! HTTP/2: several requests on a connection at the same time, or one that is paced.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;

use ::http::{Request, StatusCode};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::closed::{Asks, busy};
use super::{PATIENCE, Part, Tally};
use crate::http::BODY;
use crate::threads;

/// How many requests a connection has at the same time.
const STREAMS: usize = 4;

/// The target of every request.
const URI: &str = "http://bench.example/";

/// Has requests on connections at all times.
pub(super) fn streams(part: Part<'_>) -> Result<Tally> {
    busy(part, async |to| Ok(vec![Client::open(to).await?; STREAMS]))
}

/// A connection that requests can be sent on.
#[derive(Clone, Debug)]
struct Client {
    sender: SendRequest<Bytes>,
}

impl Client {
    /// Connects, and tries the connection.
    async fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            // How it ended is seen by each of its requests.
            drop(connection.await);
        });
        let mut client = Self { sender };
        client.request().await?;
        Ok(client)
    }

    /// Sends a request, and reads its answer.
    async fn request(&mut self) -> io::Result<()> {
        let request = Request::get(URI).body(()).map_err(io::Error::other)?;
        let ready = poll_fn(|context| self.sender.poll_ready(context)).await;
        ready.map_err(io::Error::other)?;
        let (answer, _) = self.sender.send_request(request, true).map_err(io::Error::other)?;
        let answer = answer.await.map_err(io::Error::other)?;
        let is_right = answer.status() == StatusCode::OK;
        let mut body = answer.into_body();
        let mut length = 0;
        while let Some(part) = body.data().await {
            let part = part.map_err(io::Error::other)?;
            length += part.len();
            body.flow_control().release_capacity(part.len()).map_err(io::Error::other)?;
        }
        if is_right && length == BODY { Ok(()) } else { Err(io::Error::other("another answer")) }
    }
}

impl Asks for Client {
    async fn ask(&mut self) -> io::Result<()> {
        self.request().await
    }
}

/// A connection on a thread of its own, of one request at a time.
#[derive(Debug)]
pub(super) struct Waiting {
    runtime: Runtime,
    client: Client,
}

impl Waiting {
    /// Connects, and tries the connection.
    pub(super) fn open(to: SocketAddr) -> Result<Self> {
        let runtime = threads::runtime()?;
        let client = runtime.block_on(async { timeout(PATIENCE, Client::open(to)).await });
        Ok(Self { runtime, client: client.context("no answer")?? })
    }

    /// Sends a request, and waits for its answer. The connection's own work waits for the
    /// next one.
    pub(super) fn request(&mut self) -> Result<()> {
        let Self { runtime, client } = self;
        let asked = runtime.block_on(async { timeout(PATIENCE, client.request()).await });
        Ok(asked.context("no answer")??)
    }
}
