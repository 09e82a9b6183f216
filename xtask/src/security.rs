//! Runs the attacks of the security suite between agents, and says which were refused, and what each
//! of those cost others and the agent.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::{Security, Workspace, process, run, setup};

/// The prefix of the tests.
const TESTS: &str = "security::";

/// One attack, as the tests report it. The texts are strings of JSON, with their quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Attack {
    name: String,
    by: String,
    /// `None`: it was not refused, or something else that has to hold did not.
    refused: Option<Effect>,
    reason: String,
}

/// The effect of an attack on others and the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Effect {
    /// The fastest exchange of somebody else, after the attack.
    bystander_us: u64,
    /// Memory that the agent took for it, at most.
    memory_bytes: u64,
    /// Descriptors that it took, at most.
    descriptors: u64,
    /// Descriptors that it kept.
    descriptors_after: u64,
}

impl Effect {
    fn parse(
        [bystander_us, memory_bytes, descriptors, descriptors_after]: [&str; 4],
    ) -> Result<Self> {
        Ok(Self {
            bystander_us: bystander_us.parse()?,
            memory_bytes: memory_bytes.parse()?,
            descriptors: descriptors.parse()?,
            descriptors_after: descriptors_after.parse()?,
        })
    }

    /// The larger of both, each figure by itself.
    fn max(self, other: Self) -> Self {
        Self {
            bystander_us: self.bystander_us.max(other.bystander_us),
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            descriptors: self.descriptors.max(other.descriptors),
            descriptors_after: self.descriptors_after.max(other.descriptors_after),
        }
    }
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
    eprintln!("• attacks on agents that serve (5 min)");
    let (passed, said) = run::lab_tests(workspace, &[TESTS.to_owned()], |command| {
        command.env("MESH_ATTACKS", &path);
    })?;
    let lines = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let attacks = merge(&lines)?;
    let ok = passed && attacks.iter().all(|attack| attack.refused.is_some());
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
/// refused and all else held.
fn merge(lines: &str) -> Result<Vec<Attack>> {
    let mut all = BTreeMap::new();
    for line in lines.lines() {
        let (parts, refused) = match *line.split('\t').collect::<Vec<_>>() {
            ["0", by, name, reason] => ([by, name, reason], None),
            ["1", by, name, reason, us, bytes, most, after] => {
                ([by, name, reason], Some(Effect::parse([us, bytes, most, after])?))
            }
            _ => bail!("`{line}` is no line of the report"),
        };
        let [by, name, reason] = parts.map(str::to_owned);
        let key = (by.clone(), name.clone());
        if refused.is_some() || !all.contains_key(&key) {
            all.insert(key, Attack { name, by, refused, reason });
        }
    }
    Ok(all.into_values().collect())
}

/// The effects of those that were refused.
fn effects(attacks: &[Attack]) -> impl Iterator<Item = Effect> {
    attacks.iter().filter_map(|attack| attack.refused)
}

/// The outcomes for people.
fn table(attacks: &[Attack]) -> String {
    let plain = |text: &str| text.trim_matches('"').to_owned();
    let width = attacks.iter().map(|attack| plain(&attack.by).len()).max().unwrap_or_default();
    let mut table = format!("{:width$}  result   attack\n", "by");
    for attack in attacks {
        let (by, name) = (plain(&attack.by), plain(&attack.name));
        let result = if attack.refused.is_some() { "refused" } else { "FAILED" };
        // Writing to a string does not fail.
        let _infallible = writeln!(table, "{by:width$}  {result:7}  {name}");
    }
    let refused = effects(attacks).count();
    let _infallible = writeln!(table, "{} attacks, {refused} refused", attacks.len());
    let Effect { bystander_us, memory_bytes, descriptors, descriptors_after } =
        effects(attacks).fold(Effect::default(), Effect::max);
    let _infallible = writeln!(
        table,
        "at most: {bystander_us} µs for a bystander, {} MiB of memory, {descriptors} descriptors, and \
         {descriptors_after} afterwards",
        memory_bytes >> 20
    );
    table
}

/// The outcomes for machines, in one line.
fn json(attacks: &[Attack]) -> String {
    let case = |Attack { name, by, refused, reason }: &Attack| {
        let is_refused = refused.is_some();
        let effect = refused.map_or("null".to_owned(), |effect| {
            format!(
                r#"{{"bystander_us": {}, "memory_bytes": {}, "descriptors": {}, "descriptors_after": {}}}"#,
                effect.bystander_us,
                effect.memory_bytes,
                effect.descriptors,
                effect.descriptors_after
            )
        });
        format!(
            r#"{{"name": {name}, "by": {by}, "refused": {is_refused}, "reason": {reason}, "effect": {effect}}}"#
        )
    };
    let cases: Vec<_> = attacks.iter().map(case).collect();
    let (all, refused, cases) = (attacks.len(), effects(attacks).count(), cases.join(", "));
    format!(r#"{{"attacks": {all}, "refused": {refused}, "cases": [{cases}]}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "0\t\"pod\"\t\"b\"\t\"\"\n0\t\"network\"\t\"a\"\t\"\"\n\
                         1\t\"network\"\t\"a\"\t\"r\"\t1500\t3145728\t20\t4\n";

    #[test]
    fn what_began_and_was_not_refused_has_failed() {
        let attacks = merge(LINES).unwrap();
        let expect = "by       result   attack\nnetwork  refused  a\npod      FAILED   b\n\
                      2 attacks, 1 refused\n\
                      at most: 1500 µs for a bystander, 3 MiB of memory, 20 descriptors, and 4 \
                      afterwards\n";
        assert_eq!(table(&attacks), expect);
        let expect = r#"{"attacks": 2, "refused": 1, "cases": [{"name": "a", "by": "network", "refused": true, "reason": "r", "effect": {"bystander_us": 1500, "memory_bytes": 3145728, "descriptors": 20, "descriptors_after": 4}}, {"name": "b", "by": "pod", "refused": false, "reason": "", "effect": null}]}"#;
        assert_eq!(json(&attacks), expect);
    }

    #[test]
    fn a_refusal_without_its_effect_is_no_line_of_a_report() {
        merge("1\t\"network\"\t\"a\"\t\"r\"\n").unwrap_err();
    }
}
