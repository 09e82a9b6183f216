//! Which series a connection is counted in: a bounded table, found without building strings.
//!
//! Two indices. The first finds the series by the addresses of the `Arc`s in [`Parties`]: one of
//! sixteen mutexes and one hash of a few words (120 ns of CPU, optimized; building the strings
//! each time would make it 1.6 us). It keeps the `Arc`s alive, so an address cannot come to mean
//! something else. The second finds it by its label values, so that a reload of the configuration,
//! which makes new `Arc`s, continues the series it had.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::failure::Kind;
use crate::model::id::ResourceName;
use crate::model::service::Service;
use crate::model::spiffe::SpiffeId;
use crate::model::workload::Workload;
use crate::telemetry::event::{ConnectionEnd, Parties, Peer, Reporter, Security};
use crate::telemetry::requests::Requests;

/// Labels of every series, in the order of [`Counters::values`]. `response_flags` and `reason` are
/// added by what is counted.
pub(super) const LABELS: [&str; 22] = [
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "source_canonical_service",
    "source_canonical_revision",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_cluster",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "connection_security_policy",
];

/// The word for values that are not known, as Istio writes it.
const UNKNOWN: &str = "unknown";

/// The value of every label of the one series that is beyond the limit.
const OVERFLOW: &str = "overflow";

/// Enough that data threads rarely meet; a power of two.
const SHARDS: usize = 16;

/// Number of ways to fail.
const KINDS: usize = Kind::ALL.len();

/// Label values, in the order of [`LABELS`].
type Values = Arc<[Box<str>]>;

/// All series.
#[derive(Debug)]
pub(super) struct Table {
    shards: [Mutex<HashMap<Key, Known>>; SHARDS],
    /// Locked before a shard, never after one.
    series: Mutex<HashMap<Values, Arc<Counters>>>,
    most: usize,
    overflow: Arc<Counters>,
    overflowed: AtomicU64,
}

/// The numbers of one series.
#[derive(Debug)]
pub(super) struct Counters {
    /// Label values, in the order of [`LABELS`].
    pub(super) values: Values,
    /// Workloads that must exist for the series to be worth keeping.
    workloads: [Option<ResourceName>; 2],
    /// Of those that the kernel has decided nobody here keeps a list: what is opened and closed need
    /// not add up.
    security: Security,
    opened: AtomicU64,
    /// The first is for connections that did not fail, the others are by [`Kind`].
    ends: [Ends; KINDS + 1],
    unlogged: AtomicU64,
    /// Requests of HTTP that the connections have carried.
    pub(super) requests: Requests,
}

#[derive(Debug, Default)]
struct Ends {
    closed: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// The sums of the ends that share `response_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EndSums {
    pub(super) flags: &'static str,
    pub(super) closed: u64,
    pub(super) sent_bytes: u64,
    pub(super) received_bytes: u64,
}

#[derive(Debug)]
struct Known {
    counters: Arc<Counters>,
    /// Keeps the addresses in the key from being used again.
    _parties: Parties,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    reporter: Reporter,
    security: Security,
    service: usize,
    source: (usize, Principal),
    destination: (usize, Principal),
}

/// An identity, copied only where it is not the workload's own.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Principal {
    Unknown,
    Own,
    Other(SpiffeId),
}

impl Table {
    /// An empty table of at most `most` series, and one for what is beyond.
    pub(super) fn new(most: usize) -> Self {
        let overflow: Values = LABELS.iter().map(|_| OVERFLOW.into()).collect();
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            series: Mutex::default(),
            most,
            overflow: Arc::new(Counters::new(overflow, [None, None], Security::None)),
            overflowed: AtomicU64::new(0),
        }
    }

    /// Finds or makes the series of `parties`, and counts opened connections in it.
    pub(super) fn opened(&self, parties: &Parties, connections: u64) -> Arc<Counters> {
        self.count(parties, |counters| {
            counters.opened.fetch_add(connections, Ordering::Relaxed);
            if Arc::ptr_eq(counters, &self.overflow) {
                self.overflowed.fetch_add(connections, Ordering::Relaxed);
            }
        })
    }

    /// Finds or makes the series of `parties`, and counts the end of connections in it that may
    /// have been opened before this process was started.
    pub(super) fn closed(&self, end: &ConnectionEnd, connections: u64) -> Arc<Counters> {
        self.count(&end.parties, |counters| counters.closed(end, connections))
    }

    /// Finds or makes the series of `parties`.
    pub(super) fn of(&self, parties: &Parties) -> Arc<Counters> {
        self.count(parties, |_| {})
    }

    /// Finds or makes the series of `parties`, and counts in it.
    fn count(&self, parties: &Parties, count: impl Fn(&Arc<Counters>)) -> Arc<Counters> {
        let key = Key::of(parties);
        let shard = &self.shards[key.shard()];
        // Counted under the lock: `retain` takes a series away only when nobody can be between
        // finding it and counting in it.
        if let Some(known) = lock(shard).get(&key) {
            count(&known.counters);
            return Arc::clone(&known.counters);
        }
        let values = values(parties);
        let mut series = lock(&self.series);
        let counters = match series.get(&values) {
            Some(counters) => Arc::clone(counters),
            None if series.len() < self.most => {
                let workloads =
                    [&parties.source, &parties.destination].map(|peer| peer.name().cloned());
                let security = parties.security;
                let counters = Arc::new(Counters::new(Arc::clone(&values), workloads, security));
                series.insert(values, Arc::clone(&counters));
                counters
            }
            None => Arc::clone(&self.overflow),
        };
        let mut shard = lock(shard);
        if shard.len() >= self.most / SHARDS * 2 + SHARDS {
            // Old snapshots' addresses: what is in use finds its way back by its labels.
            shard.clear();
        }
        count(&counters);
        shard.insert(key, Known { counters: Arc::clone(&counters), _parties: parties.clone() });
        counters
    }

    /// Forgets the series of workloads that do not exist and have no open connection, and lets go
    /// of older snapshots' data. Call it after a snapshot is published.
    pub(super) fn retain(&self, exists: impl Fn(&ResourceName) -> bool) {
        let mut series = lock(&self.series);
        for shard in &self.shards {
            lock(shard).clear();
        }
        series.retain(|_, counters| {
            counters.is_open() || counters.workloads.iter().flatten().all(&exists)
        });
    }

    /// Every series, that for what is beyond the limit among them once it was needed.
    pub(super) fn all(&self) -> Vec<Arc<Counters>> {
        let mut all: Vec<_> = lock(&self.series).values().map(Arc::clone).collect();
        if self.overflowed() > 0 {
            all.push(Arc::clone(&self.overflow));
        }
        all
    }

    /// Of each series that an agent carried: who reports it, whose it is for the reporter, whether it
    /// was mutual TLS, and how many were opened.
    pub(super) fn carried(&self) -> Vec<(Reporter, ResourceName, bool, u64)> {
        let series = lock(&self.series);
        let all = series.values().filter_map(|counters| {
            // A connection that the kernel has let pass is not carried.
            let is_mutual = match counters.security {
                Security::Kernel => return None,
                Security::MutualTls => true,
                Security::None => false,
            };
            // The first of the labels.
            let is_source = **counters.values.first()? == *Reporter::Source.as_str();
            let [source, destination] = &counters.workloads;
            let (reporter, own) = if is_source {
                (Reporter::Source, source)
            } else {
                (Reporter::Destination, destination)
            };
            Some((reporter, own.clone()?, is_mutual, counters.opened.load(Ordering::Relaxed)))
        });
        all.collect()
    }

    /// Connections that were counted in the series beyond the limit.
    pub(super) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }
}

impl Counters {
    fn new(values: Values, workloads: [Option<ResourceName>; 2], security: Security) -> Self {
        Self {
            values,
            workloads,
            security,
            opened: AtomicU64::new(0),
            ends: std::array::from_fn(|_| Ends::default()),
            unlogged: AtomicU64::new(0),
            requests: Requests::default(),
        }
    }

    /// Counts closed connections, whose bytes `end` has.
    pub(super) fn closed(&self, end: &ConnectionEnd, connections: u64) {
        let place = end.failure.as_ref().map_or(0, |failure| 1 + failure.kind as usize);
        let ends = &self.ends[place];
        ends.sent_bytes.fetch_add(end.sent_bytes, Ordering::Relaxed);
        ends.received_bytes.fetch_add(end.received_bytes, Ordering::Relaxed);
        ends.closed.fetch_add(connections, Ordering::Relaxed);
    }

    /// Counts a connection that the agent has lost sight of.
    pub(super) fn lost(&self) {
        self.ends[1 + Kind::Internal as usize].closed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts connections that have no access-log line of their own.
    pub(super) fn unlogged(&self, connections: u64) {
        self.unlogged.fetch_add(connections, Ordering::Relaxed);
    }

    /// Connections that have no access-log line of their own.
    pub(super) fn without_line(&self) -> u64 {
        self.unlogged.load(Ordering::Relaxed)
    }

    /// Connections that were opened.
    pub(super) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Connections that failed so.
    pub(super) fn failed(&self, kind: Kind) -> u64 {
        self.ends[1 + kind as usize].closed.load(Ordering::Relaxed)
    }

    /// The closed connections, by `response_flags`. Those without failure are always there, so that a
    /// rate starts at 0; the others once they happened.
    pub(super) fn ended(&self) -> Vec<EndSums> {
        let mut all: Vec<EndSums> = vec![];
        let kinds = Kind::ALL.iter().map(|kind| kind.response_flags());
        for (flags, ends) in std::iter::once(NO_FLAGS).chain(kinds).zip(&self.ends) {
            let closed = ends.closed.load(Ordering::Relaxed);
            if closed == 0 && flags != NO_FLAGS {
                continue;
            }
            let at = all.iter().position(|sums| sums.flags == flags).unwrap_or_else(|| {
                all.push(EndSums { flags, closed: 0, sent_bytes: 0, received_bytes: 0 });
                all.len() - 1
            });
            all[at].closed += closed;
            all[at].sent_bytes += ends.sent_bytes.load(Ordering::Relaxed);
            all[at].received_bytes += ends.received_bytes.load(Ordering::Relaxed);
        }
        all
    }

    fn is_open(&self) -> bool {
        let closed: u64 = self.ends.iter().map(|ends| ends.closed.load(Ordering::Relaxed)).sum();
        self.security != Security::Kernel && self.opened() > closed
    }
}

/// The `response_flags` of a connection, or a request, that did not fail.
pub const NO_FLAGS: &str = "-";

impl Key {
    fn of(parties: &Parties) -> Self {
        Self {
            reporter: parties.reporter,
            security: parties.security,
            service: address::<Service>(parties.service.as_ref()),
            source: peer_key(&parties.source),
            destination: peer_key(&parties.destination),
        }
    }

    /// The lowest bits of an address say nothing: allocations are aligned.
    fn shard(&self) -> usize {
        ((self.source.0 >> 4) ^ (self.destination.0 >> 8) ^ (self.service >> 12)) % SHARDS
    }
}

/// The address of what `pointer` points to, or 0.
fn address<T>(pointer: Option<&Arc<T>>) -> usize {
    pointer.map_or(0, |pointer| Arc::as_ptr(pointer).addr())
}

fn peer_key(peer: &Peer) -> (usize, Principal) {
    let principal = match (&peer.principal, &peer.workload) {
        (None, _) => Principal::Unknown,
        (Some(principal), Some(workload)) if *principal == workload.identity => Principal::Own,
        (Some(principal), _) => Principal::Other(principal.clone()),
    };
    (address::<Workload>(peer.workload.as_ref()), principal)
}

/// The label values of `parties`, in the order of [`LABELS`].
fn values(parties: &Parties) -> Values {
    let mut values: Vec<Box<str>> = Vec::with_capacity(LABELS.len());
    values.push(parties.reporter.as_str().into());
    for peer in [&parties.source, &parties.destination] {
        let workload = peer.workload.as_deref();
        let of = |get: fn(&Workload) -> &str| workload.map_or(UNKNOWN, get).into();
        values.push(of(|workload| &workload.name.name));
        values.push(of(|workload| &workload.name.namespace));
        values.push(peer.principal.as_ref().map_or(UNKNOWN.into(), |id| id.to_string().into()));
        values.push(of(|workload| workload.label_or_unknown("app")));
        values.push(of(|workload| workload.label_or_unknown("version")));
        values.push(UNKNOWN.into());
        values.push(of(Workload::canonical_name));
        values.push(of(Workload::canonical_revision));
    }
    let service = parties.service.as_deref();
    let of = |get: fn(&Service) -> &str| service.map_or(UNKNOWN, get).into();
    values.push(of(|service| &service.hostname));
    values.push(of(|service| &service.name.name));
    values.push(of(|service| &service.name.namespace));
    values.push("tcp".into());
    values.push(parties.security_policy().into());
    values.into()
}

impl Peer {
    fn name(&self) -> Option<&ResourceName> {
        self.workload.as_deref().map(|workload| &workload.name)
    }
}

/// Poison is no harm: a panic leaves these maps as they were before or after one insert.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, Retry, Side};
    use crate::telemetry::testing::{end, parties, workload};

    #[test]
    fn a_kind_is_counted_where_it_is_read() {
        for (index, kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(*kind as usize, index, "{kind:?}");
        }
    }

    #[test]
    fn every_label_has_a_value() {
        assert_eq!(values(&parties()).len(), LABELS.len());
        let unknown = values(&Parties::unknown(Reporter::Source));
        let known: Vec<_> = unknown.iter().filter(|value| &***value != UNKNOWN).collect();
        assert_eq!(known, [&"source".into(), &"tcp".into(), &"none".into()]);
    }

    #[test]
    fn a_reload_continues_the_series() {
        let table = Table::new(10);
        let first = table.opened(&parties(), 1);
        let again = table.opened(&parties(), 1);
        assert!(Arc::ptr_eq(&first, &again));
        assert_eq!((first.opened(), table.all().len()), (2, 1));
    }

    #[test]
    fn what_is_beyond_the_limit_shares_one_series() {
        let table = Table::new(2);
        for name in ["a", "b", "c", "d", "c"] {
            let mut parties = parties();
            parties.source.workload = Some(workload(name, "v1"));
            table.opened(&parties, 1);
        }
        assert_eq!((table.all().len(), table.overflowed()), (3, 3));
        let overflow = table.all().pop().unwrap();
        assert_eq!((overflow.opened(), &*overflow.values[0]), (3, OVERFLOW));
    }

    #[test]
    fn the_pointer_index_is_bounded() {
        let table = Table::new(1);
        for _ in 0..1000 {
            table.opened(&parties(), 1);
        }
        let known: usize = table.shards.iter().map(|shard| lock(shard).len()).sum();
        assert!(known <= SHARDS * SHARDS, "{known}");
        assert_eq!(table.all()[0].opened(), 1000);
    }

    #[test]
    fn a_deleted_workload_is_forgotten_when_its_connections_end() {
        let table = Table::new(10);
        let counters = table.opened(&parties(), 1);
        table.retain(|_| false);
        assert_eq!(table.all().len(), 1, "one is open");
        counters.closed(&end(), 1);
        table.retain(|_| true);
        assert_eq!(table.all().len(), 1, "the workload exists");
        table.retain(|_| false);
        assert_eq!(table.all().len(), 0);
        assert_eq!(table.opened(&parties(), 1).opened(), 1, "starts anew");
        assert_eq!(table.all().len(), 1);
    }

    #[test]
    fn what_the_kernel_keeps_open_does_not_keep_a_series() {
        let table = Table::new(10);
        let mut direct = parties();
        direct.security = Security::Kernel;
        table.opened(&direct, 1);
        table.retain(|_| true);
        assert_eq!(table.all().len(), 1, "the workload exists");
        table.retain(|_| false);
        assert_eq!(table.all().len(), 0);
    }

    #[test]
    fn kinds_with_the_same_flags_are_one_series() {
        let table = Table::new(10);
        let counters = table.opened(&parties(), 1);
        counters.closed(&ConnectionEnd { sent_bytes: 1, received_bytes: 2, ..end() }, 1);
        for kind in [Kind::Internal, Kind::Shutdown] {
            let failure = Some(Failure::new(kind, Side::Mesh, Retry::Safe));
            counters
                .closed(&ConnectionEnd { failure, sent_bytes: 10, received_bytes: 20, ..end() }, 1);
        }
        let sums = |flags, closed, sent_bytes, received_bytes| EndSums {
            flags,
            closed,
            sent_bytes,
            received_bytes,
        };
        assert_eq!(counters.ended(), [sums("-", 1, 1, 2), sums("DC", 2, 20, 40)]);
        assert_eq!(counters.failed(Kind::Shutdown), 1);
    }
}
