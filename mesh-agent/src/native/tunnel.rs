//! One TLS connection to a peer's agent: the task that reads and writes it, and what its streams
//! share with that.
//!
//! Streams leave frames and wake the task; it writes what all of them have left at once, when they
//! have run. Data that it reads goes into the streams' inboxes. All of them are on one data thread in
//! most cases, so that the lock is hardly ever waited for.
//!
//! The tunnel owns its streams. There is one lock, and whoever holds it takes no other. Dropping a
//! stream or a lease takes none: it is told to the task without.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, timeout};

use crate::io::link::Link;
use crate::io::load::Load;
use crate::io::silence::{Alarm, News, Silence};
use crate::native::by_number::ByNumber;
use crate::native::driver::Driver;
use crate::native::frame::{Open, code};
use crate::native::lease::Lease;
use crate::native::pings::Pings;
use crate::native::quota::Quota;
use crate::native::session::{Session, Side};
use crate::native::shared::{Core, Rest};
use crate::native::stream::{Asked, Stream};
use crate::native::sync::{AtomicUsize, AtomicWaker, Mutex, MutexGuard, Sender, channel, register};
use crate::native::{Error, Options};
use crate::task::ending::{Ending, Unanswered};
use crate::task::scope::Scope;

/// How much is read before others have their turn: 16 TLS records of 2^14 bytes (RFC 8446,
/// section 5.1), of which each is one piece.
const TURN_BYTES: usize = 256 * 1024;

/// How many streams a peer may ask for before others have their turn. Each is a task, a socket and a
/// connection to an application: a frame that is much more work than its bytes.
const TURN_OPENS: usize = 16;

/// How many times of what streams may leave to be written may wait, before the peer is one that asks
/// for answers and does not read them. Not read it is never: two that wait for each other would wait
/// for good.
const FLOOD: usize = 3;

/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// A tunnel, as the pool and its streams hold it.
#[derive(Debug)]
pub struct Tunnel {
    core: Mutex<Core>,
    /// Places that are taken, of streams that are open or will be. It grows under the lock alone.
    pub(super) leases: AtomicUsize,
    /// The numbers of streams that nobody holds any more: as many as there are slots, at most.
    released: Sender<u32>,
    /// The tunnel's task.
    driver: AtomicWaker,
    max_output_bytes: usize,
}

/// The streams that the peer has opened, and the end of the tunnel if it is over.
type Turn = (Vec<(u32, Open)>, Option<Result<(), Error>>);

impl Tunnel {
    pub(super) fn new(
        side: Side,
        options: &Options,
        quota: Option<Arc<Quota>>,
        leases: usize,
    ) -> (Arc<Self>, Driver) {
        let core = Core {
            quota,
            session: Session::new(side, options.limits),
            slots: ByNumber::default(),
            failed: None,
            load: Arc::default(),
            retired: false,
            starving: false,
            ping: (0, true),
            heard: Instant::now(),
            silence: Silence::default(),
        };
        let (released, taken) = channel();
        let tunnel = Self {
            core: Mutex::new(core),
            leases: AtomicUsize::new(leases),
            released,
            driver: AtomicWaker::new(),
            max_output_bytes: options.max_output_bytes,
        };
        let driver = Driver {
            released: taken,
            input: BytesMut::new(),
            is_held: false,
            pings: Pings::new(Instant::now()),
            is_dirty: false,
            slices: Vec::new(),
            n_read: 0,
            used: Instant::now(),
            pinged: Instant::now(),
            news: None,
            due: None,
            alarm: Alarm::default(),
        };
        (Arc::new(tunnel), driver)
    }

    /// Starts a tunnel on a TLS connection that we have opened, and takes the first place. Anything that the
    /// peer sends and is not read is within `quota`. It is driven in `scope` until it fails, is idle
    /// for too long, or the scope drains and its last stream has ended. `ended` is called then.
    /// `news` is told when it is silent, and when it is heard again.
    pub fn start<Io>(
        io: Io,
        options: &Options,
        quota: Option<Arc<Quota>>,
        scope: &Scope,
        (ended, news): (impl FnOnce(Unanswered) + Send + 'static, Arc<News>),
    ) -> (Arc<Self>, Lease)
    where
        Io: Link + AsyncWrite + Unpin + Send + 'static,
    {
        let (tunnel, mut driver) = Self::new(Side::Client, options, quota, 1);
        driver.news = Some(news);
        let lease = Lease::new(Arc::clone(&tunnel));
        let (driven, options, scope) = (Arc::clone(&tunnel), *options, scope.clone());
        let within = scope.clone();
        scope.spawn(Box::pin(async move {
            let ending = Ending::within(&within, pending(), pending());
            // A server opens no streams: the session does not let it.
            let driving = driven.drive(io, driver, &options, ending, |_, _| {});
            let end = driving.await;
            if let Err(error) = &end {
                tracing::debug!(%error, "a tunnel ended");
            }
            let is_silence = end.is_err_and(|error| error.is_silence());
            ended(is_silence.then_some(options.ping_timeout));
        }));
        (tunnel, lease)
    }

    /// Takes a place, unless there is none or the tunnel is closed.
    pub fn lease(self: &Arc<Self>) -> Option<Lease> {
        let core = self.lock();
        if !core.has_room(self.leases.load(Ordering::Acquire)) {
            return None;
        }
        self.leases.fetch_add(1, Ordering::AcqRel);
        drop(core);
        Some(Lease::new(Arc::clone(self)))
    }

    /// Whether there is a place.
    pub fn has_room(&self) -> bool {
        self.lock().has_room(self.leases.load(Ordering::Acquire))
    }

    /// The load that it carries.
    pub fn load(&self) -> Arc<Load> {
        Arc::clone(&self.lock().load)
    }

    /// Whether no stream can be opened any more.
    pub fn is_closed(&self) -> bool {
        let core = self.lock();
        core.retired || core.failed.is_some()
    }

    /// Takes no more streams, and ends with the last one.
    pub fn retire(&self) {
        let mut core = self.lock();
        core.retired = true;
        core.session.go_away(code::NONE);
        drop(core);
        self.wake_driver();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic elsewhere leaves the state whole as far as the protocol goes: each change is one
        // call of the session.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the task run: there is something to write, or to end.
    pub(super) fn wake_driver(&self) {
        self.driver.wake();
    }

    /// Nobody holds a stream any more. Takes no lock.
    pub(super) fn release(&self, stream: u32) {
        // Where there is no task any more the tunnel has ended, and there is nobody to tell.
        if self.released.send(stream).is_ok() {
            self.wake_driver();
        }
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
        mut io: Io,
        mut driver: Driver,
        options: &Options,
        ending: Ending<impl Future<Output = ()>, impl Future<Output = ()>>,
        mut asked: impl FnMut(Stream, Open),
    ) -> Result<(), Error>
    where
        Io: Link + AsyncWrite + Unpin,
    {
        let mut tick = interval(options.ping_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut retired, mut cut) = (pin!(ending.retired), pin!(ending.cut));
        let mut is_retired = false;
        let end = loop {
            tokio::select! {
                biased;
                () = &mut cut => break Err(Error::Distrusted),
                () = &mut retired, if !is_retired => {
                    is_retired = true;
                    self.retire();
                }
                _ = tick.tick() => {
                    driver.shrink();
                    if let Err(error) = self.tick(options, &mut driver) {
                        break Err(error);
                    }
                }
                (opened, end) = poll_fn(|cx| {
                    let turn = self.turn(cx, &mut io, &mut driver);
                    self.watch(cx, &mut driver);
                    turn
                }) => {
                    for (stream, open) in opened {
                        asked(Stream::new(Arc::clone(self), stream), open);
                    }
                    if let Some(end) = end {
                        break end;
                    }
                }
            }
        };
        let end = self.end(io, &mut driver, end).await;
        poll_fn(|cx| self.poll_released(cx, &mut driver)).await;
        end
    }

    /// Asks a peer whether it is there, and ends what has waited for too long.
    pub(super) fn tick(&self, options: &Options, driver: &mut Driver) -> Result<(), Error> {
        let now = Instant::now();
        let mut core = self.lock();
        core.end_released();
        core.copy_all_slices();
        if core.session.streams() > 0 {
            driver.used = now;
        }
        if core.ping.1 {
            driver.ping(&mut core, now);
        } else if now - driver.pinged >= options.ping_timeout {
            return Err(Error::Silent);
        }
        drop(core);
        self.wake_driver();
        if now - driver.used >= options.idle_timeout {
            self.retire();
        }
        Ok(())
    }

    /// Reads what has come, then writes what is to be written. Ready with the streams that the peer
    /// has opened, or with the end of the tunnel.
    pub(super) fn turn(
        &self,
        cx: &mut Context<'_>,
        io: &mut impl Link,
        driver: &mut Driver,
    ) -> Poll<Turn> {
        // Before all else: what others leave from now on lets the task run again.
        register(&self.driver, cx.waker());
        let mut core = self.lock();
        while let Ok(stream) = driver.released.try_recv() {
            core.release(stream);
        }
        core.copy_slices(std::mem::take(&mut driver.slices), driver.n_read);
        let mut rest = Rest::default();
        let read = self.read(&mut core, cx, io, driver, &mut rest);
        // Before it writes: nothing else may come for long that would make it write again.
        core.refuse_excess(&mut rest);
        core.reset_excess(&rest);
        if let Some(last) = rest.gone {
            core.retire_after(last);
        }
        driver.slices = std::mem::take(&mut rest.slices);
        let written = core.write(cx, io, &mut driver.is_dirty);
        if core.starving && core.session.waiting() < self.max_output_bytes / 2 {
            core.starving = false;
            for slot in core.slots.values_mut() {
                if let Some(writer) = slot.writer.take() {
                    writer.wake();
                }
            }
        }
        if rest.pong == Some(core.ping.0) {
            driver.answered(&mut core);
        }
        driver.due = core.silence.due();
        let is_over = core.retired
            && core.slots.is_empty()
            && core.session.streams() == 0
            && self.leases.load(Ordering::Acquire) == 0;
        drop(core);
        let end = match (read, written) {
            (Err(error), _) | (_, Err(error)) => Some(Err(error)),
            (Ok(Poll::Ready(false)), _) => Some(Ok(())),
            (_, Ok(Poll::Ready(()))) if is_over && rest.asked.is_empty() => Some(Ok(())),
            (Ok(Poll::Ready(true)), Ok(_)) => {
                // There may be more; others have their turn first.
                cx.waker().wake_by_ref();
                None
            }
            (Ok(Poll::Pending), Ok(_)) => None,
        };
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
        driver: &mut Driver,
        rest: &mut Rest,
    ) -> Result<Poll<bool>, Error> {
        let (mut left, mut opens) = (TURN_BYTES, TURN_OPENS);
        driver.n_read = 0;
        if std::mem::take(&mut driver.is_held) {
            driver.n_read = driver.input.len();
            core.receive(&mut driver.input, &mut opens, rest)?;
            driver.pings.check(core.session.take_pinged())?;
        }
        while left > 0 && opens > 0 {
            if core.session.waiting() > self.max_output_bytes * FLOOD {
                return Err(Error::Flood);
            }
            match io.poll_take(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(None)) => return Ok(Poll::Ready(false)),
                Poll::Ready(Ok(Some(piece))) => {
                    left = left.saturating_sub(piece.len());
                    driver.n_read += piece.len();
                    driver.hear(core);
                    driver.append(piece);
                    core.receive(&mut driver.input, &mut opens, rest)?;
                    driver.pings.check(core.session.take_pinged())?;
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(Poll::Ready(false));
                }
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
        }
        driver.is_held = opens == 0;
        Ok(Poll::Ready(true))
    }

    /// Tells all streams that the tunnel is over.
    pub(super) fn fail(&self, end: &Result<(), Arc<Error>>) {
        let mut core = self.lock();
        core.retired = true;
        core.failed = Some(end.as_ref().err().map_or_else(|| Arc::new(Error::Closed), Arc::clone));
        for slot in core.slots.values_mut() {
            slot.wake();
        }
        if let Err(error) = end
            && matches!(**error, Error::Violation(_))
        {
            core.session.go_away(code::PROTOCOL);
        }
    }

    /// Waits until nobody holds a stream of a tunnel that is over: their shares of what the peer may
    /// use are given back one by one.
    pub(super) fn poll_released(&self, cx: &mut Context<'_>, driver: &mut Driver) -> Poll<()> {
        register(&self.driver, cx.waker());
        let mut core = self.lock();
        while let Ok(stream) = driver.released.try_recv() {
            core.slots.remove(&stream);
        }
        core.slots.retain(|_, slot| slot.released.is_none());
        if core.slots.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Checks that each stream of the protocol is held, or waits for its end; for tests.
    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn check_owned(&self) {
        let core = self.lock();
        assert!(core.session.streams() <= core.slots.len(), "streams that nobody owns: {core:?}");
    }

    /// Checks that no stream is left; for tests.
    #[cfg(any(test, feature = "test-support"))]
    pub(super) fn check_empty(&self) {
        let core = self.lock();
        assert!(core.slots.is_empty(), "streams that nobody holds: {core:?}");
        assert_eq!(core.session.streams(), 0, "streams that nobody holds: {core:?}");
        assert_eq!(self.leases.load(Ordering::Acquire), 0, "a place was not given back");
    }

    /// Tells all streams, and says goodbye to the peer.
    async fn end<Io>(
        &self,
        mut io: Io,
        driver: &mut Driver,
        end: Result<(), Error>,
    ) -> Result<(), Error>
    where
        Io: Link + AsyncWrite + Unpin,
    {
        let end = end.map_err(Arc::new);
        self.fail(&end);
        let goodbye = async {
            driver.is_dirty = true;
            poll_fn(|cx| match self.lock().write(cx, &mut io, &mut driver.is_dirty) {
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

/// Serves a tunnel that a peer has opened, until it closes; `handle` is given each stream. All that the
/// peer may use is within `quota`.
///
/// # Errors
///
/// The peer broke the protocol, or went away in the middle of it.
pub async fn serve<Io>(
    io: Io,
    quota: Arc<Quota>,
    options: &Options,
    ending: Ending<impl Future<Output = ()>, impl Future<Output = ()>>,
    mut handle: impl FnMut(Open, Asked),
) -> Result<(), Error>
where
    Io: Link + AsyncWrite + Unpin,
{
    let (tunnel, driver) = Tunnel::new(Side::Server, options, Some(quota), 0);
    let asked = |stream, open| handle(open, Asked(stream));
    tunnel.drive(io, driver, options, ending, asked).await
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
