//! From measurements to figures: medians over the rounds, and ratios within each round.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::load::Calm;
use crate::machine::{Machine, Noise};
use crate::measure::{Sample, Seen};
use crate::memory::Memory;
use crate::unread::{self, Unread};
use crate::workload::{Contender, Path, Workload};

/// Names are ours where a row is made, and the file's where it is read.
pub(crate) type Name = Cow<'static, str>;

/// All of a run, as machines read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub machine: Machine,
    pub run: Run,
    pub noise: Noise,
    pub rows: Vec<Row>,
    pub lost: Vec<Loss>,
}

/// How it was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// The arguments of `cargo xtask bench`.
    pub arguments: Vec<String>,
    pub rounds: usize,
    /// How long one measurement took.
    pub seconds: f64,
    /// Whether the programs were built as they are shipped.
    pub release: bool,
}

/// A figure, as machines read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub path: Name,
    pub workload: Name,
    pub contender: Name,
    pub metric: Name,
    /// The median of all rounds.
    pub value: f64,
    pub min: f64,
    pub max: f64,
    pub unit: Name,
    /// The median of the rounds' ratios to what `direct` did in the same round.
    pub ratio_to_direct: Option<f64>,
    /// Those ratios, in the order of the rounds.
    pub ratios: Vec<f64>,
    /// The same to what others did, of those in [`BASES`] that were measured.
    #[serde(default)]
    pub to_others: BTreeMap<Name, Ratios>,
    /// Exchanges that failed, in all rounds.
    pub failed: u64,
}

/// How a figure compares with another contender's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratios {
    /// The median of the rounds' ratios.
    pub ratio: f64,
    /// Those ratios, in the order of the rounds.
    pub ratios: Vec<f64>,
}

/// With whom others are compared, besides `direct`.
pub(crate) const BASES: [Contender; 3] = [Contender::Haproxy, Contender::Nginx, Contender::Mesh];

/// A measurement that gave nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Loss {
    pub path: Name,
    pub workload: Name,
    pub contender: Name,
    pub round: usize,
    pub error: String,
}

/// The figures of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    Throughput,
    Rps,
    P50,
    P99,
    Max,
    /// Of what something disturbs on purpose, and of the same in the calm: the ratio of the two.
    RpsToCalm,
    P50ToCalm,
    P99ToCalm,
    /// Of what something disturbs on purpose: in the calm.
    P50Calm,
    P99Calm,
    CpuPerGb,
    CpuPer100k,
    TotalCpuPerGb,
    TotalCpuPer100k,
    MachineCpuPerGb,
    MachineCpuPer100k,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, workload, contender, round, error } = self;
        write!(f, "Lost: {path}/{workload} of {contender} in round {round}: {error}")
    }
}

impl Metric {
    /// All.
    pub(crate) const ALL: [Self; 16] = [
        Self::Throughput,
        Self::Rps,
        Self::P50,
        Self::P99,
        Self::Max,
        Self::RpsToCalm,
        Self::P50ToCalm,
        Self::P99ToCalm,
        Self::P50Calm,
        Self::P99Calm,
        Self::CpuPerGb,
        Self::CpuPer100k,
        Self::TotalCpuPerGb,
        Self::TotalCpuPer100k,
        Self::MachineCpuPerGb,
        Self::MachineCpuPer100k,
    ];

    /// The figures for which a workload is measured.
    pub(crate) fn of(workload: Workload) -> &'static [Self] {
        use Metric::{
            CpuPer100k, CpuPerGb, MachineCpuPer100k, MachineCpuPerGb, Max, P50, P50Calm, P50ToCalm,
            P99, P99Calm, P99ToCalm, Rps, RpsToCalm, Throughput, TotalCpuPer100k, TotalCpuPerGb,
        };
        match workload {
            Workload::Bulk1 | Workload::Bulk8 => {
                &[Throughput, CpuPerGb, TotalCpuPerGb, MachineCpuPerGb]
            }
            Workload::Pingpong => &[P50, P99, CpuPer100k, TotalCpuPer100k, MachineCpuPer100k],
            Workload::HttpRate | Workload::Http2Rate => {
                &[P50, P99, Max, CpuPer100k, TotalCpuPer100k, MachineCpuPer100k]
            }
            Workload::HttpSaturated
            | Workload::HttpNewConnection
            | Workload::Http2Saturated
            | Workload::Connect => &[Rps, P50, P99, CpuPer100k, TotalCpuPer100k, MachineCpuPer100k],
            Workload::StoppedReader | Workload::StoppedReaderBulk => {
                &[Rps, RpsToCalm, P50, P50ToCalm, P99, P99ToCalm]
            }
            Workload::Mixed1 | Workload::Mixed8 | Workload::MixedPaced => {
                &[Throughput, P50Calm, P50, P50ToCalm, P99Calm, P99, P99ToCalm]
            }
        }
    }

    /// The name for machines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Rps => "rps",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::Max => "max",
            Self::RpsToCalm => "rps_to_calm",
            Self::P50ToCalm => "p50_to_calm",
            Self::P99ToCalm => "p99_to_calm",
            Self::P50Calm => "p50_calm",
            Self::P99Calm => "p99_calm",
            Self::CpuPerGb => "cpu_per_gb",
            Self::CpuPer100k => "cpu_per_100k",
            Self::TotalCpuPerGb => "total_cpu_per_gb",
            Self::TotalCpuPer100k => "total_cpu_per_100k",
            Self::MachineCpuPerGb => "machine_cpu_per_gb",
            Self::MachineCpuPer100k => "machine_cpu_per_100k",
        }
    }

    /// The unit of its values.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "Gb/s",
            Self::Rps => "1/s",
            Self::P50 | Self::P99 | Self::Max | Self::P50Calm | Self::P99Calm => "us",
            Self::RpsToCalm | Self::P50ToCalm | Self::P99ToCalm => "ratio",
            Self::CpuPerGb | Self::TotalCpuPerGb | Self::MachineCpuPerGb => "CPU s/GB",
            Self::CpuPer100k | Self::TotalCpuPer100k | Self::MachineCpuPer100k => "CPU s/100k",
        }
    }

    /// The value; `None` if nothing was done that it could be about.
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
    fn value(self, Seen { report, usage, rest }: &Seen) -> Option<f64> {
        let (bytes, done) = (report.bytes as f64, report.done as f64);
        if done == 0.0 || report.seconds == 0.0 {
            return None;
        }
        let total = usage.total();
        let machine = (usage.machine - rest * usage.seconds).max(0.0);
        let calm = report.calm;
        let to_calm = |own: f64, of: fn(Calm) -> f64| {
            let base = of(calm?);
            (base > 0.0).then_some(own / base)
        };
        Some(match self {
            Self::RpsToCalm => to_calm(report.rps(), |calm| calm.rps)?,
            Self::P50ToCalm => to_calm(report.p50_us, |calm| calm.p50_us)?,
            Self::P99ToCalm => to_calm(report.p99_us, |calm| calm.p99_us)?,
            Self::P50Calm => calm?.p50_us,
            Self::P99Calm => calm?.p99_us,
            Self::Throughput => bytes * 8.0 / 1e9 / report.seconds,
            Self::Rps => report.rps(),
            Self::P50 => report.p50_us,
            Self::P99 => report.p99_us,
            Self::Max => report.max_us,
            Self::CpuPerGb => usage.proxies / (bytes / 1e9),
            Self::CpuPer100k => usage.proxies / (done / 1e5),
            Self::TotalCpuPerGb => total / (bytes / 1e9),
            Self::TotalCpuPer100k => total / (done / 1e5),
            Self::MachineCpuPerGb => machine / (bytes / 1e9),
            Self::MachineCpuPer100k => machine / (done / 1e5),
        })
    }
}

/// Makes a row for each metric of what was measured.
pub(crate) fn rows(samples: &[Sample], contenders: &[Contender]) -> Vec<Row> {
    let mut rows = Vec::new();
    for path in Path::ALL {
        for workload in Workload::ALL {
            for &contender in contenders {
                for &metric in Metric::of(workload) {
                    rows.extend(row(samples, (path, workload, contender), metric));
                }
            }
        }
    }
    rows
}

/// The rows of what connections cost the agents in memory.
#[expect(clippy::cast_precision_loss, reason = "sizes of processes are far below 2^52")]
pub(crate) fn memory_rows((contender, memory): &(Contender, Memory)) -> [Row; 4] {
    let row = |metric, value, unit| once((memory.path, HELD, *contender), metric, value, unit);
    [
        row("open_connections", memory.connections as f64, "1"),
        row("memory_idle", memory.idle as f64 / MIB, "MiB"),
        row("memory_per_connection", memory.per_connection() / 1024.0, "KiB"),
        row("memory_left", memory.left_per_connection() / 1024.0, "KiB"),
    ]
}

/// The rows of what waits for those who do not read, for each contender.
#[expect(clippy::cast_precision_loss, reason = "sizes of memory are far below 2^52")]
pub(crate) fn unread_rows(all: &[(Contender, Unread)]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (contender, unread) in all {
        let mut same = all.iter().filter(|(_, other)| other.size == unread.size);
        let direct = same.find(|(contender, _)| *contender == Contender::Direct);
        let direct = direct.map(|(_, direct)| direct);
        let mut row = |metric, of: fn(&Unread) -> u64| {
            let each = |unread| of(unread) as f64 / MIB / f64::from(unread::CONNECTIONS);
            let cell = (Path::SameNode, unread_workload(unread.size), *contender);
            let mut row = once(cell, metric, each(unread), "MiB");
            row.ratio_to_direct =
                direct.map(each).filter(|base| *base > 0.0).map(|base| row.value / base);
            row.ratios = row.ratio_to_direct.into_iter().collect();
            rows.push(row);
        };
        row("sent", |unread| unread.sent);
        row("tcp_memory", |unread| unread.tcp);
        row("machine_memory", |unread| unread.machine);
    }
    rows
}

/// The workload's name in rows about held connections.
pub(crate) const HELD: &str = "held_connections";

/// The workload's name in rows about connections that are not read.
pub(crate) fn unread_workload(size: u32) -> &'static str {
    if size == unread::LARGE { "unread_large" } else { "unread_small" }
}

const MIB: f64 = 1_048_576.0;

/// A row of what was measured once.
fn once(
    (path, workload, contender): (Path, &'static str, Contender),
    metric: &'static str,
    value: f64,
    unit: &'static str,
) -> Row {
    Row {
        path: path.name().into(),
        workload: workload.into(),
        contender: contender.name().into(),
        metric: metric.into(),
        value,
        min: value,
        max: value,
        unit: unit.into(),
        ratio_to_direct: None,
        ratios: Vec::new(),
        to_others: BTreeMap::new(),
        failed: 0,
    }
}

/// The measurements that gave nothing.
pub(crate) fn losses(samples: &[Sample]) -> Vec<Loss> {
    let lost = |sample: &Sample| {
        let error = match &sample.seen {
            Err(error) => error.clone(),
            Ok(seen) if seen.report.done == 0 => "nothing went well".to_owned(),
            Ok(_) => return None,
        };
        let Sample { round, path, workload, contender, .. } = sample;
        let (path, workload, contender) =
            (path.name().into(), workload.name().into(), contender.name().into());
        Some(Loss { path, workload, contender, round: round + 1, error })
    };
    samples.iter().filter_map(lost).collect()
}

fn row(samples: &[Sample], cell: (Path, Workload, Contender), metric: Metric) -> Option<Row> {
    let (path, workload, contender) = cell;
    let of = |contender: Contender| {
        samples.iter().filter_map(move |sample| {
            let same = (sample.path, sample.workload, sample.contender);
            let seen = sample.seen.as_ref().ok()?;
            (same == (path, workload, contender)).then_some((sample.round, seen))
        })
    };
    let values = |contender| {
        let valued = |(round, seen)| Some((round, metric.value(seen)?));
        of(contender).filter_map(valued).collect::<Vec<_>>()
    };
    let own = values(contender);
    let to = |base: Contender| {
        let bases = values(base);
        let ratio = |&(round, value): &(usize, f64)| {
            let (_, base) = *bases.iter().find(|(other, _)| *other == round)?;
            (base > 0.0).then_some(value / base)
        };
        own.iter().filter_map(ratio).collect::<Vec<_>>()
    };
    let ratios = to(Contender::Direct);
    let others = BASES.into_iter().filter(|base| *base != contender);
    let to_others = others.filter_map(|base| {
        let ratios = to(base);
        Some((base.name().into(), Ratios { ratio: median(ratios.clone())?, ratios }))
    });
    let to_others = to_others.collect();
    let all: Vec<f64> = own.iter().map(|(_, value)| *value).collect();
    Some(Row {
        path: path.name().into(),
        workload: workload.name().into(),
        contender: contender.name().into(),
        metric: metric.name().into(),
        min: all.iter().copied().reduce(f64::min)?,
        max: all.iter().copied().reduce(f64::max)?,
        value: median(all)?,
        unit: metric.unit().into(),
        ratio_to_direct: median(ratios.clone()),
        ratios,
        to_others,
        failed: of(contender).map(|(_, seen)| seen.report.failed).sum(),
    })
}

/// The middle, or the mean of the two in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get(values.len().saturating_sub(1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Usage;
    use crate::load::Report;

    fn sample(round: usize, contender: Contender, done: u64, proxies: f64) -> Sample {
        let report = Report { done, seconds: 2.0, ..Report::default() };
        let usage = Usage { proxies, load: 1.0, machine: 4.0, seconds: 2.0, ..Usage::default() };
        let (path, workload) = (Path::CrossNode, Workload::HttpSaturated);
        Sample { round, path, workload, contender, seen: Ok(Seen { report, usage, rest: 0.5 }) }
    }

    fn find(samples: &[Sample], contender: Contender, metric: Metric) -> Row {
        let rows = rows(samples, &[Contender::Direct, Contender::Mesh]);
        let mut rows = rows.into_iter();
        rows.find(|row| row.contender == contender.name() && row.metric == metric.name()).unwrap()
    }

    fn check(value: f64, expect: f64) {
        assert!((value - expect).abs() < 1e-9, "{value} instead of {expect}");
    }

    #[test]
    fn a_ratio_is_that_of_one_round() {
        // The machine was twice as fast in the second round, for both; and slow for one in the
        // third. The ratio of the medians would be 0.25.
        let samples = [
            sample(0, Contender::Direct, 1000, 0.0),
            sample(0, Contender::Mesh, 500, 0.5),
            sample(1, Contender::Direct, 2000, 0.0),
            sample(1, Contender::Mesh, 1000, 1.0),
            sample(2, Contender::Direct, 2000, 0.0),
            sample(2, Contender::Mesh, 200, 1.0),
        ];
        let row = find(&samples, Contender::Mesh, Metric::Rps);
        check(row.value, 250.0);
        check(row.min, 100.0);
        check(row.max, 500.0);
        check(row.ratio_to_direct.unwrap(), 0.5);
        assert_eq!(row.ratios, [0.5, 0.5, 0.1]);
    }

    #[test]
    fn processor_time_is_told_for_what_was_done_with_it() {
        let samples =
            [sample(0, Contender::Direct, 1000, 0.0), sample(0, Contender::Mesh, 1000, 0.5)];
        check(find(&samples, Contender::Mesh, Metric::CpuPer100k).value, 50.0);
        let total = find(&samples, Contender::Mesh, Metric::TotalCpuPer100k);
        check(total.value, 150.0);
        check(total.ratio_to_direct.unwrap(), 1.5);
        // 4 s of the machine in 2 s, of which it uses half a processor anyway.
        check(find(&samples, Contender::Mesh, Metric::MachineCpuPer100k).value, 300.0);
        let direct = find(&samples, Contender::Direct, Metric::CpuPer100k);
        check(direct.value, 0.0);
        assert_eq!(find(&samples, Contender::Mesh, Metric::CpuPer100k).ratio_to_direct, None);
    }

    #[test]
    fn proxies_are_compared_with_each_other_in_each_round() {
        let samples = [
            sample(0, Contender::Haproxy, 1000, 1.0),
            sample(0, Contender::Mesh, 2000, 1.0),
            sample(1, Contender::Mesh, 2000, 7.0),
            sample(2, Contender::Haproxy, 1000, 2.0),
            sample(2, Contender::Mesh, 1000, 1.0),
        ];
        let row = find(&samples, Contender::Mesh, Metric::CpuPer100k);
        let expect = Ratios { ratio: 0.5, ratios: vec![0.5, 0.5] };
        let expect = BTreeMap::from([("haproxy".into(), expect)]);
        assert_eq!(row.to_others, expect, "a round without the other has no ratio");
        assert_eq!(row.ratio_to_direct, None);
        let row = find(&samples, Contender::Mesh, Metric::Rps);
        assert_eq!(row.to_others["haproxy"].ratios, [2.0, 1.0]);
    }

    #[test]
    fn what_is_disturbed_is_compared_with_the_calm_of_the_same_round() {
        let disturbed = |round, contender, done, calm| {
            let mut sample = sample(round, contender, done, 0.0);
            sample.workload = Workload::StoppedReader;
            let seen = sample.seen.as_mut().unwrap();
            seen.report.calm = Some(Calm { rps: calm, ..Calm::default() });
            sample
        };
        let samples = [
            disturbed(0, Contender::Direct, 1000, 500.0),
            disturbed(0, Contender::Mesh, 450, 250.0),
            disturbed(1, Contender::Direct, 2000, 500.0),
            disturbed(1, Contender::Mesh, 500, 250.0),
        ];
        let row = find(&samples, Contender::Mesh, Metric::RpsToCalm);
        check(row.value, 0.95);
        assert_eq!(row.ratios, [0.9, 0.5]);
        let rows = rows(&samples, &[Contender::Mesh]);
        let without = rows.iter().any(|row| row.metric == Metric::P50ToCalm.name());
        assert!(!without, "a calm in which nothing was done is nothing to compare with");
    }

    #[test]
    fn what_waits_is_compared_with_what_waits_directly() {
        let of =
            |contender, size, tcp| (contender, Unread { size, sent: 16 << 20, tcp, machine: 0 });
        let all = [
            of(Contender::Direct, unread::LARGE, 32 << 20),
            of(Contender::Direct, unread::SMALL, 16 << 20),
            of(Contender::Accelerated, unread::LARGE, 16 << 20),
        ];
        let rows = unread_rows(&all);
        let is = |row: &&Row| row.contender == "accelerated" && row.metric == "tcp_memory";
        let row = rows.iter().find(is).unwrap();
        assert_eq!((row.workload.as_ref(), row.value), ("unread_large", 1.0));
        assert_eq!(row.ratio_to_direct, Some(0.5));
    }

    #[test]
    fn what_gave_nothing_is_told_apart() {
        let nothing = sample(0, Contender::Mesh, 0, 0.5);
        let dead = Sample { seen: Err("no answer".to_owned()), ..nothing.clone() };
        let samples = [nothing, dead];
        let errors: Vec<_> = losses(&samples).into_iter().map(|loss| loss.error).collect();
        assert_eq!(errors, ["nothing went well", "no answer"]);
        assert_eq!(rows(&samples, &[Contender::Mesh]), []);
    }

    #[test]
    fn medians_of_even_numbers_are_between_two() {
        check(median(vec![4.0, 1.0, 2.0, 3.0]).unwrap(), 2.5);
        assert_eq!(median(Vec::new()), None);
    }
}
