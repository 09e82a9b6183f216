//! `mesh-agent coverage`: how connections of a node's workloads really went, as a table.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::cli::{AskArgs, ask, certs};

/// The parts of `/coverage` that are printed.
#[derive(Debug, Deserialize)]
struct Covered {
    workload: String,
    outbound: Way,
    inbound: Way,
    sockets: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Way {
    agent: u64,
    mutual_tls: u64,
    direct: u64,
    bypassed: u64,
    other_namespace: u64,
    outside: u64,
}

impl Way {
    /// Of those through the agent, how many were mutual TLS: all that the agent carried, and of what it
    /// has not reported yet, none.
    fn mutual_tls(&self) -> u64 {
        self.mutual_tls.min(self.agent)
    }

    /// All that concern the mesh.
    fn all(&self) -> u64 {
        self.agent + self.direct + self.past()
    }

    /// Past the mesh, in whatever way.
    fn past(&self) -> u64 {
        self.bypassed + self.other_namespace
    }
}

/// Asks the agent, and prints what it says.
///
/// # Errors
///
/// The agent cannot be asked.
pub(super) fn run(args: &AskArgs, out: &mut dyn Write) -> Result<()> {
    let answer = ask::get(args, "/coverage")?;
    if args.json {
        return Ok(out.write_all(&answer)?);
    }
    let all: Vec<Covered> =
        serde_json::from_slice(&answer).context("reading the agent's answer")?;
    Ok(out.write_all(text(&all).as_bytes())?)
}

fn text(all: &[Covered]) -> String {
    let head = [
        "WORKLOAD",
        "DIRECTION",
        "CONNECTIONS",
        "MTLS",
        "DIRECT",
        "PLAINTEXT",
        "BYPASSED",
        "OUTSIDE",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    for Covered { workload, outbound, inbound, .. } in all {
        for (direction, way) in [("out", outbound), ("in", inbound)] {
            let share = |count: u64| percent(count, way.all());
            let carried = way.agent - way.mutual_tls();
            rows.push([
                workload.clone(),
                direction.to_owned(),
                way.all().to_string(),
                share(way.mutual_tls()),
                share(way.direct),
                share(carried),
                share(way.past()),
                way.outside.to_string(),
            ]);
        }
    }
    let mut text = String::new();
    certs::table(&mut text, &rows);
    for Covered { workload, sockets, .. } in all {
        for (kind, count) in sockets {
            text += workload;
            if kind == "earlier" {
                text += " had connections before it was enrolled, which stay as they are: ";
            } else {
                text += " has made sockets that no hook redirects, of kind ";
                text += kind;
                text += ": ";
            }
            text += &count.to_string();
            text += "\n";
        }
    }
    text
}

/// A share in percent, of which 0 and 100 mean none and all.
fn percent(part: u64, all: u64) -> String {
    match part.checked_mul(1000).and_then(|part| part.checked_div(all)) {
        None => "-".to_owned(),
        Some(0) if part > 0 => "<0.1 %".to_owned(),
        Some(tenths) => format!("{}.{} %", tenths / 10, tenths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_concerns_the_mesh() {
        let all = serde_json::json!([{
            "workload": "demo/web",
            "outbound": {"agent": 6, "mutualTls": 5, "direct": 3, "bypassed": 1,
                "otherNamespace": 0, "outside": 7},
            "inbound": {"agent": 0, "mutualTls": 0, "direct": 0, "bypassed": 0,
                "otherNamespace": 0, "outside": 0},
            "sockets": {"earlier": 3, "raw": 2},
        }]);
        let expect = "\
WORKLOAD  DIRECTION  CONNECTIONS  MTLS    DIRECT  PLAINTEXT  BYPASSED  OUTSIDE
demo/web  out        10           50.0 %  30.0 %  10.0 %     10.0 %    7
demo/web  in         0            -       -       -          -         0
demo/web had connections before it was enrolled, which stay as they are: 3
demo/web has made sockets that no hook redirects, of kind raw: 2
";
        assert_eq!(text(&serde_json::from_value::<Vec<Covered>>(all).unwrap()), expect);
    }
}
