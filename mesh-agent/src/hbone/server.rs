//! Takes the tunnels of peers.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use h2::Reason;
use h2::server::{Builder, SendResponse};
use http::{Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::hbone::connect::{self, Open, RequestError};
use crate::hbone::stream::Stream;
use crate::hbone::{COPIED, Error, MAX_REMEMBERED_RESETS, Options};
use crate::io::frames::Paced;
use crate::io::unread::{Received, Unread};
use crate::task::ending::Ending;

/// The largest list of headers of a request, in bytes (what ztunnel allows).
const MAX_HEADER_BYTES: u32 = 64 * 1024;

/// A stream that a peer asks for, and that waits for its answer.
#[derive(Debug)]
pub struct Incoming {
    respond: SendResponse<Bytes>,
    receive: Received,
}

impl Incoming {
    /// Answers 200.
    ///
    /// # Errors
    ///
    /// The peer has gone away.
    pub fn accept(mut self) -> Result<Stream, Error> {
        let send = self.respond.send_response(answer(StatusCode::OK), false)?;
        Ok(Stream { send, receive: self.receive, meter: None })
    }

    /// Answers another status.
    pub fn refuse(mut self, status: u16) {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        if let Err(error) = self.respond.send_response(answer(status), true) {
            tracing::debug!(%error, "a peer did not wait for its answer");
        }
    }
}

impl Incoming {
    /// Resets the stream as one that was not looked at (RFC 9113, section 8.7).
    pub fn refuse_untaken(mut self) {
        self.respond.send_reset(Reason::REFUSED_STREAM);
    }
}

fn answer(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

/// Serves one tunnel until the peer closes it; `handle` is given each stream.
///
/// # Errors
///
/// The peer broke HTTP/2, or is not trusted any more.
pub async fn serve<Io>(
    io: Io,
    options: &Options,
    ending: Ending<impl Future<Output = ()>, impl Future<Output = ()>>,
    handle: impl Fn(Result<Open, RequestError>, Incoming),
) -> Result<(), Error>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let (mut retired, mut cut) = (pin!(ending.retired), pin!(ending.cut));
    let unread = Unread::within(options.tunnel_window_bytes, COPIED);
    let greeting = Builder::new()
        .initial_window_size(options.stream_window_bytes)
        .initial_connection_window_size(options.tunnel_window_bytes)
        .max_frame_size(options.max_frame_bytes)
        .max_send_buffer_size(options.max_send_buffer_bytes)
        .max_concurrent_streams(options.max_streams)
        .max_concurrent_reset_streams(MAX_REMEMBERED_RESETS)
        .max_local_error_reset_streams(None)
        .max_header_list_size(MAX_HEADER_BYTES)
        .handshake(Arc::clone(&unread).counted(Paced::of_client(io)));
    // A peer that says nothing has no streams to lose.
    let mut connection = tokio::select! {
        biased;
        () = &mut cut => return Err(Error::Distrusted),
        () = &mut retired => return Ok(()),
        greeted = timeout(options.greeting_timeout, greeting) => {
            greeted.unwrap_or(Err(Reason::SETTINGS_TIMEOUT.into()))?
        }
    };
    let mut is_retired = false;
    loop {
        let next = tokio::select! {
            biased;
            () = &mut cut => return Err(Error::Distrusted),
            () = &mut retired, if !is_retired => {
                connection.graceful_shutdown();
                is_retired = true;
                continue;
            }
            next = poll_fn(|cx| {
                let next = connection.poll_accept(cx);
                unread.copy_if_due();
                next
            }) => next,
        };
        let Some(next) = next else { return Ok(()) };
        let (request, respond) = next?;
        let open = connect::parse(&request);
        let incoming = Incoming { respond, receive: unread.watch(Request::into_body(request)) };
        if is_retired {
            incoming.refuse_untaken();
        } else {
            handle(open, incoming);
        }
    }
}
