//! A client's connection that is read ahead a little while nobody reads it: whether it has failed is
//! seen by reading alone, and who waits for an answer reads nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read ahead at the most. A client that sends more before it has its answer is not
/// watched until that is read.
const AHEAD_BYTES: usize = 4 * 1024;

/// The end of what a client says, on its way to an application that has not answered: it goes on when all of
/// the request is written, and the application ends the request, or answers all the same.
#[derive(Debug, Default)]
pub struct End {
    /// The client has sent it.
    heard: AtomicBool,
    /// All of the request was handed on, to be written.
    whole: AtomicBool,
    /// Nothing of the request is written yet.
    unwritten: AtomicBool,
}

impl End {
    /// A request begins.
    pub fn begin(&self) {
        self.unwritten.store(true, Ordering::Relaxed);
        self.whole.store(false, Ordering::Relaxed);
    }

    /// Its last part is handed on.
    pub fn hand_on(&self) {
        self.whole.store(true, Ordering::Relaxed);
    }

    /// Some of it is written.
    pub fn write(&self) {
        self.unwritten.store(false, Ordering::Relaxed);
    }

    /// Whether the application is to be told, if all that was to be written is.
    pub fn is_due(&self) -> bool {
        self.is_heard()
            && self.whole.load(Ordering::Relaxed)
            && !self.unwritten.load(Ordering::Relaxed)
    }

    fn hear(&self) {
        self.heard.store(true, Ordering::Relaxed);
    }

    fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }
}

/// A connection that is watched.
#[derive(Debug)]
pub struct Ahead<Io>(Arc<Mutex<Shared<Io>>>);

/// Resolves when the connection has failed; its end is no failure.
#[derive(Debug)]
pub struct Failing<Io>(Arc<Mutex<Shared<Io>>>);

#[derive(Debug)]
struct Shared<Io> {
    io: Io,
    /// Bytes that were read ahead.
    ahead: BytesMut,
    end: Arc<End>,
}

/// Watches a connection. Both belong to one task, with whoever is told of its `end`.
pub fn watched<Io>(io: Io, end: Arc<End>) -> (Ahead<Io>, Failing<Io>) {
    let shared = Arc::new(Mutex::new(Shared { io, ahead: BytesMut::new(), end }));
    (Ahead(Arc::clone(&shared)), Failing(shared))
}

fn lock<Io>(shared: &Mutex<Shared<Io>>) -> MutexGuard<'_, Shared<Io>> {
    // A thread that panicked has left a whole value: each change is one call.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<Io: AsyncRead + Unpin> Future for Failing<Io> {
    type Output = io::Error;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut shared = lock(&self.0);
        let Shared { io, ahead, end } = &mut *shared;
        if end.is_heard() || !ahead.is_empty() {
            return Poll::Pending;
        }
        let mut bytes = [0; AHEAD_BYTES];
        let mut buffer = ReadBuf::new(&mut bytes);
        match ready!(Pin::new(io).poll_read(cx, &mut buffer)) {
            Err(error) => return Poll::Ready(error),
            Ok(()) if buffer.filled().is_empty() => end.hear(),
            Ok(()) => ahead.extend_from_slice(buffer.filled()),
        }
        // The reader has been told that there is nothing.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<Io: AsyncRead + Unpin> AsyncRead for Ahead<Io> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.0);
        let Shared { io, ahead, end } = &mut *shared;
        if ahead.is_empty() {
            if !end.is_heard() {
                let before = buffer.filled().len();
                ready!(Pin::new(io).poll_read(cx, buffer))?;
                if buffer.filled().len() == before && buffer.remaining() > 0 {
                    end.hear();
                }
            }
            return Poll::Ready(Ok(()));
        }
        let part = ahead.len().min(buffer.remaining());
        buffer.put_slice(ahead.get(..part).unwrap_or_default());
        ahead.advance(part);
        if ahead.is_empty() {
            *ahead = BytesMut::new();
            // There may be more to read ahead.
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Ahead<Io> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut lock(&self.0).io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut lock(&self.0).io).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        lock(&self.0).io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let (far, near) =
            tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap().0, far.unwrap())
    }

    #[tokio::test]
    async fn what_is_read_ahead_is_all_there() {
        let (near, mut far) = pair().await;
        let (mut near, mut failing) = watched(near, Arc::default());
        let sent: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let send = async {
            far.write_all(&sent).await.unwrap();
            far.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let read = async {
            // It is read ahead in the meantime.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            tokio::select! {
                // The one that looks ahead is the first.
                biased;
                error = &mut failing => panic!("{error}"),
                read = near.read_to_end(&mut got) => drop(read.unwrap()),
            }
        };
        tokio::join!(send, read);
        assert_eq!(got, sent);
        near.write_all(b"still").await.unwrap();
    }

    #[tokio::test]
    async fn a_reset_is_seen_and_an_end_is_not_one() {
        let (near, far) = pair().await;
        let (_near, mut failing) = watched(near, Arc::default());
        socket2::SockRef::from(&far).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        drop(far);
        let error = (&mut failing).await;
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let (near, mut far) = pair().await;
        let (mut near, mut failing) = watched(near, Arc::default());
        far.shutdown().await.unwrap();
        let mut got = Vec::new();
        tokio::select! {
            biased;
            error = &mut failing => panic!("{error}"),
            read = near.read_to_end(&mut got) => assert_eq!(read.unwrap(), 0),
        }
    }
}
