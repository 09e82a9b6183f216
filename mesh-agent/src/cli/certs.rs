//! `mesh-agent certs`: the certificates that a running agent uses, as a table.

use std::io::Write;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::cli::{AskArgs, ask};

/// The parts of `/certs` that are printed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    authority: Authority,
    certificates: Vec<Held>,
    roots: Vec<Item>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authority {
    kind: String,
    trust_domain: String,
    seconds_left: Option<u64>,
    renewals: u64,
    failures: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Held {
    identity: String,
    serial_number: String,
    seconds_left: u64,
    renews_in_seconds: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Item {
    name: String,
    serial_number: String,
    seconds_left: u64,
}

/// Asks the agent, and prints what it says.
///
/// # Errors
///
/// The agent cannot be asked.
pub(super) fn run(args: &AskArgs, out: &mut dyn Write) -> Result<()> {
    let answer = ask::get(args, "/certs")?;
    if args.json {
        return Ok(out.write_all(&answer)?);
    }
    let report: Report = serde_json::from_slice(&answer).context("reading the agent's answer")?;
    Ok(out.write_all(text(&report).as_bytes())?)
}

fn text(report: &Report) -> String {
    let Authority { kind, trust_domain, seconds_left, renewals, failures } = &report.authority;
    let signs = seconds_left.map_or(String::new(), |left| format!(", signs for {}", span(left)));
    let mut text = format!(
        "authority {kind}, trust domain {trust_domain}{signs}; \
         {renewals} renewed and {failures} failed since the start\n\n"
    );
    let mut rows =
        vec![["IDENTITY", "VALID FOR", "RENEWED IN", "SERIAL NUMBER"].map(str::to_owned)];
    rows.extend(report.certificates.iter().map(|held| {
        let renews = match held.renews_in_seconds {
            0 => "overdue".to_owned(),
            left => span(left),
        };
        let valid = valid_for(held.seconds_left);
        [held.identity.clone(), valid, renews, held.serial_number.clone()]
    }));
    table(&mut text, &rows);
    text.push('\n');
    let mut rows = vec![["TRUSTED ROOT", "VALID FOR", "SERIAL NUMBER"].map(str::to_owned)];
    rows.extend(
        report.roots.iter().map(|root| {
            [root.name.clone(), valid_for(root.seconds_left), root.serial_number.clone()]
        }),
    );
    table(&mut text, &rows);
    text
}

fn valid_for(seconds: u64) -> String {
    if seconds == 0 { "expired".to_owned() } else { span(seconds) }
}

/// Columns as wide as what is in them; the last one ends the line.
pub(super) fn table<const N: usize>(text: &mut String, rows: &[[String; N]]) {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let line: Vec<_> = cells.collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
}

/// A span of time in its two greatest units: `89d 3h`, `40m 2s`.
fn span(seconds: u64) -> String {
    let units = [(86_400, 'd'), (3_600, 'h'), (60, 'm'), (1, 's')];
    let mut left = seconds;
    let parts = units.map(|(unit, name)| {
        let count = left / unit;
        left %= unit;
        (count, name)
    });
    let parts = parts.into_iter().skip_while(|(count, _)| *count == 0).take(2);
    let parts: Vec<_> = parts
        .filter(|(count, _)| *count > 0)
        .map(|(count, name)| format!("{count}{name}"))
        .collect();
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units() {
        let check = |seconds, expect| assert_eq!(span(seconds), expect);
        check(0, "0s");
        check(59, "59s");
        check(3_600, "1h");
        check(3_601, "1h");
        check(86_400 * 89 + 3_600 * 3 + 59, "89d 3h");
        check(40 * 60 + 2, "40m 2s");
    }

    #[test]
    fn a_table_says_what_is_there() {
        let report = serde_json::json!({
            "authority": {"kind": "embedded", "trustDomain": "mesh.test", "secondsLeft": 90_000,
                "renewals": 3, "failures": 0},
            "certificates": [
                {"identity": "spiffe://mesh.test/ns/a/sa/b", "serialNumber": "4f", "name": "",
                    "secondsLeft": 3_000, "renewsInSeconds": 1_800, "issuers": []},
                {"identity": "spiffe://mesh.test/ns/a/sa/longer", "serialNumber": "50",
                    "secondsLeft": 0, "renewsInSeconds": 0},
            ],
            "roots": [{"name": "O=nodemesh", "serialNumber": "1", "secondsLeft": 86_400}],
        });
        let expect = "\
authority embedded, trust domain mesh.test, signs for 1d 1h; 3 renewed and 0 failed since the start

IDENTITY                           VALID FOR  RENEWED IN  SERIAL NUMBER
spiffe://mesh.test/ns/a/sa/b       50m        30m         4f
spiffe://mesh.test/ns/a/sa/longer  expired    overdue     50

TRUSTED ROOT  VALID FOR  SERIAL NUMBER
O=nodemesh    1d         1
";
        assert_eq!(text(&serde_json::from_value(report).unwrap()), expect);
    }
}
