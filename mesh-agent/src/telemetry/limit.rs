//! Limits the lines that one source may cause in the access log, and one subject in the agent's own,
//! so that a flood fills neither the disk nor the queue that others' lines need.
//!
//! A source is a workload, an identity, or the network of an address that the mesh does not know. Each
//! has a token bucket for connections that ended well and one for those that failed: a flood of
//! refusals costs none of the former. The buckets are found by a keyed hash, so that memory is fixed
//! and nobody can choose to share one; addresses that the mesh does not know share one more.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mesh_common::budget::{Rate, change};
use tokio::time::Instant;

use crate::model::spiffe::SpiffeId;
use crate::telemetry::event::ConnectionEnd;
use crate::telemetry::{Shared, Telemetry, access_log};

/// More than workloads that are busy at once; a power of two. 64 KiB in all.
const BUCKETS: usize = 4096;

/// Shares of a source that all unknown addresses have together.
const UNKNOWN_SHARES: u64 = 4;

/// A source's share for connections that failed, in parts of that for the others.
const FAILED_PART: u64 = 10;

/// The limits of both logs.
#[derive(Debug)]
pub(super) struct Lines {
    access: Limit,
    mentions: Buckets,
    /// By [`Mention`].
    kinds: [Mentions; Mention::N],
    started: Instant,
}

/// The lines of one kind in the agent's own log.
#[derive(Debug, Default)]
struct Mentions {
    bucket: AtomicU64,
    /// Lines that were left out since the last one that was written.
    untold: AtomicU64,
    left_out: AtomicU64,
}

/// A kind of lines in the agent's own log that others can cause as often as they like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mention {
    /// A policy that is not enforced.
    DryRun,
    /// Handshakes of a peer are refused, because there are too many.
    Handshakes,
    /// A peer was refused by its handshake.
    Peer,
    /// A request of an identity was refused.
    Request,
    /// A peer does not answer on a tunnel.
    Silence,
    /// A request without an identity was refused. Strangers, who have addresses without number, take no line
    /// of an identity.
    Stranger,
    /// A peer broke the protocol of a tunnel.
    Violation,
}

impl Mention {
    const N: usize = Self::Violation as usize + 1;
}

/// A line that the agent's own log may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mentioned {
    /// Lines of its kind that were left out since the last one, if any were.
    pub left_out: Option<u64>,
}

/// The network of an address: of IPv6 the first 64 bits, which one host may have. A subject of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network([u8; 16]);

impl From<IpAddr> for Network {
    fn from(ip: IpAddr) -> Self {
        let mut network = match ip.to_canonical() {
            IpAddr::V4(ip) => return Self(ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) => ip.octets(),
        };
        network[8..].fill(0);
        Self(network)
    }
}

/// The buckets of all sources.
#[derive(Debug)]
struct Limit {
    /// `None`: there is no limit.
    rates: Option<[Rates; 2]>,
    /// By whether it failed.
    buckets: [Buckets; 2],
    unknown: [AtomicU64; 2],
}

/// Token buckets, found by a keyed hash.
#[derive(Debug)]
struct Buckets {
    hash: RandomState,
    all: Box<[AtomicU64]>,
}

/// Lines of one subject in the agent's own log.
const MENTIONS: Rate = Rate::new(5, 50);

/// Lines of one kind, of all subjects: a stranger may have more networks than anybody has disk. With 1 KiB
/// for a long line these are 1.7 GB a day at worst.
const ALL_MENTIONS: Rate = Rate::new(20, 200);

/// The limits of connections that ended alike.
#[derive(Clone, Copy, Debug)]
struct Rates {
    of_source: Rate,
    of_unknown: Rate,
}

/// The opener of a connection, as far as the limit tells them apart.
#[derive(Hash)]
enum Source<'a> {
    Workload(&'a str, &'a str),
    Identity(&'a SpiffeId),
    Network(Network),
}

impl Telemetry {
    /// Whether the agent's own log may have a line of a kind about `subject`. A line that it may not have is
    /// counted, and told of by the next of its kind.
    pub fn mention(&self, kind: Mention, subject: impl Hash) -> Option<Mentioned> {
        let lines = &self.shared.lines;
        lines.mention(kind, subject, lines.started.elapsed())
    }
}

impl Shared {
    /// Whether the limit of its source lets a connection have a line in the access log.
    pub(super) fn may_log(&self, end: &ConnectionEnd) -> bool {
        !self.access_log.is_on() || self.lines.may_log(end)
    }

    /// Writes one line for so many connections, if lines are wanted.
    pub(super) fn write_line(&self, end: &ConnectionEnd, connections: u64) {
        if self.access_log.is_on() {
            self.access_log.push(&access_log::line(end, connections));
        }
    }
}

impl Lines {
    /// So many lines of the access log in a second for each source; 0: as many as there are.
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            access: Limit::new(per_second),
            mentions: Buckets::new(),
            kinds: Default::default(),
            started: Instant::now(),
        }
    }

    /// Whether a connection may have a line in the access log.
    pub(super) fn may_log(&self, end: &ConnectionEnd) -> bool {
        self.access.allows(end, self.started.elapsed())
    }

    /// Whether the agent's own log may have a line, `now` after the agent's start.
    fn mention(&self, kind: Mention, subject: impl Hash, now: Duration) -> Option<Mentioned> {
        let all = &self.kinds[kind as usize];
        let allowed = self.mentions.spend((kind as usize, subject), MENTIONS, now)
            && spend(&all.bucket, ALL_MENTIONS, now);
        if allowed {
            let untold = all.untold.swap(0, Ordering::Relaxed);
            return Some(Mentioned { left_out: (untold > 0).then_some(untold) });
        }
        all.untold.fetch_add(1, Ordering::Relaxed);
        all.left_out.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Lines that the agent's own log does not have.
    pub(super) fn left_out(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.left_out.load(Ordering::Relaxed)).sum()
    }
}

impl Limit {
    /// So many lines in a second for each source; 0: as many as there are.
    fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second);
        let rates = |per_second: u64, burst: u64| Rates {
            of_source: Rate::new(per_second, burst),
            of_unknown: Rate::new(UNKNOWN_SHARES * per_second, UNKNOWN_SHARES * burst),
        };
        let failed = per_second.div_ceil(FAILED_PART);
        Self {
            rates: (per_second > 0)
                .then(|| [rates(per_second, 2 * per_second), rates(failed, 2 * failed)]),
            buckets: std::array::from_fn(|_| Buckets::new()),
            unknown: Default::default(),
        }
    }

    /// Whether `end` may have a line, `now` after the agent's start.
    fn allows(&self, end: &ConnectionEnd, now: Duration) -> bool {
        let failed = usize::from(end.failed().is_some());
        let Some(rates) = self.rates.map(|rates| rates[failed]) else { return true };
        let source = Source::of(end);
        self.buckets[failed].spend(&source, rates.of_source, now)
            && (!matches!(source, Source::Network(_))
                || spend(&self.unknown[failed], rates.of_unknown, now))
    }
}

impl Buckets {
    fn new() -> Self {
        let all = (0..BUCKETS).map(|_| AtomicU64::default()).collect();
        Self { hash: RandomState::new(), all }
    }

    fn spend(&self, key: impl Hash, rate: Rate, now: Duration) -> bool {
        spend(&self.all[self.place(key)], rate, now)
    }

    fn place(&self, key: impl Hash) -> usize {
        usize::try_from(self.hash.hash_one(key) % BUCKETS as u64).unwrap_or(0)
    }
}

/// Takes a token of a bucket, `now` after the agent's start.
fn spend(bucket: &AtomicU64, rate: Rate, now: Duration) -> bool {
    let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    change(bucket, |full_at| rate.spend(full_at, now))
}

impl<'a> Source<'a> {
    fn of(end: &'a ConnectionEnd) -> Self {
        let source = &end.parties.source;
        if let Some(workload) = &source.workload {
            return Self::Workload(&workload.name.namespace, &workload.name.name);
        }
        if let Some(identity) = &source.principal {
            return Self::Identity(identity);
        }
        Self::Network(end.downstream_remote.ip().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Failure, Kind, Retry, Side};
    use crate::telemetry::testing::{end, workload};

    /// Lines that one second of a flood gets, a connection every 100 µs, from the burst on.
    fn lines(limit: &Limit, end: &ConnectionEnd) -> u64 {
        let moments = (0..10_000).map(|n| Duration::from_micros(100 * n));
        moments.map(|now| u64::from(limit.allows(end, now))).sum()
    }

    fn failed() -> ConnectionEnd {
        let failure = Some(Failure::new(Kind::Denied, Side::Mesh, Retry::Never));
        ConnectionEnd { failure, ..end() }
    }

    /// A connection from an address that the mesh does not know.
    fn unknown(address: &str) -> ConnectionEnd {
        let mut end = failed();
        end.parties.source = crate::telemetry::Peer::default();
        end.downstream_remote = address.parse().unwrap();
        end
    }

    #[test]
    fn a_source_gets_its_burst_and_its_rate() {
        let limit = Limit::new(1000);
        assert_eq!(lines(&limit, &end()), 2 * 1000 + 1000 - 1);
        assert_eq!(lines(&limit, &failed()), 2 * 100 + 100 - 1);
    }

    /// The first of `others` that does not happen to share the bucket of `end`.
    fn apart(
        limit: &Limit,
        end: &ConnectionEnd,
        others: impl IntoIterator<Item = ConnectionEnd>,
    ) -> ConnectionEnd {
        let place = |end: &ConnectionEnd| limit.buckets[1].place(Source::of(end));
        others.into_iter().find(|other| place(other) != place(end)).unwrap()
    }

    #[test]
    fn a_flood_costs_others_and_other_outcomes_nothing() {
        let limit = Limit::new(10);
        lines(&limit, &failed());
        assert!(limit.allows(&end(), Duration::from_secs(1)), "of the same source, well ended");
        let others = ["other", "another", "third"].map(|name| {
            let mut other = failed();
            other.parties.source.workload = Some(workload(name, "v1"));
            other
        });
        assert!(limit.allows(&apart(&limit, &failed(), others), Duration::from_secs(1)));
    }

    #[test]
    fn one_network_is_one_source_and_all_unknown_ones_share_a_bound() {
        let limit = Limit::new(1000);
        let (flood, now) = (unknown("[2001:db8::1]:1"), Duration::from_secs(1));
        lines(&limit, &flood);
        while limit.allows(&flood, now) {}
        assert!(!limit.allows(&unknown("[2001:db8::2]:2"), now));
        for others in [
            ["[2001:db8:0:1::1]:1", "[2001:db8:0:2::1]:1", "[2001:db8:0:3::1]:1"],
            ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"],
        ] {
            assert!(limit.allows(&apart(&limit, &flood, others.map(unknown)), now));
        }
        let all = (0..10_000).map(|n| unknown(&format!("10.0.{}.{}:1", n / 250, n % 250)));
        let lines = all.filter(|end| limit.allows(end, now)).count();
        assert!(lines <= 2 * 4 * 100, "{lines}");
    }

    #[test]
    fn a_subject_has_few_lines_in_the_log() {
        let log = Lines::new(0);
        let mention = |subject, now| log.mention(Mention::Peer, subject, now);
        let moments = (0..10_000).map(|n| Duration::from_micros(100 * n));
        let lines = moments.filter(|now| mention("one", *now).is_some()).count();
        assert_eq!(lines, 50 + 5 - 1);
        let others = ["another", "a third", "a fourth"];
        let place = |subject: &str| log.mentions.place((Mention::Peer as usize, subject));
        let other = others.into_iter().find(|other| place(other) != place("one")).unwrap();
        let now = Duration::from_secs(1);
        let told = mention(other, now).and_then(|mention| mention.left_out);
        let all = log.left_out();
        assert_eq!(all, 10_000 - 54);
        // The lines of the flood have told of the others between them.
        assert!(told.is_some_and(|told| told < all), "{told:?}");
        assert_eq!(mention(other, now), Some(Mentioned { left_out: None }));
    }

    /// A stranger with an IPv6 /112, or with as many networks.
    #[test]
    fn many_sources_have_no_more_lines_than_the_kind() {
        let now = Duration::from_secs(1);
        let count = |network: &dyn Fn(u32) -> String| {
            let log = Lines::new(0);
            let one = |n| {
                let ip: IpAddr = network(n).parse().unwrap();
                log.mention(Mention::Stranger, (Network::from(ip), "echo"), now)
            };
            let lines = (0..5000).filter(|n| one(*n).is_some()).count();
            assert_eq!(log.left_out(), 5000 - lines as u64);
            let another = |subject| log.mention(Mention::Request, subject, now).is_some();
            assert!(["a", "b", "c"].into_iter().any(another), "lines of another kind");
            lines
        };
        assert_eq!(count(&|n| format!("2001:db8::{n:x}")), 50);
        assert_eq!(count(&|n| format!("2001:db8:0:{n:x}::1")), 200);
        assert_eq!(count(&|n| format!("10.0.{}.{}", n / 250, n % 250)), 200);
    }

    #[test]
    fn without_a_limit_every_connection_has_a_line() {
        assert_eq!(lines(&Limit::new(0), &failed()), 10_000);
    }
}
