//! Sends generated paths to real servers, compares what they reach with the record, and asks the
//! policies about it.
//!
//! The record, `tests/paths/record.tsv`, has each target with which a server has reached a
//! protected handler. A unit test of the agent judges all of them in every run of CI; the same test
//! judges what was seen live.

mod ask;
mod classes;
mod generate;
mod programs;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context as _, Result, bail};

use crate::run::HOST_PACKAGES;
use crate::{Paths, Workspace, process};
use ask::{Reached, ask, escaped};
use programs::{PROGRAMS, Program};

/// The record's first line, which names its columns.
const COLUMNS: &str = "target\thandler\tread\tservers";

/// The unit test that judges a record.
const TEST: &str = "authz::path";

/// Names the record that the unit test judges, in the place of the one that is committed.
const RECORD: &str = "MESH_PATHS";

/// Differences that are shown of all.
const MAX_SHOWN: usize = 20;

/// Servers that reached a handler with a target, and the path that they gave it.
type Record = BTreeMap<(String, Reached), Vec<String>>;

/// Runs the servers, and judges what they do. The exit code says whether it is as recorded, and no
/// policy was got past.
///
/// # Errors
///
/// A server cannot be had or does not run, or the record cannot be read or written.
pub(crate) fn run(workspace: &Workspace, options: &Paths) -> Result<ExitCode> {
    let programs = chosen(&options.without)?;
    programs::install(workspace, &programs)?;
    let started = process::now();
    let targets = generate::targets();
    let mut running = Vec::new();
    for program in programs {
        running.push(programs::start(workspace, program, &running)?);
    }
    let servers: Vec<_> = running.iter().flat_map(|one| one.servers.clone()).collect();
    eprintln!("• {} paths to {} servers (1 to 3 min)", targets.len(), servers.len());
    let seen = ask_all(&servers, &targets.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
    let classes = classes::table(&running, |program| programs::version(workspace, program))?;
    drop(running);
    let live = workspace.target_dir.join("paths/record.tsv");
    write(&live, &text(&seen))?;
    let folder = workspace.root.join("tests/paths");
    let differences = if options.record {
        write(&folder.join("record.tsv"), &text(&seen))?;
        write(&folder.join("servers.tsv"), &classes)?;
        Vec::new()
    } else {
        compare(&folder, &seen, &servers, &classes)?
    };
    for difference in differences.iter().take(MAX_SHOWN) {
        eprintln!("    {difference}");
    }
    let holds = judge(workspace, &live);
    let ok = differences.is_empty() && holds;
    eprintln!("{} paths ({})", if ok { "✓" } else { "✗" }, process::seconds(started.elapsed()));
    print!("{classes}");
    println!(
        "{} targets, {} of them reach a protected handler; {} differences from the record; policies {}",
        targets.len(),
        n_targets(&seen),
        differences.len(),
        if holds { "hold" } else { "FAILED" }
    );
    if options.json {
        println!(
            "{}",
            json(&[targets.len(), servers.len(), n_targets(&seen), differences.len()], holds)
        );
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All programs but those `without`.
fn chosen(without: &[String]) -> Result<Vec<&'static Program>> {
    let names: Vec<_> = PROGRAMS.iter().map(|program| program.name).collect();
    for name in without {
        if !names.contains(&name.as_str()) {
            bail!("there is no program `{name}`, only {}", names.join(", "));
        }
        eprintln!("• without {name}: the record of its servers is not compared");
    }

    Ok(PROGRAMS.iter().filter(|one| !without.iter().any(|name| name == one.name)).collect())
}

/// Asks all servers, each in a thread of its own, and keeps what reached a protected handler.
fn ask_all(servers: &[(&'static str, u16)], targets: &[&[u8]]) -> Result<Record> {
    let answers = thread::scope(|scope| {
        let threads: Vec<_> = servers
            .iter()
            .map(|(name, port)| scope.spawn(|| ask_one(name, *port, targets)))
            .collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| match thread.join() {
            Ok(answers) => answers,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let mut record = Record::new();
    for ((name, _), answers) in servers.iter().zip(answers) {
        for (target, reached) in answers {
            record.entry((target, reached)).or_default().push((*name).to_owned());
        }
    }
    Ok(record)
}

fn ask_one(name: &str, port: u16, targets: &[&[u8]]) -> Result<Vec<(String, Reached)>> {
    let mut all = Vec::new();
    let ask = |target: &[u8]| {
        ask(port, target).with_context(|| format!("asking {name} for {}", escaped(target)))
    };
    for target in targets {
        if let Some(reached) = ask(target)?
            && reached.handler != "public"
        {
            all.push((escaped(target), reached));
        }
    }
    // A server that has died has refused all.
    if ask(b"/admin/x")?.is_none_or(|reached| reached.handler != "admin") {
        bail!("{name} does not serve any more");
    }
    Ok(all)
}

/// A record as it is committed: sorted, so that a difference shows what has changed.
fn text(record: &Record) -> String {
    let mut text = format!("{COLUMNS}\n");
    for ((target, Reached { handler, read }), servers) in record {
        // Writing to a string does not fail.
        let _infallible = writeln!(text, "{target}\t{handler}\t{read}\t{}", servers.join(" "));
    }
    text
}

fn parse(text: &str) -> Result<Record> {
    let mut record = Record::new();
    for line in text.lines().skip(1) {
        let [target, handler, read, servers] = *line.split('\t').collect::<Vec<_>>() else {
            bail!("`{line}` is no line of the record");
        };
        let reached = Reached { handler: handler.to_owned(), read: read.to_owned() };
        let servers = servers.split(' ').map(str::to_owned).collect();
        record.insert((target.to_owned(), reached), servers);
    }
    Ok(record)
}

/// Where what was seen is not what the record in `folder` says of `servers`.
fn compare(
    folder: &Path,
    seen: &Record,
    servers: &[(&'static str, u16)],
    classes: &str,
) -> Result<Vec<String>> {
    let read = |name: &str| {
        let path: PathBuf = folder.join(name);
        fs::read_to_string(&path).with_context(|| {
            format!("reading {}; `cargo xtask paths --record` makes it", path.display())
        })
    };
    let mut recorded = parse(&read("record.tsv")?)?;
    for names in recorded.values_mut() {
        names.retain(|name| servers.iter().any(|(asked, _)| asked == name));
    }
    recorded.retain(|_, names| !names.is_empty());
    let lines = |record: &Record| -> Vec<String> {
        text(record).lines().skip(1).map(str::to_owned).collect()
    };
    let (new, old) = (lines(seen), lines(&recorded));
    let only = |sign: &str, these: &[String], those: &[String]| -> Vec<String> {
        let missing = these.iter().filter(|line| those.binary_search(line).is_err());
        missing.map(|line| format!("{sign} {line}")).collect()
    };
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    let (new, old) = (sorted(new), sorted(old));
    if !classes.lines().all(|line| read("servers.tsv").is_ok_and(|text| text.contains(line))) {
        eprintln!(
            "  versions or readings differ from tests/paths/servers.tsv; review, and run with `--record`"
        );
    }
    Ok([only("+", &new, &old), only("-", &old, &new)].concat())
}

/// Whether policies hold for the record at `live`, by the agent's own unit test.
fn judge(workspace: &Workspace, live: &Path) -> bool {
    let mut cargo = process::cargo(workspace);
    cargo.args(["test", "--quiet"]).args(HOST_PACKAGES).args(["--lib", TEST]);
    cargo.env(RECORD, live).env("RUST_BACKTRACE", "0");
    let judged =
        process::step("asking the policies about what was reached (1 to 5 min)", &mut cargo);
    judged.inspect_err(|error| eprintln!("  {error:#}")).is_ok()
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// How many targets have reached a protected handler of some server.
fn n_targets(record: &Record) -> usize {
    let mut targets: Vec<_> = record.keys().map(|(target, _)| target).collect();
    targets.dedup();
    targets.len()
}

fn json(counts: &[usize; 4], holds: bool) -> String {
    let [targets, servers, reached, differences] = counts;
    format!(
        r#"{{"targets": {targets}, "servers": {servers}, "reach_protected": {reached}, "differences": {differences}, "policies_hold": {holds}}}"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let reached = Reached { handler: "admin".to_owned(), read: "/admin/x".to_owned() };
        let servers = vec!["go".to_owned(), "nginx".to_owned()];
        let record = Record::from([(("/%61dmin/x".to_owned(), reached), servers)]);
        assert_eq!(parse(&text(&record)).unwrap(), record);
        assert_eq!(n_targets(&record), 1);
    }

    #[test]
    fn a_program_that_does_not_exist_cannot_be_left_out() {
        assert!(chosen(&["iis".to_owned()]).is_err());
        assert_eq!(chosen(&["go".to_owned()]).unwrap().len(), PROGRAMS.len() - 1);
    }
}
