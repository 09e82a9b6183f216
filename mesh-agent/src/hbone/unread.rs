//! What has come on the streams of a tunnel and that nobody has read yet, in memory of its own size.
//!
//! h2 gives each piece of data as a part of the buffer that it was read into, which stays for as long
//! as the piece: of a peer that sends a byte here and other frames in between each byte keeps 8 KiB or
//! more, whatever the windows say. So each time when a part of a tunnel's window has come, what waits
//! on its streams is copied.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;

use crate::io::counted::{Count, Counted};

/// Of a tunnel's window such a part comes between two times of copying: of all that is promised to a
/// peer, buffers of at most 1/8 are kept beside it, those read into before one time and after it.
const PART: usize = 16;

/// The least that comes between: 1,024 tunnels to a workload × 2 × 64 KiB = 128 MiB, at worst.
const LEAST_BYTES: usize = 64 * 1024;

/// The largest piece that is copied into: it is freed as a whole.
const PIECE_BYTES: usize = 64 * 1024;

/// The streams of one tunnel.
#[derive(Debug)]
pub(super) struct Unread {
    /// How much was read since what waits was copied.
    read: AtomicUsize,
    /// Something was read since this was last asked.
    heard: AtomicBool,
    every: usize,
    streams: Mutex<Vec<Weak<Mutex<Waiting>>>>,
}

/// The half of a stream that comes from the peer.
#[derive(Debug)]
pub struct Received(Arc<Mutex<Waiting>>);

/// What has come on a stream.
#[derive(Debug)]
struct Waiting {
    stream: RecvStream,
    /// What was copied. It comes before what the stream has.
    copied: VecDeque<BytesMut>,
    /// How the stream has ended after that.
    failed: Option<h2::Error>,
    /// Who waits for more.
    reader: Option<Waker>,
}

impl Unread {
    /// Of a tunnel with a window of so many bytes.
    pub(super) fn within(window_bytes: u32) -> Arc<Self> {
        let window = usize::try_from(window_bytes).unwrap_or(usize::MAX);
        let every = (window / PART).max(LEAST_BYTES);
        let (read, heard) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { read, heard, every, streams: Mutex::default() })
    }

    /// The tunnel's connection.
    pub(super) const fn counted<Io>(self: Arc<Self>, io: Io) -> Counted<Io, Arc<Self>> {
        Counted::new(io, self)
    }

    /// Whether the peer was heard since this was last asked.
    pub(super) fn take_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// Looks after a stream, until it is dropped.
    pub(super) fn watch(&self, stream: RecvStream) -> Received {
        let (copied, failed, reader) = (VecDeque::new(), None, None);
        let waiting = Arc::new(Mutex::new(Waiting { stream, copied, failed, reader }));
        let mut streams = lock(&self.streams);
        if streams.len() == streams.capacity() {
            streams.retain(|stream| stream.strong_count() > 0);
        }
        streams.push(Arc::downgrade(&waiting));
        Received(waiting)
    }

    /// Copies what waits, if enough was read since the last time. Not to be called while h2 is.
    pub(super) fn copy_if_due(&self) {
        if self.read.load(Ordering::Relaxed) < self.every {
            return;
        }
        self.read.store(0, Ordering::Relaxed);
        let mut streams = lock(&self.streams);
        streams.retain(|stream| {
            let Some(stream) = stream.upgrade() else { return false };
            lock(&stream).copy();
            true
        });
    }
}

impl Waiting {
    fn copy(&mut self) {
        // Whoever waits for more goes on doing so.
        let reader = self.reader.clone();
        let mut cx = Context::from_waker(reader.as_ref().unwrap_or(Waker::noop()));
        while self.failed.is_none() {
            match self.stream.poll_data(&mut cx) {
                Poll::Ready(Some(Ok(data))) => self.append(&data),
                Poll::Ready(Some(Err(error))) => self.failed = Some(error),
                // An end is there to be asked for again.
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }

    fn append(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.copied.back().is_none_or(|last| last.len() >= PIECE_BYTES) {
                self.copied.push_back(BytesMut::new());
            }
            let Some(last) = self.copied.back_mut() else { return };
            let (now, later) = data.split_at(data.len().min(PIECE_BYTES - last.len()));
            last.extend_from_slice(now);
            data = later;
        }
    }
}

impl Received {
    /// What comes next; `None` at the end.
    ///
    /// # Errors
    ///
    /// The stream was reset, or its tunnel failed.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let mut waiting = lock(&self.0);
        if let Some(data) = waiting.copied.pop_front() {
            return Poll::Ready(Some(Ok(data.freeze())));
        }
        if let Some(error) = waiting.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let data = waiting.stream.poll_data(cx);
        waiting.reader = data.is_pending().then(|| cx.waker().clone());
        data
    }

    /// Whether the end has come too, after what was taken.
    pub fn is_last(&self) -> bool {
        let waiting = lock(&self.0);
        waiting.copied.is_empty() && waiting.failed.is_none() && waiting.stream.is_end_stream()
    }

    /// So many bytes are not needed any more: the peer may send as many again.
    ///
    /// # Errors
    ///
    /// The stream was reset.
    pub fn release(&mut self, bytes: usize) -> Result<(), h2::Error> {
        lock(&self.0).stream.flow_control().release_capacity(bytes)
    }
}

/// No code panics while it holds a lock, and what it guards is whole after every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Count for Arc<Unread> {
    fn add_read(&self, bytes: usize) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
        self.heard.store(true, Ordering::Relaxed);
    }

    fn add_written(&self, _bytes: usize) {}
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::task::scope::Scope;

    /// A stream of which data comes, and what looks after it.
    async fn stream(scope: &Scope) -> (h2::SendStream<Bytes>, Arc<Unread>, Received) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (requests, connection) = h2::client::handshake(theirs).await.unwrap();
        scope.spawn(async move { connection.await.unwrap_or_default() });
        let unread = Unread::within(0);
        let counted = Arc::clone(&unread).counted(ours);
        let (tell, told) = tokio::sync::oneshot::channel();
        scope.spawn(Box::pin(async move {
            let mut connection = h2::server::handshake(counted).await.unwrap();
            let request = connection.accept().await.unwrap().unwrap();
            tell.send(request).unwrap();
            while connection.accept().await.is_some() {}
        }));
        let mut requests = requests.ready().await.unwrap();
        let request = http::Request::connect("10.0.0.1:80").body(()).unwrap();
        let (_response, send) = requests.send_request(request, false).unwrap();
        let (request, respond) = told.await.unwrap();
        // Dropped, it would reset the stream.
        scope.spawn(async move {
            let mut respond = respond;
            let _reset: Result<h2::Reason, _> = poll_fn(|cx| respond.poll_reset(cx)).await;
        });
        let received = unread.watch(request.into_body());
        (send, unread, received)
    }

    fn copied(received: &Received) -> usize {
        lock(&received.0).copied.iter().map(BytesMut::len).sum()
    }

    /// Copies until so much was copied.
    async fn copy(unread: &Unread, received: &Received, bytes: usize) {
        while copied(received) < bytes {
            unread.read.store(unread.every, Ordering::Relaxed);
            unread.copy_if_due();
            tokio::task::yield_now().await;
        }
    }

    async fn next(received: &mut Received) -> Option<Result<Bytes, h2::Error>> {
        poll_fn(|cx| received.poll_data(cx)).await
    }

    #[tokio::test]
    async fn what_waits_is_copied_and_read_in_order() {
        let scope = Scope::new("test");
        let (mut send, unread, mut received) = stream(&scope).await;
        for byte in 0..100 {
            send.send_data(vec![byte].into(), false).unwrap();
        }
        copy(&unread, &received, 100).await;
        // In one piece; what comes later is behind it, and the end last.
        send.send_data(Bytes::from_static(b"later"), true).unwrap();
        let bytes: Vec<u8> = (0..100).collect();
        assert!(!received.is_last());
        assert_eq!(next(&mut received).await.unwrap().unwrap(), bytes);
        assert_eq!(next(&mut received).await.unwrap().unwrap(), "later");
        assert!(received.is_last() && next(&mut received).await.is_none());
        received.release(105).unwrap();
    }

    #[tokio::test]
    async fn who_waits_is_woken_after_copying() {
        let scope = Scope::new("test");
        let (mut send, unread, mut received) = stream(&scope).await;
        let waiting = poll_fn(|cx| Poll::Ready(received.poll_data(cx).is_pending()));
        assert!(waiting.await);
        unread.read.store(unread.every, Ordering::Relaxed);
        unread.copy_if_due();
        send.send_data(Bytes::from_static(b"x"), false).unwrap();
        assert_eq!(next(&mut received).await.unwrap().unwrap(), "x");
    }

    #[tokio::test]
    async fn a_reset_comes_after_what_was_copied() {
        let scope = Scope::new("test");
        let (mut send, unread, mut received) = stream(&scope).await;
        send.send_data(Bytes::from_static(b"all"), false).unwrap();
        copy(&unread, &received, 3).await;
        send.send_reset(h2::Reason::CANCEL);
        assert_eq!(next(&mut received).await.unwrap().unwrap(), "all");
        let error = next(&mut received).await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    }

    #[tokio::test]
    async fn a_stream_that_is_dropped_is_forgotten() {
        let scope = Scope::new("test");
        let (_send, unread, received) = stream(&scope).await;
        drop(received);
        unread.read.store(unread.every, Ordering::Relaxed);
        unread.copy_if_due();
        assert!(lock(&unread.streams).is_empty());
    }
}
