//! Any first bytes of a stranger on the port of tunnels: what is read before a certificate is asked
//! for.
//!
//! The input is the bytes, which come in pieces as long as its first byte says.
#![no_main]

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use libfuzzer_sys::fuzz_target;
use mesh_agent::io::tls::handshake;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection on which these bytes come, and on which what is written goes nowhere.
struct Wire<'a> {
    rest: &'a [u8],
    piece: usize,
}

impl AsyncRead for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.piece.min(buffer.remaining()).min(self.rest.len());
        let (now, rest) = self.rest.split_at(count);
        buffer.put_slice(now);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((piece, rest)) = input.split_first() else { return };
    let wire = Wire { rest, piece: usize::from(*piece).max(1) };
    let mut cx = Context::from_waker(Waker::noop());
    // Nothing in it waits: it ends with the bytes.
    let Poll::Ready(hello) = pin!(handshake::hello(wire)).poll(&mut cx) else {
        panic!("it waits for more than there is");
    };
    if let Ok(hello) = hello {
        let _name = hello.server_name();
    }
});
