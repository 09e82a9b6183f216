//! One TLS connection to a peer's agent: the task that reads and writes it, and what its streams
//! share with that.
//!
//! Streams leave frames and wake the task; it writes what all of them have left at once, when they
//! have run. What it reads it puts into the streams' inboxes. All of them are on one data thread,
//! so that the lock is never waited for.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, timeout};

use crate::io::link::Link;
use crate::native::by_number::ByNumber;
use crate::native::frame::{Continued, Decoder, Frame, Hello, Name, Open, Violation, code};
use crate::native::lanes::{Ends, Lanes};
use crate::native::part::Part;
use crate::native::quota::Quota;
use crate::native::session::{Over, Session, Side};
use crate::native::shared::{Asks, Core, Rest, Slot};
use crate::native::stream::{Asked, Stream};
use crate::native::{Error, Options};
use crate::task::scope::Scope;
use crate::telemetry::OpenTunnel;

/// How much is read before others have their turn: 16 TLS records of 2^14 bytes (RFC 8446,
/// section 5.1), of which each is one piece.
const TURN_BYTES: usize = 256 * 1024;

/// For how long it is assumed that a peer that was heard is still there.
const RECENT: Duration = Duration::from_secs(1);

/// How many times of what streams may leave to be written may wait, before the peer is one that asks
/// for answers and does not read them. Not read it is never: two that wait for each other would wait
/// for good.
const FLOOD: usize = 8;

/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// A tunnel, as the pool and its streams hold it.
#[derive(Debug)]
pub struct Tunnel {
    core: Mutex<Core>,
    max_output_bytes: usize,
}

/// A place on a tunnel. Dropping it frees the place.
#[derive(Debug)]
pub struct Lease {
    pub(super) tunnel: Arc<Tunnel>,
}

/// The streams that the peer has opened, and the end of the tunnel if it is over.
type Turn = (Vec<(u32, Asks)>, Option<Result<(), Error>>);

/// What has been read of a tunnel, and was not looked at.
#[derive(Debug, Default)]
pub struct Input {
    bytes: BytesMut,
    /// Something was read before the tunnel was driven.
    is_fresh: bool,
}

/// A tunnel that a peer has opened.
#[derive(Debug)]
pub struct Served<'a> {
    /// What was read by [`hello`].
    pub input: Input,
    /// Between whom it is.
    pub ends: Ends,
    /// The others, whose streams may be continued on it, and the other way round.
    pub lanes: &'a Lanes,
}

impl Tunnel {
    fn new(
        side: Side,
        options: &Options,
        name: Option<Name>,
        quota: Option<Arc<Quota>>,
    ) -> Arc<Self> {
        let core = Core {
            quota,
            session: Session::named(side, options.limits, name),
            slots: ByNumber::default(),
            failed: None,
            leases: 0,
            retired: false,
            starving: false,
            ping: (0, true),
            driver: None,
            heard: Instant::now(),
        };
        let max_output_bytes = options.max_output_bytes;
        Arc::new(Self { core: Mutex::new(core), max_output_bytes })
    }

    /// Starts a tunnel on a TLS connection that we have opened, and takes the first place. If it is
    /// for streams of another, the other's name is given. What the peer sends and is not read is
    /// within `quota`. It is driven in `scope` until it fails, is idle for too long, or the scope
    /// drains and its last stream has ended. `counted` is dropped then.
    pub fn start<Io>(
        (io, lane_of): (Io, Option<Name>),
        options: &Options,
        quota: Option<Arc<Quota>>,
        scope: &Scope,
        counted: OpenTunnel,
    ) -> (Arc<Self>, Lease)
    where
        Io: Link + AsyncWrite + Unpin + Send + 'static,
    {
        let tunnel = Self::new(Side::Client, options, lane_of, quota);
        tunnel.lock().leases = 1;
        let lease = Lease { tunnel: Arc::clone(&tunnel) };
        let (driven, options, ending) = (Arc::clone(&tunnel), *options, scope.clone());
        scope.spawn(Box::pin(async move {
            // A server opens no streams: the session does not let it.
            let driving = driven.drive((io, Input::default()), &options, &ending, |_, _| {});
            if let Err(error) = driving.await {
                tracing::debug!(%error, "a tunnel ended");
            }
            drop(counted);
        }));
        (tunnel, lease)
    }

    /// Takes a place, unless there is none or the tunnel is closed.
    pub fn lease(self: &Arc<Self>) -> Option<Lease> {
        let mut core = self.lock();
        if !core.has_room() {
            return None;
        }
        core.leases += 1;
        Some(Lease { tunnel: Arc::clone(self) })
    }

    /// Whether there is a place.
    pub fn has_room(&self) -> bool {
        self.lock().has_room()
    }

    /// Takes the only place, if no stream has one.
    pub fn lease_alone(self: &Arc<Self>) -> Option<Lease> {
        let is_free = self.lock().leases == 0;
        // Between these two nobody else can take it: the pool's lock is held.
        is_free.then(|| self.lease()).flatten()
    }

    /// Whether no stream can be opened any more.
    pub fn is_closed(&self) -> bool {
        let core = self.lock();
        core.retired || core.failed.is_some()
    }

    /// Takes no more streams, and ends with the last one.
    fn retire(&self) {
        let mut core = self.lock();
        core.retired = true;
        core.session.go_away(code::NONE);
        core.wake_driver();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic elsewhere leaves the state whole as far as the protocol goes: each change is one
        // call of the session.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no more may be left to be written for now.
    pub(super) fn is_full(&self, core: &mut Core) -> bool {
        let full = core.session.waiting() >= self.max_output_bytes;
        core.starving |= full;
        full
    }

    /// Reads and writes until the tunnel ends. `asked` is given each stream that the peer opens.
    async fn drive<Io>(
        self: &Arc<Self>,
        (mut io, mut input): (Io, Input),
        options: &Options,
        scope: &Scope,
        mut asked: impl FnMut(u32, Asks),
    ) -> Result<(), Error>
    where
        Io: Link + AsyncWrite + Unpin,
    {
        let mut dirty = false;
        let mut tick = interval(options.ping_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut used, mut pinged) = (Instant::now(), Instant::now());
        let mut draining = pin!(scope.draining());
        let mut is_draining = false;
        let end = loop {
            tokio::select! {
                biased;
                () = &mut draining, if !is_draining => {
                    is_draining = true;
                    self.retire();
                }
                end = poll_fn(|cx| {
                    let turn = self.turn(cx, &mut io, &mut input, &mut dirty);
                    turn.map(|(opened, end)| {
                        for (stream, asks) in opened {
                            asked(stream, asks);
                        }
                        end
                    })
                }) => if let Some(end) = end {
                    break end;
                },
                _ = tick.tick() => {
                    let now = Instant::now();
                    let mut core = self.lock();
                    if core.session.streams() > 0 {
                        used = now;
                    }
                    let idle = now - used >= options.idle_timeout;
                    if input.bytes.is_empty() {
                        input.bytes = BytesMut::new();
                    }
                    if core.ping.1 {
                        let number = core.ping.0.wrapping_add(1);
                        core.ping = (number, false);
                        core.session.ping(number);
                        core.wake_driver();
                        pinged = now;
                    } else if now - pinged >= options.ping_timeout {
                        tracing::warn!("a peer's agent does not answer; its tunnel is closed");
                        break Err(Error::Silent);
                    }
                    drop(core);
                    if idle {
                        self.retire();
                    }
                }
            }
        };
        self.end(io, end).await
    }

    /// Reads what has come, then writes what is to be written. Ready with the streams that the peer
    /// has opened, or with the end of the tunnel.
    fn turn(
        &self,
        cx: &mut Context<'_>,
        io: &mut impl Link,
        input: &mut Input,
        dirty: &mut bool,
    ) -> Poll<Turn> {
        let mut core = self.lock();
        let mut rest = Rest::default();
        let read = self.read(&mut core, cx, io, input, &mut rest);
        // Before it writes: nothing else may come for long that would make it write again.
        core.refuse_excess(&mut rest.asked);
        core.reset_excess(&rest.excess);
        if let Some(last) = rest.gone {
            core.gone(last);
        }
        let written = core.write(cx, io, dirty);
        if core.starving && core.session.waiting() < self.max_output_bytes / 2 {
            core.starving = false;
            for slot in core.slots.values_mut() {
                if let Some(writer) = slot.writer.take() {
                    writer.wake();
                }
            }
        }
        if rest.pong == Some(core.ping.0) {
            core.ping.1 = true;
        }
        let is_over = core.retired && core.session.streams() == 0 && core.leases == 0;
        let end = match (read, written) {
            (Err(error), _) | (_, Err(error)) => Some(Err(error)),
            (Ok(Poll::Ready(false)), _) => Some(Ok(())),
            (_, Ok(Poll::Ready(()))) if is_over && rest.asked.is_empty() => Some(Ok(())),
            (Ok(Poll::Ready(true)), Ok(_)) => {
                // There may be more; others have their turn first.
                cx.waker().wake_by_ref();
                None
            }
            (Ok(Poll::Pending), Ok(_)) => {
                core.driver = Some(cx.waker().clone());
                None
            }
        };
        drop(core);
        if end.is_none() && rest.asked.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready((rest.asked, end))
    }

    /// Ready with true: there may be more. With false: the peer has closed.
    fn read(
        &self,
        core: &mut Core,
        cx: &mut Context<'_>,
        io: &mut impl Link,
        input: &mut Input,
        rest: &mut Rest,
    ) -> Result<Poll<bool>, Error> {
        let mut left = TURN_BYTES;
        if std::mem::take(&mut input.is_fresh) {
            core.receive(&mut input.bytes, rest)?;
        }
        let input = &mut input.bytes;
        while left > 0 {
            if core.session.waiting() > self.max_output_bytes * FLOOD {
                return Err(Error::Flood);
            }
            match io.poll_take(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(None)) => return Ok(Poll::Ready(false)),
                Poll::Ready(Ok(Some(piece))) => {
                    left = left.saturating_sub(piece.len());
                    core.heard = Instant::now();
                    append(input, piece);
                    core.receive(input, rest)?;
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(Poll::Ready(false));
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
        }
        Ok(Poll::Ready(true))
    }

    /// Tells all streams, and says goodbye to the peer.
    async fn end<Io>(&self, mut io: Io, end: Result<(), Error>) -> Result<(), Error>
    where
        Io: Link + AsyncWrite + Unpin,
    {
        let end = end.map_err(Arc::new);
        {
            let mut core = self.lock();
            core.retired = true;
            core.failed =
                Some(end.as_ref().err().map_or_else(|| Arc::new(Error::Closed), Arc::clone));
            for slot in core.slots.values_mut() {
                slot.wake();
            }
            if let Err(error) = &end
                && matches!(**error, Error::Violation(_))
            {
                core.session.go_away(code::PROTOCOL);
            }
        }
        let goodbye = async {
            let mut dirty = true;
            poll_fn(|cx| match self.lock().write(cx, &mut io, &mut dirty) {
                Ok(Poll::Pending) => Poll::Pending,
                Ok(Poll::Ready(())) | Err(_) => Poll::Ready(()),
            })
            .await;
            // A peer that is gone needs no goodbye.
            let _gone: io::Result<()> = io.shutdown().await;
        };
        let _late: Result<(), _> = timeout(GOODBYE, goodbye).await;
        end.map_err(Error::Lost)
    }
}

/// Reads the hello of a peer that has opened a tunnel: it may say where the tunnel belongs.
///
/// # Errors
///
/// It is not a hello, or the peer went away.
pub async fn hello(io: &mut impl Link) -> Result<(Hello, Input), Error> {
    let mut bytes = BytesMut::new();
    loop {
        // A copy of it, as the session reads it again. The decoder takes no more than 1 KiB for a
        // frame that is not data.
        match Decoder::default().next(&mut bytes.clone())? {
            Some(Frame::Hello(hello)) => return Ok((hello, Input { bytes, is_fresh: true })),
            Some(_) => return Err(Violation::Hello.into()),
            None => match poll_fn(|cx| io.poll_take(cx)).await? {
                Some(piece) => append(&mut bytes, piece),
                None => return Err(Error::Closed),
            },
        }
    }
}

/// Puts a piece behind what is there: a part of a frame, if anything.
fn append(input: &mut BytesMut, piece: BytesMut) {
    if input.is_empty() {
        *input = piece;
    } else {
        input.extend_from_slice(&piece);
    }
}

/// Serves a tunnel that a peer has opened, until it closes; `handle` is given each stream. When
/// `scope` drains no new streams are taken, and the tunnel ends with the last one that is open.
///
/// # Errors
///
/// The peer broke the protocol, or went away in the middle of it.
pub async fn serve<Io>(
    io: Io,
    served: Served<'_>,
    options: &Options,
    scope: &Scope,
    mut handle: impl FnMut(Open, Asked),
) -> Result<(), Error>
where
    Io: Link + AsyncWrite + Unpin,
{
    let Served { input, ends, lanes } = served;
    let quota = lanes.quota_of(&ends, options);
    let make = |name| Tunnel::new(Side::Server, options, Some(name), Some(Arc::clone(&quota)));
    let (tunnel, _listed) = lanes.list(ends.clone(), make);
    let asked = |stream, asks| match asks {
        Asks::Open(open) => {
            handle(open, Asked(Stream::of(Part::of(Arc::clone(&tunnel), stream, None))));
        }
        Asks::Continue(of) => lanes.adopt(&ends, &tunnel, stream, of),
    };
    tunnel.drive((io, input), options, scope, asked).await
}

impl Lease {
    /// Opens the stream of this place: once. If the peer was heard a moment ago its answer is not
    /// waited for; see [`Stream::untaken`].
    ///
    /// # Errors
    ///
    /// The tunnel failed, or the peer refused.
    pub async fn open(&self, open: Open) -> Result<Stream, Error> {
        let (stream, is_sure) = self.ask(|session| session.open(open))?;
        let stream = Stream::of(Part::of(Arc::clone(&self.tunnel), stream, None));
        if is_sure {
            return Ok(stream);
        }
        poll_fn(|cx| stream.poll_accepted(cx)).await?;
        Ok(stream)
    }

    /// Opens the stream of this place, to go on with one of another tunnel.
    pub(super) async fn go_on(self, with: Continued) -> Result<Part, Error> {
        let (number, _is_sure) = self.ask(|session| session.go_on(with))?;
        let part = Part::of(Arc::clone(&self.tunnel), number, Some(self));
        poll_fn(|cx| part.poll_accepted(cx)).await?;
        Ok(part)
    }

    /// Asks for a stream; says whether the peer was heard a moment ago.
    fn ask(&self, ask: impl FnOnce(&mut Session) -> Option<u32>) -> Result<(u32, bool), Error> {
        let mut core = self.tunnel.lock();
        if let Some(failed) = &core.failed {
            return Err(Error::Lost(Arc::clone(failed)));
        }
        let stream = ask(&mut core.session).ok_or(Error::Full)?;
        let share = core.quota.as_ref().and_then(Quota::stream);
        core.slots.insert(stream, Slot { share, ..Slot::default() });
        core.wake_driver();
        Ok((stream, core.session.is_greeted() && core.heard.elapsed() < RECENT))
    }

    /// Lets nobody else take a place on this tunnel.
    pub fn close(&self) {
        self.tunnel.retire();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut core = self.tunnel.lock();
        core.leases -= 1;
        if core.retired {
            core.wake_driver();
        }
    }
}

impl From<Over> for Error {
    fn from(_over: Over) -> Self {
        Self::Closed
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::io::link::Plain;
    use crate::model::id::ResourceName;
    use crate::model::spiffe::SpiffeId;
    use crate::native::fixture::options;
    use crate::native::frame;

    /// A peer that opens and resets streams in a loop, and a server that takes its time.
    #[tokio::test]
    async fn streams_that_were_reset_count_while_they_are_worked_on() {
        let (peer, io) = tokio::io::duplex(1 << 20);
        let (mut from_us, mut to_us) = tokio::io::split(peer);
        let scope = Scope::new("test");
        let options = options();
        let mut attack = BytesMut::new();
        frame::put(&mut attack, &Frame::Hello(Hello::LEAST));
        for stream in 1..=1_000 {
            let destination = "10.0.0.1:80".parse().unwrap();
            let open = Open { destination, client: None, hostname: None, trace: None };
            frame::put(&mut attack, &Frame::Open(stream, open));
            frame::put(&mut attack, &Frame::Reset(stream, code::CANCEL));
        }
        to_us.write_all(&attack).await.unwrap();
        to_us.shutdown().await.unwrap();
        let worked_on = RefCell::new(Vec::new());
        let ends = Ends {
            peer: SpiffeId::new("cluster.local", "demo", "peer").unwrap(),
            local: ResourceName::new("demo", "local"),
        };
        let served = Served { input: Input::default(), ends, lanes: &Lanes::default() };
        let asked = |_, asked| worked_on.borrow_mut().push(asked);
        let serving = serve(Plain(io), served, &options, &scope, asked);
        let mut answers = Vec::new();
        let (served, read) = tokio::join!(serving, from_us.read_to_end(&mut answers));
        served.unwrap();
        read.unwrap();
        assert_eq!(worked_on.borrow().len(), 64);
    }
}
