//! A connection of HTTP/2, at the server: HTTP, and gRPC by the type of the body.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use mesh_tests::http::{SERVED_BY, Seen, grpc};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::serve::Site;
use super::{broken, data, fields, map, trailers};

/// Requests of a connection at once: as many as Tomcat and Apache httpd take by default.
const MAX_STREAMS: u32 = 100;

/// Serves requests until the client has no more.
pub(super) async fn run(
    site: &Arc<Site>,
    io: BufReader<TcpStream>,
    connection: u64,
) -> io::Result<()> {
    let mut builder = h2::server::Builder::new();
    let mut session =
        builder.max_concurrent_streams(MAX_STREAMS).handshake(io).await.map_err(broken)?;
    let mut streams = JoinSet::new();
    for request in 0.. {
        let Some(accepted) = session.accept().await else { return Ok(()) };
        let (asked, respond) = accepted.map_err(broken)?;
        let (head, body) = asked.into_parts();
        let seen = Seen {
            server: site.name.clone(),
            version: "HTTP/2".to_owned(),
            method: head.method.to_string(),
            path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            authority: head.uri.authority().map(ToString::to_string),
            headers: fields(&head.headers),
            connection,
            request,
            ..Seen::default()
        };
        let (site, asked) = (Arc::clone(site), Request::from_parts(head, body));
        streams.spawn(async move {
            // Its result is the client's to report.
            drop(stream(&site, asked, respond, seen).await);
        });
        while streams.try_join_next().is_some() {}
    }
    Ok(())
}

async fn stream(
    site: &Site,
    asked: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    mut seen: Seen,
) -> io::Result<()> {
    let kind = asked.headers().get("content-type").map(HeaderValue::as_bytes);
    let is_grpc = kind.is_some_and(|kind| kind.starts_with(grpc::CONTENT_TYPE.as_bytes()));
    let mut body = asked.into_body();
    if is_grpc {
        return call(site, body, respond, seen).await;
    }
    let mut bytes = Vec::new();
    while let Some(part) = data(&mut body).await? {
        bytes.extend(part);
    }
    seen.body = String::from_utf8_lossy(&bytes).into_owned();
    seen.trailers = trailers(&mut body).await?;
    let reply = site.answer(&seen)?;
    sleep(reply.after).await;
    if reply.is_none {
        respond.send_reset(h2::Reason::INTERNAL_ERROR);
        return Ok(());
    }
    let mut response =
        Response::builder().status(reply.status).body(()).map_err(io::Error::other)?;
    *response.headers_mut() = map(&reply.headers)?;
    let is_for_head = seen.method == "HEAD";
    let ends = is_for_head || reply.body.is_empty() && reply.trailers.is_empty();
    let mut sender = respond.send_response(response, ends).map_err(broken)?;
    if ends {
        return Ok(());
    }
    sender.send_data(reply.body.into(), reply.trailers.is_empty()).map_err(broken)?;
    if reply.trailers.is_empty() {
        return Ok(());
    }
    sender.send_trailers(map(&reply.trailers)?).map_err(broken)
}

/// A call of gRPC: a method with `Stream` in its name sends each message back when it comes, all
/// others answer with what was seen.
async fn call(
    site: &Site,
    mut body: h2::RecvStream,
    mut respond: SendResponse<Bytes>,
    mut seen: Seen,
) -> io::Result<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert("content-type", HeaderValue::from_static(grpc::CONTENT_TYPE));
    let name = seen.server.parse::<HeaderValue>().map_err(io::Error::other)?;
    headers.insert(
        SERVED_BY.to_ascii_lowercase().parse::<http::HeaderName>().map_err(io::Error::other)?,
        name,
    );
    let is_stream = seen.path.contains("Stream");
    let mut sender = None;
    if is_stream {
        sender = Some(respond.send_response(response.clone(), false).map_err(broken)?);
    }
    let (mut buffer, mut messages) = (Vec::new(), Vec::new());
    while let Some(part) = data(&mut body).await? {
        buffer.extend(part);
        while let Some(message) = grpc::take(&mut buffer).map_err(io::Error::other)? {
            if let Some(sender) = &mut sender {
                send(sender, &message)?;
            }
            messages.push(message);
        }
    }
    seen.body = messages.join("\n");
    seen.trailers = trailers(&mut body).await?;
    site.report(&seen);
    let mut sender = if let Some(sender) = sender {
        sender
    } else {
        let mut sender = respond.send_response(response, false).map_err(broken)?;
        send(&mut sender, &serde_json::to_string(&seen)?)?;
        sender
    };
    let mut end = HeaderMap::new();
    end.insert("grpc-status", HeaderValue::from_static("0"));
    sender.send_trailers(end).map_err(broken)
}

fn send(sender: &mut SendStream<Bytes>, message: &str) -> io::Result<()> {
    let frame = grpc::framed(message).map_err(io::Error::other)?;
    sender.send_data(frame.into(), false).map_err(broken)
}
