//! The figures as tables in Markdown, so that no number is ever copied by hand.

use std::fmt::Write as _;

use crate::hostile;
use crate::result::{HELD, Metric, Outcome, Row, unread_workload};
use crate::table::{is_of_workload, label, number};
use crate::unread;
use crate::workload::{Contender, Path, Workload};

/// The lines of a document above and below its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub begin: &'static str,
    pub end: &'static str,
}

/// The place of the tables of paths.
const RESULTS: Place = Place { begin: "<!-- results: begin -->", end: "<!-- results: end -->" };

/// The place of the tables of floods, which are a run of their own.
const FLOODS: Place = Place { begin: "<!-- floods: begin -->", end: "<!-- floods: end -->" };

impl Place {
    /// The place of a result.
    pub(crate) fn of(outcome: &Outcome) -> Self {
        if hostile::is_hostile(outcome) { FLOODS } else { RESULTS }
    }
}

/// All tables of a result.
pub(crate) fn tables(outcome: &Outcome) -> String {
    let Outcome { machine, run, noise, rows, lost } = outcome;
    let mut out = String::new();
    let mut say = |text: &str| line(&mut out, text);
    say(&format!("- {machine}. {} rounds of {} s.", run.rounds, run.seconds));
    say(&format!("- {}.", noise.verdict(machine.cpus)));
    if !run.release {
        say("- **A development build: its figures mean nothing.**");
    }
    say(&format!("- Command: `{}`", command(&run.arguments)));
    for loss in lost {
        say(&format!("- **{loss}**"));
    }
    for path in Path::ALL {
        let rows: Vec<_> = rows.iter().filter(|row| row.path == path.name()).collect();
        ratios(&mut out, path, &rows);
        for pair in COMPARED {
            against(&mut out, &rows, pair);
        }
        unread_table(&mut out, &rows);
        held(&mut out, &rows);
    }
    out.push_str(&hostile::tables(rows));
    out
}

/// Puts tables in place of those that a document has. `None`: it has no place for them.
pub(crate) fn replace(document: &str, place: Place, tables: &str) -> Option<String> {
    let Place { begin, end } = place;
    let (before, rest) = document.split_once(begin)?;
    let (_, after) = rest.split_once(end)?;
    Some(format!("{before}{begin}\n\n{}\n\n{end}{after}", tables.trim()))
}

/// How to measure that again.
fn command(arguments: &[String]) -> String {
    let arguments = arguments.iter().map(String::as_str);
    ["cargo", "xtask", "bench"].into_iter().chain(arguments).collect::<Vec<_>>().join(" ")
}

/// The table of a path: a row for each metric, and two columns for each contender.
fn ratios(out: &mut String, path: Path, rows: &[&Row]) {
    let measured = |contender: &Contender| {
        let name = contender.name();
        rows.iter().any(|row| row.contender == name && is_of_workload(row))
    };
    let contenders: Vec<_> = Contender::ALL.into_iter().filter(measured).collect();
    if contenders.is_empty() {
        return;
    }
    line(out, &format!("\n### `{}`: {}\n", path.name(), path.title()));
    let column = |contender: &Contender| {
        let name = contender.name();
        if *contender == Contender::Direct { vec![name] } else { vec![name, "× direct"] }
    };
    let columns: Vec<_> = contenders.iter().flat_map(column).collect();
    let head = format!("| Workload | Metric | {} |", columns.join(" | "));
    let rule = format!("|---|---|{}", "---:|".repeat(columns.len()));
    line(out, &head);
    line(out, &rule);
    for workload in Workload::ALL {
        for metric in Metric::of(workload) {
            let of = |contender: &Contender| {
                let mut rows = rows.iter().filter(|row| row.workload == workload.name());
                rows.find(|row| row.metric == metric.name() && row.contender == contender.name())
            };
            if contenders.iter().all(|contender| of(contender).is_none()) {
                continue;
            }
            let cells = contenders.iter().flat_map(|contender| {
                let row = of(contender);
                let value = row.filter(|row| row.max > 0.0).map_or_else(none, |row| spread(row));
                let to_direct = || {
                    let row = row.filter(|row| row.max > 0.0)?;
                    ratio(row.ratio_to_direct, &row.ratios)
                };
                let compared = *contender != Contender::Direct;
                let ratio = || to_direct().unwrap_or_else(none);
                std::iter::once(value).chain(compared.then(ratio))
            });
            let cells = cells.collect::<Vec<_>>().join(" | ");
            let text = format!("| `{}` | {} | {cells} |", workload.name(), label(metric.name()));
            line(out, &text);
        }
    }
}

/// The contenders with a table of ratios to another, besides those to `direct`.
const COMPARED: [(Contender, Contender); 3] = [
    (Contender::Mesh, Contender::Haproxy),
    (Contender::Mesh, Contender::Nginx),
    (Contender::ManyRules, Contender::Mesh),
];

/// The table of a contender and another one: a row for each workload that both have.
fn against(out: &mut String, rows: &[&Row], (contender, base): (Contender, Contender)) {
    let columns = [
        ("proxy CPU", [Metric::CpuPerGb, Metric::CpuPer100k].as_slice()),
        ("throughput or rate", &[Metric::Throughput, Metric::Rps]),
        ("p50", &[Metric::P50]),
        ("p99", &[Metric::P99]),
    ];
    let mut lines = String::new();
    for workload in Workload::ALL {
        let own =
            |row: &&&Row| row.workload == workload.name() && row.contender == contender.name();
        let cells = columns.map(|(_, metrics)| {
            let is_of = |row: &&&Row| metrics.iter().any(|metric| row.metric == metric.name());
            let row = rows.iter().filter(own).find(is_of)?;
            let other = row.to_others.get(base.name())?;
            ratio(Some(other.ratio), &other.ratios)
        });
        if cells.iter().any(Option::is_some) {
            let cells = cells.map(|cell| cell.unwrap_or_else(none)).join(" | ");
            line(&mut lines, &format!("| `{}` | {cells} |", workload.name()));
        }
    }
    if !lines.is_empty() {
        let (contender, base) = (contender.name(), base.name());
        line(out, &format!("\n`{contender}` as ratios to `{base}` in the same round:\n"));
        let titles = columns.map(|(title, _)| title).join(" | ");
        line(out, &format!("| Workload | {titles} |\n|---|---:|---:|---:|---:|"));
        out.push_str(&lines);
    }
}

/// The table of what waits for those who do not read.
fn unread_table(out: &mut String, rows: &[&Row]) {
    if !rows.iter().any(|row| row.metric == "tcp_memory") {
        return;
    }
    line(out, "\nA reader that never reads; MiB a connection, and × direct:\n");
    line(
        out,
        "| Workload | Contender | Taken from the writer | TCP's memory | The machine's memory |",
    );
    line(out, "|---|---|---:|---:|---:|");
    for workload in [unread::LARGE, unread::SMALL].map(unread_workload) {
        for contender in Contender::ALL {
            let cell = |metric: &str| {
                let mut rows = rows.iter().filter(|row| row.workload == workload);
                let row =
                    rows.find(|row| row.metric == metric && row.contender == contender.name())?;
                let ratio = row.ratio_to_direct.filter(|_| contender != Contender::Direct);
                let ratio = ratio.map_or_else(String::new, |ratio| format!(" (×{ratio:.2})"));
                Some(format!("{}{ratio}", number(row.value)))
            };
            let (Some(sent), Some(tcp), Some(machine)) =
                (cell("sent"), cell("tcp_memory"), cell("machine_memory"))
            else {
                continue;
            };
            line(
                out,
                &format!("| `{workload}` | {} | {sent} | {tcp} | {machine} |", contender.name()),
            );
        }
    }
}

/// The table of what open connections cost the agents, and what is left of them.
fn held(out: &mut String, rows: &[&Row]) {
    let of = |metric: &'static str, contender: Contender| {
        let mut rows = rows.iter().filter(move |row| row.workload == HELD);
        rows.find(|row| row.metric == metric && row.contender == contender.name())
    };
    let mut lines = String::new();
    for contender in Contender::ALL {
        if of("memory_idle", contender).is_none() {
            continue;
        }
        let metrics = ["open_connections", "memory_idle", "memory_per_connection", "memory_left"];
        let cells =
            metrics.map(|metric| of(metric, contender).map_or_else(none, |row| number(row.value)));
        line(&mut lines, &format!("| {} | {} |", contender.name(), cells.join(" | ")));
    }
    if !lines.is_empty() {
        line(out, &format!("\n`{HELD}`: memory of both agents:\n"));
        let columns = [
            "Contender",
            "Open connections",
            "MiB when idle",
            "KiB for each connection",
            "KiB left of each, 5 s after all have ended",
        ];
        line(out, &format!("| {} |\n|---|---:|---:|---:|---:|", columns.join(" | ")));
        out.push_str(&lines);
    }
}

fn spread(row: &Row) -> String {
    format!("{} ({}–{})", number(row.value), number(row.min), number(row.max))
}

/// The median ratio in bold, with the lowest and the highest behind it.
fn ratio(median: Option<f64>, ratios: &[f64]) -> Option<String> {
    let middle = median?;
    let low = ratios.iter().copied().reduce(f64::min)?;
    let high = ratios.iter().copied().reduce(f64::max)?;
    Some(format!("**{middle:.2}** ({low:.2}–{high:.2})"))
}

fn none() -> String {
    "–".to_owned()
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("invariant: a String takes all text");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Memory;
    use crate::plot::tests::outcome;
    use crate::result::{Ratios, memory_rows};

    #[test]
    fn a_row_has_the_medians_and_the_spread() {
        let tables = tables(&outcome());
        let expect = "| `bulk_1` | Gb/s | 40.0 (40.0–40.0) | 20.0 (20.0–20.0) | **0.50** \
                      (0.40–0.80) |";
        assert!(tables.lines().any(|line| line == expect), "{tables}");
        assert!(tables.contains("### `same_node`: to a service on the same node"));
        assert!(!tables.contains("cross_node"), "what was not measured has no table: {tables}");
        assert!(tables.contains("Command: `cargo xtask bench --only same_node`"));
    }

    #[test]
    fn the_mesh_is_compared_with_haproxy() {
        let mut outcome = outcome();
        assert!(!tables(&outcome).contains("ratios to `haproxy`"), "it was not measured");
        let mesh = outcome.rows.iter_mut().find(|row| row.contender == "mesh").unwrap();
        let ratios = Ratios { ratio: 1.5, ratios: vec![1.4, 1.5, 1.77] };
        mesh.to_others.insert("haproxy".into(), ratios);
        let tables = tables(&outcome);
        let expect = "| `bulk_1` | – | **1.50** (1.40–1.77) | – | – |";
        assert!(tables.lines().any(|line| line == expect), "{tables}");
    }

    #[test]
    fn memory_has_a_table_of_its_own() {
        let path = Path::CrossNode;
        let memory = Memory { path, connections: 10_000, idle: 8 << 20, held: 168 << 20, left: 0 };
        let rows = memory_rows(&(Contender::Mesh, memory));
        let mut out = String::new();
        held(&mut out, &rows.iter().collect::<Vec<_>>());
        assert!(out.ends_with("| mesh | 10,000 | 8.00 | 16.4 | 0.00 |\n"), "{out}");
    }

    #[test]
    fn tables_replace_those_of_a_document() {
        let Place { begin, end } = RESULTS;
        let document = format!("# Title\n\n{begin}\nold\n{end}\n\nEnd\n");
        let once = replace(&document, RESULTS, "new\n").unwrap();
        assert_eq!(once, format!("# Title\n\n{begin}\n\nnew\n\n{end}\n\nEnd\n"));
        assert_eq!(replace(&once, RESULTS, "new\n").unwrap(), once, "again is the same");
        assert_eq!(replace("# Title\n", RESULTS, "new\n"), None);
        assert_eq!(replace(&once, FLOODS, "new\n"), None, "floods have a place of their own");
        assert_eq!(Place::of(&outcome()), RESULTS);
    }
}
