//! How HTTP is set up: bounds and times.

use std::ops::RangeInclusive;
use std::time::Duration;

use hyper::{client, server};
use hyper_util::rt::TokioTimer;

use crate::bounds::{Client, Promise, Use, Wanted};
use crate::proxy::http::detect::Version;
use crate::proxy::places::{self, Refused};
use crate::proxy::realm::Local;

/// How long the head of a request may take. nginx and Go's recommendations are of this order.
pub const HEAD_TIMEOUT: Duration = Duration::from_mins(1);

/// How long a connection of HTTP/1.1 on which nothing is asked stays open when its agent drains: one that is
/// closed while its client sends a request would fail it, and a request that comes has an answer that says
/// that it is the last (RFC 9112, section 9.6).
pub const LAST_REQUEST: Duration = Duration::from_secs(1);

/// The longest head of a request or an answer.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The least of it, of a client that has used up what it may have of memory.
const LEAST_BUFFER_BYTES: u32 = 16 * 1024;

/// How many fields it has at most.
pub const MAX_FIELDS: usize = 200;

/// [`MAX_HEAD_BYTES`], as HTTP/2 has it.
const MAX_LIST_BYTES: u32 = 64 * 1024;

/// The least size of the heads of all requests of a connection.
const LEAST_HEAD_BYTES: u32 = 256 << 10;

/// The least window of an answer of an application of this node, which is near.
const LEAST_ANSWER_BYTES: u32 = 1 << 10;

/// Requests of one HTTP/2 connection at once: nginx takes as many. Each leaves 2.5 KB until the
/// connection ends.
const MAX_STREAMS: u32 = 128;

/// The fewest that one takes whose client has used up what it may leave unread: as many as RFC 9113,
/// section 6.5.2, recommends.
const LEAST_STREAMS: u32 = 100;

/// The window of a connection of one client.
const WINDOW_BYTES: u32 = 4 << 20;

/// The window of a connection to a server that several clients share.
const SHARED_WINDOW_BYTES: u32 = 8 << 20;

/// The least window: that of HTTP/2 itself (RFC 9113, section 6.9.2).
const LEAST_WINDOW_BYTES: u32 = 65_535;

/// Of a connection's window one stream gets such a part.
const WINDOW_PARTS: u32 = 8;

/// Requests of several clients that one connection to a server carries at once: a window of 256 KiB for
/// each, with which 100 MB/s are read from 2.5 ms away.
const SHARED_STREAMS: u32 = 32;

/// The least and the most that waits to be sent of one stream.
const SEND_BYTES: RangeInclusive<u32> = 1 << 10..=64 << 10;

/// Of a window each further stream has as much, beyond the least number of streams.
const STREAM_BYTES: u32 = 4 << 10;

/// Limits of one connection of HTTP/2, and of the one to the application behind it.
///
/// A client decides how much it sends before it reads, and how much it leaves unread: of what it sends
/// one window is kept, of its answers what the application's connection may send, what waits to be sent
/// on all streams, to the application and to the client, and the heads of all requests. All of that is in
/// memory of its own size ([`crate::io::unread`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2 {
    window: u32,
    streams: u32,
    send: u32,
    /// Of HTTP/1.1: what a head may have.
    buffer: u32,
}

impl Http2 {
    /// Windows and their like that one such connection comes with.
    const PARTS: u32 = 5;

    /// The bytes that a connection wants to be promised.
    const WANTED: Wanted =
        Wanted { least: LEAST_HEAD_BYTES * 5 / 2, most: WINDOW_BYTES * Self::PARTS };

    /// The bytes that a connection to a server wants that several clients share.
    const SHARED: Wanted =
        Wanted { least: Self::WANTED.least, most: SHARED_WINDOW_BYTES + (2 << 20) };

    /// The bytes that a connection of HTTP/1.1 wants: a head of the client's, and one of an answer.
    const HTTP1: Wanted = Wanted { least: LEAST_BUFFER_BYTES * 2, most: MAX_LIST_BYTES * 2 };

    /// Of a connection of `client` to a workload, for as long as the promise is kept.
    ///
    /// # Errors
    ///
    /// There is no memory left for it.
    pub fn promised(
        version: Version,
        local: &Local,
        used: Use,
        client: Option<Client>,
    ) -> Result<(Self, Promise), Refused> {
        if version == Version::Http1 {
            let promise = places::promise(local, used, client, Self::HTTP1)?;
            let buffer = (promise.bytes() / 2).min(MAX_LIST_BYTES);
            return Ok((Self { buffer, ..Self::default() }, promise));
        }
        let promise = places::promise(local, used, client, Self::WANTED)?;
        Ok((Self::within(promise.bytes()), promise))
    }

    /// Of a connection to a server that the requests of several clients share.
    ///
    /// # Errors
    ///
    /// There is no memory left for it.
    pub fn shared(local: &Local) -> Result<(Self, Promise), Refused> {
        let promise = places::promise(local, Use::Outbound, None, Self::SHARED)?;
        let window = SHARED_WINDOW_BYTES.min(promise.bytes() / 5 * 4).max(LEAST_WINDOW_BYTES);
        let send =
            (promise.bytes() / 5 / SHARED_STREAMS).clamp(*SEND_BYTES.start(), *SEND_BYTES.end());
        Ok((Self { window, streams: SHARED_STREAMS, send, buffer: MAX_LIST_BYTES }, promise))
    }

    /// Of a connection that was promised so many bytes.
    fn within(promised: u32) -> Self {
        let window = (promised / Self::PARTS).max(LEAST_WINDOW_BYTES);
        let (least, most) = SEND_BYTES.into_inner();
        let streams = (window / STREAM_BYTES).clamp(LEAST_STREAMS, MAX_STREAMS);
        let send = (window / streams).clamp(least, most);
        Self { window, streams, send, buffer: MAX_LIST_BYTES }
    }

    /// How much of what a client sends may be unread.
    pub const fn window(self) -> u32 {
        self.window
    }

    /// How many requests it carries at once.
    pub fn places(self) -> usize {
        usize::try_from(self.streams).unwrap_or(usize::MAX)
    }

    /// Of what a client sends.
    fn client_stream_window(self) -> u32 {
        (self.window / WINDOW_PARTS).max(LEAST_WINDOW_BYTES)
    }

    /// Of what a server answers: all streams together fill the connection's, so that answers that
    /// nobody reads do not keep others from coming.
    fn server_stream_window(self) -> u32 {
        (self.window / self.streams).max(LEAST_ANSWER_BYTES)
    }

    /// How much of what the server answers may be unread.
    pub fn server_window(self) -> u32 {
        self.window.max(self.streams * LEAST_ANSWER_BYTES)
    }

    /// The size of the heads of all requests that wait.
    pub fn head_bytes(self) -> usize {
        usize::try_from(self.window.max(LEAST_HEAD_BYTES)).unwrap_or(usize::MAX)
    }

    fn buffer_bytes(self) -> usize {
        usize::try_from(self.buffer).unwrap_or(usize::MAX)
    }

    fn send_bytes(self) -> usize {
        usize::try_from(self.send).unwrap_or(usize::MAX)
    }
}

impl Default for Http2 {
    fn default() -> Self {
        Self::within(Self::WANTED.most)
    }
}

/// Requests that a client has taken back before they were looked at (CVE-2023-44487).
const MAX_RESETS: usize = 64;

/// Streams of a connection that are reset because the other end breaks the rules (CVE-2025-8671).
const MAX_ERRORS: usize = 1024;

/// The largest frame that is taken: the least that HTTP/2 allows (RFC 9113, section 4.2).
const MAX_FRAME_BYTES: u32 = 16 * 1024;

/// A server of HTTP/1.1, whose clients may take so long until the head of their next request is there,
/// from the end of the last one on, and which keeps no more than `most`.
pub fn http1_server(patience: Duration, most: Http2) -> server::conn::http1::Builder {
    let mut builder = server::conn::http1::Builder::new();
    builder
        .preserve_header_case(true)
        .auto_date_header(false)
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_headers(MAX_FIELDS)
        .max_buf_size(most.buffer_bytes());
    builder
}

/// A server of HTTP/2, which keeps no more than `most`.
pub fn http2_server(most: Http2) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_connection_window_size(most.window)
        .initial_window_size(most.client_stream_window())
        .max_frame_size(MAX_FRAME_BYTES)
        .max_send_buffer_size(most.send_bytes())
        .max_concurrent_streams(most.streams)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(Some(MAX_ERRORS))
        .max_header_list_size(MAX_LIST_BYTES);
    builder
}

/// A client of HTTP/1.1.
pub fn http1_client() -> client::conn::http1::Builder {
    let mut builder = client::conn::http1::Builder::new();
    builder.preserve_header_case(true).max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_FIELDS);
    builder
}

/// A client of HTTP/2, which keeps no more than `most`.
pub fn http2_client(most: Http2) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        // Until the server says how many it allows.
        .initial_max_send_streams(1)
        .initial_connection_window_size(most.server_window())
        .initial_window_size(most.server_stream_window())
        .max_frame_size(MAX_FRAME_BYTES)
        .max_send_buffer_size(most.send_bytes())
        .max_local_error_reset_streams(Some(MAX_ERRORS))
        .max_header_list_size(MAX_LIST_BYTES);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_keeps_what_it_was_promised() {
        let Wanted { least, most } = Http2::WANTED;
        for promised in [least, least + 65_536, 5 << 20, most] {
            let http = Http2::within(promised);
            // To the application, and to the client.
            let waits = 2 * u64::from(http.send) * u64::from(http.streams);
            let answers = u64::from(http.server_window());
            let kept = u64::from(http.window) + answers + waits + http.head_bytes() as u64;
            // Of the least, the heads have more than their part.
            let over = u64::from(LEAST_HEAD_BYTES.saturating_sub(promised / Http2::PARTS));
            assert!(kept <= u64::from(promised) + over, "{promised}: {http:?}");
            assert!(http.server_stream_window() * http.streams <= http.server_window());
        }
        let all = Http2::default();
        let windows = (all.window, all.client_stream_window(), all.server_stream_window());
        assert_eq!((all.streams, windows), (128, (4 << 20, 512 << 10, 32 << 10)));
        assert_eq!(Http2::within(least).streams, LEAST_STREAMS);
    }
}
