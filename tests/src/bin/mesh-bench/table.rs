//! The figures, as people read them.

use crate::hostile;
use crate::result::{Metric, Outcome, Row};
use crate::screen::Screen;
use crate::workload::{Contender, Path, Workload};

/// Prints all of a run.
pub(crate) fn show_outcome(screen: &Screen, outcome: &Outcome) {
    let Outcome { machine, run, noise, rows, lost } = outcome;
    screen.line(&machine.to_string());
    let build = if run.release { "" } else { ", development build: its figures mean nothing" };
    screen.line(&format!("{} rounds of {} s{build}", run.rounds, run.seconds));
    show(screen, rows);
    show_memory(screen, rows);
    let floods = hostile::tables(rows);
    for line in floods.lines() {
        screen.line(line);
    }
    screen.line("");
    let verdict = noise.verdict(machine.cpus);
    screen.line(&if noise.busy { screen.red(&verdict) } else { verdict });
    for loss in lost {
        screen.line(&screen.red(&loss.to_string()));
    }
}

/// Prints a table for each path, with a column for each contender.
fn show(screen: &Screen, rows: &[Row]) {
    for path in Path::ALL {
        let rows: Vec<_> = rows.iter().filter(|row| row.path == path.name()).collect();
        let measured = |contender: &&Contender| {
            let name = contender.name();
            rows.iter().any(|row| row.contender == name && is_of_workload(row))
        };
        let contenders: Vec<_> = Contender::ALL.iter().filter(measured).copied().collect();
        if contenders.is_empty() {
            continue;
        }
        screen.line("");
        screen.line(&screen.bold(&format!("{}: {}", path.name(), path.title())));
        screen.line(&screen.dim(&head(&contenders)));
        for workload in Workload::ALL {
            show_workload(screen, &rows, workload, &contenders);
        }
    }
}

/// Prints what connections cost in memory, and what waits for those who do not read.
fn show_memory(screen: &Screen, rows: &[Row]) {
    for row in rows.iter().filter(|row| row.metric == "memory_per_connection") {
        let of = |metric: &str| {
            let same = |other: &&Row| {
                other.metric == metric
                    && (&other.path, &other.contender) == (&row.path, &row.contender)
            };
            number(rows.iter().find(same).map_or(0.0, |row| row.value))
        };
        screen.line("");
        screen.line(&format!(
            "Memory of both agents, {} {}: {} MiB when idle, {} for each of {} open connections, \
             {} KiB left of each when it has ended",
            row.contender,
            row.path,
            of("memory_idle"),
            screen.bold(&format!("{} {}", number(row.value), row.unit)),
            of("open_connections"),
            of("memory_left"),
        ));
    }
    for row in rows.iter().filter(|row| row.metric == "tcp_memory") {
        let of = |metric: &str| {
            let same = |other: &&Row| {
                other.metric == metric
                    && (&other.workload, &other.contender) == (&row.workload, &row.contender)
            };
            number(rows.iter().find(same).map_or(0.0, |row| row.value))
        };
        screen.line(&format!(
            "Unread, {}, {}: {} MiB sent, {} MiB of TCP's memory and {} MiB of the machine's a \
             connection",
            row.workload,
            row.contender,
            of("sent"),
            screen.bold(&number(row.value)),
            of("machine_memory"),
        ));
    }
}

/// Whether a row is of what is measured in rounds.
pub(crate) fn is_of_workload(row: &Row) -> bool {
    Workload::ALL.iter().any(|workload| row.workload == workload.name())
}

/// Prints the lines of a workload.
fn show_workload(screen: &Screen, rows: &[&Row], workload: Workload, contenders: &[Contender]) {
    let mut title = workload.title();
    let of = |metric: &str, contender: &str| {
        let mut rows = rows.iter().filter(|row| row.workload == workload.name());
        rows.find(|row| row.metric == metric && row.contender == contender).copied()
    };
    for metric in Metric::of(workload) {
        let cells: Vec<_> =
            contenders.iter().map(|contender| of(metric.name(), contender.name())).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let mut line = format!("  {title:<21}{:<19}", label(metric.name()));
        for cell in cells {
            line.push_str(&cell.map_or_else(|| pad("–", ""), columns));
            if cell.is_none_or(|row| row.contender != Contender::Direct.name()) {
                let ratio = cell.filter(|row| row.max > 0.0).and_then(|row| row.ratio_to_direct);
                let ratio = ratio.map_or_else(String::new, |ratio| format!("×{ratio:.2}"));
                line.push_str(&ratio_column(&ratio));
            }
        }
        screen.line(line.trim_end());
        title = "";
    }
    for contender in contenders {
        let failed = rows.iter().find(|row| {
            row.workload == workload.name() && row.contender == contender.name() && row.failed > 0
        });
        if let Some(row) = failed {
            screen.line(
                &screen.red(&format!("  {:<21}{} failed: {}", "", row.contender, row.failed)),
            );
        }
    }
}

fn head(contenders: &[Contender]) -> String {
    let mut line = format!("  {:<40}", "median (lowest–highest)");
    for contender in contenders {
        line.push_str(&pad(contender.name(), ""));
        if *contender != Contender::Direct {
            line.push_str(&ratio_column("×direct"));
        }
    }
    line.trim_end().to_owned()
}

/// The name of a metric, with its unit.
pub(crate) fn label(metric: &str) -> &'static str {
    match metric {
        "throughput" => "Gb/s",
        "rps" => "per second",
        "p50" => "p50, µs",
        "p99" => "p99, µs",
        "max" => "longest, µs",
        "rps_to_calm" => "rate, × calm",
        "p50_to_calm" => "p50, × calm",
        "p99_to_calm" => "p99, × calm",
        "p50_calm" => "p50 in calm, µs",
        "p99_calm" => "p99 in calm, µs",
        "cpu_per_gb" => "proxy CPU, s/GB",
        "cpu_per_100k" => "proxy CPU, s/100k",
        "total_cpu_per_gb" => "all CPU, s/GB",
        "total_cpu_per_100k" => "all CPU, s/100k",
        "machine_cpu_per_gb" => "machine, s/GB",
        "machine_cpu_per_100k" => "machine, s/100k",
        _ => "?",
    }
}

fn columns(row: &Row) -> String {
    let range = format!("({}–{})", number(row.min), number(row.max));
    if row.max == 0.0 { pad("–", "") } else { pad(&number(row.value), &range) }
}

fn pad(value: &str, range: &str) -> String {
    format!("{value:>8} {range:<17} ")
}

fn ratio_column(text: &str) -> String {
    format!("{text:<8}")
}

/// Three digits that matter, and no more.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    group(&format!("{value:.digits$}"))
}

/// Puts commas between thousands.
fn group(text: &str) -> String {
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        let left = whole.len() - index;
        if index > 0 && left % 3 == 0 && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: f64, expect: &str) {
        assert_eq!(number(value), expect);
    }

    #[test]
    fn numbers_have_three_digits_that_matter() {
        check(0.0, "0.00");
        check(1.239, "1.24");
        check(9.996, "10.0");
        check(38.24, "38.2");
        check(454.4, "454");
        check(82_431.7, "82,432");
        check(1_000_000.0, "1,000,000");
    }

    #[test]
    fn columns_stand_below_each_other() {
        let widths = [pad("38.2", "(37.0–39.4)"), pad("–", ""), pad("direct", "")]
            .map(|cell| cell.chars().count());
        assert_eq!(widths, [27; 3]);
    }
}
