//! The figures of floods as tables in Markdown.

use std::fmt::Write as _;

use super::arena::Victim;
use super::figures::{AGENT, ATTACKER};
use super::{Cell, NAME};
use crate::result::Row;
use crate::table::number;
use crate::workload::Contender;

/// The tables of floods; nothing where none was measured.
pub(crate) fn tables(rows: &[Row]) -> String {
    let mut out = String::new();
    for victim in Victim::ALL {
        victims(&mut out, rows, victim);
    }
    agent(&mut out, rows);
    out
}

/// The table of a victim: a line for each flood.
fn victims(out: &mut String, rows: &[Row], victim: Victim) {
    let lines = lines(rows, |find| {
        let of = |contender, metric| find(contender, victim.name(), metric);
        let mesh = of(Contender::Mesh, "p99")?;
        let new = of(Contender::Mesh, "new_p99");
        let value = |row: Option<&Row>| row.map_or_else(none, |row| number(row.value));
        let ratio = |row: Option<&Row>| {
            row.map_or_else(none, |row| {
                let [value, min, max] = [row.value, row.min, row.max];
                format!("**{value:.2}** ({min:.2}–{max:.2})")
            })
        };
        let failed = mesh.failed + new.map_or(0, |row| row.failed);
        let direct = [of(Contender::Direct, "p99"), of(Contender::Direct, "new_p99")];
        let failed_direct: u64 = direct.into_iter().flatten().map(|row| row.failed).sum();
        Some(vec![
            value(of(Contender::Mesh, "p99_calm")),
            value(Some(mesh)),
            ratio(of(Contender::Mesh, "p99_to_calm")),
            ratio(of(Contender::Direct, "p99_to_calm")),
            ratio(of(Contender::Mesh, "new_p99_to_calm")),
            ratio(of(Contender::Direct, "new_p99_to_calm")),
            failed.to_string(),
            failed_direct.to_string(),
        ])
    });
    let head = [
        "p99 in calm, µs",
        "p99, µs",
        "p99, × calm",
        "direct",
        "new: p99, × calm",
        "direct",
        "failed",
        "direct",
    ];
    let (name, title) = (victim.name(), victim.title());
    table(out, &format!("`{name}` under floods: {title}"), &head, &lines);
}

/// The table of the floods themselves, and of the attacked agent.
fn agent(out: &mut String, rows: &[Row]) {
    let lines = lines(rows, |find| {
        let value = |path, metric| {
            find(Contender::Mesh, path, metric).map_or_else(none, |row| number(row.value))
        };
        find(Contender::Mesh, ATTACKER, "attempts")?;
        Some(vec![
            value(ATTACKER, "attempts"),
            value(ATTACKER, "steps"),
            value(AGENT, "agent_cpu"),
            value(AGENT, "agent_descriptors"),
            value(AGENT, "agent_memory"),
        ])
    });
    let head = ["attempts/s", "steps/s", "agent's processors", "descriptors", "memory, MiB"];
    table(out, "The attacked agent, and the floods as they came", &head, &lines);
}

/// Finds a row of one flood by its contender, path and metric.
type Find<'a> = dyn Fn(Contender, &str, &str) -> Option<&'a Row> + 'a;

/// A line for each flood that has one.
fn lines<'a>(
    rows: &'a [Row],
    cells: impl Fn(&Find<'a>) -> Option<Vec<String>>,
) -> Vec<Vec<String>> {
    let line = |cell: Cell| {
        let name = cell.to_string();
        let find = move |contender: Contender, path: &str, metric: &str| {
            rows.iter().find(|row| {
                row.workload == name
                    && row.contender == contender.name()
                    && row.path == path
                    && row.metric == metric
            })
        };
        let names = [format!("`{}`", cell.flood), cell.party.to_string()];
        Some([&names[..], &cells(&find)?].concat())
    };
    Cell::matching(NAME).into_iter().filter_map(line).collect()
}

fn table(out: &mut String, title: &str, head: &[&str], lines: &[Vec<String>]) {
    if lines.is_empty() {
        return;
    }
    let mut text = format!("\n### {title}\n\n| Flood | By | {} |\n", head.join(" | "));
    text.push_str("|---|---|");
    text.push_str(&"---:|".repeat(head.len()));
    for line in lines {
        text.push_str("\n| ");
        text.push_str(&line.join(" | "));
        text.push_str(" |");
    }
    writeln!(out, "{text}").expect("invariant: a String takes all text");
}

fn none() -> String {
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::figures::rows;
    use super::super::figures::tests::sample;
    use super::*;

    #[test]
    fn a_flood_has_a_line_in_each_table() {
        let samples =
            [sample(0, Contender::Direct, 100.0, 110.0), sample(0, Contender::Mesh, 200.0, 230.0)];
        let tables = tables(&rows(&samples));
        let expect = "| `tunnels` | peer | 200 | 230 | **1.15** (1.15–1.15) | \
                      **1.10** (1.10–1.10) | **2.30** (2.30–2.30) | **2.20** (2.20–2.20) | 1 | 1 |";
        assert_eq!(tables.matches(expect).count(), 3, "{tables}");
        assert!(tables.contains("| `tunnels` | peer | 200 | 400 | 0.25 | 700 | 64.0 |"));
        assert_eq!(tables.matches("| peer |").count(), 4);
    }

    #[test]
    fn there_is_no_table_without_a_flood() {
        assert_eq!(tables(&[]), "");
    }
}
