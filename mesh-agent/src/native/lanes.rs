//! Which tunnels of peers have streams that may be continued on another: found by the name that was
//! given to the peer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::runtime::Handle;

use crate::model::id::ResourceName;
use crate::model::spiffe::SpiffeId;
use crate::native::Options;
use crate::native::frame::{Continued, Name, code};
use crate::native::part::Part;
use crate::native::quota::{Quota, Quotas};
use crate::native::tunnel::Tunnel;

/// Between whom a tunnel of a peer is. A stream is continued only on one between the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// Who the peer has proved to be.
    pub peer: SpiffeId,
    /// The workload whose certificate it was shown.
    pub local: ResourceName,
}

/// The tunnels of peers, by name. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Lanes(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    tunnels: HashMap<Name, Known>,
    quotas: Quotas<Ends, ResourceName>,
}

#[derive(Debug)]
struct Known {
    tunnel: Weak<Tunnel>,
    ends: Ends,
    home: Handle,
}

/// A tunnel among [`Lanes`]. Dropping it takes the tunnel out.
#[derive(Debug)]
pub(super) struct Listed {
    lanes: Lanes,
    name: Name,
}

impl Lanes {
    /// The runtime of the data thread that the tunnel with this name is on. A tunnel that continues
    /// its streams belongs there too, as do both sockets of a connection.
    pub fn home_of(&self, name: Name, ends: &Ends) -> Option<Handle> {
        let known = self.lock();
        known.tunnels.get(&name).filter(|known| known.ends == *ends).map(|known| known.home.clone())
    }

    /// What a peer may use of a workload: one for all its tunnels.
    pub(super) fn quota_of(&self, ends: &Ends, options: &Options) -> Arc<Quota> {
        self.lock().quotas.of(ends, &ends.local, options.clients)
    }

    /// Puts a tunnel in, under a name that nobody can guess.
    pub(super) fn list(
        &self,
        ends: Ends,
        make: impl Fn(Name) -> Arc<Tunnel>,
    ) -> (Arc<Tunnel>, Listed) {
        let known = &mut self.lock().tunnels;
        loop {
            let name = Name(rand::random());
            // 2^-128 that it is taken.
            if let Entry::Vacant(place) = known.entry(name) {
                let tunnel = make(name);
                let home = Handle::current();
                place.insert(Known { tunnel: Arc::downgrade(&tunnel), ends, home });
                return (tunnel, Listed { lanes: self.clone(), name });
            }
        }
    }

    /// Lets the stream `number` that the peer asks for on `lane` continue another, or refuses it.
    pub(super) fn adopt(&self, ends: &Ends, lane: &Arc<Tunnel>, number: u32, of: Continued) {
        let known = self
            .lock()
            .tunnels
            .get(&of.tunnel)
            .filter(|known| known.ends == *ends)
            .map(|known| Weak::clone(&known.tunnel));
        let next = Part::of(Arc::clone(lane), number, None);
        let tunnel = known.and_then(|known| known.upgrade());
        match tunnel.filter(|tunnel| Part::may_go_on(tunnel, of.stream)) {
            // First accepted, then used: on a lane of another thread, both happen at once.
            Some(tunnel) if next.accept().is_ok() => {
                Part::attach(&tunnel, of.stream, Arc::new(next));
            }
            _ => next.reset(code::NOT_TAKEN),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A panic elsewhere leaves the table whole: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.lanes.lock().tunnels.remove(&self.name);
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
