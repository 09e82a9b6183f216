//! Shows that two versions of the agent understand each other, by letting them talk: of the two
//! nodes of each test, one has the agent of this tree, and the other that of another revision.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::run::{self, HOST_PACKAGES};
use crate::{Compat, Workspace, process, setup};

/// Which transport the agents prefer: `MESH_TRANSPORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Native,
    Hbone,
}

/// The version of a node's agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// This tree's.
    New,
    /// The other revision's.
    Old,
}

/// One test between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    /// The agents of the client's node and of the server's.
    nodes: [Version; 2],
    transport: Transport,
    test: &'static str,
    ok: bool,
}

/// The test that the lab can start an agent at all: its flags and its documents.
const STARTS: &str = "transport::the_agents_take_what_the_lab_gives_them";

/// Tests that have to hold between two versions, by whatever transport.
const EITHER: &[&str] = &[
    "transport::transfers_of_every_size_keep_every_byte",
    "transport::a_server_that_knows_hbone_alone_is_spoken_to_by_it",
    "transport::a_client_that_knows_hbone_alone_is_answered_by_it",
    "outbound_tcp::every_byte_arrives_both_ways_whoever_closes_first",
    "outbound_tcp::a_clients_reset_is_a_reset_at_the_server",
    "outbound_tcp::a_servers_reset_is_a_reset_at_the_client",
    "outbound_tcp::a_closed_port_is_an_error_at_the_client_and_safe_to_retry",
    "address_families::both_ends_see_each_other_and_not_the_agents",
    "routes::connections_are_split_by_weight",
    "rotation::certificates_are_renewed_under_traffic",
    "authorization::what_comes_through_a_tunnel_is_judged_at_the_destination",
    "authorization::a_tunnels_connections_end_when_they_are_forbidden",
    "lifecycle::the_sources_agent_drains",
    "lifecycle::the_destinations_agent_drains",
];

/// Tests that have to hold besides where both prefer the native transport.
const NATIVE: &[&str] = &[
    "transport::two_agents_speak_our_own_transport",
    "transport::a_stream_that_is_not_read_holds_up_no_other",
];

/// Tests that have to hold besides where both prefer HBONE.
const HBONE: &[&str] = &["transport::hbone_carries_every_byte_too"];

impl Transport {
    const ALL: [Self; 2] = [Self::Native, Self::Hbone];

    const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Hbone => "hbone",
        }
    }

    fn tests(self) -> Vec<&'static str> {
        let besides = match self {
            Self::Native => NATIVE,
            Self::Hbone => HBONE,
        };
        [EITHER, besides].concat()
    }
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Old => "old",
        }
    }
}

/// Builds both agents, and runs the tests between them both ways round. The exit code says whether
/// all went well.
///
/// # Errors
///
/// We are not root, there is no such revision, its agent does not build, or the lab cannot start it.
pub(crate) fn run(workspace: &Workspace, options: &Compat) -> Result<ExitCode> {
    if !process::is_root() {
        bail!("network namespaces and kernel programs need root: run it with sudo");
    }
    let commit = revision(&workspace.root, options.against.as_deref())?;
    setup::run(workspace)?;
    let old = agent_of(workspace, &commit)?;
    process::step(
        "building this tree's agent and its tests (2 to 10 min the first time)",
        process::cargo(workspace).arg("build").args(HOST_PACKAGES).args(["--bins", "--tests"]),
    )?;
    let new = workspace.target_dir.join("debug/mesh-agent");
    let lab = Lab { workspace, old: &old, new: &new };
    lab.starts(&commit)?;
    let mut outcomes = Vec::new();
    for transport in Transport::ALL {
        for nodes in [[Version::Old, Version::New], [Version::New, Version::Old]] {
            outcomes.extend(lab.between(nodes, transport)?);
        }
    }
    let ok = outcomes.iter().all(|outcome| outcome.ok);
    print!("{}", table(&outcomes));
    if options.json {
        println!("{}", json(&commit, &outcomes));
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The commit to compare with: the one that is asked for, or the newest tag's.
fn revision(root: &Path, against: Option<&str>) -> Result<String> {
    let tags = git(root, &["tag", "--sort=-creatordate"])?;
    let name = against.or_else(|| tags.lines().next());
    let name = name.context("there is no tag to compare with: name a revision with --against")?;
    let commit = format!("{name}^{{commit}}");
    git(root, &["rev-parse", "--verify", "--quiet", "--end-of-options", &commit])
        .ok()
        .filter(|commit| !commit.is_empty())
        .with_context(|| {
            format!("{} has no revision {name}: give --against a tag or a commit", root.display())
        })
}

/// The agent of `commit`. It is built in a worktree that is there only meanwhile, and kept: a
/// commit does not change.
fn agent_of(workspace: &Workspace, commit: &str) -> Result<PathBuf> {
    let short = commit.get(..12).unwrap_or(commit);
    let all = workspace.target_dir.join("compat");
    let agent = all.join(format!("mesh-agent-{short}"));
    if agent.is_file() {
        eprintln!("✓ the agent of {short} is in {}", agent.display());
        return Ok(agent);
    }
    // One place for all revisions, filled anew: cargo knows the packages of a workspace by where they
    // are in it, and takes files that it has seen, of whichever revision, for those of this one.
    let source = all.join("source");
    let tree = source.to_str().context("the target folder's name is not UTF-8")?;
    let remove = || git(&workspace.root, &["worktree", "remove", "--force", tree]);
    if source.exists() {
        remove().with_context(|| format!("removing {tree}, which an interrupted run has left"))?;
    }
    git(&workspace.root, &["worktree", "prune"])?;
    git(&workspace.root, &["worktree", "add", "--detach", tree, commit])?;
    // All revisions share it: most of their dependencies are the same.
    let target = all.join("build");
    let built = process::step(
        &format!("building the agent of {short} (2 to 10 min the first time)"),
        // Not the cargo that runs us: the revision says which compiler it wants.
        Command::new("cargo")
            .args(["build", "--package", "mesh-agent", "--bin", "mesh-agent"])
            .current_dir(&source)
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("AYA_BUILD_SKIP")
            .env("CARGO_TARGET_DIR", &target),
    );
    remove().with_context(|| format!("removing {tree}"))?;
    built.with_context(|| format!("the agent of {short} does not build on this machine"))?;
    // A name that is there only when all of it is.
    let part = agent.with_extension("part");
    fs::copy(target.join("debug/mesh-agent"), &part).context("keeping the agent that was built")?;
    fs::rename(&part, &agent).context("keeping the agent that was built")?;
    Ok(agent)
}

/// The environment of the tests.
struct Lab<'a> {
    workspace: &'a Workspace,
    old: &'a Path,
    new: &'a Path,
}

impl Lab<'_> {
    /// Makes sure that the other revision's agent can be started by this tree's lab.
    fn starts(&self, commit: &str) -> Result<()> {
        eprintln!("• starting the agent of {commit}");
        let said = self.test([Version::Old; 2], Transport::Native, &[STARTS])?;
        if passed(&said, STARTS) {
            return Ok(());
        }
        for line in said.lines() {
            eprintln!("    {line}");
        }
        bail!(
            "this tree's lab cannot start the agent of {commit}: its flags, its documents or its \
             admin server are others (above is what it said); give --against a later revision"
        )
    }

    /// Runs all tests of a transport between two nodes.
    fn between(&self, nodes: [Version; 2], transport: Transport) -> Result<Vec<Outcome>> {
        let [client, server] = nodes.map(Version::name);
        let started = process::now();
        let tests = transport.tests();
        eprintln!("• {} between {client} and {server}: {} tests", transport.name(), tests.len());
        let said = self.test(nodes, transport, &tests)?;
        let outcome = |test| Outcome { nodes, transport, test, ok: passed(&said, test) };
        let outcomes: Vec<_> = tests.into_iter().map(outcome).collect();
        let failed = outcomes.iter().filter(|outcome| !outcome.ok).count();
        if failed > 0 {
            for line in said.lines() {
                eprintln!("    {line}");
            }
        }
        let mark = if failed == 0 { "✓" } else { "✗" };
        let took = process::seconds(started.elapsed());
        eprintln!("{mark} {} between {client} and {server} ({took})", transport.name());
        Ok(outcomes)
    }

    /// Runs tests, and returns what the test program said. A test that fails is no error.
    fn test(&self, nodes: [Version; 2], transport: Transport, tests: &[&str]) -> Result<String> {
        let [first, others] = nodes.map(|version| match version {
            Version::New => self.new,
            Version::Old => self.old,
        });
        let args = [&["--exact"], tests].concat().into_iter().map(str::to_owned);
        let args: Vec<_> = args.collect();
        let (_all_passed, said) = run::lab_tests(self.workspace, &args, |command| {
            command.env("MESH_AGENT_BIN", first);
            command.env("MESH_LAB_PEER_AGENT", others);
            command.env("MESH_TRANSPORT", transport.name());
        })?;
        Ok(said)
    }
}

/// Whether a test is among those that went well, in the words of Rust's test programs.
pub(crate) fn passed(said: &str, test: &str) -> bool {
    let line = format!("test {test} ... ok");
    said.lines().any(|said| said == line)
}

/// The outcomes for people.
fn table(outcomes: &[Outcome]) -> String {
    let width = outcomes.iter().map(|outcome| outcome.test.len()).max().unwrap_or_default();
    let mut table = format!("client's  server's  transport  {:width$}  result\n", "test");
    for Outcome { nodes: [client, server], transport, test, ok } in outcomes {
        let (client, server) = (client.name(), server.name());
        let result = if *ok { "ok" } else { "FAILED" };
        // Writing to a string does not fail.
        let _infallible = writeln!(
            table,
            "{client:8}  {server:8}  {:9}  {test:width$}  {result}",
            transport.name()
        );
    }
    table
}

/// The outcomes for machines, in one line. Nothing in them needs an escape.
fn json(commit: &str, outcomes: &[Outcome]) -> String {
    let ok = outcomes.iter().all(|outcome| outcome.ok);
    let results: Vec<_> = outcomes
        .iter()
        .map(|Outcome { nodes: [client, server], transport, test, ok }| {
            format!(
                r#"{{"client":"{}","server":"{}","transport":"{}","test":"{test}","ok":{ok}}}"#,
                client.name(),
                server.name(),
                transport.name()
            )
        })
        .collect();
    format!(r#"{{"against":"{commit}","ok":{ok},"results":[{}]}}"#, results.join(","))
}

/// Runs git in `root`; returns what it printed.
fn git(root: &Path, args: &[&str]) -> Result<String> {
    let output =
        Command::new("git").args(args).current_dir(root).output().context("starting git")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("git {} failed: {}", args.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "
running 2 tests
test transport::one ... ok
test transport::two ... FAILED

failures:
test result: FAILED. 1 passed; 1 failed
";

    #[test]
    fn only_what_is_said_to_be_well_is() {
        assert!(passed(SAID, "transport::one"));
        assert!(!passed(SAID, "transport::two"));
        assert!(!passed(SAID, "transport::three"), "it has not run");
        assert!(!passed(SAID, "one"));
    }

    fn outcomes() -> [Outcome; 2] {
        let nodes = [Version::Old, Version::New];
        let outcome = |test, ok| Outcome { nodes, transport: Transport::Hbone, test, ok };
        [outcome("a::b", true), outcome("c::long", false)]
    }

    #[test]
    fn the_table_has_a_line_for_each() {
        assert_eq!(
            table(&outcomes()),
            "client's  server's  transport  test     result\n\
             old       new       hbone      a::b     ok\n\
             old       new       hbone      c::long  FAILED\n"
        );
    }

    #[test]
    fn the_line_for_machines_has_all_of_it() {
        assert_eq!(
            json("abc", &outcomes()),
            r#"{"against":"abc","ok":false,"results":["#.to_owned()
                + r#"{"client":"old","server":"new","transport":"hbone","test":"a::b","ok":true},"#
                + r#"{"client":"old","server":"new","transport":"hbone","test":"c::long","ok":false}"#
                + "]}"
        );
    }

    #[test]
    fn a_revision_that_is_not_there_is_named() {
        let workspace = Workspace::find().unwrap();
        let error = revision(&workspace.root, Some("no-such-thing")).unwrap_err().to_string();
        assert!(error.contains("no-such-thing") && error.contains("--against"), "{error}");
    }

    #[test]
    fn every_test_that_is_run_exists() {
        let workspace = Workspace::find().unwrap();
        for test in [EITHER, NATIVE, HBONE, &[STARTS]].concat() {
            let (module, name) = test.split_once("::").unwrap();
            let file = workspace.root.join(format!("tests/it/{module}.rs"));
            let text = fs::read_to_string(file).unwrap();
            assert!(text.contains(&format!("#[test]\nfn {name}()")), "{test}");
        }
    }
}
