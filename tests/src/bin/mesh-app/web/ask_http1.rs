//! A request by HTTP/1.1, at the client.

use std::io;

use mesh_tests::http::{Answer, Ask, Fields, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Asks once. Returns whether the connection may be used again.
pub(super) async fn run(
    io: &mut BufReader<TcpStream>,
    ask: &Ask,
    answer: &mut Answer,
) -> io::Result<bool> {
    io.write_all(&written(ask)).await?;
    let head = loop {
        let head = wire::read_head(io).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        answer.status = head.part(1).parse().map_err(io::Error::other)?;
        // An informational answer is not it.
        if !matches!(answer.status, 100 | 102..=199) {
            break head;
        }
    };
    answer.headers.clone_from(&head.fields);
    if let (101, Some(text)) = (answer.status, &ask.upgraded) {
        io.write_all(text.as_bytes()).await?;
        let mut echoed = vec![0; text.len()];
        io.read_exact(&mut echoed).await?;
        answer.echoed = Some(String::from_utf8_lossy(&echoed).into_owned());
        io.shutdown().await?;
        let rest = io.read(&mut [0]).await?;
        return if rest == 0 { Ok(false) } else { Err(io::Error::other("more than the echo")) };
    }
    let length = head.answer_length(&ask.method, answer.status)?;
    let (body, trailers) = wire::read_body(io, length).await?;
    answer.set_body(&body);
    answer.trailers = trailers;
    Ok(!head.closes() && length != wire::Length::ToEnd)
}

/// A request as it is sent.
fn written(ask: &Ask) -> Vec<u8> {
    let mut fields: Fields = vec![("Host".to_owned(), ask.host.clone())];
    fields.extend(ask.headers.iter().cloned());
    let is_chunked = !ask.trailers.is_empty();
    if is_chunked {
        fields.push(("Transfer-Encoding".to_owned(), "chunked".to_owned()));
    } else if !ask.body.is_empty() || ask.method == "POST" {
        fields.push(("Content-Length".to_owned(), ask.body.len().to_string()));
    }
    let start = format!("{} {} HTTP/1.1", ask.method, ask.path);
    let mut bytes = wire::head(&start, &fields).into_bytes();
    if is_chunked {
        bytes.extend(wire::chunked(ask.body.as_bytes(), &ask.trailers));
    } else {
        bytes.extend(ask.body.as_bytes());
    }
    bytes
}
