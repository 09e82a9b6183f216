//! The agent's listeners inside a workload's namespace.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use mesh_common::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT, maps};
use nix::libc;
use tokio::net::{TcpListener as AsyncListener, TcpStream};

use crate::proxy::inbound::{hbone, plaintext};
use crate::proxy::outbound::tcp;
use crate::proxy::realm::Realm;
use crate::proxy::{Context, accept};
use crate::sys::socket::{self, ListenerOptions, listen};

/// Makes the listeners in the realm's namespace and starts to accept.
///
/// Outbound and for plaintext, each data thread has a listener of its own on loopback, and the
/// kernel spreads the connections; those of applications are spread once more ([`spread`]). Inbound
/// tunnels are few and long: they are handed to the threads in turn.
///
/// [`spread`]: crate::proxy::spread
///
/// # Errors
///
/// A port is in use: another agent or mesh serves this namespace.
pub fn start(context: &Arc<Context>, realm: &Arc<Realm>) -> io::Result<()> {
    let (backlog, peer_timeout) = (context.options.backlog, context.options.peer_timeout);
    // All of them, or none: nothing is accepted before the last one is bound.
    let (outbound, plaintext, inbound) = realm.enter(|| {
        let alone = ListenerOptions { backlog, reuse_port: false, peer_timeout };
        let inbound = both(HBONE_PORT, Bind::Any, alone)?;
        let shared = ListenerOptions { reuse_port: true, ..alone };
        let each = |port| {
            let workers = context.runtimes.all().iter();
            workers.map(|_| both(port, Bind::Loopback, shared)).collect::<io::Result<Vec<_>>>()
        };
        Ok((each(OUTBOUND_PORT)?, each(PLAINTEXT_PORT)?, inbound))
    })?;
    // Of those that share a port one is enough: the kernel chooses among them itself.
    let arriving =
        plaintext.first().into_iter().flatten().map(|listener| (maps::PLAINTEXT, listener));
    let arriving = arriving.chain(inbound.iter().map(|listener| (maps::TUNNELS, listener)));
    for (kind, listener) in arriving {
        let family = if listener.local_addr()?.is_ipv4() { 4 } else { 6 };
        context.kernel.give_to(realm.cookie, kind, family, listener)?;
    }
    for listener in outbound.iter().flatten() {
        context.kernel.mark_listener(listener)?;
    }
    for (worker, listeners) in outbound.into_iter().enumerate() {
        for listener in listeners {
            take_outbound(context, realm, worker, listener);
        }
    }
    for (worker, listeners) in plaintext.into_iter().enumerate() {
        for listener in listeners {
            take_plaintext(context, realm, worker, listener);
        }
    }
    for listener in inbound {
        take_inbound(context, realm, listener);
    }
    Ok(())
}

/// Which addresses a listener takes.
#[derive(Clone, Copy)]
enum Bind {
    Any,
    Loopback,
}

/// A listener for IPv4, and one for IPv6 where the namespace has it.
fn both(port: u16, bind: Bind, options: ListenerOptions) -> io::Result<Vec<TcpListener>> {
    let (v4, v6) = match bind {
        Bind::Any => (Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
        Bind::Loopback => (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
    };
    let mut listeners = vec![listen(SocketAddr::new(v4.into(), port), options)?];
    match listen(SocketAddr::new(v6.into(), port), options) {
        Ok(listener) => listeners.push(listener),
        Err(error) if has_no_v6(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(listeners)
}

fn has_no_v6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT))
}

/// Serves each connection of an outbound listener, on the data thread `worker` or on another that
/// has less to do.
fn take_outbound(context: &Arc<Context>, realm: &Arc<Realm>, worker: usize, listener: TcpListener) {
    let Some(handle) = context.runtimes.all().get(worker).cloned() else { return };
    let (context, realm) = (Arc::clone(context), Arc::clone(realm));
    let scope = realm.scope.clone();
    scope.clone().spawn_on(&handle, async move {
        let Some(listener) = register(listener) else { return };
        accept::run(listener, &scope, &context.sockets, |stream, client| {
            let Some(accepted) = tcp::accept(&context, &realm, client) else {
                return close(&stream);
            };
            let (place, to) = realm.spread.place(worker);
            let (context, realm) = (Arc::clone(&context), Arc::clone(&realm));
            let other = context.runtimes.all().get(to).filter(|_| to != worker).cloned();
            let Some(other) = other else {
                return scope.spawn(async move {
                    tcp::run(context, realm, worker, stream, accepted).await;
                    drop(place);
                });
            };
            // The socket moves to that thread, and is registered there.
            let Ok(stream) = stream.into_std() else { return };
            scope.spawn_on(&other, async move {
                match TcpStream::from_std(stream) {
                    Ok(stream) => tcp::run(context, realm, to, stream, accepted).await,
                    Err(error) => tracing::warn!(%error, "a connection cannot be registered"),
                }
                drop(place);
            });
        })
        .await;
    });
}

/// Serves each connection of a plaintext listener on the data thread `worker`.
fn take_plaintext(
    context: &Arc<Context>,
    realm: &Arc<Realm>,
    worker: usize,
    listener: TcpListener,
) {
    let Some(handle) = context.runtimes.all().get(worker).cloned() else { return };
    let (context, realm) = (Arc::clone(context), Arc::clone(realm));
    let scope = realm.scope.clone();
    scope.clone().spawn_on(&handle, async move {
        let Some(listener) = register(listener) else { return };
        accept::run(listener, &scope, &context.sockets, |stream, client| {
            match plaintext::accept(&context, &realm, &stream, client) {
                Some(accepted) => {
                    scope.spawn(plaintext::run(Arc::clone(&context), stream, accepted));
                }
                None => close(&stream),
            }
        })
        .await;
    });
}

fn take_inbound(context: &Arc<Context>, realm: &Arc<Realm>, listener: TcpListener) {
    let handle = context.runtimes.next().clone();
    let (context, realm) = (Arc::clone(context), Arc::clone(realm));
    let scope = realm.scope.clone();
    scope.clone().spawn_on(&handle, async move {
        let Some(listener) = register(listener) else { return };
        accept::run(listener, &scope, &context.sockets, |stream, client| {
            let Some(accepted) = hbone::accept(&context, &realm, &stream, client) else {
                return close(&stream);
            };
            // The socket moves to the thread whose turn it is, and is registered there.
            let Ok(stream) = stream.into_std() else { return };
            let runtime = context.runtimes.next().clone();
            let (context, realm) = (Arc::clone(&context), Arc::clone(&realm));
            scope.spawn_on(&runtime, async move {
                match TcpStream::from_std(stream) {
                    Ok(stream) => Box::pin(hbone::run(context, realm, stream, accepted)).await,
                    Err(error) => tracing::warn!(%error, "a tunnel cannot be registered"),
                }
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
