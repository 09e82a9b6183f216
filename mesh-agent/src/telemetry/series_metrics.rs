//! The metrics that are kept by the parties of connections: how they are printed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};

use crate::failure::Kind;
use crate::telemetry::labels::{Counters, EndSums, LABELS, NO_FLAGS};
use crate::telemetry::metrics::{
    ACCESS_LOG_LIMITED, CLOSED, FAILED, ISTIO_DURATION, ISTIO_REQUESTS, Labels, Metric, OPENED,
    RECEIVED, SENT, describe, sample,
};
use crate::telemetry::requests::{BOUNDS_MS, Sums};

/// The metrics that Istio's users know.
pub(super) fn encode_connections(
    encoder: &mut DescriptorEncoder<'_>,
    all: &[Arc<Counters>],
) -> Result<(), fmt::Error> {
    let mut family = describe(encoder, &OPENED)?;
    for series in all {
        sample(&mut family, &OPENED, connection_labels(series), &[NO_FLAGS], series.opened())?;
    }
    let closed = |sums: &EndSums| sums.closed;
    let sent = |sums: &EndSums| sums.sent_bytes;
    let received = |sums: &EndSums| sums.received_bytes;
    encode_ended(encoder, &CLOSED, all, closed)?;
    encode_ended(encoder, &SENT, all, sent)?;
    encode_ended(encoder, &RECEIVED, all, received)?;
    let mut family = describe(encoder, &FAILED)?;
    for series in all {
        for kind in Kind::ALL.iter().filter(|kind| kind.is_failure()) {
            let count = series.failed(*kind);
            if count > 0 {
                let values = [kind.response_flags(), kind.code()];
                sample(&mut family, &FAILED, connection_labels(series), &values, count)?;
            }
        }
    }
    Ok(())
}

fn encode_ended(
    encoder: &mut DescriptorEncoder<'_>,
    metric: &'static Metric,
    all: &[Arc<Counters>],
    count: impl Fn(&EndSums) -> u64,
) -> Result<(), fmt::Error> {
    let mut family = describe(encoder, metric)?;
    for series in all {
        for sums in series.ended() {
            let labels = connection_labels(series);
            sample(&mut family, metric, labels, &[sums.flags], count(&sums))?;
        }
    }
    Ok(())
}

fn connection_labels(series: &Counters) -> Labels<'_> {
    LABELS.iter().copied().zip(series.values.iter().map(|value| &**value)).collect()
}

/// Connections without a line in the access log, by the reporter and the source.
pub(super) fn encode_limited(
    encoder: &mut DescriptorEncoder<'_>,
    all: &[Arc<Counters>],
) -> Result<(), fmt::Error> {
    let mut sums = BTreeMap::<_, u64>::new();
    for series in all.iter().filter(|series| series.without_line() > 0) {
        // The first three of `LABELS`.
        let values: Vec<&str> = series.values.iter().take(3).map(|value| &**value).collect();
        *sums.entry(values).or_default() += series.without_line();
    }
    let mut family = describe(encoder, &ACCESS_LOG_LIMITED)?;
    for (values, count) in sums {
        sample(&mut family, &ACCESS_LOG_LIMITED, vec![], &values, count)?;
    }
    Ok(())
}

/// Requests, where there were some.
pub(super) fn encode_answered(
    encoder: &mut DescriptorEncoder<'_>,
    all: &[Arc<Counters>],
) -> Result<(), fmt::Error> {
    let all: Vec<_> = all.iter().map(|series| (series, series.requests.all())).collect();
    let mut family = describe(encoder, &ISTIO_REQUESTS)?;
    for (series, sums) in flat(&all) {
        let (code, grpc) = statuses(sums);
        let values = [code.as_str(), grpc.as_str(), sums.kind.flags];
        let labels = request_labels(series, sums);
        sample(&mut family, &ISTIO_REQUESTS, labels, &values, sums.count())?;
    }
    let mut family = describe(encoder, &ISTIO_DURATION)?;
    for (series, sums) in flat(&all) {
        let (code, grpc) = statuses(sums);
        let values = [code.as_str(), grpc.as_str(), sums.kind.flags];
        let mut labels = request_labels(series, sums);
        labels.extend(ISTIO_DURATION.labels.iter().copied().zip(values));
        let bounds = BOUNDS_MS.into_iter().chain([f64::MAX]);
        let buckets: Vec<_> = bounds.zip(sums.buckets).collect();
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            sums.lasted,
            sums.count(),
            &buckets,
            None,
        )?;
    }
    Ok(())
}

fn flat<'a>(
    all: &'a [(&'a Arc<Counters>, Vec<Sums>)],
) -> impl Iterator<Item = (&'a Counters, &'a Sums)> {
    all.iter().flat_map(|(series, sums)| sums.iter().map(move |sums| (&***series, sums)))
}

/// The statuses of HTTP and of gRPC.
fn statuses(sums: &Sums) -> (String, String) {
    let grpc = sums.kind.grpc_status.map(|status| status.to_string());
    (sums.kind.code.to_string(), grpc.unwrap_or_default())
}

fn request_labels<'a>(series: &'a Counters, sums: &'a Sums) -> Labels<'a> {
    let mut labels = connection_labels(series);
    for (name, value) in &mut labels {
        if *name == "request_protocol" {
            *value = sums.kind.protocol();
        }
    }
    labels
}
