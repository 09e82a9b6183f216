//! Both ways between an application's socket and a stream of a tunnel, with half-close and resets
//! carried over.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use nix::libc;
use socket2::SockRef;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::io::chunk::Chunks;
use crate::io::copy::end_of;
use crate::io::leg::{self, Leg};

/// Why a stream failed, in the words of its protocol.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Broken(Box<dyn StdError + Send + Sync>);

impl Broken {
    /// Because of `cause`.
    pub fn because(cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self(cause.into())
    }

    /// Its cause.
    pub fn cause(&self) -> &(dyn StdError + Send + Sync + 'static) {
        &*self.0
    }
}

/// The half of a stream that goes to the peer. Dropped before its end, or after it without
/// [`Self::leave`], it resets the stream: the peer must not take for complete what was given up.
pub trait Outgoing {
    /// Hands over as much of `data`, which is not empty, as the peer's window allows, and takes it off.
    ///
    /// # Errors
    ///
    /// The stream was reset, or its tunnel failed.
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Broken>>;

    /// Resolves when the peer wants nothing more.
    ///
    /// # Errors
    ///
    /// It has not said that it is content: the stream was reset, or its tunnel failed.
    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;

    /// Sends no more.
    ///
    /// # Errors
    ///
    /// The stream was reset, or its tunnel failed.
    fn end(&mut self) -> Result<(), Broken>;

    /// All is over in good order: the peer may end its own direction in its own time.
    fn leave(&mut self);

    /// The application's connection was reset.
    fn reset(&mut self);
}

/// The half of a stream that comes from the peer.
pub trait Incoming {
    /// Bytes, in one place or in several.
    type Data: Buf;

    /// The next data; `None` at the end.
    ///
    /// # Errors
    ///
    /// The stream was reset, or its tunnel failed.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Self::Data, Broken>>>;

    /// Whether the end has come too, after what was taken.
    fn is_last(&self) -> bool;

    /// The application has taken so many bytes: the peer may send as many again.
    ///
    /// # Errors
    ///
    /// The stream was reset.
    fn taken(&mut self, bytes: usize) -> Result<(), Broken>;
}

/// Why copying ended before both sides had closed.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The application's socket failed.
    #[error("the application closed abruptly")]
    Application(#[source] io::Error),
    /// The stream was reset, or its tunnel failed.
    #[error("the peer closed abruptly")]
    Peer(#[source] Broken),
}

/// Bytes that were read from an application and that its stream has not taken over: they are in the
/// hands of whoever copies, so that they are not lost if the stream turns out not to be taken.
pub type Unsent = VecDeque<Bytes>;

/// Copies both ways until both sides have closed: `to_peer` counts what the application sends,
/// `from_peer` what it is given. The data in `unsent` goes first, and is not counted; in the end it
/// holds what the stream has not taken over.
///
/// # Errors
///
/// One side closed abruptly: the socket is reset when it is dropped, and so is the stream.
pub async fn both_ways(
    application: &mut Leg,
    (send, receive): (impl Outgoing, impl Incoming),
    to_peer: &AtomicU64,
    from_peer: &AtomicU64,
    unsent: &mut Unsent,
) -> Result<(), RelayError> {
    let chunks = application.chunks();
    let is_up = AtomicBool::new(false);
    {
        let (read, write) = application.stream().split();
        // Pinned here: a function that is given a future holds it twice.
        let download = pin!(download(receive, write, from_peer, &is_up));
        let from = From { socket: read, chunks, unsent };
        relay(from, send, (to_peer, &is_up), download).await?;
    }
    application.complete();
    Ok(())
}

/// Runs both directions. An application that fails resets the stream, also after its own end: the
/// peer must not take for complete what nobody has read.
async fn relay(
    from: From<'_>,
    mut to: impl Outgoing,
    counts: (&AtomicU64, &AtomicBool),
    download: Pin<&mut impl Future<Output = Result<(), RelayError>>>,
) -> Result<(), RelayError> {
    let ended = until_both(from, &mut to, counts, download).await;
    match &ended {
        Ok(()) => to.leave(),
        Err(RelayError::Application(_)) => to.reset(),
        Err(RelayError::Peer(_)) => {}
    }
    ended
}

/// Runs both directions. When the application has sent its end and the peer has not, the
/// application may still reset the connection, or vanish, which no read would tell.
async fn until_both(
    mut from: From<'_>,
    to: &mut impl Outgoing,
    (to_peer, is_up): (&AtomicU64, &AtomicBool),
    mut download: Pin<&mut impl Future<Output = Result<(), RelayError>>>,
) -> Result<(), RelayError> {
    let mut is_down = false;
    {
        let mut upload = pin!(upload(&mut from, to, to_peer));
        loop {
            tokio::select! {
                biased;
                done = &mut upload => {
                    if let Err(error @ RelayError::Peer(_)) = done {
                        // The peer takes nothing more. All that it has sent before its end is still
                        // to be given to the application; if there was no end, that fails as well.
                        if !is_down {
                            download.await?;
                        }
                        return Err(error);
                    }
                    done?;
                    is_up.store(true, Ordering::Relaxed);
                    break;
                }
                done = &mut download, if !is_down => {
                    done?;
                    is_down = true;
                }
            }
        }
    }
    if is_down {
        return Ok(());
    }
    tokio::select! {
        biased;
        done = &mut download => done,
        error = leg::failed(from.socket.as_ref()) => Err(RelayError::Application(error)),
    }
}

/// An application, and what of it is under way.
struct From<'a> {
    socket: ReadHalf<'a>,
    chunks: Chunks,
    unsent: &'a mut Unsent,
}

async fn upload(
    from: &mut From<'_>,
    to: &mut impl Outgoing,
    count: &AtomicU64,
) -> Result<(), RelayError> {
    let From { socket, chunks, unsent } = from;
    loop {
        // Of a stream that was not taken before anything was sent on it, there is an empty piece: no
        // stream need say when there is room for nothing.
        unsent.retain(|data| !data.is_empty());
        while let Some(data) = unsent.front_mut() {
            let sending = poll_fn(|cx| to.poll_send(cx, data));
            let sent = leg::unless_failed((*socket).as_ref(), sending).await;
            sent.map_err(RelayError::Application)?.map_err(RelayError::Peer)?;
            if data.is_empty() {
                unsent.pop_front();
            }
        }
        let data = tokio::select! {
            biased;
            closed = poll_fn(|cx| to.poll_closed(cx)) => return closed.map_err(RelayError::Peer),
            data = chunks.next(socket) => data.map_err(RelayError::Application)?,
        };
        if data.is_empty() {
            return to.end().map_err(RelayError::Peer);
        }
        count.fetch_add(data.len() as u64, Ordering::Relaxed);
        unsent.push_back(data);
    }
}

async fn download(
    mut from: impl Incoming,
    mut to: WriteHalf<'_>,
    count: &AtomicU64,
    is_up: &AtomicBool,
) -> Result<(), RelayError> {
    while let Some(data) = poll_fn(|cx| from.poll_data(cx)).await {
        let mut data = data.map_err(RelayError::Peer)?;
        // The end goes with the last bytes: one packet and one wake-up instead of two.
        let is_last = from.is_last();
        while data.has_remaining() {
            let written = if is_last {
                write_more(&to, &mut data).await
            } else {
                to.write_buf(&mut data).await
            };
            let written = written.map_err(RelayError::Application)?;
            count.fetch_add(written as u64, Ordering::Relaxed);
            from.taken(written).map_err(RelayError::Peer)?;
        }
    }
    if is_up.load(Ordering::Relaxed) {
        // Both have ended: closing the socket says it.
        return Ok(());
    }
    end_of(&mut to).await.map_err(RelayError::Application)
}

/// Writes what goes with more that follows at once (`MSG_MORE`, send(2)).
async fn write_more(to: &WriteHalf<'_>, data: &mut impl Buf) -> io::Result<usize> {
    let stream: &TcpStream = to.as_ref();
    loop {
        poll_fn(|cx| stream.poll_write_ready(cx)).await?;
        let written = stream.try_io(Interest::WRITABLE, || {
            let mut slices = [IoSlice::new(&[]); 64];
            let count = data.chunks_vectored(&mut slices);
            let filled = slices.get(..count).unwrap_or(&slices);
            SockRef::from(stream).send_vectored_with_flags(filled, libc::MSG_MORE)
        });
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            written => {
                return written.inspect(|written| data.advance(*written));
            }
        }
    }
}
