//! The agent's listeners inside a workload's namespace.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use mesh_common::maps::{self, ListenerKey};
use mesh_common::{HBONE_PORT, OUTBOUND_PORT, PLAINTEXT_PORT};
use nix::libc;

use crate::datapath::desired::id_of;
use crate::datapath::inbound::odd;
use crate::model::id::ResourceName;
use crate::pods::accepting::{take_inbound, take_outbound, take_plaintext};
use crate::proxy::Context;
use crate::proxy::listening::Listening;
use crate::proxy::realm::Realm;
use crate::sys::socket::{ListenerOptions, listen};

/// Ports of a listener that are tried in turn, each at an address of its own; 0 is any port of the
/// namespace. A process that has the usual one has it at one address, of which the next try has another,
/// or at all.
const fn ports(usual: u16) -> [u16; 4] {
    [usual, usual, 0, 0]
}

/// Makes the listeners in the realm's namespace and starts to accept. The kernel gives them nothing
/// yet. `owner` is for the log: the workload, or the node.
///
/// Outbound and for plaintext, each data thread has a listener of its own, and the kernel spreads the
/// connections; they are spread once more ([`spread`]). Inbound tunnels are few and long: they are handed
/// to the threads in turn.
///
/// No two of them share a port of an address (`SO_REUSEPORT`), so that nobody else can join, and their
/// addresses are nobody's, so that nobody can connect: connections are given to them by the kernel
/// program that sees what arrives in the namespace, and by nothing else.
///
/// [`spread`]: crate::proxy::spread
///
/// # Errors
///
/// No port of the namespace is free, or no descriptor is left.
pub fn start(
    context: &Arc<Context>,
    realm: &Arc<Realm>,
    generation: u8,
    owner: &dyn fmt::Display,
) -> io::Result<()> {
    let workers = context.runtimes.all().len();
    // All of them, or none: nothing is accepted before the last one is bound.
    let [inbound, plaintext, outbound] = realm.enter(|| {
        let families = families()?;
        let each = |port, threads| {
            let of_thread = |_thread| bind(families, port, options(context));
            (0..threads).map(of_thread).collect::<io::Result<Vec<_>>>()
        };
        Ok([each(HBONE_PORT, 1)?, each(PLAINTEXT_PORT, workers)?, each(OUTBOUND_PORT, workers)?])
    })?;
    for (kind, port, listeners) in [
        (maps::TUNNELS, HBONE_PORT, &inbound),
        (maps::PLAINTEXT, PLAINTEXT_PORT, &plaintext),
        (maps::OUTBOUND, OUTBOUND_PORT, &outbound),
    ] {
        if listeners.iter().flatten().any(|listener| is_elsewhere(listener, port)) {
            tracing::warn!(
                namespace = %owner,
                port,
                "a port of the agent is in use in a namespace: the agent listens at another there"
            );
        }
        // The first thread's last: where it is there all are.
        for (thread, listeners) in listeners.iter().enumerate().rev() {
            let thread = u32::try_from(thread).map_err(io::Error::other)?;
            note(&realm.listening, (realm.cookie, kind | odd(generation), thread), listeners)?;
        }
    }
    let scope = realm.listening.scope();
    for (worker, listeners) in outbound.into_iter().enumerate() {
        for listener in listeners {
            take_outbound(context, (realm, None), (scope, worker), listener);
        }
    }
    for (worker, listeners) in plaintext.into_iter().enumerate() {
        for listener in listeners {
            take_plaintext(context, realm, (scope, worker), listener);
        }
    }
    for listener in inbound.into_iter().flatten() {
        take_inbound(context, realm, listener);
    }
    Ok(())
}

/// The same for one workload of a namespace that several share: whoever opens connections to it, or in its
/// name, faster than they are accepted fills queues of its own. One listener of each kind and family
/// serves it; the connections are spread over the data threads when they are accepted.
///
/// # Errors
///
/// Errors of [`start`].
pub fn start_unit(
    context: &Arc<Context>,
    realm: &Arc<Realm>,
    (name, listening): (&ResourceName, &Listening),
    generation: u8,
) -> io::Result<()> {
    let unit = id_of(name);
    let [plaintext, outbound] = realm.enter(|| {
        let families = families()?;
        let of = |port| bind(families, port, options(context));
        Ok([of(PLAINTEXT_PORT)?, of(OUTBOUND_PORT)?])
    })?;
    for (kind, listeners) in [(maps::PLAINTEXT, &plaintext), (maps::OUTBOUND, &outbound)] {
        note(listening, (unit, kind | maps::UNIT | odd(generation), 0), listeners)?;
    }
    let worker = thread_of(unit, context.runtimes.all().len());
    for listener in outbound {
        take_outbound(context, (realm, Some(unit)), (listening.scope(), worker), listener);
    }
    for listener in plaintext {
        take_plaintext(context, realm, (listening.scope(), worker), listener);
    }
    Ok(())
}

/// The data thread that accepts for a unit.
fn thread_of(unit: u64, threads: usize) -> usize {
    let threads = u64::try_from(threads).unwrap_or(u64::MAX);
    usize::try_from(unit.checked_rem(threads).unwrap_or_default()).unwrap_or_default()
}

fn options(context: &Context) -> ListenerOptions {
    let (backlog, peer_timeout) = (context.options.backlog, context.options.peer_timeout);
    ListenerOptions { backlog, peer_timeout }
}

/// Notes listeners of both families, whose key has this owner, kind and thread.
fn note(
    listening: &Listening,
    (owner, kind, thread): (u64, u16, u32),
    listeners: &[TcpListener],
) -> io::Result<()> {
    for listener in listeners {
        let family = if listener.local_addr()?.is_ipv4() { 4 } else { 6 };
        listening.note(ListenerKey { owner, kind, family, thread }, listener.as_fd())?;
    }
    Ok(())
}

/// Addresses of each family at which nothing is delivered.
type Nowhere = fn() -> IpAddr;

/// The families that the calling thread's namespace has.
fn families() -> io::Result<&'static [Nowhere]> {
    const ALL: &[Nowhere] = &[nowhere_v4, nowhere_v6];
    Ok(if has_v6()? { ALL } else { ALL.split_at(1).0 })
}

/// An address that is reserved (`240.0.0.0/4`, RFC 1112), but for the broadcast address. Nobody can have
/// it already: it is picked at random, of 2²⁸.
fn nowhere_v4() -> IpAddr {
    const NET: u32 = 0xf000_0000;
    const HOSTS: u32 = 0x0fff_ffff;
    Ipv4Addr::from_bits(NET | (rand::random::<u32>() % HOSTS)).into()
}

/// The same of those whose packets are discarded (`100::/64`, RFC 6666).
fn nowhere_v6() -> IpAddr {
    const NET: u128 = 0x100 << 112;
    Ipv6Addr::from_bits(NET | u128::from(rand::random::<u64>())).into()
}

/// A listener for each family, at the usual port or, if a process of the namespace has it, at any other: the
/// kernel gives connections to a listener whatever its address is.
fn bind(
    families: &[Nowhere],
    usual: u16,
    options: ListenerOptions,
) -> io::Result<Vec<TcpListener>> {
    let at = |nowhere: &Nowhere| {
        let mut tried = Err(io::ErrorKind::AddrInUse.into());
        for port in ports(usual) {
            tried = listen(SocketAddr::new(nowhere(), port), options);
            if !matches!(&tried, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
                break;
            }
        }
        tried
    };
    families.iter().map(at).collect()
}

/// Whether a listener has another port than this.
fn is_elsewhere(listener: &TcpListener, port: u16) -> bool {
    listener.local_addr().is_ok_and(|at| at.port() != port)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::PeerTimeout;

    #[test]
    fn addresses_are_of_nobody() {
        let v6: (Ipv6Addr, u128) = ("100::".parse().unwrap(), u128::MAX << 64);
        for _ in 0..1_000 {
            let (IpAddr::V4(four), IpAddr::V6(six)) = (nowhere_v4(), nowhere_v6()) else {
                panic!("of the other family")
            };
            assert!(four.octets()[0] >= 240 && !four.is_broadcast(), "{four}");
            assert_eq!(six.to_bits() & v6.1, v6.0.to_bits(), "{six}");
        }
    }

    #[test]
    fn a_port_that_is_in_use_is_not_needed() {
        let holder = TcpListener::bind("0.0.0.0:0").unwrap();
        let usual = holder.local_addr().unwrap().port();
        let options = ListenerOptions { backlog: 1, peer_timeout: PeerTimeout::from_secs(90) };
        let bound = bind(&[nowhere_v4, nowhere_v4], usual, options).unwrap();
        assert!(bound.iter().all(|listener| is_elsewhere(listener, usual)), "{bound:?}");
        drop((holder, bound));
        let bound = bind(&[nowhere_v4, nowhere_v4], usual, options).unwrap();
        assert!(!bound.iter().any(|listener| is_elsewhere(listener, usual)), "{bound:?}");
    }

    #[test]
    fn each_unit_has_a_thread() {
        let check = |unit, threads, expect| assert_eq!(thread_of(unit, threads), expect);
        check(7, 4, 3);
        check(u64::MAX, 1, 0);
        check(7, 0, 0);
    }
}
