//! `cgroup/connect4`, `connect6`: whose socket is it, is the destination ours, and if so, to the
//! agent.

use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id};
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use mesh_common::addr::{self, Addr};
use mesh_common::connect::{Verdict, decide};
use mesh_common::destination::{Destination, DestinationKey, TCP};
use mesh_common::record::{AGENT, REDIRECTED, Record};
use mesh_common::source::{BY_CGROUP, MAX_CGROUP_LEVEL, SourceKey};
use mesh_common::{OUTBOUND_PORT, stats};

use crate::ctx;
use crate::maps::{DESTINATIONS, SOURCES, count};

/// The hook's return value that lets the `connect()` go on.
const ALLOW: i32 = 1;
/// The hook's return value that fails the `connect()` with `EPERM`.
const DENY: i32 = 0;
/// `127.0.0.1`, network byte order.
const LOOPBACK_V4: u32 = 0x7f00_0001_u32.to_be();
/// `::1`.
const LOOPBACK_V6: Addr = [0, 0, 0, 1_u32.to_be()];

/// What `redirect` found.
enum Outcome {
    Allow,
    Deny,
    Redirect,
}

pub(crate) fn v4(context: &SockAddrContext) -> i32 {
    match redirect(context, || ctx::v4(context)) {
        Outcome::Allow => ALLOW,
        Outcome::Deny => DENY,
        Outcome::Redirect => {
            ctx::set_v4(context, LOOPBACK_V4, OUTBOUND_PORT.to_be());
            ALLOW
        }
    }
}

pub(crate) fn v6(context: &SockAddrContext) -> i32 {
    match redirect(context, || ctx::v6(context)) {
        Outcome::Allow => ALLOW,
        Outcome::Deny => DENY,
        Outcome::Redirect => {
            // A v4-mapped destination is IPv4 on the wire, and so is the way to the agent.
            let mapped = addr::to_v4_be(ctx::v6(context)).is_some();
            let loopback = if mapped { addr::from_v4_be(LOOPBACK_V4) } else { LOOPBACK_V6 };
            ctx::set_v6(context, loopback, OUTBOUND_PORT.to_be());
            ALLOW
        }
    }
}

#[inline(always)]
fn redirect(context: &SockAddrContext, destination: impl Fn() -> Addr) -> Outcome {
    if ctx::protocol(context) != u32::from(TCP) {
        return Outcome::Allow;
    }
    let netns = ctx::netns(context);
    // Most sockets of a node end here: one look-up for traffic that is not the mesh's.
    let Some(source) = source(netns) else { return Outcome::Allow };
    let remembered = ctx::record(context);
    if let Some(record) = remembered
        && record.role == AGENT
    {
        return Outcome::Allow;
    }
    let (addr, port_be) = (destination(), ctx::port_be(context));
    match decide(netns, addr, port_be, lookup) {
        Verdict::Pass => {
            // The same socket may have been redirected by an earlier, failed connect().
            if remembered.is_some() {
                ctx::forget(context);
            }
            count(stats::PASS);
            Outcome::Allow
        }
        Verdict::Proxy => {
            let mut record = Record {
                source_id: source.id,
                source_kind: source.kind,
                role: REDIRECTED,
                addr,
                port_be,
                pad: [0; 6],
            };
            if !ctx::remember(context, &mut record) {
                // Without the record the agent could not tell where the connection wants to go.
                count(stats::NO_MEMORY);
                return Outcome::Deny;
            }
            debug!(context, "redirect netns {} port {}", netns, u16::from_be(port_be));
            count(stats::PROXY);
            Outcome::Redirect
        }
    }
}

/// The workload of a socket in the namespace `netns`, if it is enrolled.
#[inline(always)]
fn source(netns: u64) -> Option<SourceKey> {
    let key = SourceKey::netns(netns);
    // SAFETY: entries of a hash may be replaced while they are read; every bit pattern is a value.
    let found = unsafe { SOURCES.get(key) }?;
    if found.flags & BY_CGROUP == 0 { Some(key) } else { by_cgroup() }
}

/// The workload whose cgroup the calling task is in, or below. The innermost one counts.
#[inline(always)]
fn by_cgroup() -> Option<SourceKey> {
    // SAFETY: a helper without arguments.
    let own = SourceKey::cgroup(unsafe { bpf_get_current_cgroup_id() });
    // SAFETY: as in `source`.
    if unsafe { SOURCES.get(own) }.is_some() {
        return Some(own);
    }
    let mut level = MAX_CGROUP_LEVEL;
    while level > 0 {
        // SAFETY: the helper answers 0 for a level that the task does not have.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level.cast_signed()) };
        if id != 0 {
            let key = SourceKey::cgroup(id);
            // SAFETY: as in `source`.
            if unsafe { SOURCES.get(key) }.is_some() {
                return Some(key);
            }
        }
        level -= 1;
    }
    None
}

#[inline(always)]
fn lookup(key: &DestinationKey) -> Option<Destination> {
    // SAFETY: as in `source`.
    unsafe { DESTINATIONS.get(key) }.copied()
}
