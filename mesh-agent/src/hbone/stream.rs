//! A `CONNECT` stream as one that bytes are relayed over.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};

use crate::io::load::Meter;
use crate::io::relay::{Broken, Incoming, Outgoing};
use crate::io::unread::Received;

/// Both halves of one `CONNECT` stream.
#[derive(Debug)]
pub struct Stream {
    /// Towards the peer. Dropped before its end, it resets the stream.
    pub send: SendStream<Bytes>,
    /// From the peer.
    pub receive: Received,
    /// Its part in its tunnel's load; `None`: the peer has opened it, and chooses its tunnel.
    pub meter: Option<Arc<Meter>>,
}

/// The half of a stream that goes to the peer.
#[derive(Debug)]
pub struct Sender {
    stream: SendStream<Bytes>,
    meter: Option<Arc<Meter>>,
    has_left: bool,
}

/// The half that comes from it.
#[derive(Debug)]
pub struct Receiver {
    stream: Received,
    meter: Option<Arc<Meter>>,
}

impl Stream {
    /// Both halves.
    pub fn split(self) -> (Sender, Receiver) {
        let meter = self.meter.clone();
        let sender = Sender { stream: self.send, meter, has_left: false };
        (sender, Receiver { stream: self.receive, meter: self.meter })
    }
}

impl Outgoing for Sender {
    fn poll_send(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<Result<(), Broken>> {
        self.stream.reserve_capacity(data.len());
        let capacity = match self.stream.capacity() {
            0 => ready!(self.stream.poll_capacity(cx))
                .unwrap_or_else(|| Err(Reason::STREAM_CLOSED.into()))
                .map_err(Broken::because)?,
            capacity => capacity,
        };
        let now = data.split_to(capacity.min(data.len()));
        if let Some(meter) = &self.meter {
            meter.carry(now.len());
        }
        Poll::Ready(self.stream.send_data(now, false).map_err(Broken::because))
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(match ready!(self.stream.poll_reset(cx)) {
            // The peer wants nothing more, and has said all (RFC 9113, section 8.1).
            Ok(Reason::NO_ERROR) => Ok(()),
            Ok(reason) => Err(Broken::because(h2::Error::from(reason))),
            Err(error) => Err(Broken::because(error)),
        })
    }

    fn end(&mut self) -> Result<(), Broken> {
        self.stream.send_data(Bytes::new(), true).map_err(Broken::because)
    }

    fn leave(&mut self) {
        self.has_left = true;
    }

    fn reset(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }
}

impl Drop for Sender {
    /// The library resets streams that are dropped. As a server that has sent its end it does so with
    /// `NO_ERROR`, which says that all was said and read: that is true after [`Outgoing::leave`] only.
    fn drop(&mut self) {
        if !self.has_left {
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}

impl Incoming for Receiver {
    type Data = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let data = ready!(self.stream.poll_data(cx)).transpose().map_err(Broken::because)?;
        if let (Some(meter), Some(data)) = (&self.meter, &data) {
            meter.carry(data.len());
        }
        Poll::Ready(data.map(Ok))
    }

    fn is_last(&self) -> bool {
        self.stream.is_last()
    }

    fn taken(&mut self, bytes: usize) -> Result<(), Broken> {
        self.stream.release(bytes).map_err(Broken::because)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    use bytes::BytesMut;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::hbone::COPIED;
    use crate::io::leg::Leg;
    use crate::io::relay::{RelayError, Unsent, both_ways};
    use crate::io::unread::Unread;
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
            let receive = Unread::within(0, COPIED).watch(request.into_body());
            accepting.send(Stream { send, receive, meter: None }).unwrap();
            while connection.accept().await.is_some() {}
        }));
        let mut requests = requests.ready().await.unwrap();
        let request = http::Request::connect("10.0.0.1:80").body(()).unwrap();
        let (response, send) = requests.send_request(request, false).unwrap();
        let receive = Unread::within(0, COPIED).watch(response.await.unwrap().into_body());
        let stream = Stream { send, receive, meter: None };
        scope.spawn(Box::pin(async move {
            let (mut leg, count) = (Leg::new(accepted), AtomicU64::new(0));
            let _either: Result<(), RelayError> =
                both_ways(&mut leg, stream.split(), &count, &count, &mut Unsent::new()).await;
            drop(requests);
        }));
        (application, accepted_stream.await.unwrap())
    }

    /// The bytes until the end.
    async fn rest(receive: &mut Received) -> Bytes {
        let mut all = BytesMut::new();
        while let Some(data) = poll_fn(|cx| receive.poll_data(cx)).await {
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
