//! From measurements during floods to figures: medians of the rounds, and ratios of them.

use std::collections::BTreeMap;

use super::arena::Victim;
use super::{CONTENDERS, Cell, NAME, Sample, Seen};
use crate::load::{Report, VictimReport};
use crate::result::{Loss, Outcome, Row, median};
use crate::workload::Contender;

/// The path of rows about the agent, and of rows about the flood itself.
pub(super) const AGENT: &str = "agent";
pub(super) const ATTACKER: &str = "attacker";

/// A figure of a victim: by its requests on connections that stay, or on new ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    of: fn(&VictimReport) -> Report,
    calm: fn(&Report) -> f64,
    flood: fn(&Report) -> f64,
    kind: Kind,
}

/// Which of the two times a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Calm,
    Flood,
    Ratio,
}

const fn p50(name: &'static str, of: fn(&VictimReport) -> Report, kind: Kind) -> Figure {
    let calm = |report: &Report| report.calm.map_or(0.0, |calm| calm.p50_us);
    Figure { name, of, calm, flood: |report| report.p50_us, kind }
}

const fn p99(name: &'static str, of: fn(&VictimReport) -> Report, kind: Kind) -> Figure {
    let calm = |report: &Report| report.calm.map_or(0.0, |calm| calm.p99_us);
    Figure { name, of, calm, flood: |report| report.p99_us, kind }
}

/// The figures of each victim.
pub(super) const FIGURES: [Figure; 9] = [
    p50("p50_calm", |victim| victim.requests, Kind::Calm),
    p50("p50", |victim| victim.requests, Kind::Flood),
    p50("p50_to_calm", |victim| victim.requests, Kind::Ratio),
    p99("p99_calm", |victim| victim.requests, Kind::Calm),
    p99("p99", |victim| victim.requests, Kind::Flood),
    p99("p99_to_calm", |victim| victim.requests, Kind::Ratio),
    p99("new_p99_calm", |victim| victim.new, Kind::Calm),
    p99("new_p99", |victim| victim.new, Kind::Flood),
    p99("new_p99_to_calm", |victim| victim.new, Kind::Ratio),
];

/// A figure of the agent or of the flood, measured once a round.
type Gauge = (&'static str, &'static str, &'static str, fn(&Seen) -> Option<f64>);

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
const GAUGES: [Gauge; 5] = [
    (AGENT, "agent_cpu", "CPU", |seen| Some(seen.agent?.processors)),
    (AGENT, "agent_descriptors", "1", |seen| Some(seen.agent?.descriptors as f64)),
    (AGENT, "agent_memory", "MiB", |seen| Some(seen.agent?.memory as f64 / 1_048_576.0)),
    (ATTACKER, "attempts", "1/s", |seen| per_second(seen.flood.attempts, seen)),
    (ATTACKER, "steps", "1/s", |seen| per_second(seen.flood.steps, seen)),
];

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
fn per_second(count: u64, seen: &Seen) -> Option<f64> {
    (seen.flood.seconds > 0.0).then(|| count as f64 / seen.flood.seconds)
}

/// Makes the rows of all floods.
pub(crate) fn rows(samples: &[Sample]) -> Vec<Row> {
    let mut rows = Vec::new();
    for cell in Cell::matching(NAME) {
        let of = |contender: Contender| {
            let same = samples
                .iter()
                .filter(move |sample| (sample.cell, sample.contender) == (cell, contender));
            let seen = same.filter_map(|sample| Some((sample.round, sample.seen.as_ref().ok()?)));
            seen.collect::<Vec<_>>()
        };
        let direct = of(Contender::Direct);
        for contender in CONTENDERS {
            let own = of(contender);
            for (index, victim) in Victim::ALL.into_iter().enumerate() {
                for figure in FIGURES {
                    let series = |seen: &[(usize, &Seen)]| Series::new(seen, index, figure);
                    let row = row((victim.name(), cell, contender), figure.name, "us");
                    rows.extend(fill(row, figure, &series(&own), &series(&direct)));
                }
            }
            for (path, name, unit, value) in GAUGES {
                let values: Vec<_> = own.iter().filter_map(|(_, seen)| value(seen)).collect();
                rows.extend(spread(row((path, cell, contender), name, unit), values));
            }
        }
    }
    rows
}

/// The values of a figure in all rounds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Series {
    rounds: Vec<usize>,
    calm: Vec<f64>,
    flood: Vec<f64>,
    failed: u64,
}

impl Series {
    fn new(seen: &[(usize, &Seen)], victim: usize, figure: Figure) -> Self {
        let mut series = Self::default();
        for (round, seen) in seen {
            let report = (figure.of)(&seen.victims[victim]);
            series.rounds.push(*round);
            series.calm.push((figure.calm)(&report));
            series.flood.push((figure.flood)(&report));
            series.failed += report.failed;
        }
        series
    }

    /// The ratio of the medians: rounds are short, and the noise of two of them would be in the
    /// median of their ratios.
    fn ratio(&self) -> Option<f64> {
        let (calm, flood) = (median(self.calm.clone())?, median(self.flood.clone())?);
        (calm > 0.0 && flood > 0.0).then_some(flood / calm)
    }

    /// The ratio in each round, with its number.
    fn ratios(&self) -> Vec<(usize, f64)> {
        let both = self.rounds.iter().zip(self.calm.iter().zip(&self.flood));
        let valid = both.filter(|(_, (calm, _))| **calm > 0.0);
        valid.map(|(round, (calm, flood))| (*round, flood / calm)).collect()
    }
}

/// Fills a row with a figure; none if nothing was done that it could be about.
fn fill(row: Row, figure: Figure, own: &Series, direct: &Series) -> Option<Row> {
    let mut row = match figure.kind {
        Kind::Calm => spread(row, own.calm.clone())?,
        Kind::Flood => spread(row, own.flood.clone())?,
        Kind::Ratio => {
            let ratios = own.ratios();
            let mut row = spread(row, ratios.iter().map(|(_, ratio)| *ratio).collect())?;
            row.value = own.ratio()?;
            row.unit = "ratio".into();
            row.ratio_to_direct = direct.ratio().map(|base| row.value / base);
            let bases: BTreeMap<_, _> = direct.ratios().into_iter().collect();
            let each = |(round, ratio): &(usize, f64)| Some(ratio / bases.get(round)?);
            row.ratios = ratios.iter().filter_map(each).collect();
            row
        }
    };
    row.failed = own.failed;
    Some(row)
}

fn row(
    (path, cell, contender): (&'static str, Cell, Contender),
    metric: &'static str,
    unit: &'static str,
) -> Row {
    Row {
        path: path.into(),
        workload: cell.to_string().into(),
        contender: contender.name().into(),
        metric: metric.into(),
        value: 0.0,
        min: 0.0,
        max: 0.0,
        unit: unit.into(),
        ratio_to_direct: None,
        ratios: Vec::new(),
        to_others: BTreeMap::new(),
        failed: 0,
    }
}

/// A row with a median, the lowest and the highest value.
fn spread(row: Row, values: Vec<f64>) -> Option<Row> {
    let min = values.iter().copied().reduce(f64::min)?;
    let max = values.iter().copied().reduce(f64::max)?;
    Some(Row { value: median(values)?, min, max, ..row })
}

/// Processors that others used, in each measurement.
pub(crate) fn foreign(samples: &[Sample]) -> Vec<f64> {
    samples.iter().filter_map(|sample| Some(sample.seen.as_ref().ok()?.foreign)).collect()
}

/// Measurements that gave nothing.
pub(crate) fn losses(samples: &[Sample]) -> Vec<Loss> {
    let lost = |sample: &Sample| {
        let error = sample.seen.as_ref().err()?.clone();
        let workload = format!("{}/{}", sample.cell.flood, sample.cell.party);
        let (path, contender) = (NAME.into(), sample.contender.name().into());
        Some(Loss { path, workload: workload.into(), contender, round: sample.round + 1, error })
    };
    samples.iter().filter_map(lost).collect()
}

/// Whether a result is of floods.
pub(crate) fn is_hostile(outcome: &Outcome) -> bool {
    let of_floods = |row: &Row| row.workload.strip_prefix(NAME).is_some();
    outcome.rows.iter().any(of_floods)
}

#[cfg(test)]
pub(super) mod tests {
    use mesh_tests::flood::{Flood, Party};

    use super::super::attack::FloodReport;
    use super::super::watch::AgentUsage;
    use super::*;
    use crate::load::Calm;

    pub(in super::super) const CELL: Cell = Cell { flood: Flood::Tunnels, party: Party::Peer };

    pub(in super::super) fn sample(
        round: usize,
        contender: Contender,
        calm: f64,
        flood: f64,
    ) -> Sample {
        let calm = Some(Calm { rps: 1.0, p50_us: calm / 2.0, p99_us: calm });
        let requests = Report {
            done: 9,
            failed: 1,
            seconds: 1.0,
            p50_us: flood / 2.0,
            p99_us: flood,
            calm,
            ..Report::default()
        };
        let new = Report { failed: 0, p99_us: flood * 2.0, ..requests };
        let agent = AgentUsage { processors: 0.25, descriptors: 700, memory: 64 << 20 };
        let seen = Seen {
            victims: [VictimReport { requests, new }; 3],
            flood: FloodReport { attempts: 300, steps: 600, seconds: 1.5 },
            agent: (contender == Contender::Mesh).then_some(agent),
            foreign: 0.1,
        };
        Sample { round, contender, cell: CELL, seen: Ok(seen) }
    }

    fn find(rows: &[Row], contender: Contender, path: &str, metric: &str) -> Row {
        let is = |row: &&Row| {
            (&*row.contender, &*row.path, &*row.metric) == (contender.name(), path, metric)
        };
        rows.iter().find(is).unwrap().clone()
    }

    #[test]
    fn a_ratio_to_the_calm_is_one_of_medians() {
        let samples = [
            sample(0, Contender::Direct, 100.0, 100.0),
            sample(0, Contender::Mesh, 200.0, 300.0),
            sample(1, Contender::Direct, 100.0, 125.0),
            sample(1, Contender::Mesh, 100.0, 250.0),
            sample(2, Contender::Direct, 100.0, 150.0),
            sample(2, Contender::Mesh, 400.0, 400.0),
        ];
        let rows = rows(&samples);
        let row = find(&rows, Contender::Mesh, "inbound", "p99_to_calm");
        assert_eq!((row.value, row.min, row.max), (1.5, 1.0, 2.5));
        assert_eq!(row.ratio_to_direct, Some(1.2));
        assert_eq!(row.ratios, [1.5, 2.0, 1.0 / 1.5]);
        assert_eq!(row.failed, 3);
        let row = find(&rows, Contender::Mesh, "same_node", "new_p99");
        assert_eq!((row.value, row.failed), (600.0, 0));
        let row = find(&rows, Contender::Mesh, "outbound", "p50_calm");
        assert_eq!((row.value, row.min, row.max), (100.0, 50.0, 200.0));
    }

    #[test]
    fn the_agent_and_the_flood_have_rows() {
        let samples =
            [sample(0, Contender::Direct, 1.0, 1.0), sample(0, Contender::Mesh, 1.0, 1.0)];
        let rows = rows(&samples);
        let value = |path, metric| find(&rows, Contender::Mesh, path, metric).value;
        let agent = (value(AGENT, "agent_memory"), value(AGENT, "agent_descriptors"));
        assert_eq!(agent, (64.0, 700.0));
        let flood = (value(ATTACKER, "attempts"), value(ATTACKER, "steps"));
        assert_eq!(flood, (200.0, 400.0));
        let none = rows.iter().any(|row| row.path == AGENT && row.contender == "direct");
        assert!(!none, "there is no agent without a mesh");
    }

    #[test]
    fn a_measurement_that_failed_is_listed() {
        let dead =
            Sample { seen: Err("no answer".to_owned()), ..sample(1, Contender::Mesh, 1.0, 1.0) };
        let lost = losses(std::slice::from_ref(&dead));
        let expect = "Lost: hostile/tunnels/peer of mesh in round 2: no answer";
        assert_eq!(lost[0].to_string(), expect);
        assert_eq!(rows(&[dead]), []);
    }
}
