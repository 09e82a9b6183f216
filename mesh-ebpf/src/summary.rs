//! Limits the events that one workload may cause, and sums the connections beyond.
//!
//! Functions of their own, not inlined: they are reached from many places of the hooks, and only by
//! connections that are refused or crowd the ring buffer.

use core::ptr::{from_ref, read_volatile};

use aya_ebpf::bindings::{BPF_NOEXIST, BPF_RB_AVAIL_DATA};
use aya_ebpf::helpers::generated::bpf_ringbuf_query;
use mesh_common::budget::{self, Budget, Word};
use mesh_common::maps::CROWDED_BYTES;
use mesh_common::stats;
use mesh_common::summary::{Sum, SumKey};

use crate::maps::{BUDGETS, EVENTS, INTERVAL, SUMS, count};
use crate::{agent, atomic};

/// A word of a map's value.
struct Shared(*mut u64);

impl Word for Shared {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: the pointer is to a value of a map, which lives as long as the program. An aligned
        // word is read at once; the atomic load of `core` needs version 4 of the instruction set.
        unsafe { read_volatile(self.0) }
    }

    #[inline(always)]
    fn replace(&self, old: u64, new: u64) -> bool {
        // SAFETY: as in `load`; every CPU changes it atomically.
        unsafe { atomic::replace(self.0, old, new) }
    }
}

/// Whether the ring buffer is so full that each workload is limited to its budget.
#[inline(always)]
pub(crate) fn is_crowded() -> bool {
    let ring = from_ref(&EVENTS).cast_mut().cast();
    // SAFETY: a map of the right kind, and a number.
    let waiting = unsafe { bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA.into()) };
    waiting > CROWDED_BYTES as u64
}

/// Reports a connection that was refused, or counts it among others that are alike.
#[inline(never)]
pub(crate) fn refused(key: &mut SumKey) {
    if spends(key.source)
        && let Some(mut entry) = EVENTS.reserve(0)
    {
        entry.write(key.event());
        entry.submit(0);
        return;
    }
    add(key, &Sum::ONE);
}

/// Takes an event's worth of the workload's budget. False: there is none left.
#[inline(never)]
pub(crate) fn spends(workload: u64) -> bool {
    let now = agent::now();
    let Some(budget) = budget_of(workload, now) else { return false };
    // SAFETY: a value of the map. An entry that is evicted meanwhile may be another's then, which
    // gets a token more or less.
    let full_at = Shared(unsafe { &raw mut (*budget).full_at });
    budget::change(&full_at, |full_at| budget::EVENTS.spend(full_at, now))
}

#[inline(always)]
fn budget_of(workload: u64, now: u64) -> Option<*mut Budget> {
    if let Some(budget) = BUDGETS.get_ptr_mut(workload) {
        return Some(budget);
    }
    // Another CPU may be faster: then that one's is found.
    let _there: Result<(), i32> = BUDGETS.insert(workload, Budget::full(now), BPF_NOEXIST.into());
    BUDGETS.get_ptr_mut(workload)
}

/// Counts a connection that has no event of its own.
#[inline(never)]
pub(crate) fn add(key: &mut SumKey, by: &Sum) {
    key.interval = match INTERVAL.get(0) {
        Some(interval) => *interval,
        None => 0,
    };
    if key.destination == 0 {
        // One of many endpoints: the sum is that of the service.
        key.server = [0; 4];
        key.server_port_be = 0;
    }
    if added(key, by) {
        return;
    }
    if !may_begin(key) {
        key.clear_destination();
        if added(key, by) {
            return;
        }
    }
    // By reference: the frames of a program have 512 bytes in all. Another CPU may be faster with the
    // same key: then this one counts in that one's.
    let key: &SumKey = key;
    if SUMS.insert(key, by, BPF_NOEXIST.into()).is_err() && !added(key, by) {
        count(stats::EVENTS_LOST);
    }
}

/// Adds to the sum that there is, if there is one.
#[inline(always)]
fn added(key: &SumKey, by: &Sum) -> bool {
    let Some(sum) = SUMS.get_ptr_mut(key) else { return false };
    // SAFETY: a value of the map, which the agent takes out when its interval is long over.
    let sum = unsafe { &mut *sum };
    // SAFETY: every CPU changes it atomically.
    let add = |word: &mut u64, by| unsafe { atomic::add(word, by) };
    add(&mut sum.connections, by.connections);
    add(&mut sum.sent, by.sent);
    add(&mut sum.received, by.received);
    add(&mut sum.lasted_ns, by.lasted_ns);
    true
}

/// Whether the workload may begin a further sum in this interval.
#[inline(always)]
fn may_begin(key: &SumKey) -> bool {
    let Some(budget) = budget_of(key.source, 0) else { return false };
    // SAFETY: as in `spends`.
    let begun = Shared(unsafe { &raw mut (*budget).begun });
    budget::change(&begun, |begun| budget::begin(begun, key.interval))
}
