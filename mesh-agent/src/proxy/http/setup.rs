//! How hyper is set up: bounds, times, and where its tasks live.

use std::time::Duration;

use hyper::rt::Executor;
use hyper::{client, server};
use hyper_util::rt::TokioTimer;

use crate::task::scope::Scope;

/// How long the head of a request may take. nginx and Go's recommendations are of this order.
pub const HEAD_TIMEOUT: Duration = Duration::from_mins(1);

/// The longest head of a request or an answer.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How many fields it has at most.
pub const MAX_FIELDS: usize = 200;

/// [`MAX_HEAD_BYTES`], as HTTP/2 has it.
const MAX_LIST_BYTES: u32 = 64 * 1024;

/// Requests of one HTTP/2 connection at once.
const MAX_STREAMS: u32 = 1_000;

/// Requests that a client has taken back and that are still in hyper's queue (CVE-2023-44487).
const MAX_RESETS: usize = 64;

/// Spawns into a scope.
#[derive(Clone, Debug)]
pub struct InScope(pub Scope);

impl<F> Executor<F> for InScope
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        // Of a size that is hyper's.
        self.0.spawn(Box::pin(task));
    }
}

/// A server of HTTP/1.1, whose clients may take so long until the head of their next request is there,
/// from the end of the last one on.
pub fn http1_server(patience: Duration) -> server::conn::http1::Builder {
    let mut builder = server::conn::http1::Builder::new();
    builder
        .preserve_header_case(true)
        .auto_date_header(false)
        .half_close(true)
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
}

/// A server of HTTP/2.
pub fn http2_server(scope: &Scope) -> server::conn::http2::Builder<InScope> {
    let mut builder = server::conn::http2::Builder::new(InScope(scope.clone()));
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .adaptive_window(true)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_header_list_size(MAX_LIST_BYTES);
    builder
}

/// A client of HTTP/1.1.
pub fn http1_client() -> client::conn::http1::Builder {
    let mut builder = client::conn::http1::Builder::new();
    builder.preserve_header_case(true).max_buf_size(MAX_HEAD_BYTES).max_headers(MAX_FIELDS);
    builder
}

/// A client of HTTP/2.
pub fn http2_client(scope: &Scope) -> client::conn::http2::Builder<InScope> {
    let mut builder = client::conn::http2::Builder::new(InScope(scope.clone()));
    builder.timer(TokioTimer::new()).max_header_list_size(MAX_LIST_BYTES).adaptive_window(true);
    builder
}
