//! Bytes that have come on the streams of a connection of HTTP/2 and that nobody has read yet, in memory
//! of their own size.
//!
//! h2 gives each piece of data as a part of the buffer that it was read into, which stays for as long
//! as the piece: of a peer that sends a byte here and other frames in between each byte keeps 8 KiB or
//! more, whatever the windows say. So each time when a part of a connection's window has come, what waits
//! on its streams is copied.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;

use crate::io::counted::{Count, Counted};

/// Part of a connection's window that comes between two times of copying: of all that is promised to a
/// peer, buffers of at most 1/8 are kept beside it, those read into before one time and after it.
const PART: usize = 16;

/// The least that comes between: 1,024 tunnels to a workload × 2 × 64 KiB = 128 MiB, at worst.
const LEAST_BYTES: usize = 64 * 1024;

/// Growth of a piece that is copied into, or an eighth of it: what may stay empty.
const STEP_BYTES: usize = 2 * 1024;

/// Slices of the buffers that a connection was read into which are kept as they are.
#[derive(Clone, Copy, Debug)]
pub struct Slices {
    /// The least length, in bytes, of one that is copied only if it still waits the second time.
    pub waiting: usize,
    /// The least length of one that whoever reads the stream is given: shorter ones are copied for it.
    pub passed: usize,
    /// The length of the largest piece that is copied into: it is freed as a whole.
    pub piece: usize,
}

/// The streams of one connection.
#[derive(Debug)]
pub struct Unread {
    /// How much was read since what waits was copied.
    read: AtomicUsize,
    /// Something was read since this was last asked.
    heard: AtomicBool,
    every: usize,
    slices: Slices,
    streams: Mutex<Vec<Weak<Mutex<Waiting>>>>,
}

/// The half of a stream that comes from the peer.
#[derive(Debug)]
pub struct Received(Arc<Mutex<Waiting>>);

/// Bytes that have come on a stream.
#[derive(Debug)]
struct Waiting {
    stream: RecvStream,
    slices: Slices,
    /// Bytes that were taken from the stream. They come before what the stream has.
    taken: VecDeque<Piece>,
    /// How the stream has ended after that.
    failed: Option<h2::Error>,
    /// The task that waits for more.
    reader: Option<Waker>,
}

/// A piece of what waits.
#[derive(Debug)]
enum Piece {
    /// In memory of its own.
    Own(Vec<u8>),
    /// In the buffer that it was read into.
    Read(Bytes),
}

impl Unread {
    /// Streams of a connection with a window of so many bytes.
    pub fn within(window_bytes: u32, slices: Slices) -> Arc<Self> {
        let window = usize::try_from(window_bytes).unwrap_or(usize::MAX);
        let every = (window / PART).max(LEAST_BYTES);
        let (read, heard) = (AtomicUsize::new(0), AtomicBool::new(false));
        Arc::new(Self { read, heard, every, slices, streams: Mutex::default() })
    }

    /// The connection, of which is counted what was read.
    pub const fn counted<Io>(self: Arc<Self>, io: Io) -> Counted<Io, Arc<Self>> {
        Counted::new(io, self)
    }

    /// Whether the peer was heard since this was last asked.
    pub fn take_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// Looks after a stream, until it is dropped.
    pub fn watch(&self, stream: RecvStream) -> Received {
        let (slices, taken, failed, reader) = (self.slices, VecDeque::new(), None, None);
        let waiting = Arc::new(Mutex::new(Waiting { stream, slices, taken, failed, reader }));
        let mut streams = lock(&self.streams);
        if streams.len() == streams.capacity() {
            streams.retain(|stream| stream.strong_count() > 0);
        }
        streams.push(Arc::downgrade(&waiting));
        Received(waiting)
    }

    /// Copies what waits, if enough was read since the last time. Not to be called while h2 is.
    pub fn copy_if_due(&self) {
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
        for piece in &mut self.taken {
            if let Piece::Read(data) = piece {
                *piece = Piece::Own(data.to_vec());
            }
        }
        // A task that waits for more goes on doing so.
        let reader = self.reader.clone();
        let mut cx = Context::from_waker(reader.as_ref().unwrap_or(Waker::noop()));
        while self.failed.is_none() {
            match self.stream.poll_data(&mut cx) {
                Poll::Ready(Some(Ok(data))) if data.len() >= self.slices.waiting => {
                    self.taken.push_back(Piece::Read(data));
                }
                Poll::Ready(Some(Ok(data))) => self.append(&data),
                Poll::Ready(Some(Err(error))) => self.failed = Some(error),
                // An end is there to be asked for again.
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }

    fn append(&mut self, mut data: &[u8]) {
        let most = self.slices.piece;
        while !data.is_empty() {
            let last = match self.taken.back_mut() {
                Some(Piece::Own(last)) if last.len() < most => last,
                _ => {
                    self.taken.push_back(Piece::Own(Vec::new()));
                    continue;
                }
            };
            let (now, later) = data.split_at(data.len().min(most - last.len()));
            if last.capacity() - last.len() < now.len() {
                let step = last.len().min(STEP_BYTES.max(last.len() / 8)).min(most - last.len());
                last.reserve_exact(now.len().max(step));
            }
            last.extend_from_slice(now);
            data = later;
        }
    }
}

impl Received {
    /// The data that comes next; `None` at its end.
    ///
    /// # Errors
    ///
    /// The stream was reset, or its connection failed.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        let mut waiting = lock(&self.0);
        if let Some(piece) = waiting.taken.pop_front() {
            return Poll::Ready(Some(Ok(match piece {
                Piece::Own(data) => Bytes::from(data),
                Piece::Read(data) => data,
            })));
        }
        if let Some(error) = waiting.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let data = waiting.stream.poll_data(cx);
        waiting.reader = data.is_pending().then(|| cx.waker().clone());
        let passed = waiting.slices.passed;
        data.map_ok(|data| if data.len() < passed { Bytes::copy_from_slice(&data) } else { data })
    }

    /// The fields that come after the data, once that has ended.
    ///
    /// # Errors
    ///
    /// The stream was reset, or its connection failed.
    pub fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        let mut waiting = lock(&self.0);
        let trailers = waiting.stream.poll_trailers(cx);
        waiting.reader = trailers.is_pending().then(|| cx.waker().clone());
        trailers
    }

    /// Whether the end has come too, after what was taken.
    pub fn is_last(&self) -> bool {
        let waiting = lock(&self.0);
        waiting.taken.is_empty() && waiting.failed.is_none() && waiting.stream.is_end_stream()
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

    /// Nothing stays where it was read.
    const NONE: Slices = Slices { waiting: usize::MAX, passed: 0, piece: 1 << 16 };

    async fn stream(scope: &Scope) -> (h2::SendStream<Bytes>, Arc<Unread>, Received) {
        stream_with(scope, NONE).await
    }

    /// A stream of which data comes, and what looks after it.
    async fn stream_with(
        scope: &Scope,
        slices: Slices,
    ) -> (h2::SendStream<Bytes>, Arc<Unread>, Received) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (requests, connection) = h2::client::handshake(theirs).await.unwrap();
        scope.spawn(async move { connection.await.unwrap_or_default() });
        let unread = Unread::within(0, slices);
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
        let waiting = lock(&received.0);
        let own = |piece: &Piece| if let Piece::Own(data) = piece { data.len() } else { 0 };
        waiting.taken.iter().map(own).sum()
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
    async fn a_long_slice_is_copied_the_second_time() {
        const LONG: usize = 10_000;
        let scope = Scope::new("test");
        let slices = Slices { waiting: LONG, passed: LONG, piece: LONG };
        let (mut send, unread, mut received) = stream_with(&scope, slices).await;
        send.send_data(vec![1; LONG].into(), false).unwrap();
        send.send_data(vec![2; 10].into(), false).unwrap();
        copy(&unread, &received, 10).await;
        let is_read = |received: &Received| matches!(lock(&received.0).taken.front(), Some(Piece::Read(data)) if data.len() == LONG);
        assert!(is_read(&received) || copied(&received) == LONG + 10);
        copy(&unread, &received, LONG + 10).await;
        // Pieces have a bound, and no piece is larger than its part of it.
        send.send_data(vec![3; LONG - 1].into(), true).unwrap();
        copy(&unread, &received, 2 * LONG + 9).await;
        let lengths: Vec<_> = lock(&received.0)
            .taken
            .iter()
            .map(|piece| match piece {
                Piece::Own(data) => {
                    assert!(data.capacity() <= data.len() + STEP_BYTES, "{}", data.capacity());
                    data.len()
                }
                Piece::Read(data) => data.len(),
            })
            .collect();
        assert_eq!(lengths, [LONG, LONG, 9]);
        let mut all = Vec::new();
        while let Some(data) = next(&mut received).await {
            all.extend_from_slice(&data.unwrap());
        }
        let expect = [vec![1; LONG], vec![2; 10], vec![3; LONG - 1]].concat();
        assert!(all == expect && received.is_last());
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
