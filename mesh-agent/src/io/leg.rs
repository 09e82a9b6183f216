//! One application's socket, which is reset unless its connection ended in order.

use std::future::pending;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead as _, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use crate::bounds::Held;
use crate::io::chunk::Chunks;
use crate::sys::socket;

/// A socket to an application. Dropping it resets the connection (RST) until [`Leg::complete`] was
/// called: an application must never take a connection that was cut for one that was complete.
#[derive(Debug)]
pub struct Leg {
    stream: TcpStream,
    complete: bool,
    accelerated: bool,
    /// Its place among the agent's sockets.
    _held: Option<Held>,
}

impl Leg {
    /// Guards `stream`.
    pub const fn new(stream: TcpStream) -> Self {
        Self::holding(stream, None)
    }

    /// Guards `stream`, and keeps its place among the agent's sockets for as long.
    pub const fn holding(stream: TcpStream, held: Option<Held>) -> Self {
        Self { stream, complete: false, accelerated: false, _held: held }
    }

    /// Says whether bytes may come by a shorter way than TCP.
    #[must_use]
    pub const fn accelerated(mut self, yes: bool) -> Self {
        self.accelerated = yes;
        self
    }

    /// How it is read.
    pub const fn chunks(&self) -> Chunks {
        Chunks::new(self.accelerated)
    }

    /// The socket.
    pub const fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Both directions ended in order: dropping closes (FIN) from now on.
    pub const fn complete(&mut self) {
        self.complete = true;
    }
}

/// How long a client is listened to that is not heard any more.
const LINGER: Duration = Duration::from_secs(5);

/// Waits for the end of a client that was told the last it is told, and shut down to. Anything that
/// it says is read and dropped, for if it were left the kernel would answer it with a reset, which
/// takes from the client what it has not read yet (RFC 9112, section 9.6).
#[derive(Debug)]
pub struct Linger {
    until: Pin<Box<Sleep>>,
}

impl Default for Linger {
    fn default() -> Self {
        Self { until: Box::pin(sleep(LINGER)) }
    }
}

impl Linger {
    /// Ready when the client has ended, or goes on for too long: it is reset then, which it has asked
    /// for.
    ///
    /// # Errors
    ///
    /// The socket failed.
    pub fn poll(&mut self, client: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.until.as_mut().poll(cx).is_pending() {
            let mut unheard = [0; 4096];
            let mut unheard = ReadBuf::new(&mut unheard);
            ready!(Pin::new(&mut *client).poll_read(cx, &mut unheard))?;
            if unheard.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Waits for `work`, which does not read from `stream`, or for the failure of `stream`: its peer may
/// reset the connection meanwhile, or vanish. Costs nothing if `work` is done already.
///
/// # Errors
///
/// `stream` failed first.
pub async fn unless_failed<T>(
    stream: &TcpStream,
    work: impl Future<Output = T>,
) -> Result<T, io::Error> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        error = failed(stream) => Err(error),
    }
}

/// Resolves when the peer of a socket has sent its end and nothing before it that waits to be read. Not while
/// something waits: that is for who reads next.
pub async fn ended(stream: &TcpStream) {
    loop {
        match stream.ready(Interest::READABLE).await {
            Ok(ready) if ready.is_read_closed() => return,
            Ok(_ready) => {}
            // The runtime is ending.
            Err(_ending) => pending().await,
        }
        // It may have been ready for what is read already.
        let mut one = [0];
        match stream.try_io(Interest::READABLE, || socket::peek(stream, &mut one)) {
            Ok(0) => return,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => pending().await,
        }
    }
}

/// Resolves when a socket fails of which nothing more is read: its peer has sent its end, and may
/// still reset the connection.
pub async fn failed(stream: &TcpStream) -> io::Error {
    match stream.ready(Interest::ERROR).await {
        Ok(_ready) => match stream.take_error() {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        },
        // The runtime is ending.
        Err(_ending) => pending().await,
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !self.complete
            && let Err(error) = socket::reset_on_close(&self.stream)
        {
            tracing::debug!(%error, "a socket cannot be reset");
        }
    }
}
