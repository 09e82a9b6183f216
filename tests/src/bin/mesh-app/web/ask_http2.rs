//! A request by HTTP/2, at the client, and a call of gRPC.

use std::io;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, SendStream};
use http::Request;
use mesh_tests::http::{Answer, Ask, grpc};
use tokio::net::TcpStream;

use super::{broken, data, fields, map, trailers};

/// Begins HTTP/2 on a connection.
pub(super) async fn open(stream: TcpStream) -> io::Result<SendRequest<Bytes>> {
    let (sender, connection) = h2::client::handshake(stream).await.map_err(broken)?;
    tokio::spawn(async move {
        // How it ended is seen by each of its requests.
        drop(connection.await);
    });
    Ok(sender)
}

/// Whether the server has announced an orderly end of the connection: new requests need another one
/// (RFC 9113, section 6.8).
pub(super) async fn is_ending(sender: &SendRequest<Bytes>) -> bool {
    let is_orderly =
        |error: &h2::Error| error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
    sender.clone().ready().await.is_err_and(|error| is_orderly(&error))
}

/// Asks once.
pub(super) async fn run(
    sender: SendRequest<Bytes>,
    ask: &Ask,
    answer: &mut Answer,
) -> io::Result<()> {
    let mut sender = sender.ready().await.map_err(broken)?;
    let uri = format!("http://{}{}", ask.host, ask.path);
    let request = Request::builder().method(ask.method.as_str()).uri(uri);
    let mut request = request.body(()).map_err(io::Error::other)?;
    *request.headers_mut() = map(&ask.headers)?;
    let ends = ask.messages.is_empty() && ask.body.is_empty() && ask.trailers.is_empty();
    let (response, mut stream) = sender.send_request(request, ends).map_err(broken)?;
    let mut messages = ask.messages.iter();
    if !ends {
        let first = if ask.in_step { 1 } else { usize::MAX };
        messages.by_ref().take(first).try_for_each(|message| send(&mut stream, message))?;
        if ask.messages.is_empty() {
            let is_last = ask.trailers.is_empty();
            stream.send_data(Bytes::from(ask.body.clone()), is_last).map_err(broken)?;
        }
        if !ask.trailers.is_empty() {
            stream.send_trailers(map(&ask.trailers)?).map_err(broken)?;
        } else if !ask.in_step && !ask.messages.is_empty() {
            stream.send_data(Bytes::new(), true).map_err(broken)?;
        }
    }
    let (head, mut body) = response.await.map_err(broken)?.into_parts();
    answer.status = head.status.as_u16();
    answer.headers = fields(&head.headers);
    let is_grpc =
        answer.header("content-type").is_some_and(|kind| kind.starts_with(grpc::CONTENT_TYPE));
    let mut bytes = Vec::new();
    while let Some(part) = data(&mut body).await? {
        bytes.extend(part);
        while is_grpc && let Some(message) = grpc::take(&mut bytes).map_err(io::Error::other)? {
            answer.messages.push(message);
            if ask.in_step {
                // Another message for each that has come back; after the last, the end.
                match messages.next() {
                    Some(message) => send(&mut stream, message)?,
                    None => stream.send_data(Bytes::new(), true).map_err(broken)?,
                }
            }
        }
    }
    answer.set_body(&bytes);
    answer.trailers = trailers(&mut body).await?;
    Ok(())
}

fn send(stream: &mut SendStream<Bytes>, message: &str) -> io::Result<()> {
    let frame = grpc::framed(message).map_err(io::Error::other)?;
    stream.send_data(frame.into(), false).map_err(broken)
}
