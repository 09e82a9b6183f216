//! The state that a tunnel's task and its streams share, in every order in which their threads may
//! take it (loom): nobody waits for ever, no wake-up is lost, and nothing is left in the end.
//!
//! `cargo xtask model` runs these, as they need another build: feature `model`.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use loom::future::{AtomicWaker, block_on};
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use crate::io::link::Link;
use crate::io::relay::{Incoming as _, Outgoing as _};
use crate::native::driver::Driver;
use crate::native::fixture::options;
use crate::native::frame::{self, Frame, Hello, Open, code};
use crate::native::quota::{Most, Quota};
use crate::native::session::Side;
use crate::native::stream::{Asked, Stream};
use crate::native::tunnel::Tunnel;
use crate::native::{Error, Options};

/// Threads are preempted so often in one order at most: three find what two threads can do wrong
/// (Musuvathi and Qadeer, "Iterative context bounding", 2007, found most with two).
const PREEMPTIONS: usize = 3;

/// A peer that another thread lets speak.
#[derive(Default)]
struct Peer {
    said: Mutex<Vec<BytesMut>>,
    waker: AtomicWaker,
    written: AtomicUsize,
}

/// The tunnel's end of it.
struct Io(Arc<Peer>);

impl Peer {
    fn say(&self, frames: &[Frame]) {
        let mut bytes = BytesMut::new();
        frames.iter().for_each(|frame| frame::put(&mut bytes, frame));
        self.said.lock().unwrap().push(bytes);
        self.waker.wake();
    }
}

impl Link for Io {
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<BytesMut>>> {
        self.0.waker.register_by_ref(cx.waker());
        let mut said = self.0.said.lock().unwrap();
        if said.is_empty() { Poll::Pending } else { Poll::Ready(Ok(Some(said.remove(0)))) }
    }

    fn poll_give(&mut self, _cx: &mut Context<'_>, data: &mut impl Buf) -> Poll<io::Result<()>> {
        self.0.written.fetch_add(data.remaining(), Ordering::Relaxed);
        data.advance(data.remaining());
        Poll::Ready(Ok(()))
    }
}

fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

fn small() -> Options {
    options()
}

fn open() -> Open {
    let destination = ([10, 0, 0, 2], 80).into();
    Open { destination, client: None, hostname: None, trace: None }
}

/// A tunnel of ours to a peer that has said its hello, and a stream of it that was accepted.
fn begin() -> (Arc<Tunnel>, Driver, Io, Stream, Arc<Quota>) {
    let quota = Arc::new(Quota::new(Most { streams: 8, bytes: 1 << 20 }, None));
    let (tunnel, mut driver) = Tunnel::new(Side::Client, &small(), Some(Arc::clone(&quota)), 0);
    let peer = Arc::new(Peer::default());
    peer.say(&[Frame::Hello(Hello::LEAST)]);
    let mut io = Io(peer);
    turn_once(&tunnel, &mut io, &mut driver);
    let lease = tunnel.lease().unwrap();
    let (stream, _) = lease.ask(open()).unwrap();
    io.0.say(&[Frame::Accept(1)]);
    turn_once(&tunnel, &mut io, &mut driver);
    (tunnel, driver, io, stream, quota)
}

fn turn_once(tunnel: &Tunnel, io: &mut Io, driver: &mut Driver) {
    block_on(poll_fn(|cx| {
        let _none: Poll<_> = tunnel.turn(cx, io, driver);
        Poll::Ready(())
    }));
}

/// Drives a tunnel until it is over.
fn drive(tunnel: &Tunnel, io: &mut Io, driver: &mut Driver) {
    let end = block_on(poll_fn(|cx| match tunnel.turn(cx, io, driver) {
        Poll::Ready((_, Some(end))) => Poll::Ready(end),
        Poll::Ready((_, None)) | Poll::Pending => Poll::Pending,
    }));
    tunnel.fail(&end.map_err(Arc::new));
    block_on(poll_fn(|cx| tunnel.poll_released(cx, driver)));
}

#[test]
fn a_stream_that_is_dropped_elsewhere_lets_the_tunnel_end() {
    check(|| {
        let (tunnel, mut driver, mut io, stream, quota) = begin();
        tunnel.retire();
        let dropping = thread::spawn(move || drop(stream));
        drive(&tunnel, &mut io, &mut driver);
        dropping.join().unwrap();
        tunnel.check_empty();
        assert_eq!(quota.used(), (0, 0));
    });
}

#[test]
fn a_lease_that_is_dropped_elsewhere_lets_the_tunnel_end() {
    check(|| {
        let (tunnel, mut driver, mut io, stream, _quota) = begin();
        let lease = tunnel.lease().unwrap();
        drop(stream);
        tunnel.retire();
        let dropping = thread::spawn(move || drop(lease));
        drive(&tunnel, &mut io, &mut driver);
        dropping.join().unwrap();
        tunnel.check_empty();
    });
}

#[test]
fn a_reader_elsewhere_sees_bytes_and_the_end() {
    check(|| {
        let (tunnel, mut driver, mut io, stream, _quota) = begin();
        let peer = Arc::clone(&io.0);
        let reading = thread::spawn(move || {
            let stream = Arc::new(stream);
            let (mut sender, mut receiver) = stream.split();
            let mut got = 0;
            while let Some(data) = block_on(poll_fn(|cx| receiver.poll_data(cx))) {
                let length = data.unwrap().remaining();
                got += length;
                receiver.taken(length).unwrap();
            }
            sender.end().unwrap();
            got
        });
        tunnel.retire();
        peer.say(&[Frame::Data(1, Bytes::from_static(b"hello")), Frame::End(1)]);
        drive(&tunnel, &mut io, &mut driver);
        assert_eq!(reading.join().unwrap(), 5);
        tunnel.check_empty();
    });
}

#[test]
fn a_reset_while_an_application_writes_is_seen() {
    check(|| {
        let (tunnel, mut driver, mut io, stream, quota) = begin();
        let peer = Arc::clone(&io.0);
        tunnel.retire();
        let writing = thread::spawn(move || {
            let stream = Arc::new(stream);
            let (mut sender, _receiver) = stream.split();
            let mut data = Bytes::from_static(b"hello");
            // It is sent, or the reset has come before it.
            let _any: Result<(), _> = block_on(poll_fn(|cx| sender.poll_send(cx, &mut data)));
            block_on(poll_fn(|cx| sender.poll_closed(cx))).unwrap_err();
        });
        peer.say(&[Frame::Reset(1, code::CANCEL)]);
        drive(&tunnel, &mut io, &mut driver);
        writing.join().unwrap();
        assert_eq!(quota.used(), (0, 0));
    });
}

#[test]
fn a_tunnel_that_fails_wakes_its_streams() {
    check(|| {
        let (tunnel, mut driver, mut io, stream, _quota) = begin();
        let peer = Arc::clone(&io.0);
        let reading = thread::spawn(move || {
            let stream = Arc::new(stream);
            let (_sender, mut receiver) = stream.split();
            let end = block_on(poll_fn(|cx| receiver.poll_data(cx))).unwrap();
            let cause = end.unwrap_err();
            assert!(matches!(cause.cause().downcast_ref(), Some(Error::Lost(_))), "{cause}");
        });
        peer.say(&[Frame::Skipped(0x10), Frame::Hello(Hello::LEAST)]);
        drive(&tunnel, &mut io, &mut driver);
        reading.join().unwrap();
    });
}

#[test]
fn two_tunnels_of_one_peer_share_a_quota_and_nothing_else() {
    check(|| {
        let quota = Arc::new(Quota::new(Most { streams: 1, bytes: 1 << 20 }, None));
        let serve = |quota: &Arc<Quota>| {
            let (tunnel, mut driver) =
                Tunnel::new(Side::Server, &small(), Some(Arc::clone(quota)), 0);
            let mut io = Io(Arc::new(Peer::default()));
            io.0.say(&[Frame::Hello(Hello::LEAST), Frame::Open(1, open())]);
            let opened = block_on(poll_fn(|cx| {
                Poll::Ready(match tunnel.turn(cx, &mut io, &mut driver) {
                    Poll::Ready((opened, _)) => opened,
                    Poll::Pending => Vec::new(),
                })
            }));
            let count = opened.len();
            for (stream, _) in opened {
                Asked(Stream::new(Arc::clone(&tunnel), stream)).refuse(503);
            }
            turn_once(&tunnel, &mut io, &mut driver);
            tunnel.check_empty();
            count
        };
        let theirs = Arc::clone(&quota);
        let other = thread::spawn(move || serve(&theirs));
        let count = serve(&quota) + other.join().unwrap();
        assert!((1..=2).contains(&count), "{count} streams of one");
        assert_eq!(quota.used(), (0, 0));
    });
}
