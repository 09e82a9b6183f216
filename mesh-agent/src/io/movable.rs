//! A socket that can move to the runtime of another thread, with whatever is around it.

use std::io::{self, IoSlice};
use std::net;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A socket, registered with a runtime or on its way to another.
#[derive(Debug)]
pub struct Movable(Place);

#[derive(Debug)]
enum Place {
    Here(TcpStream),
    Away(net::TcpStream),
    /// It could not be taken off its runtime, or registered with the next.
    Lost,
}

impl Movable {
    /// A socket of the current runtime.
    pub const fn new(stream: TcpStream) -> Self {
        Self(Place::Here(stream))
    }

    /// Takes it off its runtime. Until it has arrived at another, it can be neither read nor
    /// written.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl(2)`; the socket is closed then.
    pub fn leave(&mut self) -> io::Result<()> {
        if let Place::Here(stream) = std::mem::replace(&mut self.0, Place::Lost) {
            self.0 = Place::Away(stream.into_std()?);
        }
        Ok(())
    }

    /// Registers it with the current runtime.
    ///
    /// # Errors
    ///
    /// Those of `epoll_ctl(2)`; the socket is closed then.
    pub fn arrive(&mut self) -> io::Result<()> {
        if let Place::Away(stream) = std::mem::replace(&mut self.0, Place::Lost) {
            self.0 = Place::Here(TcpStream::from_std(stream)?);
        }
        Ok(())
    }

    fn here(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match &mut self.0 {
            Place::Here(stream) => Ok(Pin::new(stream)),
            Place::Away(_) | Place::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Movable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.here()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Movable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.here()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.here()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn it_is_read_and_written_where_it_has_arrived() {
        let first = Builder::new_current_thread().enable_all().build().unwrap();
        let (mut socket, mut peer) = first.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let mut socket = Movable::new(listener.accept().await.unwrap().0);
            socket.write_all(b"1").await.unwrap();
            socket.leave().unwrap();
            assert_eq!(
                socket.write_all(b"x").await.unwrap_err().kind(),
                io::ErrorKind::NotConnected
            );
            (socket, peer)
        });
        let moved = thread::spawn(move || {
            let second = Builder::new_current_thread().enable_all().build().unwrap();
            second.block_on(async {
                socket.arrive().unwrap();
                assert_eq!(socket.read_u8().await.unwrap(), b'?');
                socket.write_all(b"2").await.unwrap();
            });
        });
        first.block_on(async {
            peer.write_all(b"?").await.unwrap();
            let mut got = [0; 2];
            peer.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"12");
        });
        moved.join().unwrap();
    }
}
