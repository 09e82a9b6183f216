//! Speaks with a client as long as its requests are plain.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout_at};

use crate::io::leg::{Leg, Linger};
use crate::proxy::http::Site;
use crate::proxy::http::answer::Refusal;
use crate::proxy::http::plain::buffer::{Buffer, FIRST_BYTES};
use crate::proxy::http::plain::choose::{Asked, Choice, Way, choose};
use crate::proxy::http::plain::exchange::{self, After};
use crate::proxy::http::plain::head::{Look, look};
use crate::proxy::http::setup::{HEAD_TIMEOUT, LAST_REQUEST};

/// The next step of a client.
enum Next {
    /// It asks.
    Request(Asked, Result<Way, Refusal>),
    /// Something else, or more than a plain request.
    More,
    /// Nothing: it has left, or the agent is about to.
    End,
}

/// Serves a client's plain requests. Returns what was read of something else, which is not plain;
/// `None`: the connection has ended in order.
///
/// # Errors
///
/// The client's connection failed, or an answer could not be given to its end: the connection is to be
/// reset.
pub async fn run(site: &Arc<Site>, leg: &mut Leg) -> io::Result<Option<Vec<u8>>> {
    let mut draining = pin!(site.local.scope.draining());
    let mut buffer = Buffer::default();
    loop {
        let (asked, way) = match next(site, leg.stream(), &mut buffer, draining.as_mut()).await? {
            Next::Request(asked, way) => (asked, way),
            Next::More => return Ok(Some(buffer.into_filled())),
            Next::End => break,
        };
        match exchange::run(site, leg.stream(), &mut buffer, &asked, way).await? {
            // The next one is there already: others have their turn first.
            After::Next if !buffer.filled().is_empty() => yield_now().await,
            After::Next => {}
            After::Close => break,
            After::Linger => {
                leg.stream().shutdown().await?;
                let mut linger = Linger::default();
                poll_fn(|cx| linger.poll(leg.stream(), cx)).await?;
                break;
            }
        }
    }
    leg.complete();
    Ok(None)
}

/// Waits for the next request, and reads its head.
async fn next(
    site: &Site,
    client: &mut TcpStream,
    buffer: &mut Buffer,
    draining: Pin<&mut impl Future<Output = ()>>,
) -> io::Result<Next> {
    if buffer.filled().is_empty() {
        let read = tokio::select! {
            biased;
            read = buffer.fill(client, FIRST_BYTES) => read?,
            // The answer to a request that comes meanwhile says that it is the last.
            () = async { draining.await; sleep(LAST_REQUEST).await } => 0,
        };
        if read == 0 {
            return Ok(Next::End);
        }
    }
    let mut late = None;
    loop {
        let looked = {
            let mesh = site.context.mesh.load();
            look(buffer.filled(), |request| choose(site, &mesh, request))
        };
        match looked {
            Look::Plain(Choice::Here(asked, way)) => return Ok(Next::Request(asked, way)),
            Look::Plain(Choice::More) | Look::Other => return Ok(Next::More),
            Look::Partial if buffer.filled().len() >= FIRST_BYTES => return Ok(Next::More),
            Look::Partial => {}
        }
        let late = *late.get_or_insert_with(|| Instant::now() + HEAD_TIMEOUT);
        let reading = timeout_at(late, buffer.fill(client, FIRST_BYTES));
        if Box::pin(reading).await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
