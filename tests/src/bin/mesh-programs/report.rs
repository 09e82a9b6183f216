//! Differences, and what was the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::known;
use crate::outcome::Outcome;
use crate::programs::Program;
use crate::way::{WAYS, Way};

/// Characters of a difference that are shown of each side.
const MAX_SHOWN: usize = 2000;

/// A case that differs from the same one without a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    program: &'static str,
    way: Way,
    case: &'static str,
    expected: String,
    got: String,
    /// Its cause, if it is known.
    known: Option<&'static str>,
}

/// All cases, and those that differ.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    programs: Vec<&'static str>,
    /// Without a mesh, by program and case.
    plain: BTreeMap<(&'static str, &'static str), Outcome>,
    /// How many cases of a program were run on a path.
    run: BTreeMap<(&'static str, Way), usize>,
    differences: Vec<Difference>,
}

impl Report {
    /// A report of these programs, without cases, yet.
    pub(crate) fn new(programs: &[&'static Program]) -> Self {
        let programs = programs.iter().map(|program| program.name).collect();
        Self { programs, ..Self::default() }
    }

    /// Adds what a case came to on a path. The path without a mesh comes first.
    pub(crate) fn add(
        &mut self,
        way: Way,
        program: &'static Program,
        case: &'static str,
        outcome: &Outcome,
    ) {
        let program = program.name;
        *self.run.entry((program, way)).or_default() += 1;
        if way == Way::None {
            self.plain.insert((program, case), outcome.clone());
            return;
        }
        let plain = self.plain.get(&(program, case)).cloned().unwrap_or_default();
        if let Some((expected, got)) = plain.difference(outcome) {
            let known = known::reason(way, program, case);
            self.differences.push(Difference { program, way, case, expected, got, known });
        }
    }

    /// Whether all that differs is known to.
    pub(crate) fn is_as_known(&self) -> bool {
        self.differences.iter().all(|difference| difference.known.is_some())
    }

    fn of(&self, program: &str, way: Way) -> impl Iterator<Item = &Difference> {
        self.differences.iter().filter(move |it| it.program == program && it.way == way)
    }

    /// For people: programs by paths, then each difference.
    pub(crate) fn table(&self) -> String {
        // Writing to a string does not fail.
        let mut out = format!("{:12}", "program");
        let ways = WAYS.into_iter().filter(|way| *way != Way::None);
        let ways: Vec<_> = ways.filter(|way| self.run.keys().any(|(_, run)| run == way)).collect();
        for way in &ways {
            let _infallible = write!(out, "  {:11}", way.name());
        }
        out.push('\n');
        for program in &self.programs {
            let _infallible = write!(out, "{program:12}");
            for way in &ways {
                let cell = match self.of(program, *way).count() {
                    0 => "same".to_owned(),
                    n if self.of(program, *way).all(|it| it.known.is_some()) => {
                        format!("{n} known")
                    }
                    n => format!("{n} DIFFER"),
                };
                let _infallible = write!(out, "  {cell:11}");
            }
            out.push('\n');
        }
        for Difference { program, way, case, expected, got, known } in &self.differences {
            let _infallible = writeln!(out, "\n{program} {} {case}", way.name());
            if let Some(reason) = known {
                let _infallible = writeln!(out, "  known: {reason}");
                continue;
            }
            for (sign, text) in [("-", expected), ("+", got)] {
                for line in shown(text).lines() {
                    let _infallible = writeln!(out, "  {sign} {line}");
                }
            }
        }
        let cases: usize = self.run.values().sum();
        let unknown = self.differences.iter().filter(|it| it.known.is_none()).count();
        let _infallible = writeln!(
            out,
            "\n{} programs, {cases} cases; {} differ, {unknown} of them for a cause that is not known",
            self.programs.len(),
            self.differences.len()
        );
        let lines: Vec<_> = out.lines().map(str::trim_end).collect();
        lines.join("\n") + "\n"
    }

    /// For machines, in one line. A program is the same if nothing of it differs.
    pub(crate) fn json(&self) -> Value {
        let differs = |name: &&&str| self.differences.iter().any(|it| it.program == **name);
        let differ = self.programs.iter().filter(differs).count();
        let differences = self.differences.iter().map(|it| {
            json!({
                "program": it.program,
                "path": it.way.name(),
                "case": it.case,
                "expected": shown(&it.expected),
                "got": shown(&it.got),
                "known": it.known,
            })
        });
        json!({
            "programs": self.programs.len(),
            "same": self.programs.len() - differ,
            "cases": self.run.values().sum::<usize>(),
            "differ": differences.collect::<Vec<_>>(),
        })
    }
}

/// The beginning of a text.
fn shown(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::PROGRAMS;

    #[test]
    fn a_difference_is_in_the_table_and_in_the_json() {
        let program = &PROGRAMS[0];
        let mut report = Report::new(&[program]);
        let outcome = |stdout: &str| Outcome { stdout: stdout.to_owned(), ..Outcome::default() };
        for (way, said) in [(Way::None, "a"), (Way::Direct, "a"), (Way::Mtls, "b")] {
            report.add(way, program, "some", &outcome(said));
        }
        let expect = "program       direct       mtls\nredis         same         1 DIFFER\n\n\
                      redis mtls some\n  - stdout: a\n  + stdout: b\n\n\
                      1 programs, 3 cases; 1 differ, 1 of them for a cause that is not known\n";
        assert_eq!(report.table(), expect);
        assert!(!report.is_as_known());
        let expect = json!({"programs": 1, "same": 0, "cases": 3, "differ": [{
            "program": "redis", "path": "mtls", "case": "some", "expected": "stdout: a",
            "got": "stdout: b", "known": null,
        }]});
        assert_eq!(report.json(), expect);
    }
}
