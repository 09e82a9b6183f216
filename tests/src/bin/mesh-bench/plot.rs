//! The ratios to `direct`, as a picture (SVG 1.1).

use std::fmt::Write as _;

use crate::result::{Metric, Outcome, Row};
use crate::table::number;
use crate::workload::{Contender, Path, Workload};

/// Pixels of the picture's width, and where its scale begins and ends.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 300.0;
const RIGHT: f64 = 860.0;

/// Pixels between the lines of two contenders, and between two metrics.
const STEP: f64 = 15.0;
const GAP: f64 = 8.0;

/// The scale is at least from half to double, so that small differences look small.
const LEAST: [f64; 2] = [-1.0, 1.0];

/// The dots of a contender in one row.
#[derive(Clone, Debug)]
struct Dots<'a> {
    contender: Contender,
    row: &'a Row,
    median: f64,
}

/// Draws all ratios of a result.
pub(crate) fn svg(outcome: &Outcome) -> String {
    let scale = Scale::of(&outcome.rows);
    let mut body = String::new();
    let mut y = 84.0;
    for path in Path::ALL {
        for better in [Better::More, Better::Less] {
            y = panel(&mut body, &outcome.rows, (path, better), &scale, y);
        }
    }
    let height = y + 34.0;
    let mut out = String::new();
    put(
        &mut out,
        &format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" font-family=\"system-ui, sans-serif\" \
             font-size=\"12\" fill=\"#1f2937\">"
        ),
    );
    put(&mut out, "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>");
    text(&mut out, (20.0, 28.0), "font-size=\"17\" font-weight=\"600\"", "Ratio to direct traffic");
    let run = &outcome.run;
    let build = if run.release { "" } else { "DEVELOPMENT BUILD · " };
    let about = format!(
        "{build}{} · {} rounds of {} s · large dot: median, small dots: rounds, logarithmic scale",
        outcome.machine, run.rounds, run.seconds
    );
    text(&mut out, (20.0, 47.0), QUIET, &about);
    legend(&mut out, &outcome.rows);
    out.push_str(&body);
    put(&mut out, "</svg>");
    out
}

/// How words look that are not figures.
const QUIET: &str = "fill=\"#6b7280\" font-size=\"11\"";

/// In which direction a figure is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

impl Better {
    fn title(self) -> &'static str {
        match self {
            Self::More => "more is better →",
            Self::Less => "← less is better",
        }
    }

    /// Whether a metric is drawn here. The time of the proxies alone has no ratio, the machine's is
    /// there to check the others, the longest of all durations is chance, and a ratio's ratio says
    /// nothing to the eye.
    fn has(self, metric: Metric) -> bool {
        match metric {
            Metric::Throughput | Metric::Rps => self == Self::More,
            Metric::P50 | Metric::P99 | Metric::TotalCpuPerGb | Metric::TotalCpuPer100k => {
                self == Self::Less
            }
            Metric::Max
            | Metric::RpsToCalm
            | Metric::P50ToCalm
            | Metric::P99ToCalm
            | Metric::P50Calm
            | Metric::P99Calm
            | Metric::CpuPerGb
            | Metric::CpuPer100k
            | Metric::MachineCpuPerGb
            | Metric::MachineCpuPer100k => false,
        }
    }
}

/// Powers of two, from the left to the right.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// One on which all ratios that are drawn have room.
    fn of(rows: &[Row]) -> Self {
        let drawn = rows.iter().filter(|row| {
            let both = [Better::More, Better::Less];
            Metric::ALL.iter().any(|metric| {
                row.metric == metric.name() && both.iter().any(|better| better.has(*metric))
            })
        });
        let ratios = drawn.flat_map(|row| row.ratios.iter().copied());
        let logs: Vec<f64> = ratios.filter(|ratio| *ratio > 0.0).map(f64::log2).collect();
        let [low, high] = LEAST;
        Self {
            low: logs.iter().copied().fold(low, f64::min).floor(),
            high: logs.iter().copied().fold(high, f64::max).ceil(),
        }
    }

    fn x(&self, ratio: f64) -> f64 {
        // A ratio of 0 has no logarithm: it is drawn at the left end.
        let log = if ratio > 0.0 { ratio.log2().clamp(self.low, self.high) } else { self.low };
        LEFT + (log - self.low) / (self.high - self.low) * (RIGHT - LEFT)
    }

    /// The ratios that have a line of their own.
    fn ticks(&self) -> Vec<f64> {
        // Of many, every other one, so that their labels have room.
        let step = if self.high - self.low > 8.0 { 2.0 } else { 1.0 };
        let mut ticks = Vec::new();
        let mut log = (self.low / step).ceil() * step;
        while log <= self.high {
            ticks.push(log.exp2());
            log += step;
        }
        ticks
    }
}

/// Draws one panel below `y`, and returns where the next begins.
fn panel(
    out: &mut String,
    rows: &[Row],
    (path, better): (Path, Better),
    scale: &Scale,
    y: f64,
) -> f64 {
    let mut lines = Vec::new();
    for workload in Workload::ALL {
        for metric in Metric::of(workload).iter().filter(|metric| better.has(**metric)) {
            let dots = dots(rows, path, workload, *metric);
            if !dots.is_empty() {
                let name = format!("{}, {}", workload.title(), name(*metric));
                lines.push((name, dots));
            }
        }
    }
    if lines.is_empty() {
        return y;
    }
    let title = format!("{}, {}", path.name(), better.title());
    text(out, (20.0, y + 18.0), "font-size=\"13\" font-weight=\"600\"", &title);
    let top = y + 32.0;
    let mut bottom = top;
    let mut marks = String::new();
    for (name, dots) in &lines {
        bottom += GAP;
        text(&mut marks, (LEFT - 12.0, bottom + STEP * 0.75), "text-anchor=\"end\"", name);
        for dots in dots {
            draw(&mut marks, dots, scale, bottom + STEP / 2.0);
            bottom += STEP;
        }
    }
    bottom += GAP;
    for tick in scale.ticks() {
        let x = scale.x(tick);
        let style = if (tick - 1.0).abs() < 1e-9 {
            "stroke=\"#111827\" stroke-width=\"1.5\""
        } else {
            "stroke=\"#e5e7eb\""
        };
        put(
            out,
            &format!("<line x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\" {style}/>"),
        );
        let label = format!("×{tick}");
        text(out, (x, bottom + 14.0), &format!("text-anchor=\"middle\" {QUIET}"), &label);
    }
    out.push_str(&marks);
    bottom + 30.0
}

/// The measurements of each contender but `direct`.
fn dots(rows: &[Row], path: Path, workload: Workload, metric: Metric) -> Vec<Dots<'_>> {
    let cell = (path.name(), workload.name(), metric.name());
    let of = |contender: Contender| {
        let row = rows.iter().find(|row| {
            (row.path.as_ref(), row.workload.as_ref(), row.metric.as_ref()) == cell
                && row.contender == contender.name()
        })?;
        Some(Dots { contender, row, median: row.ratio_to_direct? })
    };
    Contender::ALL
        .into_iter()
        .filter(|contender| *contender != Contender::Direct)
        .filter_map(of)
        .collect()
}

/// Draws the rounds, the median, and the median's figure.
fn draw(out: &mut String, dots: &Dots<'_>, scale: &Scale, y: f64) {
    let color = color(dots.contender);
    let xs: Vec<f64> = dots.row.ratios.iter().map(|ratio| scale.x(*ratio)).collect();
    let low = xs.iter().copied().fold(RIGHT, f64::min);
    let high = xs.iter().copied().fold(LEFT, f64::max);
    put(
        out,
        &format!(
            "<line x1=\"{low:.1}\" y1=\"{y}\" x2=\"{high:.1}\" y2=\"{y}\" stroke=\"{color}\" \
             stroke-opacity=\"0.5\"/>"
        ),
    );
    for x in xs {
        put(
            out,
            &format!(
                "<circle cx=\"{x:.1}\" cy=\"{y}\" r=\"2\" fill=\"{color}\" fill-opacity=\"0.4\"/>"
            ),
        );
    }
    let x = scale.x(dots.median);
    put(out, &format!("<circle cx=\"{x:.1}\" cy=\"{y}\" r=\"4.5\" fill=\"{color}\"/>"));
    let style = format!("fill=\"{color}\" font-size=\"11\"");
    text(out, (RIGHT + 14.0, y + 4.0), &style, &format!("×{}", number(dots.median)));
}

/// Says which color is whose.
fn legend(out: &mut String, rows: &[Row]) {
    let mut x = 20.0;
    for contender in Contender::ALL {
        let name = contender.name();
        if contender == Contender::Direct || !rows.iter().any(|row| row.contender == name) {
            continue;
        }
        let color = color(contender);
        put(out, &format!("<circle cx=\"{}\" cy=\"66\" r=\"4.5\" fill=\"{color}\"/>", x + 5.0));
        text(out, (x + 15.0, 70.0), "", name);
        x += 110.0;
    }
}

fn color(contender: Contender) -> &'static str {
    match contender {
        Contender::Direct => "#111827",
        Contender::Mesh => "#2563eb",
        Contender::Accelerated => "#059669",
        Contender::Agent => "#ea580c",
        Contender::Mtls => "#9333ea",
        Contender::ManyRules => "#0891b2",
        Contender::Haproxy => "#6b7280",
        Contender::Nginx => "#ca8a04",
    }
}

/// The name of a metric that has no unit, because it is a ratio.
fn name(metric: Metric) -> &'static str {
    match metric {
        Metric::Throughput => "throughput",
        Metric::Rps => "rate",
        Metric::P50 => "p50",
        Metric::P99 => "p99",
        Metric::TotalCpuPerGb => "CPU per GB",
        Metric::TotalCpuPer100k => "CPU each",
        Metric::Max
        | Metric::RpsToCalm
        | Metric::P50ToCalm
        | Metric::P99ToCalm
        | Metric::P50Calm
        | Metric::P99Calm
        | Metric::CpuPerGb
        | Metric::CpuPer100k
        | Metric::MachineCpuPerGb
        | Metric::MachineCpuPer100k => metric.name(),
    }
}

fn text(out: &mut String, (x, y): (f64, f64), style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    put(out, &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{words}</text>"));
}

fn put(out: &mut String, element: &str) {
    writeln!(out, "{element}").expect("invariant: a String takes all text");
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::machine::{Machine, Noise};
    use crate::result::Run;

    /// A run in which a contender had half the throughput in the median.
    pub(crate) fn outcome() -> Outcome {
        let row = |contender: Contender, value: f64, ratio, ratios: &[f64]| Row {
            path: Path::SameNode.name().into(),
            workload: Workload::Bulk1.name().into(),
            contender: contender.name().into(),
            metric: Metric::Throughput.name().into(),
            value,
            min: value,
            max: value,
            unit: "Gb/s".into(),
            ratio_to_direct: ratio,
            ratios: ratios.to_vec(),
            to_others: BTreeMap::new(),
            failed: 0,
        };
        Outcome {
            machine: Machine {
                kernel: "6.18.0".to_owned(),
                cpus: 2,
                model: "A & B <CPU>".to_owned(),
                congestion_control: "cubic".to_owned(),
            },
            run: Run {
                arguments: ["--only", "same_node"].map(str::to_owned).into(),
                rounds: 3,
                seconds: 3.0,
                release: true,
            },
            noise: Noise::default(),
            rows: vec![
                row(Contender::Direct, 40.0, Some(1.0), &[1.0, 1.0, 1.0]),
                row(Contender::Mesh, 20.0, Some(0.5), &[0.5, 0.4, 0.8]),
            ],
            lost: Vec::new(),
        }
    }

    #[test]
    fn a_scale_has_room_for_all_that_is_drawn() {
        let scale = Scale::of(&outcome().rows);
        assert_eq!(scale, Scale { low: -2.0, high: 1.0 });
        assert_eq!(scale.ticks(), [0.25, 0.5, 1.0, 2.0]);
        assert_eq!(Scale { low: -3.0, high: 6.0 }.ticks(), [0.25, 1.0, 4.0, 16.0, 64.0]);
        let place = |ratio: f64| format!("{:.0}", scale.x(ratio));
        assert_eq!([0.25, 2.0, 0.0, 9.0].map(place), ["300", "860", "300", "860"]);
        assert_eq!(Scale::of(&[]), Scale { low: -1.0, high: 1.0 });
    }

    #[test]
    fn each_round_and_the_median_have_a_dot() {
        let picture = svg(&outcome());
        // One in the legend, three rounds, one median; `direct` is the line.
        assert_eq!(picture.matches("<circle").count(), 5);
        assert!(picture.contains(">×0.50</text>"));
        assert!(picture.contains("A &amp; B &lt;CPU>"), "names are text: {picture}");
        assert_eq!(picture.matches("stroke-width=\"1.5\"").count(), 1, "one line at 1");
    }
}
