//! Every metric: its name, what it means, and how it is printed.

use std::fmt;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::bounds::{self, Use};
use crate::failure::Kind;
use crate::task::scope;
use crate::task::turns::Stalled;
use crate::telemetry::event::Reporter;
use crate::telemetry::requests::{Unkept, Upgrade};
use crate::telemetry::series_metrics;
use crate::telemetry::{
    CertificateCounters, CoverageCount, Limit, Protocol, Role, Shared, Source, log,
};

/// One metric, as operators see it.
#[derive(Debug)]
pub(super) struct Metric {
    /// The name of its samples.
    pub(super) name: &'static str,
    /// The exposition's `# TYPE`.
    pub(super) kind: Type,
    /// The exposition's `# HELP`.
    pub(super) help: &'static str,
    /// Its labels, those of [`LABELS`](super::labels::LABELS) excepted, which all of `istio_*` have.
    pub(super) labels: &'static [&'static str],
}

/// The meaning of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Always 1; the labels are the information.
    Info,
    /// How often values were below bounds; see [`BOUNDS_MS`](super::requests::BOUNDS_MS).
    Histogram,
}

macro_rules! catalog {
    ($($id:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(pub(super) const $id: Metric = Metric {
            name: $name,
            kind: Type::$kind,
            help: $help,
            labels: &[$($label),*],
        };)*
        /// Every metric, in the order in which they are printed.
        #[cfg(test)]
        pub(super) const ALL: &[Metric] = &[$($id),*];
    };
}

catalog! {
    OPENED = Counter "istio_tcp_connections_opened_total" ["response_flags"]
        "Connections that were opened";
    CLOSED = Counter "istio_tcp_connections_closed_total" ["response_flags"]
        "Connections that ended";
    FAILED = Counter "istio_tcp_connections_failed_total" ["response_flags", "reason"]
        "Connections that ended in a failure";
    SENT = Counter "istio_tcp_sent_bytes_total" ["response_flags"]
        "Bytes sent to clients, counted when a connection ends";
    RECEIVED = Counter "istio_tcp_received_bytes_total" ["response_flags"]
        "Bytes received from clients, counted when a connection ends";
    ISTIO_REQUESTS = Counter "istio_requests_total"
        ["response_code", "grpc_response_status", "response_flags"]
        "HTTP requests that were answered";
    ISTIO_DURATION = Histogram "istio_request_duration_milliseconds"
        ["response_code", "grpc_response_status", "response_flags"]
        "From the head of a request to the end of its answer";
    BUILD = Info "mesh_build_info" ["version"]
        "The version of this agent";
    OPEN = Gauge "mesh_connections_open" ["reporter"]
        "Connections through the agent that are open";
    TUNNELS_OPEN = Gauge "mesh_tunnels_open" ["protocol"]
        "Tunnels to and from other agents that are open";
    TUNNELS_VIOLATED = Counter "mesh_tunnels_violated_total" ["protocol"]
        "Tunnels that were closed because the peer broke their protocol";
    TUNNELS_OPENED = Counter "mesh_tunnels_opened_total" ["protocol"]
        "Tunnels to and from other agents that were opened";
    HANDSHAKES = Counter "mesh_handshakes_total" ["side", "resumed"]
        "Handshakes of tunnels that succeeded";
    HANDSHAKES_FAILED = Counter "mesh_handshakes_failed_total" ["side", "reason"]
        "Handshakes of tunnels that failed";
    HANDSHAKES_REFUSED = Counter "mesh_handshakes_refused_total" ["limit"]
        "Connections of peers that were closed before a handshake, because there were too many";
    SOCKETS_LIMIT = Gauge "mesh_sockets_limit" []
        "Sockets of connections that the agent may hold at once";
    SOCKETS_OPEN = Gauge "mesh_sockets_open" ["used"]
        "Sockets of connections that the agent holds, by use";
    MEMORY_LIMIT = Gauge "mesh_memory_promised_limit_bytes" []
        "Bytes of memory that connections of HTTP/2 and tunnels of HBONE may be promised";
    MEMORY_PROMISED = Gauge "mesh_memory_promised_bytes" ["used"]
        "Bytes of memory that connections of HTTP/2 and tunnels of HBONE are promised, by use";
    SOCKETS_REFUSED = Counter "mesh_sockets_refused_total" ["used", "limit"]
        "Connections that were refused because the client, the workload or the node had too many";
    ACCEPT_FAILURES = Counter "mesh_accept_failures_total" []
        "Failures of accept() because the process or the system was out of descriptors or memory";
    REQUESTS = Counter "mesh_http_requests_total" ["response_code", "answered_by"]
        "HTTP requests to services with HTTP routes that were answered, by a backend or by the mesh";
    UPGRADES = Counter "mesh_http_upgrades_total" ["result"]
        "HTTP requests to switch protocols, where requests are judged or routed";
    UNKEPT = Counter "mesh_http_unkept_total" ["reason"]
        "HTTP requests that were sent once alone, where they were to be tried again or copied";
    DIALS_HELD = Counter "mesh_dials_held_total" []
        "Connections that failed at once, because their peer had just failed";
    SNAPSHOT_REVISION = Gauge "mesh_snapshot_revision" []
        "Revision of the configuration that is in force in the proxies";
    APPLIED_REVISION = Gauge "mesh_applied_revision" []
        "Revision of the configuration that is in force in the kernel";
    CONDITIONS = Gauge "mesh_conditions" []
        "Documents' faults that the agent reports at /conditions";
    ADMIN_LISTENING = Gauge "mesh_admin_listening" ["address"]
        "Whether the agent listens at an address of --admin or --metrics: 0 while another process does";
    KERNEL_CONNECTS = Counter "mesh_kernel_connects_total" ["verdict"]
        "Calls of connect() by workloads, by the kernel program's verdict";
    KERNEL_ARRIVALS = Counter "mesh_kernel_arrivals_total" ["verdict"]
        "Connections that arrived at workloads, by the kernel program's verdict";
    KERNEL_REFUSED = Gauge "mesh_kernel_entries_refused" ["map"]
        "Entries of the latest configuration that the kernel has refused to take into a map";
    KERNEL_EVENTS_LOST = Counter "mesh_kernel_events_lost_total" []
        "Reports of the kernel about connections that were lost: neither an event nor a part of a sum";
    POLICY_CLOSED = Counter "mesh_policy_closed_connections_total" []
        "Direct connections that were ended because a changed policy forbids them";
    VERDICTS = Counter "mesh_policy_verdicts_total" ["policy", "rule", "reason"]
        "Connections and requests that policies refused, or of which they had something to tell";
    COVERAGE = Counter "mesh_coverage_connections_total"
        ["workload", "workload_namespace", "direction", "how"]
        "Connections of workloads as an observer sees them, by the way that they really went";
    CERTIFICATE_EXPIRY = Gauge "mesh_certificate_expiry_seconds" ["identity"]
        "When a workload's certificate expires, in Unix time";
    AUTHORITY_EXPIRY = Gauge "mesh_authority_expiry_seconds" []
        "When the certificate that signs on this node expires, in Unix time";
    CERTIFICATES_BELOW = Gauge "mesh_certificates_below_life" ["of", "percent"]
        "Certificates with less than so much of their life left";
    RENEWALS = Counter "mesh_certificate_renewals_total" ["result"]
        "Certificates of workloads that were renewed, or could not be";
    ACCESS_LOG_DROPPED = Counter "mesh_access_log_dropped_total" []
        "Access-log lines that were lost because the log could not be written fast enough or at all";
    ACCESS_LOG_LIMITED = Counter "mesh_access_log_limited_total"
        ["reporter", "source_workload", "source_workload_namespace"]
        "Connections that have no access-log line of their own, because their source had too many";
    LOG_DROPPED = Counter "mesh_log_dropped_total" []
        "Lines of the agent's own log that were lost because standard error was not read fast enough";
    LOG_LIMITED = Counter "mesh_log_limited_total" []
        "Lines that the agent's own log does not have, because there were too many alike";
    SERIES_OVERFLOW = Counter "mesh_metric_series_overflow_total" []
        "Connections that are counted in the series `overflow`, because there were too many series";
    THREAD_STALLED = Gauge "mesh_thread_stalled_milliseconds" ["thread"]
        "Time for which a thread of the agent has run no task, in steps of 200 ms";
    THREAD_STALLS = Counter "mesh_thread_stalls_total" ["thread"]
        "Times that a thread of the agent ran no task for a second";
    TASK_PANICS = Counter "mesh_task_panics_total" []
        "Tasks of the agent that panicked";
}

/// Labels and their values.
pub(super) type Labels<'a> = Vec<(&'a str, &'a str)>;

impl Shared {
    /// The numbers that other modules count.
    pub(super) fn sources(&self) -> MutexGuard<'_, Vec<Source>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Prints all metrics of one agent.
#[derive(Debug)]
pub(super) struct Exposition(pub(super) Arc<Shared>);

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let series = self.0.series.all();
        series_metrics::encode_connections(&mut encoder, &series)?;
        series_metrics::encode_answered(&mut encoder, &series)?;
        series_metrics::encode_limited(&mut encoder, &series)?;
        encode_process(&mut encoder, &self.0)?;
        encode_tunnels(&mut encoder, &self.0)?;
        encode_refused(&mut encoder, &self.0)?;
        encode_verdicts(&mut encoder, &self.0)?;
        encode_requests(&mut encoder, &self.0)?;
        for source in self.0.sources().iter() {
            encode_source(&mut encoder, &self.0, source)?;
        }
        Ok(())
    }
}

/// The agent itself.
fn encode_process(encoder: &mut DescriptorEncoder<'_>, shared: &Shared) -> Result<(), fmt::Error> {
    let mut family = describe(encoder, &BUILD)?;
    sample(&mut family, &BUILD, vec![], &[shared.version], 1)?;
    let plain = [
        (&SNAPSHOT_REVISION, shared.snapshot_revision.get()),
        (&APPLIED_REVISION, shared.applied_revision.get()),
        (&CONDITIONS, shared.conditions.get()),
        (&ACCESS_LOG_DROPPED, shared.access_log.dropped()),
        (&LOG_DROPPED, log::dropped()),
        (&LOG_LIMITED, shared.lines.left_out()),
        (&SERIES_OVERFLOW, shared.series.overflowed()),
        (&POLICY_CLOSED, shared.policy_closed.get()),
        (&DIALS_HELD, shared.dials_held.get()),
        (&TASK_PANICS, scope::panics()),
    ];
    for (metric, value) in plain {
        let mut family = describe(encoder, metric)?;
        sample(&mut family, metric, vec![], &[], value)?;
    }
    let mut family = describe(encoder, &OPEN)?;
    for reporter in Reporter::ALL {
        let open = shared.open[*reporter as usize].get();
        sample(&mut family, &OPEN, vec![], &[reporter.as_str()], open)?;
    }
    Ok(())
}

fn encode_tunnels(encoder: &mut DescriptorEncoder<'_>, shared: &Shared) -> Result<(), fmt::Error> {
    for (metric, numbers) in [
        (&TUNNELS_OPEN, &shared.tunnels_open),
        (&TUNNELS_OPENED, &shared.tunnels_opened),
        (&TUNNELS_VIOLATED, &shared.tunnels_violated),
    ] {
        let mut family = describe(encoder, metric)?;
        for (protocol, number) in Protocol::ALL.iter().zip(numbers) {
            sample(&mut family, metric, vec![], &[protocol.as_str()], number.get())?;
        }
    }
    let mut family = describe(encoder, &HANDSHAKES)?;
    for role in Role::ALL {
        let numbers = &shared.handshakes[*role as usize];
        for (resumed, number) in ["false", "true"].into_iter().zip(numbers) {
            sample(&mut family, &HANDSHAKES, vec![], &[role.as_str(), resumed], number.get())?;
        }
    }
    let mut family = describe(encoder, &HANDSHAKES_FAILED)?;
    for role in Role::ALL {
        for kind in Kind::ALL.iter().filter(|kind| kind.is_failure()) {
            let count = shared.handshakes_failed[*role as usize][*kind as usize].get();
            if count > 0 {
                let values = [role.as_str(), kind.code()];
                sample(&mut family, &HANDSHAKES_FAILED, vec![], &values, count)?;
            }
        }
    }
    Ok(())
}

/// Handshakes that peers were not allowed to begin, and protocols that requests ask to switch to.
fn encode_refused(encoder: &mut DescriptorEncoder<'_>, shared: &Shared) -> Result<(), fmt::Error> {
    let mut family = describe(encoder, &HANDSHAKES_REFUSED)?;
    for (limit, number) in Limit::ALL.iter().zip(&shared.handshakes_refused) {
        sample(&mut family, &HANDSHAKES_REFUSED, vec![], &[limit.as_str()], number.get())?;
    }
    let mut family = describe(encoder, &UNKEPT)?;
    for (reason, number) in Unkept::ALL.iter().zip(&shared.unkept) {
        sample(&mut family, &UNKEPT, vec![], &[reason.as_str()], number.get())?;
    }
    let mut family = describe(encoder, &UPGRADES)?;
    for (result, number) in Upgrade::ALL.iter().zip(&shared.upgrades) {
        sample(&mut family, &UPGRADES, vec![], &[result.as_str()], number.get())?;
    }
    Ok(())
}

fn encode_verdicts(encoder: &mut DescriptorEncoder<'_>, shared: &Shared) -> Result<(), fmt::Error> {
    let verdicts = shared.verdicts.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut family = describe(encoder, &VERDICTS)?;
    for (said, count) in verdicts {
        let policy = said.policy.map_or_else(|| "-".to_owned(), |policy| policy.to_string());
        let rule = said.rule.map_or_else(|| "-".to_owned(), |rule| rule.to_string());
        sample(&mut family, &VERDICTS, vec![], &[&policy, &rule, said.reason], count)?;
    }
    Ok(())
}

/// Requests that were routed one by one.
fn encode_requests(encoder: &mut DescriptorEncoder<'_>, shared: &Shared) -> Result<(), fmt::Error> {
    let requests = shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut family = describe(encoder, &REQUESTS)?;
    for ((code, by), count) in requests {
        sample(&mut family, &REQUESTS, vec![], &[&code.to_string(), by], count)?;
    }
    Ok(())
}

/// Counts of other modules, asked for at each scrape.
fn encode_source(
    encoder: &mut DescriptorEncoder<'_>,
    shared: &Shared,
    source: &Source,
) -> Result<(), fmt::Error> {
    match source {
        Source::Kernel(read) => {
            let counted = read();
            for (metric, counts) in
                [(&KERNEL_CONNECTS, counted.connects), (&KERNEL_ARRIVALS, counted.arrivals)]
            {
                let mut family = describe(encoder, metric)?;
                for (verdict, count) in counts {
                    sample(&mut family, metric, vec![], &[verdict], count)?;
                }
            }
            let mut family = describe(encoder, &KERNEL_REFUSED)?;
            for (map, entries) in &counted.refused {
                sample(&mut family, &KERNEL_REFUSED, vec![], &[map], *entries)?;
            }
            let lost = counted.events_lost + shared.events_malformed.get();
            let mut family = describe(encoder, &KERNEL_EVENTS_LOST)?;
            sample(&mut family, &KERNEL_EVENTS_LOST, vec![], &[], lost)?;
        }
        Source::Coverage(read) => {
            let mut family = describe(encoder, &COVERAGE)?;
            for CoverageCount { workload, direction, how, count } in read() {
                let values = [&*workload.name, &*workload.namespace, direction, how];
                sample(&mut family, &COVERAGE, vec![], &values, count)?;
            }
        }
        Source::Certificates(read) => encode_certificates(encoder, &read())?,
        Source::Threads(read) => {
            let threads = read();
            let mut family = describe(encoder, &THREAD_STALLED)?;
            for Stalled { thread, lasts, .. } in &threads {
                let millis = u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX);
                sample(&mut family, &THREAD_STALLED, vec![], &[thread], millis)?;
            }
            let mut family = describe(encoder, &THREAD_STALLS)?;
            for Stalled { thread, count, .. } in &threads {
                sample(&mut family, &THREAD_STALLS, vec![], &[thread], *count)?;
            }
        }
        Source::Sockets(read) => encode_sockets(encoder, &read())?,
        Source::Admin(read) => {
            let mut family = describe(encoder, &ADMIN_LISTENING)?;
            for (address, listens) in read() {
                let values = [&*address.to_string()];
                sample(&mut family, &ADMIN_LISTENING, vec![], &values, u64::from(listens))?;
            }
        }
    }
    Ok(())
}

fn encode_sockets(
    encoder: &mut DescriptorEncoder<'_>,
    counts: &bounds::Counts,
) -> Result<(), fmt::Error> {
    let mut family = describe(encoder, &SOCKETS_LIMIT)?;
    sample(&mut family, &SOCKETS_LIMIT, vec![], &[], counts.most as u64)?;
    let mut family = describe(encoder, &SOCKETS_OPEN)?;
    for (used, held) in Use::ALL.iter().zip(counts.held) {
        sample(&mut family, &SOCKETS_OPEN, vec![], &[used.as_str()], held as u64)?;
    }
    let mut family = describe(encoder, &SOCKETS_REFUSED)?;
    for (used, refused) in Use::ALL.iter().zip(counts.refused) {
        for (limit, count) in bounds::Limit::ALL.iter().zip(refused) {
            let values = [used.as_str(), limit.as_str()];
            sample(&mut family, &SOCKETS_REFUSED, vec![], &values, count)?;
        }
    }
    let mut family = describe(encoder, &MEMORY_LIMIT)?;
    sample(&mut family, &MEMORY_LIMIT, vec![], &[], counts.memory.most_bytes)?;
    let mut family = describe(encoder, &MEMORY_PROMISED)?;
    for (used, bytes) in Use::ALL.iter().zip(counts.memory.promised_bytes) {
        sample(&mut family, &MEMORY_PROMISED, vec![], &[used.as_str()], bytes)?;
    }
    let mut family = describe(encoder, &ACCEPT_FAILURES)?;
    sample(&mut family, &ACCEPT_FAILURES, vec![], &[], counts.accept_failures)
}

fn encode_certificates(
    encoder: &mut DescriptorEncoder<'_>,
    counted: &CertificateCounters,
) -> Result<(), fmt::Error> {
    let unix = |at: SystemTime| at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut family = describe(encoder, &CERTIFICATE_EXPIRY)?;
    for (identity, expires) in &counted.expiries {
        let identity = identity.to_string();
        sample(&mut family, &CERTIFICATE_EXPIRY, vec![], &[&identity], unix(*expires))?;
    }
    if let Some(expires) = counted.authority {
        let mut family = describe(encoder, &AUTHORITY_EXPIRY)?;
        sample(&mut family, &AUTHORITY_EXPIRY, vec![], &[], unix(expires))?;
    }
    let mut family = describe(encoder, &CERTIFICATES_BELOW)?;
    for (of, percent, count) in &counted.below {
        sample(&mut family, &CERTIFICATES_BELOW, vec![], &[of, percent], *count)?;
    }
    let mut family = describe(encoder, &RENEWALS)?;
    for (result, count) in [("renewed", counted.renewed), ("failed", counted.failed)] {
        sample(&mut family, &RENEWALS, vec![], &[result], count)?;
    }
    Ok(())
}

/// Writes the header, in which a family is named without its samples' suffix.
pub(super) fn describe<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    metric: &'static Metric,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    let (suffix, kind) = match metric.kind {
        Type::Counter => ("_total", MetricType::Counter),
        Type::Gauge => ("", MetricType::Gauge),
        Type::Info => ("_info", MetricType::Info),
        Type::Histogram => ("", MetricType::Histogram),
    };
    let family = metric.name.strip_suffix(suffix).unwrap_or(metric.name);
    encoder.encode_descriptor(family, metric.help, None, kind)
}

/// Writes one sample with the labels `common` and the metric's own, whose `values` are in the
/// catalog's order.
pub(super) fn sample<'a>(
    family: &mut MetricEncoder<'_>,
    metric: &'static Metric,
    common: Labels<'a>,
    values: &[&'a str],
    value: u64,
) -> Result<(), fmt::Error> {
    let mut labels = common;
    labels.extend(metric.labels.iter().copied().zip(values.iter().copied()));
    let encode = |encoder: &mut MetricEncoder<'_>| match metric.kind {
        Type::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(&value, None),
        Type::Gauge => encoder.encode_gauge(&value),
        Type::Info => encoder.encode_info(&labels),
        // It has more than one value.
        Type::Histogram => Ok(()),
    };
    if labels.is_empty() || metric.kind == Type::Info {
        return encode(family);
    }
    encode(&mut family.encode_family(&labels)?)
}
