//! Decisions about the connections of applications. Pure, so that it is tested on the host.

use crate::addr::{self, Addr};
use crate::backend::{self, Pick, Slot};
use crate::destination::{ASK, ConsumerKey, Destination, DestinationKey, HAS_CONSUMERS, NOBODY};
use crate::external::ExternalKey;
use crate::source::{DENY_OUTSIDE, REPORT_OUTSIDE, Source};
use crate::verdict::{ALLOW, DENY, Verdict, VerdictKey};
use crate::workload::{
    ACCELERATE, BY_PORT, FAIL_OPEN, GUARDED, Inbound, PortKey, VIA_AGENT, Workload,
};

/// The caller.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The cookie of the socket's network namespace.
    pub netns: u64,
    /// The workload.
    pub source: Source,
    /// It is recognized by its cgroup, and shares its namespace with others.
    pub shares: bool,
}

/// The maps that are asked, by their names.
pub trait Maps {
    /// `DESTINATIONS`.
    fn destination(&self, key: &DestinationKey) -> Option<Destination>;
    /// `CONSUMERS`.
    fn consumer(&self, key: &ConsumerKey) -> Option<u32>;
    /// An array of `BACKENDS`.
    fn slot(&self, set: u32, index: u32) -> Option<&Slot>;
    /// `WORKLOADS`.
    fn workload(&self, id: u64) -> Option<Workload>;
    /// `PORTS`.
    fn port(&self, key: &PortKey) -> Option<u32>;
    /// `VERDICTS`.
    fn verdict(&self, key: &VerdictKey) -> Option<Verdict>;
    /// Whether `EXTERNALS` has a network with the address of `key`.
    fn external(&self, key: &ExternalKey) -> bool;
    /// `INBOUND`.
    fn inbound(&self, key: &PortKey) -> Option<Inbound>;
    /// A random number, uniform over 32 bits.
    fn random(&self) -> u32;
}

/// The connect hook's action on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The action.
    pub verdict: Action,
    /// The endpoint that was picked: a port of 0 if none was.
    pub addr: Addr,
    /// Its port, network byte order.
    pub port_be: u16,
    /// Whether plaintext may go to it past an agent that does not answer.
    pub plaintext: bool,
    /// Both ends want acceleration.
    pub accelerate: bool,
    /// Its backend's index in the split.
    pub backend: u32,
    /// The id of its workload, if it is one of this node.
    pub workload: u64,
    /// The id of the policy that decided, if one did.
    pub policy: u64,
}

/// The action on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave the destination as it is: not ours, and nothing more is done.
    Pass,
    /// Connect to a port of the caller's own in a namespace that it shares.
    Itself,
    /// Connect straight to the endpoint.
    Direct,
    /// Hand the connection to the workload's outbound listener.
    Proxy,
    /// A policy forbids it.
    Deny,
    /// Nobody serves the share that was picked.
    Nobody,
    /// Leave the destination as it is, and report it: the mesh does not know it.
    Outside,
    /// The mesh does not know the destination, and the caller may connect to nothing else.
    OutsideDenied,
}

impl Decision {
    const fn only(verdict: Action) -> Self {
        Self {
            verdict,
            addr: [0; 4],
            port_be: 0,
            plaintext: false,
            accelerate: false,
            backend: 0,
            workload: 0,
            policy: 0,
        }
    }
}

/// Decides for one `connect()` of an enrolled workload.
#[inline(always)]
pub fn decide(caller: &Caller, addr: Addr, port_be: u16, maps: &impl Maps) -> Decision {
    let found = match maps.destination(&DestinationKey::tcp(addr, port_be)) {
        None => maps.destination(&DestinationKey::any_tcp_port(addr)),
        found => found,
    };
    let mut endpoint = Decision::only(Action::Proxy);
    match found {
        None => {
            // Units of one host reach each other by loopback too, and are kept apart there as well.
            if !caller.shares || !addr::is_loopback(addr) {
                return Decision::only(outside(&caller.source, addr, port_be, maps));
            }
            let Some(inbound) = maps.inbound(&PortKey::new(caller.netns, port_be)) else {
                return Decision::only(Action::Pass);
            };
            endpoint.addr = addr;
            endpoint.port_be = port_be;
            endpoint.plaintext = inbound.flags & GUARDED == 0;
            endpoint.workload = inbound.workload;
        }
        // A pod that talks to itself needs no mesh, and the agent's own last hop is this.
        Some(destination) if destination.owner == caller.netns => {
            return Decision::only(Action::Pass);
        }
        Some(destination) if destination.flags & NOBODY != 0 => {
            return Decision::only(Action::Nobody);
        }
        Some(destination) if destination.flags & ASK != 0 => return endpoint,
        Some(destination) if destination.set == 0 => {
            endpoint.addr = addr;
            endpoint.port_be = port_be;
            endpoint.plaintext = destination.flags & GUARDED == 0;
            endpoint.workload = destination.workload;
        }
        Some(destination) => {
            let set = set_for(caller, &destination, maps);
            match backend::pick(|index| maps.slot(set, index), || maps.random()) {
                Pick::Unknown => return endpoint,
                Pick::Nobody => return Decision::only(Action::Nobody),
                Pick::Endpoint(slot, backend) => {
                    endpoint.addr = slot.addr;
                    endpoint.port_be = slot.port_be;
                    endpoint.plaintext = slot.flags & GUARDED == 0;
                    endpoint.workload = slot.workload;
                    endpoint.backend = backend;
                }
            }
        }
    }
    authorize(caller, addr, endpoint, maps)
}

/// The action on a connection to what the mesh does not know.
#[inline(always)]
fn outside(source: &Source, addr: Addr, port_be: u16, maps: &impl Maps) -> Action {
    if source.flags & (REPORT_OUTSIDE | DENY_OUTSIDE) == 0 {
        return Action::Pass;
    }
    // A connection that stays in the caller's own namespace is nobody else's business.
    if addr::is_loopback(addr) || addr::is_unspecified(addr) {
        return Action::Pass;
    }
    let known =
        |namespace: u64, port_be: u16| maps.external(&ExternalKey::new(namespace, port_be, addr));
    if known(0, 0)
        || known(0, port_be)
        || known(source.namespace, 0)
        || known(source.namespace, port_be)
    {
        return Action::Pass;
    }
    if source.flags & DENY_OUTSIDE != 0 { Action::OutsideDenied } else { Action::Outside }
}

/// The set that the caller's namespace picks from.
#[inline(always)]
fn set_for(caller: &Caller, destination: &Destination, maps: &impl Maps) -> u32 {
    if destination.flags & HAS_CONSUMERS == 0 {
        return destination.set;
    }
    let key = ConsumerKey { namespace: caller.source.namespace, set: destination.set, pad: 0 };
    match maps.consumer(&key) {
        Some(set) => set,
        None => destination.set,
    }
}

/// Whether an endpoint may be connected to directly.
#[inline(always)]
fn authorize(caller: &Caller, asked: Addr, endpoint: Decision, maps: &impl Maps) -> Decision {
    let mut decision = endpoint;
    if decision.workload == 0 {
        return decision;
    }
    if decision.workload == caller.source.workload {
        // Its own identity needs no permission.
        if caller.shares || same_family(asked, decision.addr) {
            decision.verdict = if caller.shares { Action::Itself } else { Action::Direct };
        }
        return decision;
    }
    let Some(local) = maps.workload(decision.workload) else { return decision };
    let mut via = local.flags & VIA_AGENT;
    if local.flags & BY_PORT != 0
        && let Some(flags) = maps.port(&PortKey::new(decision.workload, decision.port_be))
    {
        via = flags & VIA_AGENT;
    }
    via |= caller.source.flags & VIA_AGENT;
    let verdict = verdict(caller.source.workload, local.class, decision.port_be, maps);
    if verdict.says == DENY {
        decision.policy = verdict.policy;
        decision.verdict = Action::Deny;
    } else if verdict.says == ALLOW && via == 0 && same_family(asked, decision.addr) {
        decision.policy = verdict.policy;
        decision.accelerate = local.flags & caller.source.flags & ACCELERATE != 0;
        decision.verdict = Action::Direct;
    }
    decision
}

#[inline(always)]
fn verdict(source: u64, class: u64, port_be: u16, maps: &impl Maps) -> Verdict {
    if class == 0 {
        return Verdict { policy: 0, says: ALLOW, pad: 0 };
    }
    match maps.verdict(&VerdictKey::new(source, class, port_be)) {
        Some(verdict) => verdict,
        None => match maps.verdict(&VerdictKey::new(source, class, 0)) {
            Some(verdict) => verdict,
            None => Verdict::UNKNOWN,
        },
    }
}

/// A socket of one family cannot be sent to an address of the other.
#[inline(always)]
const fn same_family(a: Addr, b: Addr) -> bool {
    addr::to_v4_be(a).is_some() == addr::to_v4_be(b).is_some()
}

/// Whether a connection that needs the agent may go past one that does not answer.
#[inline(always)]
pub const fn may_go_past(source: &Source, asked: Addr, decision: &Decision) -> bool {
    source.flags & FAIL_OPEN != 0
        && decision.plaintext
        && decision.port_be != 0
        && same_family(asked, decision.addr)
}

#[cfg(test)]
mod tests;
