//! Sets of backends: their numbers and their slots.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use mesh_common::addr::user::from_ip;
use mesh_common::backend::{CHUNK, CHUNK_SLOTS, MAX_BACKENDS, MAX_ENDPOINTS, Slot, columns};

use crate::datapath::desired::guard_of;
use crate::datapath::desired::ids::Ids;
use crate::model::snapshot::{Snapshot, Split};

/// Which set: of an address and port, for everybody or for one namespace.
pub(super) type SetKey = (SocketAddr, Option<Arc<str>>);

/// The numbers of sets. A set keeps its number as long as it is wanted and has the same slots, and a
/// number is not given out again while the kernel may still hold an entry that means another.
#[derive(Debug)]
pub struct SetIds {
    by_key: BTreeMap<SetKey, (u32, Arc<[Slot]>)>,
    next: u32,
}

/// The most slots in a set.
const MAX_SLOTS: usize = if MAX_BACKENDS > MAX_ENDPOINTS { MAX_BACKENDS } else { MAX_ENDPOINTS };

impl SetIds {
    /// Numbers beyond `last`, the largest that is in use.
    pub fn after(last: u32) -> Self {
        Self { by_key: BTreeMap::new(), next: last.wrapping_add(1).max(1) }
    }

    /// The number of a set with these slots, and the slots.
    pub(super) fn of(&mut self, key: SetKey, slots: Vec<Slot>) -> (u32, Arc<[Slot]>) {
        if let Some((id, same)) = self.by_key.get(&key).filter(|(_, before)| **before == *slots) {
            return (*id, Arc::clone(same));
        }
        let (id, slots) = (self.next, Arc::from(slots));
        self.next = id.wrapping_add(1).max(1);
        self.by_key.insert(key, (id, Arc::clone(&slots)));
        (id, slots)
    }

    /// Forgets the sets that are not in `used`.
    pub(super) fn retain(&mut self, used: &BTreeSet<SetKey>) {
        self.by_key.retain(|key, _| used.contains(key));
    }
}

/// A set whose one backend has an endpoint beyond the set's end, in a part that is not there, so that a
/// pick finds nothing and the connection goes to the agent.
///
/// Not a set that is missing, which would be written again and again. And not `Destination::flags`,
/// which are for the clients of all namespaces.
const ASK_AGENT: Slot =
    Slot { threshold: 1, first: CHUNK, count: 1, backends: 1, total: 1, ..Slot::EMPTY };

/// How many entries of the map a split takes.
pub(super) fn n_chunks(split: &Split) -> usize {
    n_slots(split).div_ceil(CHUNK_SLOTS).max(1)
}

/// How many slots a split has; 0: it is too large for the kernel.
fn n_slots(split: &Split) -> usize {
    if split.http.is_some() {
        return 1;
    }
    let count: usize =
        split.backends.iter().map(|backend| backend.endpoints.as_slice().len()).sum();
    let length = count.max(split.backends.len()).max(1);
    if length > MAX_SLOTS || split.backends.len() > MAX_BACKENDS { 0 } else { length }
}

/// The slots of a split. `None`: it is too large for the kernel, and the agent has to pick.
///
/// With HTTP routes, each request may go elsewhere, and the kernel sees none of them: it picks
/// nothing.
pub(super) fn slots(mesh: &Snapshot, split: &Split, ids: &Ids<'_>) -> Option<Vec<Slot>> {
    if split.http.is_some() {
        return Some(vec![ASK_AGENT]);
    }
    let weights: Vec<_> = split.backends.iter().map(|backend| backend.weight).collect();
    let length = n_slots(split);
    if length == 0 {
        return None;
    }
    let (total, table) = columns(&weights)?;
    let mut slots = vec![Slot::EMPTY; length];
    let all = split.backends.iter().flat_map(|backend| backend.endpoints.as_slice());
    for (slot, endpoint) in slots.iter_mut().zip(all) {
        let policy = mesh.policy(&endpoint.workload.name);
        let port = endpoint.address.port();
        slot.addr = from_ip(endpoint.address.ip());
        slot.port_be = port.to_be();
        slot.workload = ids.of(&endpoint.workload.name);
        slot.flags = guard_of(&policy, port, slot.workload != 0);
    }
    let mut first = 0;
    for ((slot, backend), (threshold, alias)) in slots.iter_mut().zip(&split.backends).zip(table) {
        slot.threshold = threshold;
        slot.alias = alias;
        slot.first = first;
        slot.count = u32::try_from(backend.endpoints.as_slice().len()).ok()?;
        first += slot.count;
    }
    if let Some(head) = slots.first_mut() {
        head.backends = u32::try_from(split.backends.len()).ok()?;
        head.total = total;
    }
    Some(slots)
}
