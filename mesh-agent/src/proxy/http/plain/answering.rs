//! An endpoint's connection while it answers, and the client that waits for the answer.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite as _, ReadHalf};
use tokio::net::TcpStream;

use crate::io::leg;
use crate::proxy::http::plain::buffer::Buffer;
use crate::proxy::http::upstream::Counted;

/// An endpoint's connection, as an answer is read from it.
pub(super) trait Answering: AsyncRead + Unpin {
    /// Says that the client has sent its end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// The connection whose error ended the wait.
pub(super) enum Failed {
    Client(io::Error),
    Upstream(io::Error),
}

impl Answering for Counted {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }
}

/// The other half says it, when all of the request is sent.
impl<T: AsyncRead> Answering for ReadHalf<T> {
    fn poll_end(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Reads what comes next from an endpoint, unless the client fails. The end of what the client says is not
/// the end of what it hears: the endpoint is told, once, and ends the request or answers all the same, as it
/// would without the mesh. `has_left`: it was told.
///
/// # Errors
///
/// One of the two connections failed.
pub(super) async fn next(
    (from, client): (&mut impl Answering, &TcpStream),
    (input, limit): (&mut Buffer, usize),
    has_left: &mut bool,
) -> Result<usize, Failed> {
    loop {
        let read = tokio::select! {
            biased;
            read = leg::unless_failed(client, input.fill(from, limit)) => Some(read),
            () = leg::ended(client), if !*has_left => None,
        };
        if let Some(read) = read {
            return read.map_err(Failed::Client)?.map_err(Failed::Upstream);
        }
        *has_left = true;
        poll_fn(|cx| from.poll_end(cx)).await.map_err(Failed::Upstream)?;
    }
}
