//! Runs the attacks of the security suite between agents, and says which were refused.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::{Security, Workspace, process, run, setup};

/// What the tests are below.
const TESTS: &str = "security::";

/// One attack, as the tests report it. The texts are strings of JSON, with their quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attack {
    name: String,
    by: String,
    refused: bool,
    reason: String,
}

/// Builds the agent and the tests, and runs those. The exit code says whether all attacks were
/// refused, and all tests passed.
///
/// # Errors
///
/// We are not root, or something does not build or start.
pub(crate) fn run(workspace: &Workspace, options: &Security) -> Result<ExitCode> {
    run::prepare_lab(workspace)?;
    setup::clients()?;
    let path = workspace.target_dir.join("attacks.tsv");
    drop(fs::remove_file(&path));
    let started = process::now();
    eprintln!("• attacks on agents that serve (1 min)");
    let (passed, said) = run::lab_tests(workspace, &[TESTS.to_owned()], |command| {
        command.env("MESH_ATTACKS", &path);
    })?;
    let lines = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let attacks = merge(&lines)?;
    let ok = passed && attacks.iter().all(|attack| attack.refused);
    if !ok {
        run::quote(&said);
    }
    eprintln!("{} attacks ({})", if ok { "✓" } else { "✗" }, process::seconds(started.elapsed()));
    print!("{}", table(&attacks));
    if options.json {
        println!("{}", json(&attacks));
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The attacks of a report, by who attacks. Each has a line when it begins, and one when it was
/// refused.
fn merge(lines: &str) -> Result<Vec<Attack>> {
    let mut all = BTreeMap::new();
    for line in lines.lines() {
        let [refused, by, name, reason] = *line.split('\t').collect::<Vec<_>>() else {
            bail!("`{line}` is no line of the report");
        };
        let text = |part: &str| part.to_owned();
        let refused = refused == "1";
        let attack = Attack { name: text(name), by: text(by), refused, reason: text(reason) };
        let key = (attack.by.clone(), attack.name.clone());
        if refused || !all.contains_key(&key) {
            all.insert(key, attack);
        }
    }
    Ok(all.into_values().collect())
}

/// How many were refused.
fn refused(attacks: &[Attack]) -> usize {
    attacks.iter().filter(|attack| attack.refused).count()
}

/// The outcomes for people.
fn table(attacks: &[Attack]) -> String {
    let plain = |text: &str| text.trim_matches('"').to_owned();
    let width = attacks.iter().map(|attack| plain(&attack.by).len()).max().unwrap_or_default();
    let mut table = format!("{:width$}  result   attack\n", "by");
    for attack in attacks {
        let (by, name) = (plain(&attack.by), plain(&attack.name));
        let result = if attack.refused { "refused" } else { "FAILED" };
        // Writing to a string does not fail.
        let _infallible = writeln!(table, "{by:width$}  {result:7}  {name}");
    }
    let _infallible = writeln!(table, "{} attacks, {} refused", attacks.len(), refused(attacks));
    table
}

/// The outcomes for machines, in one line.
fn json(attacks: &[Attack]) -> String {
    let case = |Attack { name, by, refused, reason }: &Attack| {
        format!(r#"{{"name": {name}, "by": {by}, "refused": {refused}, "reason": {reason}}}"#)
    };
    let cases: Vec<_> = attacks.iter().map(case).collect();
    let (all, refused, cases) = (attacks.len(), refused(attacks), cases.join(", "));
    format!(r#"{{"attacks": {all}, "refused": {refused}, "cases": [{cases}]}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "0\t\"pod\"\t\"b\"\t\"\"\n0\t\"network\"\t\"a\"\t\"\"\n\
                         1\t\"network\"\t\"a\"\t\"r\"\n";

    #[test]
    fn what_began_and_was_not_refused_has_failed() {
        let attacks = merge(LINES).unwrap();
        let expect = "by       result   attack\nnetwork  refused  a\npod      FAILED   b\n\
                      2 attacks, 1 refused\n";
        assert_eq!(table(&attacks), expect);
        let expect = r#"{"attacks": 2, "refused": 1, "cases": [{"name": "a", "by": "network", "refused": true, "reason": "r"}, {"name": "b", "by": "pod", "refused": false, "reason": ""}]}"#;
        assert_eq!(json(&attacks), expect);
    }
}
