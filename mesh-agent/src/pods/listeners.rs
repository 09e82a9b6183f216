//! The agent's listeners inside a workload's namespace.

use std::io;
use std::iter;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use mesh_common::maps::{self, ListenerKey};
use mesh_common::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};
use nix::libc;
use tokio::net::{TcpListener as AsyncListener, TcpStream};

use crate::datapath::inbound::odd;
use crate::proxy::inbound::{hbone, plaintext};
use crate::proxy::outbound::tcp;
use crate::proxy::realm::Realm;
use crate::proxy::{Context, accept};
use crate::sys::socket::{self, ListenerOptions, listen};

/// Makes the listeners in the realm's namespace and starts to accept. The kernel gives them nothing
/// yet.
///
/// Outbound and for plaintext, each data thread has a listener of its own, and the kernel spreads the
/// connections; those of applications are spread once more ([`spread`]). Inbound tunnels are few and
/// long: they are handed to the threads in turn.
///
/// No two of them share a port of an address (`SO_REUSEPORT`), so that nobody else can join, and their
/// addresses are nobody's, so that nobody can connect: connections are given to them by the kernel
/// program that sees what arrives in the namespace, and by nothing else.
///
/// [`spread`]: crate::proxy::spread
///
/// # Errors
///
/// A port is in use in the namespace of a pod: another agent or mesh serves it. In the node's own,
/// where everybody can take a port, another one does as well.
pub fn start(context: &Arc<Context>, realm: &Arc<Realm>, generation: u8) -> io::Result<()> {
    let (backlog, peer_timeout) = (context.options.backlog, context.options.peer_timeout);
    let options = ListenerOptions { backlog, peer_timeout };
    let any_port = realm.netns().is_none();
    let workers = context.runtimes.all().len();
    // All of them, or none: nothing is accepted before the last one is bound.
    let [inbound, plaintext, outbound] = realm.enter(|| {
        let has_v6 = has_v6()?;
        let of_thread = |port, thread| {
            let (v4, v6) = addresses(generation, thread)?;
            let bind = |ip| listen_at(SocketAddr::new(ip, port), any_port, options);
            let v6 = has_v6.then(|| bind(v6.into())).transpose()?;
            Ok(iter::once(bind(v4.into())?).chain(v6).collect())
        };
        let each = |port, threads| (0..threads).map(|thread| of_thread(port, thread)).collect();
        let all: [io::Result<Vec<Vec<TcpListener>>>; 3] =
            [each(HBONE_PORT, 1), each(PLAINTEXT_PORT, workers), each(OUTBOUND_PORT, workers)];
        let [inbound, plaintext, outbound] = all;
        Ok([inbound?, plaintext?, outbound?])
    })?;
    for (kind, listeners) in
        [(maps::TUNNELS, &inbound), (maps::PLAINTEXT, &plaintext), (maps::OUTBOUND, &outbound)]
    {
        note(realm, kind | odd(generation), listeners)?;
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
    for listener in inbound.into_iter().flatten() {
        take_inbound(context, realm, listener);
    }
    Ok(())
}

/// Notes the listeners of each data thread for connections of a kind.
fn note(realm: &Realm, kind: u16, threads: &[Vec<TcpListener>]) -> io::Result<()> {
    // The first thread's last: where it is there all are.
    for (thread, listeners) in threads.iter().enumerate().rev() {
        let thread = u32::try_from(thread).map_err(io::Error::other)?;
        for listener in listeners {
            let family = if listener.local_addr()?.is_ipv4() { 4 } else { 6 };
            let key = ListenerKey { netns: realm.cookie, kind, family, thread };
            realm.listening.note(key, listener.as_fd())?;
        }
    }
    Ok(())
}

/// The addresses of a data thread's listeners. Nothing is delivered there: IPv4's are reserved
/// (`240.0.0.0/4`, RFC 1112), IPv6's are discarded (`100::/64`, RFC 6666). Each generation of agents has
/// its own, so that one that still drains has its listeners beside its successor's.
fn addresses(generation: u8, thread: usize) -> io::Result<(Ipv4Addr, Ipv6Addr)> {
    let number = u16::try_from(thread).map_err(io::Error::other)?.saturating_add(1);
    let [high, low] = number.to_be_bytes();
    let v4 = Ipv4Addr::new(240, generation, high, low);
    Ok((v4, Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, generation.into(), number)))
}

/// A listener at an address; at any port of it if the one asked for is in use, and `any_port`.
fn listen_at(at: SocketAddr, any_port: bool, options: ListenerOptions) -> io::Result<TcpListener> {
    match listen(at, options) {
        Err(error) if any_port && error.kind() == io::ErrorKind::AddrInUse => {
            let listener = listen(SocketAddr::new(at.ip(), 0), options)?;
            tracing::warn!(
                port = at.port(),
                "a port of the agent is in use in the node's namespace: it listens at another"
            );
            Ok(listener)
        }
        result => result,
    }
}

/// Whether the namespace has IPv6.
fn has_v6() -> io::Result<bool> {
    match UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_socket) => Ok(true),
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)) =>
        {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Serves each connection of an outbound listener, on the data thread `worker` or on another that
/// has less to do.
fn take_outbound(context: &Arc<Context>, realm: &Arc<Realm>, worker: usize, listener: TcpListener) {
    let Some(handle) = context.runtimes.all().get(worker).cloned() else { return };
    let (context, realm) = (Arc::clone(context), Arc::clone(realm));
    let listening = realm.listening.scope().clone();
    listening.clone().spawn_on(&handle, async move {
        let Some(listener) = register(listener) else { return };
        accept::run(listener, &listening, &context.sockets, |stream, client| {
            let Some(accepted) = tcp::accept(&context, &realm, &stream, client) else {
                return close(&stream);
            };
            let (place, to) = realm.spread.place(worker);
            let (context, realm) = (Arc::clone(&context), Arc::clone(&realm));
            let other = context.runtimes.all().get(to).filter(|_| to != worker).cloned();
            let scope = accepted.scope().clone();
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
    let listening = realm.listening.scope().clone();
    listening.clone().spawn_on(&handle, async move {
        let Some(listener) = register(listener) else { return };
        accept::run(
            listener,
            &listening,
            &context.sockets,
            |stream, client| match plaintext::accept(&context, &realm, &stream, client) {
                Some(accepted) => {
                    let scope = accepted.scope().clone();
                    scope.spawn(plaintext::run(Arc::clone(&context), stream, accepted));
                }
                None => close(&stream),
            },
        )
        .await;
    });
}

fn take_inbound(context: &Arc<Context>, realm: &Arc<Realm>, listener: TcpListener) {
    let handle = context.runtimes.next().clone();
    let (context, realm) = (Arc::clone(context), Arc::clone(realm));
    let listening = realm.listening.scope().clone();
    listening.clone().spawn_on(&handle, async move {
        let Some(listener) = register(listener) else { return };
        accept::run(listener, &listening, &context.sockets, |stream, client| {
            let Some(accepted) = hbone::accept(&context, &realm, &stream, client) else {
                return close(&stream);
            };
            // The socket moves to the thread whose turn it is, and is registered there.
            let Ok(stream) = stream.into_std() else { return };
            let runtime = context.runtimes.next().clone();
            let (context, realm) = (Arc::clone(&context), Arc::clone(&realm));
            realm.scope.clone().spawn_on(&runtime, async move {
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
