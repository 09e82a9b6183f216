//! One request: which rule, what it changes, and who answers.

use std::error::Error as StdError;
use std::sync::Arc;

use hyper::header::UPGRADE;
use hyper::http::request;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::balance;
use crate::failure::{Failure, Kind, chain};
use crate::model::snapshot::Endpoint;
use crate::proxy::http::answer::{self, Reason, Refusal};
use crate::proxy::http::attempt::{self, Sent};
use crate::proxy::http::body::{self, Body};
use crate::proxy::http::decide::{Chosen, Decided, decide};
use crate::proxy::http::detect::Version;
use crate::proxy::http::fields::clean;
use crate::proxy::http::heads::Heads;
use crate::proxy::http::incoming::Incoming;
use crate::proxy::http::replay::{self, Replay};
use crate::proxy::http::upgrade::{self, Unmet};
use crate::proxy::http::upstream::To;
use crate::proxy::http::{Site, counting, host, mirror};
use crate::task::clock;
use crate::telemetry::Upgrade;

/// How often another endpoint is tried if the first cannot be reached and nothing was sent.
pub const OTHER_ENDPOINTS: u32 = 2;

/// Answers a request of `site`. A connection that hyper gives up at its end is left in `unmet`.
pub async fn run(
    site: Arc<Site>,
    version: Version,
    mut request: Request<Incoming>,
    (unmet, heads): (Arc<Unmet>, Arc<Heads>),
) -> Response<Body> {
    let is_grpc = answer::is_grpc(request.headers());
    let began = Instant::now();
    let mut client = request.extensions_mut().remove::<OnUpgrade>();
    let answered = Box::pin(answered(&site, version, request, &heads, (began, &mut client))).await;
    if let Some(client) = client {
        unmet.keep(client);
    }
    if !matches!(answered, Ok((_, Some(_)))) {
        // Nobody was waited for, and the next request may be there already.
        yield_now().await;
    }
    match answered {
        Ok((response, Some(to))) => counting::counted(&site, &to, is_grpc, began, response),
        Ok((response, None)) => {
            counting::answered_by_rule(&site, response.status().as_u16(), began);
            response
        }
        Err(refusal) => {
            counting::refused(&site, &refusal, is_grpc, began);
            answer::refusal(&refusal, is_grpc)
        }
    }
}

/// A request that was routed, as it goes on.
struct Routed {
    head: request::Parts,
    chosen: Box<Chosen>,
    upgrade: Option<upgrade::Upgrade>,
}

/// The decision about a request before it is sent.
enum Route {
    /// A rule answers it.
    Answer(Response<Body>),
    /// A backend is asked.
    Send(Routed),
}

/// Routes a request that came at `began`.
fn routed(
    site: &Site,
    version: Version,
    mut head: request::Parts,
    began: Instant,
) -> Result<Route, Refusal> {
    host::settle(&mut head, version)?;
    let mesh = site.context.mesh.load();
    let chosen = match decide(site, &mesh, version, &mut head, began)? {
        Decided::Answer(response) => return Ok(Route::Answer(response)),
        Decided::Send(chosen) => chosen,
    };
    let is_asked = head.headers.contains_key(UPGRADE);
    let asked = clean(&mut head, version, site.destination);
    let upgrade = asked.and_then(|asked| {
        let policy = mesh.policy(&chosen.to.endpoint.workload.name);
        asked.allow(&mut head.headers, |protocol| policy.upgrades.has(protocol))
    });
    if is_asked && upgrade.is_none() {
        site.context.telemetry.upgrade(Upgrade::Removed);
    }
    Ok(Route::Send(Routed { head, chosen, upgrade }))
}

/// The answer, and who has given it; `None`: a rule. The request came at `began`, on the connection
/// `client`, which is taken if it becomes something else.
async fn answered(
    site: &Arc<Site>,
    version: Version,
    request: Request<Incoming>,
    heads: &Arc<Heads>,
    (began, client): (Instant, &mut Option<OnUpgrade>),
) -> Result<(Response<Body>, Option<To>), Refusal> {
    if request.method() == Method::CONNECT {
        let details = "CONNECT is for proxies that the client is configured to use".to_owned();
        return Err(Refusal { reason: Reason::Connect, details });
    }
    let (head, incoming) = request.into_parts();
    let _held = heads.hold(&head)?;
    let Routed { head, chosen, upgrade } = match routed(site, version, head, began)? {
        Route::Answer(response) => return Ok((response, None)),
        Route::Send(routed) => routed,
    };
    let again = chosen.retry.is_some() || !chosen.mirrors.is_empty();
    let deadline = chosen.deadline;
    let sending = async {
        let replay = if again {
            let bodies = site.local.account.bodies();
            replay::gather(incoming, bodies, |why| site.context.telemetry.unkept(why)).await
        } else {
            Replay::once(incoming)
        };
        for copy in &chosen.mirrors {
            mirror::send(site, copy, &head, &replay);
        }
        send(site, &chosen, (head, upgrade.as_ref()), replay).await
    };
    // A body that comes slowly is a part of what the request takes.
    let (mut response, to) = match deadline {
        Some(at) => timeout_at(at, sending).await.unwrap_or_else(|_late| Err(late(&chosen)))?,
        None => sending.await?,
    };
    let status = response.status();
    match upgrade::switched(upgrade.as_ref(), status, response.headers_mut()) {
        Ok(false) => {}
        Ok(true) => {
            site.context.telemetry.upgrade(Upgrade::Switched);
            let (ours, theirs) = (client.take(), hyper::upgrade::on(&mut response));
            if let Some(ours) = ours {
                site.local.scope.spawn(Box::pin(upgraded(ours, theirs)));
            }
        }
        Err(unasked) => {
            site.context.telemetry.upgrade(Upgrade::Refused);
            return Err(broken(&to.endpoint, &unasked));
        }
    }
    chosen.after.stay(to.endpoint.address, clock::now(), response.headers_mut());
    chosen.after.apply(response.headers_mut());
    let response = match deadline {
        Some(at) => response.map(|body| body::until(body, sleep_until(at))),
        None => response,
    };
    Ok((response, Some(to)))
}

/// Moves bytes between two connections that are HTTP no longer, until both have ended.
pub async fn upgraded(ours: OnUpgrade, theirs: OnUpgrade) {
    if let (Ok(ours), Ok(theirs)) = tokio::join!(ours, theirs) {
        let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
        // How it ended is seen by both.
        let _carried: std::io::Result<_> =
            tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
    }
}

/// Sends a request, again if it must be, until somebody answers; says who.
async fn send(
    site: &Arc<Site>,
    chosen: &Chosen,
    (head, upgrade): (request::Parts, Option<&upgrade::Upgrade>),
    mut replay: Replay,
) -> Result<(Response<Body>, To), Refusal> {
    let attempts = chosen.retry.as_ref().map_or(0, |retry| retry.attempts);
    let (mut retried, mut elsewhere) = (0, 0);
    let mut to = chosen.to.clone();
    loop {
        let sending = attempt::send(site, &to, &head, &mut replay);
        let sent = match chosen.each {
            Some(limit) => match timeout(limit, sending).await {
                Ok(sent) => sent,
                Err(_late) => Sent::Late,
            },
            None => sending.await,
        };
        let is_wanted = |status: StatusCode| {
            chosen.retry.as_ref().is_some_and(|retry| retry.codes.contains(&status))
        };
        let may_retry = retried < attempts && replay.is_whole();
        match sent {
            Sent::Answered(response) if may_retry && is_wanted(response.status()) => {}
            Sent::Answered(response) => return Ok((response, to)),
            Sent::Unreached(_) if elsewhere < OTHER_ENDPOINTS && chosen.endpoints.len() > 1 => {
                elsewhere += 1;
                to.endpoint = next(site, chosen, &to.endpoint, upgrade);
                continue;
            }
            Sent::Unreached(_) | Sent::Broken(_) | Sent::Late if may_retry => {}
            Sent::Unreached(failure) => return Err(unreached(&to.endpoint, &failure)),
            Sent::Broken(error) => return Err(broken(&to.endpoint, &*error)),
            Sent::Late | Sent::Spent => return Err(late(chosen)),
        }
        retried += 1;
        if let Some(pause) = chosen.retry.as_ref().and_then(|retry| retry.backoff) {
            // Up to a quarter more, so that those that failed together do not come together.
            let jitter = pause.mul_f64(rand::random::<f64>() / 4.0);
            sleep(pause.saturating_mul(retried) + jitter).await;
        }
        to.endpoint = next(site, chosen, &to.endpoint, upgrade);
    }
}

/// The endpoint to ask after `tried`: another one, unless it must not switch to what it is asked for.
fn next(
    site: &Site,
    chosen: &Chosen,
    tried: &Endpoint,
    upgrade: Option<&upgrade::Upgrade>,
) -> Endpoint {
    let other = another(&chosen.endpoints, tried);
    let may = upgrade.is_none_or(|upgrade| {
        let policy = site.context.mesh.load().policy(&other.workload.name);
        upgrade.is_within(|protocol| policy.upgrades.has(protocol))
    });
    if may { other } else { tried.clone() }
}

fn late(chosen: &Chosen) -> Refusal {
    let details = format!("{} did not answer in time", chosen.to.endpoint.workload.name);
    Refusal { reason: Reason::Timeout, details }
}

/// The refusal where an endpoint cannot be reached.
pub fn unreached(endpoint: &Endpoint, failure: &Failure) -> Refusal {
    let reason = match failure.kind {
        Kind::Denied | Kind::Egress | Kind::Plaintext => Reason::Denied,
        Kind::Timeout => Reason::Timeout,
        _ => Reason::Unreachable,
    };
    Refusal { reason, details: format!("{}: {failure}", endpoint.workload.name) }
}

/// The refusal where an endpoint has broken HTTP, or the connection.
pub fn broken(endpoint: &Endpoint, error: &dyn StdError) -> Refusal {
    let details = format!("{}: {}", endpoint.workload.name, chain(error));
    Refusal { reason: Reason::Broken, details }
}

/// Another endpoint than the one that was tried, if there is one.
pub fn another(endpoints: &[Endpoint], tried: &Endpoint) -> Endpoint {
    balance::other(endpoints, tried.address, rand::random()).unwrap_or(tried).clone()
}
