//! One HTTP/2 connection to a peer's agent.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::hbone::connect::{self, Open};
use crate::hbone::stream::Stream;
use crate::hbone::{COPIED, Error, MAX_REMEMBERED_RESETS, Options};
use crate::io::frames::Paced;
use crate::io::load::{Load, Meter};
use crate::io::silence::{Alarm, News, Silence, Step};
use crate::io::unread::Unread;
use crate::task::ending::Unanswered;
use crate::task::scope::Scope;

/// A tunnel, as the pool holds it. Its own task drives it.
#[derive(Debug)]
pub struct Tunnel {
    /// `None` once the tunnel ends with its last stream: HTTP/2 then says goodbye by itself.
    requests: Mutex<Option<SendRequest<Bytes>>>,
    load: Arc<Load>,
    unread: Arc<Unread>,
    closed: AtomicBool,
    /// Whether the peer owes an answer.
    silence: Mutex<Silence>,
    /// Tells the tunnel's task that the peer owes an answer.
    asked: Notify,
    /// Tells streams that wait for their answer that the tunnel has become silent.
    silent: Notify,
}

/// State of a tunnel's watch over its peer.
struct Watch<'a> {
    pings: Option<PingPong>,
    /// When a ping was sent that was not answered.
    asked: Option<Instant>,
    alarm: Alarm,
    news: &'a News,
}

/// A place on a tunnel. Dropping it frees the place.
#[derive(Debug)]
pub struct Lease {
    tunnel: Arc<Tunnel>,
    /// Holds the place, together with the stream.
    meter: Arc<Meter>,
    /// Keeps the tunnel until there is a stream, which keeps it from then on.
    requests: Option<SendRequest<Bytes>>,
}

impl Tunnel {
    /// Starts HTTP/2 on a TLS connection, and takes the first place. It is driven in `scope` until
    /// it fails, is idle for too long, or the scope drains and its last stream has ended. `counted`
    /// is dropped then. `news` is told when it is silent, and when it is heard again.
    ///
    /// # Errors
    ///
    /// The peer does not speak HTTP/2.
    pub async fn start<Io>(
        io: Io,
        options: &Options,
        scope: &Scope,
        (ended, news): (impl FnOnce(Unanswered) + Send + 'static, Arc<News>),
    ) -> Result<(Arc<Self>, Lease), Error>
    where
        Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let unread = Unread::within(options.tunnel_window_bytes, COPIED);
        let (requests, connection) = Builder::new()
            .enable_push(false)
            .initial_window_size(options.stream_window_bytes)
            .initial_connection_window_size(options.tunnel_window_bytes)
            .max_frame_size(options.max_frame_bytes)
            .max_send_buffer_size(options.max_send_buffer_bytes)
            .max_concurrent_reset_streams(MAX_REMEMBERED_RESETS)
            .max_local_error_reset_streams(None)
            .handshake(Arc::clone(&unread).counted(Paced::of_server(io)))
            .await?;
        let load = Arc::new(Load::default());
        let meter = Arc::new(load.add(options.max_streams.max(1)).ok_or(Error::Closed)?);
        let tunnel = Arc::new(Self {
            requests: Mutex::new(Some(requests.clone())),
            load,
            unread,
            closed: AtomicBool::new(false),
            silence: Mutex::default(),
            asked: Notify::new(),
            silent: Notify::new(),
        });
        let lease = Lease { tunnel: Arc::clone(&tunnel), meter, requests: Some(requests) };
        let (driven, options, ending) = (Arc::clone(&tunnel), *options, scope.clone());
        scope.spawn(Box::pin(async move {
            let silence = drive(connection, &driven, options, &ending, &news).await;
            driven.closed.store(true, Ordering::Release);
            ended(silence);
        }));
        Ok((tunnel, lease))
    }

    /// Takes a place, unless there is none within `most` or the tunnel is closed.
    pub fn lease(self: &Arc<Self>, most: u32) -> Option<Lease> {
        if self.is_closed() {
            return None;
        }
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let meter = Arc::new(self.load.add(most)?);
        Some(Lease { tunnel: Arc::clone(self), meter, requests: Some(requests) })
    }

    /// The load that it carries.
    pub fn load(&self) -> &Load {
        &self.load
    }

    /// Takes no more streams, and ends with the last one.
    pub fn retire(&self) {
        self.closed.store(true, Ordering::Release);
        drop(self.requests.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Whether the peer owes an answer, and nothing is heard from it.
    pub fn is_silent(&self) -> bool {
        self.silence().is_silent()
    }

    /// Finds out whether the peer is there.
    pub fn probe(&self) {
        self.silence().ask(Instant::now());
        self.asked.notify_one();
    }

    fn silence(&self) -> MutexGuard<'_, Silence> {
        self.silence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when nothing is heard from the peer.
    async fn silent(&self) {
        loop {
            let silent = self.silent.notified();
            if self.is_silent() {
                return;
            }
            silent.await;
        }
    }

    /// Notes that the peer was heard, and asks it whether it is there if it owes an answer and was
    /// not, or tells everybody that nothing is heard. Called after all that has come was read.
    fn watch(&self, cx: &mut Context<'_>, watch: &mut Watch<'_>) {
        let mut silence = self.silence();
        if self.unread.take_heard() && silence.hear() {
            watch.news.heard();
        }
        let Poll::Ready(()) = watch.alarm.poll(cx, silence.due()) else { return };
        match silence.step(Instant::now()) {
            Step::Wait => {}
            Step::Probe => watch.ask(),
            Step::Silent => {
                watch.news.silent();
                self.silent.notify_waiters();
            }
        }
        // When it is to ring next is another time.
        cx.waker().wake_by_ref();
    }

    /// Whether no stream can be opened any more.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Lease {
    /// Opens the stream of this place: once.
    ///
    /// # Errors
    ///
    /// The tunnel failed, or the peer refused.
    pub async fn open(&mut self, open: &Open, hostname: Option<&str>) -> Result<Stream, Error> {
        let request = connect::request(open, hostname).map_err(std::io::Error::other);
        let request = request.map_err(Error::Open)?;
        let requests = self.requests.take().ok_or(Error::Closed)?;
        let mut requests = requests.ready().await.inspect_err(|_| self.close())?;
        let (response, send) = requests.send_request(request, false)?;
        self.tunnel.probe();
        let response = tokio::select! {
            biased;
            response = response => response?,
            () = self.tunnel.silent() => return Err(Error::Unheard),
        };
        match response.status().as_u16() {
            200 => {
                let meter = Some(Arc::clone(&self.meter));
                let receive = self.tunnel.unread.watch(response.into_body());
                Ok(Stream { send, receive, meter })
            }
            status => Err(Error::Refused(status)),
        }
    }

    /// Lets nobody else take a place on this tunnel. One that is silent may be heard again, and does
    /// so by itself until then.
    pub fn close(&self) {
        if !self.tunnel.is_silent() {
            self.tunnel.retire();
        }
    }

    /// The tunnel was chosen although it carries bulk, because all do.
    pub fn note_crowd(&self) {
        self.meter.note_crowd();
    }
}

/// Drives the connection: HTTP/2 itself, pings, and the end of an idle one. Returns for how long the
/// peer has not answered, if it is over because of that.
async fn drive<Io>(
    mut connection: Connection<Io, Bytes>,
    tunnel: &Tunnel,
    options: Options,
    scope: &Scope,
    news: &News,
) -> Unanswered
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let (pings, alarm) = (connection.ping_pong(), Alarm::default());
    let mut watch = Watch { pings, asked: None, alarm, news };
    let mut used = Instant::now();
    let mut tick = interval(options.ping_interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            () = scope.draining(), if !draining => {
                draining = true;
                tunnel.retire();
            }
            end = poll_fn(|cx| poll_end(&mut connection, tunnel, &mut watch, cx)) => {
                if let Err(error) = end {
                    tracing::debug!(%error, "a tunnel ended");
                }
                return None;
            }
            () = tunnel.asked.notified() => {}
            _ = tick.tick() => {
                let now = Instant::now();
                if tunnel.load.streams() > 0 {
                    used = now;
                } else if now - used >= options.idle_timeout {
                    tunnel.retire();
                }
                match watch.asked {
                    Some(since) if now - since >= options.ping_timeout => {
                        return Some(now - since);
                    }
                    Some(_) => {}
                    None => {
                        watch.ask();
                        tunnel.silence().ping(now);
                    }
                }
            }
        }
    }
}

/// Lets HTTP/2 go on, copies what nobody reads, and watches the peer.
fn poll_end<Io>(
    connection: &mut Connection<Io, Bytes>,
    tunnel: &Tunnel,
    watch: &mut Watch<'_>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), h2::Error>>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let end = Pin::new(connection).poll(cx);
    tunnel.unread.copy_if_due();
    if let Some(lasted) = watch.poll_answered(cx) {
        tunnel.silence().answered(lasted);
    }
    tunnel.watch(cx, watch);
    end
}

impl Watch<'_> {
    /// Sends a ping, unless one is under way.
    fn ask(&mut self) {
        if let (Some(pings), None) = (&mut self.pings, self.asked) {
            self.asked = pings.send_ping(Ping::opaque()).ok().map(|()| Instant::now());
        }
    }

    /// How long the peer took to answer the ping, if it just has. One that fails is seen by the
    /// connection itself.
    fn poll_answered(&mut self, cx: &mut Context<'_>) -> Option<Duration> {
        let (pings, asked) = (self.pings.as_mut()?, self.asked?);
        let Poll::Ready(Ok(_pong)) = pings.poll_pong(cx) else { return None };
        self.asked = None;
        Some(asked.elapsed())
    }
}
