//! Moves bytes between an application's socket and a stream.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::io::chunk::Chunks;
use crate::io::copy::end_of;
use crate::io::leg::Leg;

/// Both halves of one `CONNECT` stream.
#[derive(Debug)]
pub struct Stream {
    /// Towards the peer. Dropped before its end, it resets the stream.
    pub send: SendStream<Bytes>,
    /// From the peer.
    pub receive: RecvStream,
}

/// Why copying ended before both sides had closed.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The application's socket failed.
    #[error("the application closed abruptly")]
    Application(#[source] io::Error),
    /// The stream was reset, or its tunnel failed.
    #[error("the peer closed abruptly")]
    Peer(#[source] h2::Error),
}

/// Copies both ways until both sides have closed: `to_peer` counts what the application sends,
/// `from_peer` what it is given.
///
/// # Errors
///
/// One side closed abruptly: the socket is reset when it is dropped, and so is the stream.
pub async fn both_ways(
    application: &mut Leg,
    stream: Stream,
    to_peer: &AtomicU64,
    from_peer: &AtomicU64,
) -> Result<(), StreamError> {
    let (read, write) = application.stream().split();
    let Stream { send, receive } = stream;
    tokio::try_join!(upload(read, send, to_peer), download(receive, write, from_peer))?;
    application.complete();
    Ok(())
}

async fn upload(
    mut from: ReadHalf<'_>,
    mut to: SendStream<Bytes>,
    count: &AtomicU64,
) -> Result<(), StreamError> {
    let mut chunks = Chunks::default();
    loop {
        let data = tokio::select! {
            biased;
            reset = poll_fn(|cx| to.poll_reset(cx)) => return match reset {
                // The peer wants nothing more, and has said all (RFC 9113, section 8.1).
                Ok(Reason::NO_ERROR) => Ok(()),
                Ok(reason) => Err(StreamError::Peer(reason.into())),
                Err(error) => Err(StreamError::Peer(error)),
            },
            data = chunks.next(&mut from) => match data {
                Ok(data) => data,
                Err(error) => {
                    to.send_reset(Reason::CANCEL);
                    return Err(StreamError::Application(error));
                }
            },
        };
        if data.is_empty() {
            return to.send_data(Bytes::new(), true).map_err(StreamError::Peer);
        }
        count.fetch_add(data.len() as u64, Ordering::Relaxed);
        send_all(&mut to, data).await?;
    }
}

/// Hands data over as the peer's windows allow.
async fn send_all(to: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), StreamError> {
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let capacity = match to.capacity() {
            0 => match poll_fn(|cx| to.poll_capacity(cx)).await {
                Some(capacity) => capacity.map_err(StreamError::Peer)?,
                None => return Err(StreamError::Peer(Reason::STREAM_CLOSED.into())),
            },
            capacity => capacity,
        };
        let now = data.split_to(capacity.min(data.len()));
        to.send_data(now, false).map_err(StreamError::Peer)?;
    }
    Ok(())
}

async fn download(
    mut from: RecvStream,
    mut to: WriteHalf<'_>,
    count: &AtomicU64,
) -> Result<(), StreamError> {
    while let Some(data) = from.data().await {
        let data = data.map_err(StreamError::Peer)?;
        to.write_all(&data).await.map_err(StreamError::Application)?;
        count.fetch_add(data.len() as u64, Ordering::Relaxed);
        from.flow_control().release_capacity(data.len()).map_err(StreamError::Peer)?;
    }
    end_of(&mut to).await.map_err(StreamError::Application)
}
