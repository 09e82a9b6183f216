//! Moves bytes between an application's socket and a stream.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::{ReadHalf, WriteHalf};

use crate::io::chunk::Chunks;
use crate::io::copy::end_of;
use crate::io::leg::{self, Leg};

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
    let chunks = application.chunks();
    let (read, write) = application.stream().split();
    let Stream { send, receive } = stream;
    relay((read, chunks), send, to_peer, download(receive, write, from_peer)).await?;
    application.complete();
    Ok(())
}

/// Runs both directions. When the application has sent its end and the peer has not, the
/// application may still reset the connection, which no read would tell.
async fn relay(
    (mut from, chunks): (ReadHalf<'_>, Chunks),
    to: SendStream<Bytes>,
    to_peer: &AtomicU64,
    download: impl Future<Output = Result<(), StreamError>>,
) -> Result<(), StreamError> {
    let mut download = pin!(download);
    let mut is_down = false;
    {
        let mut upload = pin!(upload((&mut from, chunks), to, to_peer));
        loop {
            tokio::select! {
                biased;
                done = &mut upload => {
                    done?;
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
        error = leg::failed(from.as_ref()) => Err(StreamError::Application(error)),
    }
}

async fn upload(
    (from, mut chunks): (&mut ReadHalf<'_>, Chunks),
    mut to: SendStream<Bytes>,
    count: &AtomicU64,
) -> Result<(), StreamError> {
    loop {
        let data = tokio::select! {
            biased;
            reset = poll_fn(|cx| to.poll_reset(cx)) => return match reset {
                // The peer wants nothing more, and has said all (RFC 9113, section 8.1).
                Ok(Reason::NO_ERROR) => Ok(()),
                Ok(reason) => Err(StreamError::Peer(reason.into())),
                Err(error) => Err(StreamError::Peer(error)),
            },
            data = chunks.next(from) => match data {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::BytesMut;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::sys::socket;
    use crate::task::scope::Scope;

    /// An application's end of a socket, and a peer's end of the stream that it is copied to.
    async fn chain(scope: &Scope) -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let application = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (requests, connection) = h2::client::handshake(ours).await.unwrap();
        scope.spawn(async move { connection.await.unwrap() });
        let (accepting, accepted_stream) = tokio::sync::oneshot::channel();
        scope.spawn(Box::pin(async move {
            let mut connection = h2::server::handshake(theirs).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let send = respond.send_response(http::Response::new(()), false).unwrap();
            accepting.send(Stream { send, receive: request.into_body() }).unwrap();
            while connection.accept().await.is_some() {}
        }));
        let mut requests = requests.ready().await.unwrap();
        let request = http::Request::connect("10.0.0.1:80").body(()).unwrap();
        let (response, send) = requests.send_request(request, false).unwrap();
        let receive = response.await.unwrap().into_body();
        scope.spawn(Box::pin(async move {
            let (mut leg, count) = (Leg::new(accepted), AtomicU64::new(0));
            let stream = Stream { send, receive };
            let _either: Result<(), StreamError> =
                both_ways(&mut leg, stream, &count, &count).await;
            drop(requests);
        }));
        (application, accepted_stream.await.unwrap())
    }

    /// What comes until the end.
    async fn rest(receive: &mut RecvStream) -> Bytes {
        let mut all = BytesMut::new();
        while let Some(data) = receive.data().await {
            all.extend_from_slice(&data.unwrap());
        }
        all.freeze()
    }

    #[tokio::test]
    async fn the_answer_to_a_half_close_still_arrives() {
        let scope = Scope::new("test");
        let (mut application, mut peer) = chain(&scope).await;
        application.write_all(b"question").await.unwrap();
        application.shutdown().await.unwrap();
        assert_eq!(rest(&mut peer.receive).await, "question");
        peer.send.send_data(Bytes::from_static(b"answer"), true).unwrap();
        let mut answer = Vec::new();
        application.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
    }

    #[tokio::test]
    async fn a_reset_after_the_half_close_arrives() {
        let scope = Scope::new("test");
        let (mut application, mut peer) = chain(&scope).await;
        application.shutdown().await.unwrap();
        assert_eq!(rest(&mut peer.receive).await, "");
        socket::reset_on_close(&application).unwrap();
        drop(application);
        let reset = poll_fn(|cx| peer.send.poll_reset(cx));
        let reset = tokio::time::timeout(Duration::from_secs(5), reset).await;
        assert_eq!(reset.expect("the reset does not arrive").unwrap(), Reason::CANCEL);
    }
}
