//! From measurements to figures: medians over the rounds, and ratios within each round.

use std::fmt;

use serde::Serialize;

use crate::measure::{Sample, Seen};
use crate::memory::Memory;
use crate::workload::{Contender, Path, Workload};

/// A figure, as machines read it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    pub path: &'static str,
    pub workload: &'static str,
    pub contender: &'static str,
    pub metric: &'static str,
    /// The median of all rounds.
    pub value: f64,
    pub min: f64,
    pub max: f64,
    pub unit: &'static str,
    /// The median of the rounds' ratios to what `direct` did in the same round.
    pub ratio_to_direct: Option<f64>,
    /// Exchanges that failed, in all rounds.
    pub failed: u64,
}

/// A measurement that gave nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Loss {
    pub path: &'static str,
    pub workload: &'static str,
    pub contender: &'static str,
    pub round: usize,
    pub error: String,
}

/// What is known after a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    Throughput,
    Rps,
    P50,
    P99,
    Max,
    CpuPerGb,
    CpuPer100k,
    TotalCpuPerGb,
    TotalCpuPer100k,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, workload, contender, round, error } = self;
        write!(f, "Lost: {path}/{workload} of {contender} in round {round}: {error}")
    }
}

impl Metric {
    /// What a workload is measured for.
    pub(crate) fn of(workload: Workload) -> &'static [Self] {
        match workload {
            Workload::Bulk1 | Workload::Bulk8 => {
                &[Self::Throughput, Self::CpuPerGb, Self::TotalCpuPerGb]
            }
            Workload::Pingpong => &[Self::P50, Self::P99, Self::CpuPer100k, Self::TotalCpuPer100k],
            Workload::HttpRate => {
                &[Self::P50, Self::P99, Self::Max, Self::CpuPer100k, Self::TotalCpuPer100k]
            }
            Workload::HttpSaturated => {
                &[Self::Rps, Self::P50, Self::P99, Self::CpuPer100k, Self::TotalCpuPer100k]
            }
            Workload::HttpNewConnection => {
                &[Self::Rps, Self::P50, Self::CpuPer100k, Self::TotalCpuPer100k]
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
            Self::CpuPerGb => "cpu_per_gb",
            Self::CpuPer100k => "cpu_per_100k",
            Self::TotalCpuPerGb => "total_cpu_per_gb",
            Self::TotalCpuPer100k => "total_cpu_per_100k",
        }
    }

    /// The unit of its values.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "Gb/s",
            Self::Rps => "1/s",
            Self::P50 | Self::P99 | Self::Max => "us",
            Self::CpuPerGb | Self::TotalCpuPerGb => "CPU s/GB",
            Self::CpuPer100k | Self::TotalCpuPer100k => "CPU s/100k",
        }
    }

    /// The value; `None` if nothing was done that it could be about.
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
    fn value(self, Seen { report, usage }: &Seen) -> Option<f64> {
        let (bytes, done) = (report.bytes as f64, report.done as f64);
        if done == 0.0 || report.seconds == 0.0 {
            return None;
        }
        let total = usage.proxies + usage.load;
        Some(match self {
            Self::Throughput => bytes * 8.0 / 1e9 / report.seconds,
            Self::Rps => done / report.seconds,
            Self::P50 => report.p50_us,
            Self::P99 => report.p99_us,
            Self::Max => report.max_us,
            Self::CpuPerGb => usage.proxies / (bytes / 1e9),
            Self::CpuPer100k => usage.proxies / (done / 1e5),
            Self::TotalCpuPerGb => total / (bytes / 1e9),
            Self::TotalCpuPer100k => total / (done / 1e5),
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

/// The rows of what connections cost in memory.
pub(crate) fn memory_rows(memory: &Memory) -> [Row; 2] {
    let row = |metric, value: f64, unit| Row {
        path: Path::CrossNode.name(),
        workload: "held_connections",
        contender: Contender::Mesh.name(),
        metric,
        value,
        min: value,
        max: value,
        unit,
        ratio_to_direct: None,
        failed: 0,
    };
    let idle = f64::from(u32::try_from(memory.idle >> 10).unwrap_or(u32::MAX)) / 1024.0;
    [
        row("memory_idle", idle, "MiB"),
        row("memory_per_connection", memory.per_connection() / 1024.0, "KiB"),
    ]
}

/// What gave nothing.
pub(crate) fn losses(samples: &[Sample]) -> Vec<Loss> {
    let lost = |sample: &Sample| {
        let error = match &sample.seen {
            Err(error) => error.clone(),
            Ok(seen) if seen.report.done == 0 => "nothing went well".to_owned(),
            Ok(_) => return None,
        };
        let Sample { round, path, workload, contender, .. } = sample;
        let (path, workload, contender) = (path.name(), workload.name(), contender.name());
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
    let direct = values(Contender::Direct);
    let ratio = |&(round, value): &(usize, f64)| {
        let (_, base) = *direct.iter().find(|(other, _)| *other == round)?;
        (base > 0.0).then_some(value / base)
    };
    let ratios = own.iter().filter_map(ratio).collect();
    let all: Vec<f64> = own.iter().map(|(_, value)| *value).collect();
    Some(Row {
        path: path.name(),
        workload: workload.name(),
        contender: contender.name(),
        metric: metric.name(),
        min: all.iter().copied().reduce(f64::min)?,
        max: all.iter().copied().reduce(f64::max)?,
        value: median(all)?,
        unit: metric.unit(),
        ratio_to_direct: median(ratios),
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
        let usage = Usage { proxies, load: 1.0, foreign: 0.0 };
        let (path, workload) = (Path::CrossNode, Workload::HttpSaturated);
        Sample { round, path, workload, contender, seen: Ok(Seen { report, usage }) }
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
    }

    #[test]
    fn processor_time_is_told_for_what_was_done_with_it() {
        let samples =
            [sample(0, Contender::Direct, 1000, 0.0), sample(0, Contender::Mesh, 1000, 0.5)];
        check(find(&samples, Contender::Mesh, Metric::CpuPer100k).value, 50.0);
        let total = find(&samples, Contender::Mesh, Metric::TotalCpuPer100k);
        check(total.value, 150.0);
        check(total.ratio_to_direct.unwrap(), 1.5);
        let direct = find(&samples, Contender::Direct, Metric::CpuPer100k);
        check(direct.value, 0.0);
        assert_eq!(find(&samples, Contender::Mesh, Metric::CpuPer100k).ratio_to_direct, None);
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
