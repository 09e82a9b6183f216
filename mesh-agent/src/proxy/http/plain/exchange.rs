//! One plain request: who answers, and the bytes of both.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::WriteHalf;
use tokio::time::Instant;

use crate::failure::{Failure, Kind, Retry, Side};
use crate::io::leg;
use crate::model::snapshot::Endpoint;
use crate::proxy::client_end;
use crate::proxy::http::Site;
use crate::proxy::http::answer::Refusal;
use crate::proxy::http::counting::{self, CUT, LEFT};
use crate::proxy::http::exchange::{OTHER_ENDPOINTS, another, broken, unreached};
use crate::proxy::http::plain::answering::{Answering, Failed, next};
use crate::proxy::http::plain::buffer::Buffer;
use crate::proxy::http::plain::choose::{Asked, Way};
use crate::proxy::http::plain::chunks::Malformed;
use crate::proxy::http::plain::head::{self, Answer, Framing};
use crate::proxy::http::plain::rest::Rest;
use crate::proxy::http::plain::wires::Wire;
use crate::proxy::http::setup::MAX_HEAD_BYTES;
use crate::proxy::http::upstream::Counted;
use crate::proxy::inbound::application::Forbidden;
use crate::telemetry::{NO_FLAGS, RequestKind};

/// The use of the client's connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Another request.
    Next,
    /// Nothing, and the client knows.
    Close,
    /// Nothing, and the client is still talking.
    Linger,
}

/// Why a request was not answered, or not to the end.
enum Trouble {
    /// The client's connection failed.
    Client(io::Error),
    /// The endpoint's did.
    Upstream(io::Error),
    /// The bytes of the endpoint are no answer.
    Broken(Broken),
    /// Policies forbid it.
    Forbidden(Forbidden),
}

impl From<Failed> for Trouble {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Client(error) => Self::Client(error),
            Failed::Upstream(error) => Self::Upstream(error),
        }
    }
}

/// The error of an answer.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Head(#[from] head::Broken),
    #[error(transparent)]
    Chunks(#[from] Malformed),
    #[error("the head of the answer is longer than {MAX_HEAD_BYTES} bytes")]
    TooLong,
    #[error("more than {MAX_INFORMATIONAL} informational answers announce the answer")]
    Announced,
}

/// Informational answers before an answer (RFC 9110, section 15.2). One or two there are: 100, 103.
const MAX_INFORMATIONAL: u32 = 16;

impl From<Malformed> for Trouble {
    fn from(error: Malformed) -> Self {
        Self::Broken(error.into())
    }
}

/// How far an answer has come.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The client has sent its end, and the endpoint was told: it may end the request, or answer all the
    /// same.
    left: bool,
    /// The endpoint has said something.
    heard: bool,
    /// Of the answer that the client was told some of.
    told: Option<StatusCode>,
}

/// How an answer has ended.
struct Answered {
    /// The endpoint's connection can carry another request.
    keeps: bool,
    after: After,
}

/// A request in its buffer, as it goes on.
struct Going<'a> {
    site: &'a Arc<Site>,
    asked: &'a Asked,
    /// Its length with its body.
    length: u64,
    /// All of it is in the buffer.
    is_whole: bool,
    began: Instant,
}

/// Has the request answered whose head is at the beginning of `buffer`, and takes it off.
///
/// # Errors
///
/// The client's connection failed, or what was said to it cannot be ended in order.
pub async fn run(
    site: &Arc<Site>,
    client: &mut TcpStream,
    buffer: &mut Buffer,
    asked: &Asked,
    way: Result<Way, Refusal>,
) -> io::Result<After> {
    let start = asked.cuts.take_out(buffer.filled_mut().get_mut(..asked.head).unwrap_or_default());
    buffer.consume(start);
    let length = ((asked.head - start) as u64).saturating_add(asked.body);
    let is_whole = buffer.filled().len() as u64 >= length;
    let going = Going { site, asked, length, is_whole, began: Instant::now() };
    let sent = match way {
        Ok(way) => going.send(client, buffer, way).await?,
        Err(refusal) => Err(refusal),
    };
    let after = match sent {
        Ok(after) => after,
        Err(refusal) => Box::pin(going.refuse(client, refusal)).await?,
    };
    if is_whole {
        buffer.consume(usize::try_from(length).unwrap_or(usize::MAX));
    }
    Ok(after)
}

impl Going<'_> {
    /// Sends it to the endpoint of `way`, or to another if that cannot be reached.
    async fn send(
        &self,
        client: &mut TcpStream,
        buffer: &mut Buffer,
        way: Way,
    ) -> io::Result<Result<After, Refusal>> {
        let (site, Way { mut to, endpoints }) = (self.site, way);
        let Some(wires) = site.realm.wires.get(site.worker) else {
            return Err(io::Error::other("no such data thread"));
        };
        let mut elsewhere = 0;
        loop {
            let waiting = wires.take(site, &to.endpoint);
            let is_fresh = waiting.is_none();
            let opened = match waiting {
                Some(wire) => Ok(wire),
                None => Box::pin(Wire::open(site, &to)).await,
            };
            let mut wire = match opened {
                Ok(wire) => wire,
                Err(_) if elsewhere < OTHER_ENDPOINTS && endpoints.len() > 1 => {
                    elsewhere += 1;
                    to.endpoint = another(&endpoints, &to.endpoint);
                    continue;
                }
                Err(failure) => return Ok(Err(unreached(&to.endpoint, &failure))),
            };
            let mut progress = Progress::default();
            let carried = {
                let (io, forbidden) = wire.parts(&site.context);
                tokio::select! {
                    biased;
                    carried = self.carry(client, io, buffer, &mut progress) => carried,
                    forbidden = forbidden => Err(Trouble::Forbidden(forbidden)),
                }
            };
            match carried {
                Ok(Answered { keeps, after }) => {
                    self.count(&wire, progress, NO_FLAGS);
                    match (keeps, after) {
                        (true, _) => wires.put(site, to.endpoint.address, wire),
                        // It was answered before all of it was sent.
                        (false, After::Linger) => wire.finish(Ok(())),
                        (false, _) => site.local.scope.spawn(Box::pin(wire.end())),
                    }
                    return Ok(Ok(after));
                }
                // One that has waited may have been closed meanwhile.
                Err(Trouble::Upstream(error)) if !is_fresh && self.may_repeat(progress) => {
                    wire.finish(Err(reset(Side::Upstream, error)));
                }
                Err(trouble) => {
                    return self.failed(wire, &to.endpoint, trouble, progress).map(Err);
                }
            }
        }
    }

    /// Whether nobody can tell that it is sent twice.
    const fn may_repeat(&self, progress: Progress) -> bool {
        self.is_whole && self.asked.is_idempotent && !progress.heard
    }

    /// Reports why there is no answer, and says it to the client if that is possible.
    fn failed(
        &self,
        wire: Wire,
        endpoint: &Endpoint,
        trouble: Trouble,
        progress: Progress,
    ) -> io::Result<Refusal> {
        if progress.told.is_some() && !matches!(trouble, Trouble::Client(_)) {
            self.count(&wire, progress, CUT);
        }
        let refusal = match trouble {
            Trouble::Client(error) => {
                self.count(&wire, progress, LEFT);
                let (kind, cause) = (client_end::kind(&error), error.to_string());
                wire.finish(Err(Failure::because(kind, Side::Client, Retry::IfIdempotent, cause)));
                return Err(error);
            }
            Trouble::Upstream(error) => {
                let refusal = broken(endpoint, &error);
                wire.finish(Err(reset(Side::Upstream, error)));
                refusal
            }
            Trouble::Broken(error) => {
                let refusal = broken(endpoint, &error);
                let (kind, again) = (Kind::Protocol, Retry::IfIdempotent);
                wire.finish(Err(Failure::because(kind, Side::Upstream, again, error)));
                refusal
            }
            Trouble::Forbidden(forbidden) => unreached(endpoint, &wire.forbid(forbidden)),
        };
        if progress.told.is_some() {
            tracing::debug!(client = %self.site.client, destination = %self.site.destination,
                details = %refusal.details, "an answer is cut off");
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(refusal)
    }

    /// Carries the request there, and the answer back.
    async fn carry(
        &self,
        client: &mut TcpStream,
        io: &mut Counted,
        buffer: &mut Buffer,
        progress: &mut Progress,
    ) -> Result<Answered, Trouble> {
        if !self.is_whole {
            return Box::pin(self.carry_long(client, io, buffer, progress)).await;
        }
        let length = usize::try_from(self.length).unwrap_or(usize::MAX);
        let whole = buffer.filled().get(..length).unwrap_or_default();
        io.write_all(whole).await.map_err(Trouble::Upstream)?;
        let mut input = Buffer::default();
        let head = self.head((io, client), &mut input, progress).await?;
        let (_said, mut told) = client.split();
        self.pass_on(head, (io, &mut told), &mut input, progress).await
    }

    /// The same for a request of which there is more to come.
    async fn carry_long(
        &self,
        client: &mut TcpStream,
        io: &mut Counted,
        buffer: &mut Buffer,
        progress: &mut Progress,
    ) -> Result<Answered, Trouble> {
        let (mut said, mut told) = client.split();
        let (mut from, mut to) = tokio::io::split(io);
        let mut input = Buffer::default();
        let (is_sent, has_left) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut upload = pin!(async {
            upload((&mut said, &mut to), buffer, self.length).await?;
            is_sent.store(true, Ordering::Relaxed);
            leg::ended(said.as_ref()).await;
            has_left.store(true, Ordering::Relaxed);
            to.shutdown().await.map_err(Trouble::Upstream)
        });
        let mut download = pin!(async {
            let head = self.head((&mut from, told.as_ref()), &mut input, progress).await?;
            self.pass_on(head, (&mut from, &mut told), &mut input, progress).await
        });
        let mut uploads = true;
        loop {
            tokio::select! {
                biased;
                sent = &mut upload, if uploads => match sent {
                    // An answer may have come before.
                    Ok(()) | Err(Trouble::Upstream(_)) => uploads = false,
                    Err(trouble) => return Err(trouble),
                },
                answered = &mut download => {
                    let Answered { keeps, after } = answered?;
                    if !is_sent.load(Ordering::Relaxed) {
                        return Ok(Answered { keeps: false, after: After::Linger });
                    }
                    let keeps = keeps && !has_left.load(Ordering::Relaxed);
                    return Ok(Answered { keeps, after });
                }
            }
        }
    }

    /// Reads the head of an answer into `input`.
    async fn head(
        &self,
        (from, client): (&mut impl Answering, &TcpStream),
        input: &mut Buffer,
        progress: &mut Progress,
    ) -> Result<Answer, Trouble> {
        loop {
            if input.filled().len() > MAX_HEAD_BYTES {
                return Err(Trouble::Broken(Broken::TooLong));
            }
            let read = next((from, client), (input, MAX_HEAD_BYTES), &mut progress.left).await?;
            if read == 0 {
                return Err(Trouble::Upstream(io::ErrorKind::UnexpectedEof.into()));
            }
            progress.heard = true;
            if let Some(answer) = read_head(input, self.asked.is_for_head)? {
                return Ok(answer);
            }
        }
    }

    /// Passes an answer on whose head is in `input`, with those that announce it.
    async fn pass_on(
        &self,
        mut answer: Answer,
        (from, to): (&mut impl Answering, &mut WriteHalf<'_>),
        input: &mut Buffer,
        progress: &mut Progress,
    ) -> Result<Answered, Trouble> {
        let mut announced = 0;
        while answer.status.is_informational() {
            announced += 1;
            if announced > MAX_INFORMATIONAL {
                return Err(Trouble::Broken(Broken::Announced));
            }
            progress.told = Some(answer.status);
            let head = input.filled().get(..answer.length).unwrap_or_default();
            to.write_all(head).await.map_err(Trouble::Client)?;
            input.consume(answer.length);
            answer = match read_head(input, self.asked.is_for_head)? {
                Some(answer) => answer,
                None => self.head((from, (*to).as_ref()), input, progress).await?,
            };
        }
        let is_draining = self.site.local.scope.is_draining();
        let closes = self.asked.closes || is_draining || answer.framing == Framing::Close;
        let head = readied(&answer, input, closes);
        let mut rest = Rest::of(answer.framing);
        let body = input.filled().get(head..).unwrap_or_default();
        let (there, n_taken) = (body.len(), rest.take(body)?);
        progress.told = Some(answer.status);
        let first = input.filled().get(..head + n_taken).unwrap_or_default();
        to.write_all(first).await.map_err(Trouble::Client)?;
        let mut is_exact = n_taken == there;
        input.consume(head + there);
        while !rest.is_done() {
            let client = (*to).as_ref();
            let read = next((from, client), (input, usize::MAX), &mut progress.left).await?;
            if read == 0 {
                rest.end().map_err(Trouble::Upstream)?;
                break;
            }
            let n_taken = rest.take(input.filled())?;
            let taken = input.filled().get(..n_taken).unwrap_or_default();
            to.write_all(taken).await.map_err(Trouble::Client)?;
            is_exact = n_taken == read;
            input.passed(read);
        }
        let after = if closes { After::Close } else { After::Next };
        Ok(Answered { keeps: answer.keeps && is_exact && !progress.left, after })
    }

    /// Counts a request that `wire` has carried, as far as it was answered.
    fn count(&self, wire: &Wire, progress: Progress, flags: &'static str) {
        let code = progress.told.map_or(0, |status| status.as_u16());
        if progress.told.is_some() {
            self.site.context.telemetry.request_answered(code, "backend");
        }
        if let Some(requests) = wire.requests() {
            let kind = RequestKind { flags, ..RequestKind::well(code) };
            requests.answered(kind, self.began.elapsed());
        }
    }

    /// Answers in the name of the mesh.
    async fn refuse(&self, client: &mut TcpStream, refusal: Refusal) -> io::Result<After> {
        counting::refused(self.site, &refusal, false, self.began);
        let is_last = self.asked.closes || self.site.local.scope.is_draining() || !self.is_whole;
        let connection = is_last.then_some("close");
        client.write_all(&refusal.written(self.asked.is_for_head, connection)).await?;
        Ok(match (self.is_whole, is_last) {
            (false, _) => After::Linger,
            (true, true) => After::Close,
            (true, false) => After::Next,
        })
    }
}

fn reset(side: Side, because: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::because(Kind::Reset, side, Retry::IfIdempotent, because)
}

/// Sends `length` bytes to the endpoint: those of `buffer` first.
async fn upload(
    (from, to): (&mut (impl AsyncRead + Unpin), &mut (impl AsyncWrite + Unpin)),
    buffer: &mut Buffer,
    length: u64,
) -> Result<(), Trouble> {
    let mut left = length.saturating_sub(buffer.filled().len() as u64);
    to.write_all(buffer.filled()).await.map_err(Trouble::Upstream)?;
    buffer.consume(buffer.filled().len());
    while left > 0 {
        let limit = usize::try_from(left).unwrap_or(usize::MAX);
        let read = buffer.fill(from, limit).await.map_err(Trouble::Client)?;
        if read == 0 {
            return Err(Trouble::Client(io::ErrorKind::UnexpectedEof.into()));
        }
        to.write_all(buffer.filled()).await.map_err(Trouble::Upstream)?;
        left -= read as u64;
        buffer.passed(read);
    }
    // The next request needs no room for a long body.
    *buffer = Buffer::default();
    Ok(())
}

/// The head of an answer at the beginning of `input`, tidied if it must be.
fn read_head(input: &mut Buffer, is_for_head: bool) -> Result<Option<Answer>, Trouble> {
    let broken = |error: head::Broken| Trouble::Broken(error.into());
    let answer = head::answer(input.filled(), is_for_head).map_err(broken)?;
    let Some(sloppy) = answer.as_ref().filter(|answer| answer.is_sloppy) else { return Ok(answer) };
    let head = head::tidied(input.filled().get(..sloppy.length).unwrap_or_default());
    input.replace(sloppy.length, &head);
    head::answer(input.filled(), is_for_head).map_err(broken)
}

/// Makes the head of an answer at the beginning of `input` ready to go on; says how long it is then.
fn readied(answer: &Answer, input: &mut Buffer, closes: bool) -> usize {
    if answer.is_old
        && let Some(digit) = input.filled_mut().get_mut(b"HTTP/1.".len())
    {
        // The version of the client's connection.
        *digit = b'1';
    }
    let head = input.filled_mut().get_mut(..answer.length).unwrap_or_default();
    if closes {
        let mut text = answer.cuts.left_of(head);
        text.extend_from_slice(b"connection: close\r\n\r\n");
        input.replace(answer.length, &text);
        return text.len();
    }
    let start = answer.cuts.take_out(head);
    input.consume(start);
    answer.length - start
}
