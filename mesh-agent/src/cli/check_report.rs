//! Output of `check`: for people, one paragraph a finding; for programs, JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::model::condition::Condition;

/// Everything that was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Answers of this machine, in the order of the questions.
    pub machine: Vec<Finding>,
    /// Conditions of the configuration.
    pub conditions: Vec<Condition>,
    /// Documents that were read, whatever they are.
    pub documents: usize,
    /// Workloads among them.
    pub workloads: usize,
    /// Services among them.
    pub services: usize,
    /// The configuration could not be looked at.
    pub is_unread: bool,
}

/// One question to this machine, and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The subject of the question, for example `cgroup v2`.
    pub subject: String,
    /// How it is.
    pub outcome: Outcome,
    /// The answer and, if it is bad, the remedy.
    pub message: String,
}

/// How an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The agent cannot run so.
    Fail,
    /// As it should be.
    Pass,
    /// The agent runs, but somebody should know.
    Warn,
}

impl Report {
    /// The exit status: 0 if nothing needs to be done, 1 if something does, 2 if the configuration could not be
    /// looked at.
    pub fn status(&self) -> u8 {
        if self.is_unread { 2 } else { u8::from(!self.is_good()) }
    }

    /// Whether nothing needs to be done. Warnings do not count.
    pub fn is_good(&self) -> bool {
        self.faults().next().is_none() && self.machine.iter().all(|it| it.outcome != Outcome::Fail)
    }

    /// The conditions that need somebody to change a document.
    fn faults(&self) -> impl Iterator<Item = &Condition> {
        self.conditions.iter().filter(|condition| !condition.reason.is_choice())
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.machine {
            let outcome = finding.outcome.as_str();
            line(&mut text, format_args!("{outcome:4}  {}: {}", finding.subject, finding.message));
        }
        for condition in self.sorted() {
            let outcome = if condition.reason.is_choice() { Outcome::Warn } else { Outcome::Fail };
            line(&mut text, format_args!("{:4}  {condition}", outcome.as_str()));
        }
        let count = |outcome| self.machine.iter().filter(|it| it.outcome == outcome).count();
        let faults = self.faults().count();
        let warnings = count(Outcome::Warn) + self.conditions.len() - faults;
        let faults = count(Outcome::Fail) + faults;
        let read = format!(
            "{} with {} and {}",
            many(self.documents, "document"),
            many(self.workloads, "workload"),
            many(self.services, "service")
        );
        let found = format!("{}, {}", many(faults, "fault"), many(warnings, "warning"));
        line(&mut text, format_args!("read {read}: {found}"));
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let machine = self.machine.iter().map(|finding| {
            json!({
                "subject": finding.subject,
                "outcome": finding.outcome.as_str(),
                "message": finding.message,
            })
        });
        let conditions = self.sorted().into_iter().map(|condition| {
            json!({
                "file": condition.location.file.display().to_string(),
                "document": condition.location.document,
                "line": condition.location.line,
                "subject": condition.subject,
                "field": condition.field,
                "reason": condition.reason.as_str(),
                "message": condition.message,
            })
        });
        json!({
            "good": self.is_good(),
            "machine": machine.collect::<Vec<_>>(),
            "conditions": conditions.collect::<Vec<_>>(),
            "documents": self.documents,
            "workloads": self.workloads,
            "services": self.services,
        })
    }

    /// The conditions, in the order of the files.
    fn sorted(&self) -> Vec<&Condition> {
        let mut all: Vec<_> = self.conditions.iter().collect();
        all.sort_by(|a, b| a.location.cmp(&b.location));
        all
    }
}

impl Outcome {
    /// The word that is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fail => "fail",
            Self::Pass => "pass",
            Self::Warn => "warn",
        }
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("invariant: a String takes all text");
}

/// `1 fault`, `2 faults`.
fn many(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::condition::{Location, Reason};

    fn finding(outcome: Outcome) -> Finding {
        Finding { subject: "bpffs".to_owned(), outcome, message: "is there".to_owned() }
    }

    fn condition(line: usize) -> Condition {
        Condition {
            location: Location { file: std::path::Path::new("a.yaml").into(), document: 1, line },
            subject: "Service demo/echo".to_owned(),
            field: "spec.ports".to_owned(),
            reason: Reason::Invalid,
            message: "there are none".to_owned(),
        }
    }

    fn check(machine: &[Outcome], lines: &[usize], good: bool, expect: &str) {
        let report = Report {
            machine: machine.iter().copied().map(finding).collect(),
            conditions: lines.iter().copied().map(condition).collect(),
            documents: 3,
            workloads: 1,
            services: 2,
            is_unread: false,
        };
        assert_eq!((report.text().as_str(), report.is_good()), (expect, good));
        assert_eq!(report.json()["good"], good);
        assert_eq!(report.status(), u8::from(!good));
        assert_eq!(Report { is_unread: true, ..report }.status(), 2);
    }

    #[test]
    fn says_what_was_found_and_what_it_comes_to() {
        check(
            &[Outcome::Pass, Outcome::Warn],
            &[],
            true,
            "pass  bpffs: is there\nwarn  bpffs: is there\n\
             read 3 documents with 1 workload and 2 services: 0 faults, 1 warning\n",
        );
        check(
            &[Outcome::Fail],
            &[],
            false,
            "fail  bpffs: is there\nread 3 documents with 1 workload and 2 services: 1 fault, 0 warnings\n",
        );
        check(
            &[],
            &[7, 3],
            false,
            "fail  a.yaml:3 (document 1): Service demo/echo: Invalid: spec.ports: there are none\n\
             fail  a.yaml:7 (document 1): Service demo/echo: Invalid: spec.ports: there are none\n\
             read 3 documents with 1 workload and 2 services: 2 faults, 0 warnings\n",
        );
    }

    #[test]
    fn warns_of_a_choice() {
        let condition = Condition { reason: Reason::FailsOpen, ..condition(3) };
        let report = Report { conditions: vec![condition], ..Report::default() };
        assert!(report.is_good());
        assert!(report.text().starts_with("warn  a.yaml:3 "), "{}", report.text());
        assert!(report.text().ends_with(": 0 faults, 1 warning\n"), "{}", report.text());
    }
}
