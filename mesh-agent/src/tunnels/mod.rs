//! Tunnels between agents, whichever of the two protocols they speak: [`native`] between our own,
//! [`hbone`] with others. TLS has decided when a connection comes here.

pub mod choice;
mod error;
pub mod pool;

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use crate::hbone;
use crate::hbone::connect::{Open, RequestError};
use crate::identity::standing::Standing;
use crate::io::duplex::Duplex;
use crate::io::leg::Leg;
use crate::io::link::Link;
use crate::io::load::Meter;
use crate::io::relay::{self, RelayError, Unsent};
use crate::io::silence::News;
use crate::native;
use crate::native::frame::code;
use crate::native::quota::{Bounds, Quota};
use crate::task::ending::{Ending, Unanswered};
use crate::task::scope::Scope;
use crate::telemetry::Protocol;
use crate::tunnels::choice::Carried;

pub use error::Error;

/// Settings of both kinds.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Whether peers that can are spoken to by the native transport.
    pub native: Option<native::Options>,
    /// HBONE.
    pub hbone: hbone::Options,
    /// How long a peer may take to answer for its application.
    pub answer_timeout: Duration,
    /// After how long another tunnel is tried again that could not be opened.
    pub again: Duration,
}

/// The protocols that are offered in TLS, the better one first.
pub fn offered(options: &Options) -> Vec<Vec<u8>> {
    let all = [(options.native.is_some(), native::ALPN), (true, hbone::ALPN)];
    all.iter().filter(|(spoken, _)| *spoken).map(|(_, name)| name.to_vec()).collect()
}

/// The protocol with a name of TLS; `None`: it is none of ours.
pub fn named(alpn: Option<&[u8]>) -> Option<Protocol> {
    match alpn? {
        native::ALPN => Some(Protocol::Native),
        hbone::ALPN => Some(Protocol::Hbone),
        _ => None,
    }
}

/// A TLS connection to a peer's agent, from which a tunnel is made.
#[derive(Debug)]
pub struct Dialed<Io> {
    /// The connection.
    pub io: Io,
    /// The protocol that was agreed on.
    pub protocol: Protocol,
    /// How long new streams may be opened on it.
    pub validity: Validity,
    /// The memory that was promised to it, in bytes; `None`: what really comes is counted.
    pub bytes: Option<u32>,
}

/// How long a tunnel takes new streams, as far as certificates go.
#[derive(Clone, Debug)]
pub struct Validity {
    /// When our certificate ceases to be valid: the peer takes no streams from then on.
    pub ours: SystemTime,
    /// The peer.
    pub peer: Arc<Standing>,
}

impl Validity {
    fn is_over(&self, now: SystemTime) -> bool {
        now > self.ours || self.peer.stale(now).is_some()
    }
}

/// One connection to a peer's agent.
#[derive(Clone, Debug)]
enum Tunnel {
    Hbone(Arc<hbone::tunnel::Tunnel>),
    Native(Arc<native::tunnel::Tunnel>),
}

/// A place on a tunnel. Dropping it frees the place.
#[derive(Debug)]
pub enum Lease {
    /// Of HBONE.
    Hbone(hbone::tunnel::Lease),
    /// Of the native transport.
    Native(native::lease::Lease),
}

/// A stream that a peer has accepted, or we have.
#[derive(Debug)]
pub enum Stream {
    /// Of HBONE.
    Hbone(hbone::stream::Stream),
    /// Of the native transport.
    Native(native::stream::Stream),
}

/// Why copying ended before both sides had closed.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// One of them closed abruptly.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The peer has refused the stream, or does not answer.
    #[error(transparent)]
    Refused(Error),
    /// The peer has not looked at the stream: what was sent may be sent again on another tunnel.
    #[error("the tunnel takes no more streams")]
    NotTaken(Unsent),
}

impl Ended {
    /// Whether more waited unread than this agent keeps.
    pub fn is_unread(&self) -> bool {
        let Self::Relay(RelayError::Peer(broken)) = self else { return false };
        matches!(broken.cause().downcast_ref::<native::Error>(), Some(native::Error::Unread))
    }
}

/// Resolves when a peer has taken too long to accept a stream.
async fn unanswered(stream: &native::stream::Stream, patience: Duration) {
    let accepted = poll_fn(|cx| stream.poll_accepted(cx));
    if timeout(patience, accepted).await.is_ok() {
        // If it was refused, the stream's own halves say so.
        pending::<()>().await;
    }
}

/// How many bytes a stream has carried.
#[derive(Clone, Copy, Debug)]
pub struct Counts<'a> {
    /// Those that the application has sent.
    pub to_peer: &'a AtomicU64,
    /// Those that it was given.
    pub from_peer: &'a AtomicU64,
}

/// Says, whenever the tunnel of a stream has become worse for those to come, that another may be
/// needed.
async fn crowding(meter: Option<&Meter>, another: impl Fn()) -> Infallible {
    let Some(meter) = meter else { return pending().await };
    loop {
        meter.crowds().await;
        another();
    }
}

/// A stream that a peer asks for, and that waits for its answer.
#[derive(Debug)]
pub enum Incoming {
    /// Of HBONE.
    Hbone(hbone::server::Incoming),
    /// Of the native transport.
    Native(native::stream::Asked),
}

impl Tunnel {
    async fn start<Io>(
        io: Io,
        protocol: Protocol,
        options: &Options,
        quota: Option<Arc<Quota>>,
        scope: &Scope,
        (ended, news): (impl FnOnce(Unanswered) + Send + 'static, Arc<News>),
    ) -> Result<(Self, Lease), Error>
    where
        Io: Link + AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if let (Protocol::Native, Some(native)) = (protocol, &options.native) {
            let start = native::tunnel::Tunnel::start(io, native, quota, scope, (ended, news));
            let (tunnel, lease) = start;
            return Ok((Self::Native(tunnel), Lease::Native(lease)));
        }
        let told = (ended, news);
        let starting = hbone::tunnel::Tunnel::start(io, &options.hbone, scope, told);
        let (tunnel, lease) = starting.await?;
        Ok((Self::Hbone(tunnel), Lease::Hbone(lease)))
    }

    fn lease(&self, options: &Options) -> Option<Lease> {
        match self {
            Self::Hbone(tunnel) => tunnel.lease(options.hbone.max_streams).map(Lease::Hbone),
            Self::Native(tunnel) => tunnel.lease().map(Lease::Native),
        }
    }

    /// The load, as far as the choice of the next stream's tunnel depends on it.
    fn carried(&self, options: &Options, now: Instant) -> Carried {
        match self {
            Self::Hbone(tunnel) => {
                let (load, hbone) = (tunnel.load(), &options.hbone);
                let has_room = load.streams() < hbone.max_streams;
                let carried = Carried::of(load, has_room, hbone.bulk_memory, now);
                Carried { is_silent: tunnel.is_silent(), ..carried }
            }
            // Nothing is remembered: requests that follow bulk cost a fifth more on two tunnels than
            // together on one (docs/adr/0006).
            Self::Native(tunnel) => {
                let carried = Carried::of(&tunnel.load(), tunnel.has_room(), Duration::ZERO, now);
                Carried { is_silent: tunnel.is_silent(), ..carried }
            }
        }
    }

    /// The most tunnels of this kind to one peer.
    const fn most(&self, options: &Options) -> usize {
        match (self, &options.native) {
            (Self::Native(_), Some(native)) => native.max_tunnels,
            _ => options.hbone.max_connections,
        }
    }

    /// Takes no more streams, and ends with the last one.
    fn retire(&self) {
        match self {
            Self::Hbone(tunnel) => tunnel.retire(),
            Self::Native(tunnel) => tunnel.retire(),
        }
    }

    /// Whether its peer owes an answer, and nothing is heard from it.
    fn is_silent(&self) -> bool {
        match self {
            Self::Hbone(tunnel) => tunnel.is_silent(),
            Self::Native(tunnel) => tunnel.is_silent(),
        }
    }

    /// Finds out whether its peer is there.
    fn probe(&self) {
        match self {
            Self::Hbone(tunnel) => tunnel.probe(),
            Self::Native(tunnel) => tunnel.probe(),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::Hbone(tunnel) => tunnel.is_closed(),
            Self::Native(tunnel) => tunnel.is_closed(),
        }
    }
}

impl Lease {
    async fn open(&mut self, open: &Open, hostname: Option<&str>) -> Result<Stream, Error> {
        match self {
            Self::Hbone(lease) => Ok(Stream::Hbone(lease.open(open, hostname).await?)),
            Self::Native(lease) => {
                let open = native::frame::Open {
                    destination: open.destination,
                    client: open.client,
                    hostname: hostname.map(str::to_owned),
                    trace: open.trace,
                };
                Ok(Stream::Native(lease.open(open).await?))
            }
        }
    }

    /// Its tunnel was chosen although it carries bulk, because all do.
    fn note_crowd(&mut self) {
        match self {
            Self::Hbone(lease) => lease.note_crowd(),
            Self::Native(lease) => lease.note_crowd(),
        }
    }

    /// Lets nobody else take a place on this tunnel, unless it is merely silent: see
    /// [`Choice`](choice::Choice).
    pub fn close(&self) {
        match self {
            Self::Hbone(lease) => lease.close(),
            Self::Native(lease) => lease.close(),
        }
    }
}

impl Stream {
    /// Copies both ways until both sides have closed; see [`relay::both_ways`]. Anything that was sent on an
    /// earlier stream that was not taken is sent before all else.
    ///
    /// `another` is told when the streams to come may need another tunnel than this one's.
    ///
    /// # Errors
    ///
    /// One side closed abruptly, or the peer did not take the stream.
    pub async fn relay(
        self,
        application: &mut Leg,
        again: Unsent,
        carried: Counts<'_>,
        answer_timeout: Duration,
        another: impl Fn(),
    ) -> Result<(), Ended> {
        let Counts { to_peer, from_peer } = carried;
        let mut unsent = again;
        let stream = match self {
            Self::Hbone(stream) => {
                let meter = stream.meter.clone();
                return tokio::select! {
                    biased;
                    copied = relay::both_ways(application, stream.split(), to_peer, from_peer, &mut unsent) => {
                        Ok(copied?)
                    }
                    never = crowding(meter.as_deref(), another) => match never {},
                };
            }
            Self::Native(stream) => Arc::new(stream),
        };
        let meter = stream.meter();
        let copied = tokio::select! {
            biased;
            copied = relay::both_ways(application, stream.split(), to_peer, from_peer, &mut unsent) => copied,
            () = unanswered(&stream, answer_timeout) => return Err(Ended::Refused(Error::Timeout)),
            never = crowding(meter.as_deref(), another) => match never {},
        };
        copied.map_err(|error| {
            if matches!(error, RelayError::Application(_)) {
                return Ended::Relay(error);
            }
            match (stream.untaken(), stream.refusal()) {
                (Some(sent), _) => {
                    unsent.push_front(sent);
                    Ended::NotTaken(unsent)
                }
                (None, Some(code)) => Ended::Refused(native::Error::Reset(code).into()),
                (None, None) => Ended::Relay(error),
            }
        })
    }
}

/// A stream that is read and written like a socket.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Stream {
    /// As something that is read and written like a socket, once the peer has accepted it.
    ///
    /// # Errors
    ///
    /// The peer has refused it, or does not answer for `patience`, or the tunnel failed.
    pub async fn into_io(self, patience: Duration) -> Result<Box<dyn Io>, Error> {
        match self {
            Self::Hbone(stream) => {
                let (send, receive) = stream.split();
                Ok(Box::new(Duplex::new(send, receive)))
            }
            Self::Native(stream) => {
                let stream = Arc::new(stream);
                let accepted = poll_fn(|cx| stream.poll_accepted(cx));
                match timeout(patience, accepted).await {
                    Ok(accepted) => accepted?,
                    Err(_elapsed) => return Err(Error::Timeout),
                }
                let (send, receive) = stream.split();
                Ok(Box::new(Duplex::new(send, receive)))
            }
        }
    }
}

impl Incoming {
    /// Says yes.
    ///
    /// # Errors
    ///
    /// The peer has gone away.
    pub fn accept(self) -> Result<Stream, Error> {
        Ok(match self {
            Self::Hbone(incoming) => Stream::Hbone(incoming.accept()?),
            Self::Native(asked) => Stream::Native(asked.accept()?),
        })
    }

    /// Says that it was not looked at: it may be tried on another tunnel.
    pub fn refuse_untaken(self) {
        match self {
            Self::Hbone(incoming) => incoming.refuse_untaken(),
            Self::Native(asked) => asked.refuse(code::NOT_TAKEN),
        }
    }

    /// Says no, with a status of HTTP.
    pub fn refuse(self, status: u16) {
        match self {
            Self::Hbone(incoming) => incoming.refuse(status),
            Self::Native(asked) => asked.refuse(status.into()),
        }
    }
}

/// Serves one tunnel until the peer closes it; `handle` is given each stream. All that the peer may use
/// by the native transport is within `quota`.
///
/// # Errors
///
/// The peer broke the protocol, or is not trusted any more.
pub async fn serve<Io>(
    (io, protocol): (Io, Protocol),
    quota: impl FnOnce(Bounds) -> Arc<Quota>,
    options: &Options,
    ending: Ending<impl Future<Output = ()>, impl Future<Output = ()>>,
    handle: impl Fn(Result<Open, RequestError>, Incoming),
) -> Result<(), Error>
where
    Io: Link + AsyncRead + AsyncWrite + Unpin,
{
    if let (Protocol::Native, Some(native)) = (protocol, &options.native) {
        let quota = quota(native.clients);
        let handle = |open: native::frame::Open, asked| {
            let native::frame::Open { destination, client, trace, .. } = open;
            let open = Open { destination, client, trace };
            handle(Ok(open), Incoming::Native(asked));
        };
        return Ok(Box::pin(native::tunnel::serve(io, quota, native, ending, handle)).await?);
    }
    let handle = |open, incoming| handle(open, Incoming::Hbone(incoming));
    Ok(Box::pin(hbone::server::serve(io, &options.hbone, ending, handle)).await?)
}

const _: () = assert!(code::PROTOCOL < 100, "statuses of HTTP are apart");
