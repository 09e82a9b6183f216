//! The servers, in a pod: HTTP/1.1, HTTP/2, discard, echo, and one that closes.

use std::io::Write as _;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ::http::Response;
use ::http::header::CONTENT_TYPE;
use anyhow::{Context as _, Result};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::workload::{CLOSE, DEAF, DISCARD, ECHO, HTTP, HTTP2};
use crate::{http, threads};

/// Bytes that a bulk server reads at once.
const CHUNK: usize = 256 * 1024;

/// Connections that wait to be accepted; the lab's namespaces allow as many (`somaxconn`).
const BACKLOG: u32 = 4096;

/// The word of a server that listens.
pub(crate) const READY: &str = "ready";

/// Serves until the input closes.
///
/// # Errors
///
/// It cannot listen.
pub(crate) fn run() -> Result<()> {
    for _ in 0..threads::count() {
        let runtime = threads::runtime()?;
        let listeners = {
            let _inside = runtime.enter();
            [listen(HTTP)?, listen(HTTP2)?, listen(DISCARD)?, listen(ECHO)?, listen(CLOSE)?]
        };
        std::thread::spawn(move || {
            let [web, web2, discard, echo, close] = listeners;
            let answer: Arc<[u8]> = http::answer().into();
            let body = Bytes::from(http::body());
            runtime.block_on(async {
                tokio::join!(
                    accept(web, |stream| requests(stream, Arc::clone(&answer))),
                    accept(web2, |stream| either(stream, Arc::clone(&answer), body.clone())),
                    accept(discard, swallow),
                    accept(echo, send_back),
                    accept(close, end),
                )
            });
        });
    }
    until_closed()
}

/// Accepts connections and reads nothing, until the input closes.
///
/// # Errors
///
/// It cannot listen.
pub(crate) fn run_deaf() -> Result<()> {
    let runtime = threads::runtime()?;
    let listener = runtime.block_on(async { listen(DEAF) })?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let mut kept = Vec::new();
            while let Ok((stream, _peer)) = listener.accept().await {
                kept.push(stream);
            }
        });
    });
    until_closed()
}

/// Says that it serves, and waits for the end of the input.
fn until_closed() -> Result<()> {
    writeln!(std::io::stdout(), "{READY}").context("nobody reads our reports")?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).context("cannot read our input")?;
    Ok(())
}

/// Each thread listens on its own; the kernel shares the connections out.
fn listen(port: u16) -> Result<TcpListener> {
    let addr = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let socket = TcpSocket::new_v6().context("cannot make a socket")?;
    socket.set_reuseaddr(true).context("cannot set SO_REUSEADDR")?;
    socket.set_reuseport(true).context("cannot set SO_REUSEPORT")?;
    socket.bind(addr).with_context(|| format!("cannot bind {addr}"))?;
    socket.listen(BACKLOG).with_context(|| format!("cannot listen on {addr}"))
}

async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    loop {
        // A client may be gone before it was accepted; and what a connection dies of, its client
        // sees and counts.
        if let Ok((stream, _peer)) = listener.accept().await
            && stream.set_nodelay(true).is_ok()
        {
            tokio::spawn(serve(stream));
        }
    }
}

/// Answers requests until the client closes or asks us to.
async fn requests(mut stream: TcpStream, answer: Arc<[u8]>) -> std::io::Result<()> {
    let mut request = Vec::with_capacity(http::REQUEST_LIMIT);
    while stream.read_buf(&mut request).await? > 0 {
        if http::is_whole(&request) {
            stream.write_all(&answer).await?;
            if http::closes(&request) {
                return Ok(());
            }
            request.clear();
        }
    }
    Ok(())
}

/// The same, or HTTP/2 if the client begins with it (RFC 9113, section 3.4): no method that is asked
/// with here begins as its preface does.
async fn either(stream: TcpStream, answer: Arc<[u8]>, body: Bytes) -> std::io::Result<()> {
    let mut first = [0];
    stream.peek(&mut first).await?;
    if first == *b"P" { streams(stream, body).await } else { requests(stream, answer).await }
}

/// Answers requests of HTTP/2 until the client closes.
async fn streams(stream: TcpStream, body: Bytes) -> std::io::Result<()> {
    let mut session = h2::server::handshake(stream).await.map_err(std::io::Error::other)?;
    while let Some(accepted) = session.accept().await {
        let (_, mut respond) = accepted.map_err(std::io::Error::other)?;
        let answer = Response::builder().header(CONTENT_TYPE, "text/plain").body(());
        let answer = answer.map_err(std::io::Error::other)?;
        // Its result is the client's to report.
        let sent = respond.send_response(answer, false);
        drop(sent.and_then(|mut stream| stream.send_data(body.clone(), true)));
    }
    Ok(())
}

/// Reads to the end, then says how many bytes it was.
async fn swallow(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut received = 0_u64;
    while let length @ 1.. = stream.read(&mut buffer).await? {
        received += length as u64;
    }
    stream.write_all(&received.to_be_bytes()).await?;
    stream.shutdown().await
}

/// Closes, and waits until the client has done so too: who closes first has to remember it, and
/// that is the server, which does not run out of ports.
async fn end(mut stream: TcpStream) -> std::io::Result<()> {
    stream.shutdown().await?;
    stream.read(&mut [0]).await.map(drop)
}

/// Sends back what it reads.
async fn send_back(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 4096];
    while let length @ 1.. = stream.read(&mut buffer).await? {
        stream.write_all(&buffer[..length]).await?;
    }
    stream.shutdown().await
}
