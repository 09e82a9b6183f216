//! Connections that a listener is given, from there to the data threads that serve them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::net::{TcpListener as AsyncListener, TcpStream};
use tokio::runtime::Handle;

use crate::proxy::inbound::{hbone, plaintext};
use crate::proxy::outbound::tcp;
use crate::proxy::realm::Realm;
use crate::proxy::{Context, accept};
use crate::sys::socket;
use crate::task::scope::Scope;

/// Serves each connection of an outbound listener, of the workload `unit` if it is one's own, on the data
/// thread `worker` or on another that has less to do, until `listening` drains.
pub(super) fn take_outbound(
    context: &Arc<Context>,
    (realm, unit): (&Arc<Realm>, Option<u64>),
    threads: (&Scope, usize),
    listener: TcpListener,
) {
    let (serving, within) = (Arc::clone(context), Arc::clone(realm));
    take(context, realm, threads, listener, move |stream, client| {
        let accepted = tcp::accept(&serving, (&within, unit), stream, client)?;
        let (serving, within) = (Arc::clone(&serving), Arc::clone(&within));
        let scope = accepted.scope().clone();
        Some((scope, move |stream: TcpStream, to: usize| {
            tcp::run(serving, within, to, stream, accepted)
        }))
    });
}

/// Serves each connection of a plaintext listener, as [`take_outbound`] does.
pub(super) fn take_plaintext(
    context: &Arc<Context>,
    realm: &Arc<Realm>,
    threads: (&Scope, usize),
    listener: TcpListener,
) {
    let (serving, within) = (Arc::clone(context), Arc::clone(realm));
    take(context, realm, threads, listener, move |stream, client| {
        let accepted = plaintext::accept(&serving, &within, stream, client)?;
        let (serving, scope) = (Arc::clone(&serving), accepted.scope().clone());
        Some((scope, move |stream: TcpStream, _to: usize| {
            plaintext::run(serving, stream, accepted)
        }))
    });
}

/// Gives each connection of a listener to `accept`, which returns the scope and the task of one that is
/// served, and resets the others.
fn take<R, F>(
    context: &Arc<Context>,
    realm: &Arc<Realm>,
    (listening, worker): (&Scope, usize),
    listener: TcpListener,
    accept: impl Fn(&TcpStream, SocketAddr) -> Option<(Scope, R)> + Send + Sync + 'static,
) where
    R: FnOnce(TcpStream, usize) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let Some(handle) = context.runtimes.all().get(worker).cloned() else { return };
    let (context, realm, scope) = (Arc::clone(context), Arc::clone(realm), listening.clone());
    listening.spawn_on(&handle, async move {
        let Some(listener) = register(listener) else { return };
        accept::run(listener, &scope, &context.sockets, |stream, client| {
            match accept(&stream, client) {
                Some((scope, run)) => serve(&context, &realm, (&scope, worker), (stream, run)),
                None => close(&stream),
            }
        })
        .await;
    });
}

/// Runs a connection's task on the data thread `worker`, which has accepted it, or on one that has less to do.
fn serve<F: Future<Output = ()> + Send + 'static>(
    context: &Context,
    realm: &Realm,
    (scope, worker): (&Scope, usize),
    (stream, run): (TcpStream, impl FnOnce(TcpStream, usize) -> F + Send + 'static),
) {
    let (place, to) = realm.spread.place(worker);
    let other = context.runtimes.all().get(to).filter(|_| to != worker);
    let Some(other) = other else {
        return scope.spawn(async move {
            run(stream, worker).await;
            drop(place);
        });
    };
    hand_over(scope, other, stream, async move |stream| {
        run(stream, to).await;
        drop(place);
    });
}

/// Moves a socket to another thread, where it is registered.
fn hand_over<F: Future<Output = ()> + Send + 'static>(
    scope: &Scope,
    to: &Handle,
    stream: TcpStream,
    run: impl FnOnce(TcpStream) -> F + Send + 'static,
) {
    let Ok(stream) = stream.into_std() else { return };
    scope.spawn_on(to, async move {
        match TcpStream::from_std(stream) {
            Ok(stream) => run(stream).await,
            Err(error) => tracing::warn!(%error, "a connection cannot be registered"),
        }
    });
}

/// Serves each tunnel of an inbound listener, on the data threads in turn.
pub(super) fn take_inbound(context: &Arc<Context>, realm: &Arc<Realm>, listener: TcpListener) {
    let handle = context.runtimes.next().clone();
    let (context, realm) = (Arc::clone(context), Arc::clone(realm));
    let listening = realm.listening.scope().clone();
    listening.clone().spawn_on(&handle, async move {
        let Some(listener) = register(listener) else { return };
        accept::run(listener, &listening, &context.sockets, |stream, client| {
            let Some(accepted) = hbone::accept(&context, &realm, &stream, client) else {
                return close(&stream);
            };
            let (scope, runtime) = (realm.scope.clone(), context.runtimes.next().clone());
            let (context, realm) = (Arc::clone(&context), Arc::clone(&realm));
            hand_over(&scope, &runtime, stream, |stream| {
                Box::pin(hbone::run(context, realm, stream, accepted))
            });
        })
        .await;
    });
}

/// Makes closing a connection that is not served a reset: that leaves nothing behind here, where an
/// orderly end would for a minute.
fn close(stream: &TcpStream) {
    let _closed_anyway: io::Result<()> = socket::reset_on_close(stream);
}

fn register(listener: TcpListener) -> Option<AsyncListener> {
    AsyncListener::from_std(listener)
        .inspect_err(|error| tracing::error!(%error, "a listener cannot be registered"))
        .ok()
}
