//! Tunnels whose peer is a script: for fuzz targets alone.
//!
//! A [`Site`] is the thread that the tunnels are on: it gives them what a hostile peer sends, and
//! lets their tasks run. The streams that come of it may be used on any other thread meanwhile, by
//! [`act`].

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};

use crate::io::link::Link;
use crate::io::relay::{Incoming as _, Outgoing as _};
use crate::native::fixture::options;
use crate::native::frame::Open;
use crate::native::lease::Lease;
use crate::native::quota::{Most, Quota};
use crate::native::session::Side;
use crate::native::stream::{Asked, Receiver, Sender, Stream};
use crate::native::tunnel::{Driver, Tunnel};
use crate::native::{Error, Options};

/// A peer that says whatever it is given, and reads as much as it is let.
#[derive(Debug, Default)]
struct Peer {
    said: VecDeque<BytesMut>,
    has_closed: bool,
    /// Bytes that it will still read.
    reads: usize,
}

impl Link for Peer {
    fn poll_take(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<Option<BytesMut>>> {
        match self.said.pop_front() {
            Some(said) => Poll::Ready(Ok(Some(said))),
            None if self.has_closed => Poll::Ready(Ok(None)),
            None => Poll::Pending,
        }
    }

    fn poll_give(&mut self, _cx: &mut Context<'_>, data: &mut impl Buf) -> Poll<io::Result<()>> {
        let part = self.reads.min(data.remaining());
        self.reads -= part;
        data.advance(part);
        if data.has_remaining() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

/// One end of a tunnel, and its peer.
#[derive(Debug)]
struct End {
    tunnel: Arc<Tunnel>,
    driver: Driver,
    peer: Peer,
    is_over: bool,
}

/// Tunnels with one peer, and what it may use of them all.
#[derive(Debug)]
pub struct Site {
    options: Options,
    quota: Arc<Quota>,
    ends: Vec<End>,
}

/// Something that an application has to do with.
#[derive(Debug)]
pub enum Held {
    /// A stream that a peer asks for.
    Asked(Asked),
    /// A place for a stream of ours.
    Lease(Lease),
    /// A stream.
    Stream(Arc<Stream>, Sender, Receiver),
}

fn open() -> Open {
    let destination = ([10, 0, 0, 2], 80).into();
    Open { destination, client: None, hostname: None, trace: None }
}

impl Site {
    /// So many tunnels that the peer has opened, and so many that we have.
    pub fn new(servers: usize, clients: usize) -> Self {
        let options = options();
        let quota = Arc::new(Quota::new(Most { streams: 100, bytes: 1 << 20 }, None));
        let sides = std::iter::repeat_n(Side::Server, servers);
        let sides = sides.chain(std::iter::repeat_n(Side::Client, clients));
        let ends = sides.map(|side| {
            let (tunnel, driver) = Tunnel::new(side, &options, Some(Arc::clone(&quota)), 0);
            End { tunnel, driver, peer: Peer::default(), is_over: false }
        });
        Self { ends: ends.collect(), options, quota }
    }

    /// Whether a place on a tunnel of ours can be had; with it.
    pub fn lease(&self, at: usize) -> Option<Held> {
        self.ends.get(at)?.tunnel.lease().map(Held::Lease)
    }

    /// The peer of a tunnel says something, and reads so many bytes more.
    pub fn hear(&mut self, at: usize, said: &[u8], reads: usize) {
        let Some(End { peer, .. }) = self.ends.get_mut(at) else { return };
        peer.reads = peer.reads.saturating_add(reads);
        if !said.is_empty() && !peer.has_closed {
            peer.said.push_back(said.into());
        }
    }

    /// The peer of a tunnel closes it.
    pub fn close(&mut self, at: usize) {
        if let Some(end) = self.ends.get_mut(at) {
            end.peer.has_closed = true;
        }
    }

    /// A tunnel takes no more streams.
    pub fn retire(&self, at: usize) {
        if let Some(end) = self.ends.get(at) {
            end.tunnel.retire();
        }
    }

    /// Lets the task of a tunnel run; what the peer asks for is returned.
    pub fn turn(&mut self, at: usize) -> Vec<Held> {
        let Some(end) = self.ends.get_mut(at).filter(|end| !end.is_over) else { return Vec::new() };
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready((opened, over)) = end.tunnel.turn(&mut cx, &mut end.peer, &mut end.driver)
        else {
            return Vec::new();
        };
        end.tunnel.check_owned();
        if let Some(result) = over {
            end.is_over = true;
            end.tunnel.fail(&result.map_err(Arc::new));
        }
        let asked = |(stream, _)| Held::Asked(Asked(Stream::new(Arc::clone(&end.tunnel), stream)));
        opened.into_iter().map(asked).collect()
    }

    /// Lets a ping interval pass for a tunnel.
    pub fn tick(&mut self, at: usize) {
        let Some(end) = self.ends.get_mut(at).filter(|end| !end.is_over) else { return };
        if let Err(error) = end.tunnel.tick(&self.options, &mut end.driver) {
            end.is_over = true;
            end.tunnel.fail(&Err(Arc::new(error)));
        }
    }

    /// Checks that nothing is left when nobody holds anything any more. Every tunnel has had its
    /// turn since, and three ticks.
    pub fn check_empty(mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        for end in &mut self.ends {
            if end.is_over {
                assert!(end.tunnel.poll_released(&mut cx, &mut end.driver).is_ready());
            } else {
                end.tunnel.check_empty();
            }
        }
        assert_eq!(self.quota.used(), (0, 0), "a share was not given back");
    }
}

/// Does something with what an application holds, chosen by `byte`; `None`: it is dropped.
pub fn act(held: Held, byte: u8) -> Option<Held> {
    let mut cx = Context::from_waker(Waker::noop());
    match held {
        Held::Asked(asked) => match byte % 4 {
            0 => asked.refuse(503),
            1 => {}
            _ => return asked.accept().ok().map(hold),
        },
        Held::Lease(lease) => match byte % 4 {
            0 => {}
            1 => lease.close(),
            _ => return lease.ask(open()).ok().map(|(stream, _)| hold(stream)),
        },
        Held::Stream(stream, mut sender, mut receiver) => {
            match byte % 8 {
                0 | 1 => {
                    let mut data = Bytes::from(vec![0; usize::from(byte >> 3) << 9]);
                    let _any: Poll<_> = sender.poll_send(&mut cx, &mut data);
                }
                2 | 3 => {
                    if let Poll::Ready(Some(Ok(data))) = receiver.poll_data(&mut cx) {
                        let _gone: Result<(), _> = receiver.taken(data.remaining());
                    }
                }
                4 => {
                    drop(sender.end());
                    if byte >= 128 {
                        sender.leave();
                    }
                }
                5 => {
                    let _any: Poll<_> = sender.poll_closed(&mut cx);
                    let _any: Poll<Result<(), Error>> = stream.poll_accepted(&mut cx);
                    let _any: (Option<Bytes>, _) = (stream.untaken(), stream.refusal());
                }
                6 => sender.reset(),
                _ => return None,
            }
            return Some(Held::Stream(stream, sender, receiver));
        }
    }
    None
}

fn hold(stream: Stream) -> Held {
    let stream = Arc::new(stream);
    let (sender, receiver) = stream.split();
    Held::Stream(stream, sender, receiver)
}
