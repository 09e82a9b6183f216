//! Tunnels whose peer is a script: for fuzz targets alone.
//!
//! A [`Site`] is the thread that the tunnels are on: it gives them what a hostile peer sends, and
//! lets their tasks run. The streams that come of it may be used on any other thread meanwhile, by
//! [`act`].
//!
//! Each waiter has a waker that notes whether it was woken. One that was not, and for which there
//! would be something, has lost a wake-up: it would wait for good.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Buf, Bytes, BytesMut};

use crate::io::link::Link;
use crate::io::relay::{Incoming as _, Outgoing as _};
use crate::native::driver::Driver;
use crate::native::fixture::options;
use crate::native::frame::Open;
use crate::native::lease::Lease;
use crate::native::quota::{Most, Quota};
use crate::native::session::Side;
use crate::native::stream::{Asked, Receiver, Sender, Stream};
use crate::native::tunnel::Tunnel;
use crate::native::{Error, Options};

/// A peer that says whatever it is given, and reads as much as it is let.
#[derive(Debug, Default)]
struct Peer {
    said: VecDeque<BytesMut>,
    has_closed: bool,
    /// Bytes that it will still read.
    reads: usize,
    /// Bytes that it has read.
    read: usize,
}

/// Whether a waker was woken.
#[derive(Debug, Default)]
struct Woken(AtomicBool);

/// Somebody who waits for one thing at a time.
#[derive(Debug)]
struct Waiter<For> {
    woken: Arc<Woken>,
    waker: Waker,
    waits_for: Option<For>,
}

/// The reasons for which the reading half of a stream waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    Accepted,
    Data,
}

/// Those of the writing half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Room,
    Closed,
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
        self.read += part;
        data.advance(part);
        if data.has_remaining() { Poll::Pending } else { Poll::Ready(Ok(())) }
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl<For> Default for Waiter<For> {
    fn default() -> Self {
        let woken = Arc::<Woken>::default();
        Self { waker: Arc::clone(&woken).into(), woken, waits_for: None }
    }
}

impl<For: Copy + PartialEq> Waiter<For> {
    /// Lets it look once. Ready, although it waited for that and was not woken: a lost wake-up,
    /// unless `is_exact` is false. A wake-up comes before another thread can see its cause.
    fn poll<T>(
        &mut self,
        what: For,
        is_exact: bool,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let was_woken = self.woken.0.swap(false, Ordering::SeqCst);
        let waited = self.waits_for == Some(what) && !was_woken;
        let answer = poll(&mut Context::from_waker(&self.waker));
        let is_lost = waited && answer.is_ready() && !self.woken.0.load(Ordering::SeqCst);
        assert!(!(is_exact && is_lost), "a wake-up was lost");
        self.waits_for = answer.is_pending().then_some(what);
        answer
    }
}

/// One end of a tunnel, and its peer.
#[derive(Debug)]
struct End {
    tunnel: Arc<Tunnel>,
    driver: Driver,
    peer: Peer,
    is_over: bool,
    /// Its task.
    task: Waiter<()>,
}

/// Whether those who use the streams run beside the tunnels' thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applications {
    /// On the same thread, one after the other.
    Between,
    /// On another one, at the same time.
    Beside,
}

/// Tunnels with one peer, and what it may use of them all.
#[derive(Debug)]
pub struct Site {
    options: Options,
    quota: Arc<Quota>,
    ends: Vec<End>,
    applications: Applications,
}

/// Something that an application has to do with.
#[derive(Debug)]
pub enum Held {
    /// A stream that a peer asks for.
    Asked(Asked),
    /// A place for a stream of ours.
    Lease(Lease),
    /// A stream.
    Stream(Box<Carried>),
}

/// A stream, and what its application waits for.
#[derive(Debug)]
pub struct Carried {
    stream: Arc<Stream>,
    sender: Sender,
    receiver: Receiver,
    reads: Waiter<Reads>,
    writes: Waiter<Writes>,
}

fn open() -> Open {
    let destination = ([10, 0, 0, 2], 80).into();
    Open { destination, client: None, hostname: None, trace: None }
}

impl Site {
    /// So many tunnels that the peer has opened, and so many that we have.
    pub fn new(servers: usize, clients: usize, applications: Applications) -> Self {
        let options = options();
        let quota = Arc::new(Quota::new(Most { streams: 100, bytes: 1 << 20 }, None));
        let sides = std::iter::repeat_n(Side::Server, servers);
        let sides = sides.chain(std::iter::repeat_n(Side::Client, clients));
        let ends = sides.map(|side| {
            let (tunnel, driver) = Tunnel::new(side, &options, Some(Arc::clone(&quota)), 0);
            let (peer, task) = (Peer::default(), Waiter::default());
            End { tunnel, driver, peer, is_over: false, task }
        });
        Self { ends: ends.collect(), options, quota, applications }
    }

    /// Whether a place on a tunnel of ours can be had; with it.
    pub fn lease(&self, at: usize) -> Option<Held> {
        self.ends.get(at)?.tunnel.lease().map(Held::Lease)
    }

    /// The peer of a tunnel says something, and reads so many bytes more.
    pub fn hear(&mut self, at: usize, said: &[u8], reads: usize) {
        let Some(End { peer, task, .. }) = self.ends.get_mut(at) else { return };
        peer.reads = peer.reads.saturating_add(reads);
        if !said.is_empty() && !peer.has_closed {
            peer.said.push_back(said.into());
        }
        task.waker.wake_by_ref();
    }

    /// The peer of a tunnel closes it.
    pub fn close(&mut self, at: usize) {
        if let Some(end) = self.ends.get_mut(at) {
            end.peer.has_closed = true;
            end.task.waker.wake_by_ref();
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
        let End { tunnel, driver, peer, task, .. } = end;
        // An application that runs at the same time leaves something, and wakes the task after that.
        let is_exact = self.applications == Applications::Between;
        let mut turned = None;
        let waits: Poll<()> = task.poll((), is_exact, |cx| {
            let before = peer.read;
            turned = match tunnel.turn(cx, peer, driver) {
                Poll::Ready(turned) => Some(turned),
                Poll::Pending if peer.read == before => return Poll::Pending,
                // It had something to write, and waits for more.
                Poll::Pending => None,
            };
            Poll::Ready(())
        });
        if waits.is_ready() && turned.is_none() {
            task.waits_for = Some(());
        }
        let Some((opened, over)) = turned else { return Vec::new() };
        tunnel.check_owned();
        if let Some(result) = over {
            tunnel.fail(&result.map_err(Arc::new));
            end.is_over = true;
        }
        let asked = |(stream, _)| Held::Asked(Asked(Stream::new(Arc::clone(&end.tunnel), stream)));
        opened.into_iter().map(asked).collect()
    }

    /// Whether the peers' tunnels have read all that there is, and nobody has woken them.
    pub fn is_idle(&self) -> bool {
        self.ends.iter().all(|end| {
            let waits = end.task.waits_for.is_some() && !end.task.woken.0.load(Ordering::SeqCst);
            end.is_over || (end.peer.said.is_empty() && waits)
        })
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

/// As much as is sent at once.
static ZEROS: [u8; 31 << 9] = [0; 31 << 9];

/// Does something with what an application holds, chosen by `byte`; `None`: it is dropped.
pub fn act(held: Held, byte: u8) -> Option<Held> {
    match held {
        Held::Asked(asked) => match byte % 4 {
            0 => asked.refuse(503),
            1 => {}
            _ => return asked.accept().ok().map(Carried::new).map(Held::of),
        },
        Held::Lease(lease) => match byte % 4 {
            0 => {}
            1 => lease.close(),
            _ => {
                return lease.ask(open()).ok().map(|(stream, _)| Held::of(Carried::new(stream)));
            }
        },
        Held::Stream(mut carried) => {
            if byte % 8 > 6 {
                return None;
            }
            carried.act(byte);
            return Some(Held::Stream(carried));
        }
    }
    None
}

impl Held {
    fn of(carried: Carried) -> Self {
        Self::Stream(Box::new(carried))
    }
}

impl Carried {
    fn new(stream: Stream) -> Self {
        let stream = Arc::new(stream);
        let (sender, receiver) = stream.split();
        let (reads, writes) = (Waiter::default(), Waiter::default());
        Self { stream, sender, receiver, reads, writes }
    }

    fn act(&mut self, byte: u8) {
        let Self { stream, sender, receiver, reads, writes } = self;
        match byte % 8 {
            0 | 1 => {
                let mut data = Bytes::from_static(&ZEROS[..usize::from(byte >> 3) << 9]);
                // Those that wait for less to be written may find it so before they are woken.
                let _any: Poll<_> =
                    writes.poll(Writes::Room, false, |cx| sender.poll_send(cx, &mut data));
            }
            2 | 3 => {
                let read = reads.poll(Reads::Data, true, |cx| receiver.poll_data(cx));
                if let Poll::Ready(Some(Ok(data))) = read {
                    let _gone: Result<(), _> = receiver.taken(data.remaining());
                }
            }
            4 => {
                drop(sender.end());
                if byte >= 128 {
                    sender.leave();
                }
                writes.waits_for = None;
            }
            5 => {
                let _any: Poll<_> = writes.poll(Writes::Closed, true, |cx| sender.poll_closed(cx));
                let _any: Poll<Result<(), Error>> =
                    reads.poll(Reads::Accepted, true, |cx| stream.poll_accepted(cx));
                let _any: (Option<Bytes>, _) = (stream.untaken(), stream.refusal());
            }
            _ => {
                sender.reset();
                writes.waits_for = None;
            }
        }
    }

    /// Checks that it was woken if there is something for it, when nothing has happened since the
    /// tunnels had their turn.
    fn check_woken(&mut self) {
        let Self { stream, sender, receiver, reads, writes } = self;
        if let Some(what) = reads.waits_for {
            let _any: Poll<()> = reads.poll(what, true, |cx| match what {
                Reads::Accepted => stream.poll_accepted(cx).map(drop),
                Reads::Data => receiver.poll_data(cx).map(drop),
            });
        }
        if let Some(what) = writes.waits_for {
            let _any: Poll<()> = writes.poll(what, true, |cx| match what {
                Writes::Room => sender.poll_send(cx, &mut Bytes::from_static(b"x")).map(drop),
                Writes::Closed => sender.poll_closed(cx).map(drop),
            });
        }
    }
}

/// Checks that nobody waits who could go on: nothing has happened since the tunnels had their turn,
/// and their peers have read everything.
pub fn check_woken(held: &mut [Held]) {
    for held in held {
        if let Held::Stream(carried) = held {
            carried.check_woken();
        }
    }
}
