//! `cgroup/connect4`, `connect6`: whose socket is it, is the destination ours, and what now.

use aya_ebpf::helpers::generated::bpf_set_retval;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use mesh_common::addr::{self, Addr};
use mesh_common::connect::{Action, Caller, Decision, Maps as _, decide, may_go_past};
use mesh_common::destination::{DestinationKey, TCP};
use mesh_common::listener;
use mesh_common::record::{self, AGENT, CAN_ACCELERATE, Record};
use mesh_common::source::{Source, SourceKey, WAITING};
use mesh_common::workload::{ACCELERATE, FAIL_CLOSED};
use mesh_common::{OUTBOUND_PORT, event, stats};

use crate::lookup::Kernel;
use crate::maps::{PROBES, count};
use crate::owner::{Owner, owner, stray};
use crate::{agent, bound, ctx, events};

/// The hook's return value that lets the `connect()` go on.
const ALLOW: i32 = 1;
/// The hook's return value that fails the `connect()`: with `EPERM`, as a local firewall would.
const DENY: i32 = 0;
/// `ECONNREFUSED`, as a helper takes it.
const REFUSED: i32 = -111;
/// The loopback device of every network namespace (`LOOPBACK_IFINDEX`, `net/flow.h`).
const LOOPBACK_DEVICE: u32 = 1;

/// The result of `redirect`.
enum Outcome {
    Allow,
    Deny,
    To(Addr, u16),
}

/// The caller and its destination.
struct Ask {
    caller: Caller,
    key: SourceKey,
    /// On the wire it is IPv4.
    v4: bool,
    to: (Addr, u16),
}

pub(crate) fn v4(context: &SockAddrContext) -> i32 {
    match redirect(context, true, ctx::v4(context), bound::v4) {
        Outcome::Allow => ALLOW,
        Outcome::Deny => DENY,
        Outcome::To(addr, port_be) => {
            // Its last word is an IPv4 address: the decision keeps families apart.
            ctx::set_v4(context, addr[3], port_be);
            ALLOW
        }
    }
}

pub(crate) fn v6(context: &SockAddrContext) -> i32 {
    let asked = ctx::v6(context);
    // A v4-mapped destination is IPv4 on the wire, and so is the way to the agent.
    match redirect(context, addr::to_v4_be(asked).is_some(), asked, bound::v6) {
        Outcome::Allow => ALLOW,
        Outcome::Deny => DENY,
        Outcome::To(addr, port_be) => {
            ctx::set_v6(context, addr, port_be);
            ALLOW
        }
    }
}

#[inline(always)]
fn redirect(
    context: &SockAddrContext,
    v4: bool,
    asked: Addr,
    bound: impl Fn(&SockAddrContext) -> Addr,
) -> Outcome {
    if ctx::protocol(context) != u32::from(TCP) {
        return Outcome::Allow;
    }
    let remembered = ctx::role(context);
    if remembered == AGENT {
        return Outcome::Allow;
    }
    let netns = ctx::netns(context);
    // Most sockets of a node end here: one look-up for traffic that is not the mesh's.
    let mut is_stray = false;
    let (key, source, shares) = match owner(netns) {
        Owner::Nobody => match stray() {
            Some((key, source)) => {
                is_stray = true;
                (key, source, false)
            }
            None => return pass(context, remembered),
        },
        Owner::Node => return probe(context, remembered, asked, bound(context)),
        Owner::Workload(key, source, shares) => (key, source, shares),
    };
    let asked = addr::connected(asked);
    let ask = Ask {
        caller: Caller { netns, source, shares },
        key,
        v4,
        to: (asked, ctx::port_be(context)),
    };
    let decision = decide(&ask.caller, asked, ask.to.1, &Kernel);
    let role = match decision.verdict {
        Action::Pass | Action::Outside => {
            if decision.verdict == Action::Outside {
                count(stats::OUTSIDE);
                events::refused(event::OUTSIDE, &source, ask.to, &decision);
            } else {
                count(stats::PASS);
            }
            return pass(context, remembered);
        }
        Action::OutsideDenied => {
            count(stats::OUTSIDE_DENIED);
            events::refused(event::OUTSIDE_DENIED, &source, ask.to, &decision);
            return Outcome::Deny;
        }
        Action::Deny => {
            count(stats::DENIED);
            events::refused(event::DENIED, &source, ask.to, &decision);
            return Outcome::Deny;
        }
        Action::Nobody => {
            count(stats::NOBODY);
            events::refused(event::NOBODY, &source, ask.to, &decision);
            // SAFETY: a helper that takes a number.
            let _zero = unsafe { bpf_set_retval(REFUSED) };
            return Outcome::Deny;
        }
        // The kernel authorizes it for the unit's own namespace, and for addresses of the workload: whoever
        // has the one that another socket is bound to would be taken for it.
        Action::Itself | Action::Direct
            if is_stray || !is_from_itself(bound(context), v4, &ask.caller) =>
        {
            record::REDIRECTED
        }
        Action::Itself => record::ITSELF,
        Action::Direct => record::DIRECT,
        Action::Proxy => record::REDIRECTED,
    };
    // Once, for all three: it is the larger part of the program.
    go(context, &ask, &decision, role)
}

/// Lets the connection go on as it is. The same socket may have been noted for an earlier connection,
/// which has failed or was undone (`connect()` to `AF_UNSPEC`): this one is another.
#[inline(always)]
fn pass(context: &SockAddrContext, remembered: u32) -> Outcome {
    if remembered != 0 {
        ctx::forget(context);
    }
    Outcome::Allow
}

/// Sends the connection where the decision says, if the agent is not needed or answers.
#[inline(always)]
fn go(context: &SockAddrContext, ask: &Ask, decision: &Decision, role: u32) -> Outcome {
    let source = &ask.caller.source;
    let mut role = role;
    let needs_agent = role == record::REDIRECTED || source.flags & FAIL_CLOSED != 0;
    let serves = source.flags & WAITING == 0;
    let answers = serves && agent::answers(ask.caller.netns, ask.v4);
    let is_reached = role != record::REDIRECTED || reaches(context, ask);
    if needs_agent && !(answers && is_reached) {
        if !may_go_past(source, ask.to.0, decision) {
            let kind = if is_reached { event::FAILED_CLOSED } else { event::DEVICE };
            count(stats::FAILED_CLOSED);
            events::refused(kind, source, ask.to, decision);
            return Outcome::Deny;
        }
        count(stats::FAILED_OPEN);
        events::refused(event::FAILED_OPEN, source, ask.to, decision);
        role = record::PASSED;
    }
    let mut record = Record {
        source_id: ask.key.id,
        source_kind: ask.key.kind,
        addr: ask.to.0,
        port_be: ask.to.1,
        picked_port_be: decision.port_be,
        backend: decision.backend,
        picked: decision.addr,
        source: source.workload,
        destination: decision.workload,
        policy: decision.policy,
        flags: accelerates(source, decision, role),
        ..Record::new(role)
    };
    if !ctx::remember(context, &mut record) {
        // Without the record the other end could not tell whose connection it is.
        count(stats::NO_MEMORY);
        return Outcome::Deny;
    }
    if role == record::REDIRECTED {
        debug!(context, "to the agent: netns {} port {}", ask.caller.netns, u16::from_be(ask.to.1));
        count(stats::PROXY);
        return listener(context, ask);
    }
    if role == record::DIRECT {
        debug!(context, "direct: netns {} port {}", ask.caller.netns, u16::from_be(ask.to.1));
        count(stats::DIRECT);
    }
    Outcome::To(decision.addr, decision.port_be)
}

/// Whether the address that the socket is bound to is the workload's, or none: the kernel chooses one of the
/// namespace then. Any address can be bound to by IPv6 (`IPV6_FREEBIND`), and with `CAP_NET_RAW` by IPv4.
#[inline(always)]
fn is_from_itself(bound: Addr, v4: bool, caller: &Caller) -> bool {
    let source = &caller.source;
    if addr::is_unspecified(bound) || addr::is_inside(bound) {
        return true;
    }
    let first = if v4 { addr::from_v4_be(source.v4_be) } else { source.v6 };
    if bound == first {
        return true;
    }
    // Further ones of a pod.
    let key = DestinationKey::any_tcp_port(bound);
    Kernel.destination(&key).is_some_and(|found| found.owner == caller.netns)
}

/// Whether the socket is bound to a network device, which loopback is not reached from.
#[inline(always)]
fn is_bound(context: &SockAddrContext) -> bool {
    let device = bound::device(context);
    device != 0 && device != LOOPBACK_DEVICE
}

/// Whether the socket reaches the agent: if it is bound to a device, by an address of that.
#[inline(always)]
fn reaches(context: &SockAddrContext, ask: &Ask) -> bool {
    let source = &ask.caller.source;
    // A socket of this very port would be connected with itself.
    let is_itself = bound::source_port(context) == u32::from(OUTBOUND_PORT);
    !is_bound(context) || (source.is_at(bound::device(context), ask.v4) && !is_itself)
}

/// Where the socket, which [`reaches`] it, finds the agent.
#[inline(always)]
fn listener(context: &SockAddrContext, ask: &Ask) -> Outcome {
    let source = &ask.caller.source;
    if is_bound(context) {
        let own = if ask.v4 { addr::from_v4_be(source.v4_be) } else { source.v6 };
        return Outcome::To(own, OUTBOUND_PORT.to_be());
    }
    if ask.v4 {
        return Outcome::To(listener::v4(ask.to), OUTBOUND_PORT.to_be());
    }
    let port = listener::v6_port(ask.to);
    // Where somebody listens, a connection whose record got lost would be theirs.
    let is_free = bound::source_port(context) != u32::from(port)
        && !agent::is_taken(context, (listener::V6, port.to_be()));
    Outcome::To(listener::V6, if is_free { port } else { OUTBOUND_PORT }.to_be())
}

/// Whether the bytes of a connection may take the shorter way: both ends ask for it, of which the
/// agent is one that does.
#[inline(always)]
const fn accelerates(source: &Source, decision: &Decision, role: u32) -> u32 {
    let to_agent = role == record::REDIRECTED && source.flags & ACCELERATE != 0;
    let direct = role == record::DIRECT && decision.accelerate;
    if to_agent || direct { CAN_ACCELERATE } else { 0 }
}

/// A connection of the node's own processes: to a port that declares a health probe, it is one.
#[inline(always)]
fn probe(context: &SockAddrContext, remembered: u32, asked: Addr, bound: Addr) -> Outcome {
    // From an address that the kernel chooses: any other may be a stranger's, who would pass with it.
    if !addr::is_unspecified(bound) {
        return pass(context, remembered);
    }
    let key = DestinationKey::tcp(asked, ctx::port_be(context));
    // SAFETY: entries of a hash may be replaced while they are read; every bit pattern is a value.
    let Some(workload) = (unsafe { PROBES.get(key) }).copied() else {
        return pass(context, remembered);
    };
    let mut record = Record { destination: workload, ..Record::new(record::PROBE) };
    if ctx::remember(context, &mut record) {
        count(stats::PROBE);
    } else {
        // It goes on, and arrives as any other connection does.
        count(stats::NO_MEMORY);
    }
    Outcome::Allow
}
