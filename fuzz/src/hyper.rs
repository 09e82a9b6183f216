//! hyper as the judge of what HTTP/1.1 means: it reads bytes from memory, at once.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::request;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1 as client;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;

/// A request that hyper has read.
#[derive(Debug)]
pub struct Asked {
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub headers: HeaderMap,
    /// `None`: there is more of it.
    pub body: Option<Bytes>,
}

/// The first request of `input`, as a server reads it.
pub fn asked(input: &[u8]) -> Option<Asked> {
    let seen = Rc::new(RefCell::new(None));
    let note = Rc::clone(&seen);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let note = Rc::clone(&note);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.ok().map(|body| body.to_bytes());
            let request::Parts { method, uri, version, headers, .. } = head;
            let asked = Asked { method, uri, version, headers, body };
            note.borrow_mut().get_or_insert(asked);
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut builder = server::Builder::new();
    builder.max_headers(200).half_close(true);
    poll(builder.serve_connection(Memory::said(input), service));
    seen.take()
}

/// The answer in `input`, as a client reads it that has sent `method`. The body is `None` if it is
/// not whole.
pub fn answered(input: &[u8], method: Method) -> Option<(StatusCode, HeaderMap, Option<Bytes>)> {
    let mut builder = client::Builder::new();
    builder.max_headers(200);
    let mut seen = None;
    poll(async {
        let Ok((mut sender, driving)) = builder.handshake(Memory::answered(input)).await else {
            return;
        };
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.method_mut() = method;
        let asking = async {
            let (head, body) = sender.send_request(request).await.ok()?.into_parts();
            let body = body.collect().await.ok().map(|body| body.to_bytes());
            seen = Some((head.status, head.headers, body));
            Some(())
        };
        // Both have to be polled: neither waits for anything but the other.
        let (mut driving, mut asking) = (pin!(driving), pin!(asking));
        let (mut is_driven, mut is_asked) = (false, false);
        std::future::poll_fn(|cx| {
            for _turn in 0..64 {
                is_driven = is_driven || driving.as_mut().poll(cx).is_ready();
                is_asked = is_asked || asking.as_mut().poll(cx).is_ready();
            }
            Poll::Ready(())
        })
        .await;
    });
    seen
}

/// Runs what waits for nobody.
fn poll<T>(future: impl Future<Output = T>) {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    for _turn in 0..64 {
        if future.as_mut().poll(&mut context).is_ready() {
            return;
        }
    }
}

/// Bytes to be read, and then the end. Written bytes are gone.
struct Memory<'a> {
    input: &'a [u8],
    /// Nothing is said before something is written: an answer follows its request.
    is_patient: bool,
}

impl<'a> Memory<'a> {
    /// Input of a server.
    const fn said(input: &'a [u8]) -> Self {
        Self { input, is_patient: false }
    }

    /// Input of a client that has asked.
    const fn answered(input: &'a [u8]) -> Self {
        Self { input, is_patient: true }
    }
}

impl Read for Memory<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_patient {
            return Poll::Pending;
        }
        let (now, later) = self.input.split_at(self.input.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.input = later;
        Poll::Ready(Ok(()))
    }
}

impl Write for Memory<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_patient = false;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
