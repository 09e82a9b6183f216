//! A connection of HTTP/1.1, at the server.

use std::io;

use mesh_tests::http::{Seen, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::reply::Reply;
use super::serve::Site;

/// Serves requests until the client has no more.
pub(super) async fn run(
    site: &Site,
    mut io: BufReader<TcpStream>,
    connection: u64,
) -> io::Result<()> {
    for request in 0.. {
        let Some(head) = wire::read_head(&mut io).await? else { return Ok(()) };
        let (body, trailers) = wire::read_body(&mut io, head.request_length()?).await?;
        let seen = Seen {
            server: site.name.clone(),
            version: head.part(2).to_owned(),
            method: head.part(0).to_owned(),
            path: head.part(1).to_owned(),
            authority: head.field("host").map(str::to_owned),
            headers: head.fields.clone(),
            body: String::from_utf8_lossy(&body).into_owned(),
            trailers,
            connection,
            request,
        };
        // Some servers switch to what they like.
        let protocol = head.part(1).strip_prefix("/switch/").or_else(|| head.field("upgrade"));
        if let Some(protocol) = protocol {
            site.report(&seen);
            return upgraded(&mut io, protocol).await;
        }
        let reply = site.answer(&seen)?;
        sleep(reply.after).await;
        if reply.is_none {
            return Ok(());
        }
        io.write_all(&written(&reply, &seen.method)).await?;
        io.flush().await?;
        if head.closes() || reply.verbatim == Some(true) {
            return io.shutdown().await;
        }
    }
    Ok(())
}

/// Sends back what comes, after an upgrade.
async fn upgraded(io: &mut BufReader<TcpStream>, protocol: &str) -> io::Result<()> {
    let fields = [("Connection", "Upgrade"), ("Upgrade", protocol)];
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let head = wire::head("HTTP/1.1 101 Switching Protocols", &fields);
    io.write_all(head.as_bytes()).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = io.read(&mut buffer).await?;
        if length == 0 {
            return io.shutdown().await;
        }
        io.write_all(&buffer[..length]).await?;
    }
}

/// An answer as it is sent.
fn written(reply: &Reply, method: &str) -> Vec<u8> {
    if reply.verbatim.is_some() {
        return reply.body.clone();
    }
    let mut fields = reply.headers.clone();
    let (name, value) = if reply.trailers.is_empty() {
        ("Content-Length", reply.body.len().to_string())
    } else {
        ("Transfer-Encoding", "chunked".to_owned())
    };
    if reply.status != 204 {
        fields.push((name.to_owned(), value));
    }
    let start = format!("HTTP/1.1 {} Whatever", reply.status);
    let mut bytes = wire::head(&start, &fields).into_bytes();
    if method == "HEAD" {
        return bytes;
    }
    if reply.trailers.is_empty() {
        bytes.extend(&reply.body);
    } else {
        bytes.extend(wire::chunked(&reply.body, &reply.trailers));
    }
    bytes
}
