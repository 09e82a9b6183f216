//! Builds and runs the programs of the mesh: its tests, its demo, its benchmark.
//!
//! Everything is built for the same set of packages: cargo unites the features of what it builds
//! together, so another set would compile the dependencies again.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::{Workspace, process, setup};

/// The packages that are built for this machine; `mesh-ebpf` is built by `mesh-agent`'s script.
pub(crate) const HOST_PACKAGES: [&str; 3] = ["--workspace", "--exclude", "mesh-ebpf"];

/// Runs the unit tests, then the integration tests.
///
/// # Errors
///
/// A test fails, or we are not root.
pub(crate) fn tests(workspace: &Workspace, filter: Option<&str>) -> Result<()> {
    setup::run(workspace)?;
    setup::clients()?;
    let cargo = |verb: &str| {
        let mut command = process::cargo(workspace);
        command.arg(verb).args(HOST_PACKAGES).env("RUST_BACKTRACE", "1");
        command
    };
    // The integration tests start the agent as a program; `cargo test --test` does not build it.
    process::step(
        "building everything, for testing (2 to 10 min the first time)",
        cargo("build").arg("--bins").arg("--tests"),
    )?;
    let filter = filter.as_slice();
    process::show("unit tests", cargo("test").args(["--quiet", "--lib", "--bins"]).args(filter))?;
    process::show("documentation tests", cargo("test").args(["--quiet", "--doc"]).args(filter))?;
    if !process::is_root() {
        bail!("the unit tests pass; the integration tests need root: {}", again("test"));
    }
    process::show("integration tests", cargo("test").args(["--test", "it"]).args(filter))
}

/// Runs the tests of shared state under loom: another build of the agent, with the feature `model`.
///
/// # Errors
///
/// A test fails, or does not build.
pub(crate) fn model(workspace: &Workspace) -> Result<()> {
    let mut cargo = process::cargo(workspace);
    // The kernel programs have no part in it.
    cargo.env("AYA_BUILD_SKIP", "1").args(["test", "--quiet"]).args(HOST_PACKAGES);
    cargo.args(["--lib", "--features", "mesh-agent/model", "model_tests"]);
    process::show("shared state, in every order of threads", &mut cargo)
}

/// Builds the agent and its tests for a report of some of them.
///
/// # Errors
///
/// We are not root, or something does not build.
pub(crate) fn prepare_lab(workspace: &Workspace) -> Result<()> {
    if !process::is_root() {
        bail!("network namespaces and kernel programs need root: run it with sudo");
    }
    setup::run(workspace)?;
    process::step(
        "building the agent and its tests (2 to 10 min the first time)",
        process::cargo(workspace).arg("build").args(HOST_PACKAGES).args(["--bins", "--tests"]),
    )
}

/// Runs integration tests for a report: `args` are for the test program, `change` adds to the
/// command. Returns whether all passed, and what they said.
///
/// # Errors
///
/// They did not run.
pub(crate) fn lab_tests(
    workspace: &Workspace,
    args: &[String],
    change: impl FnOnce(&mut Command),
) -> Result<(bool, String)> {
    let mut command = process::cargo(workspace);
    command.args(["test", "--quiet"]).args(HOST_PACKAGES);
    command.args(["--test", "it", "--", "--format", "pretty"]).args(args);
    // Its message says why, not where.
    command.env("RUST_BACKTRACE", "0");
    change(&mut command);
    let output = command.output().context("running the tests")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !said.contains("test result:") {
        bail!("the tests did not run:\n{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok((output.status.success(), said))
}

/// Prints what tests said that did not pass.
pub(crate) fn quote(said: &str) {
    for line in said.lines() {
        eprintln!("    {line}");
    }
}

/// Which binaries a program is run from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// Those that the tests use: nothing is compiled again.
    Development,
    /// Those that are measured and shipped.
    Release,
}

/// Builds the binaries, runs the one called `name` and passes on its exit code.
///
/// # Errors
///
/// We are not root, or a binary does not build or start.
pub(crate) fn program(
    workspace: &Workspace,
    name: &str,
    build: Build,
    args: &[String],
) -> Result<ExitCode> {
    if !process::is_root() {
        let verb = name.trim_start_matches("mesh-");
        bail!("network namespaces and kernel programs need root: {}", again(verb));
    }
    setup::run(workspace)?;
    let mut cargo = process::cargo(workspace);
    cargo.args(["build", "--bins"]).args(HOST_PACKAGES);
    let folder = match build {
        Build::Development => {
            process::step("building (2 to 10 min the first time, seconds after that)", &mut cargo)?;
            "debug"
        }
        Build::Release => {
            cargo.arg("--release");
            let title = "building the release (5 to 15 min the first time, seconds after that)";
            process::step(title, &mut cargo)?;
            "release"
        }
    };
    let program = workspace.target_dir.join(folder).join(name);
    let status = Command::new(&program)
        .args(args)
        .current_dir(&workspace.root)
        .status()
        .with_context(|| format!("starting {}", program.display()))?;
    // A program that was ended by a signal has no code.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(ExitCode::from(code))
}

/// How to run a verb as root with the user's own toolchain.
fn again(verb: &str) -> String {
    format!("run `sudo --preserve-env=HOME,PATH env \"PATH=$PATH\" cargo xtask {verb}`")
}
