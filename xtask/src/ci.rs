//! Every check that CI runs, in the order of what fails soonest.

use anyhow::{Context as _, Result};

use crate::run::HOST_PACKAGES;
use crate::toolchain;
use crate::{Workspace, process, run, setup, tidy};

/// The version of `cargo-deny`, which checks licences, duplicates and sources of dependencies.
const DENY_VERSION: &str = "0.20.2";

/// Runs the checks; without the tests when they have run already.
///
/// # Errors
///
/// The first check that fails.
pub(crate) fn run(workspace: &Workspace, skip_tests: bool) -> Result<()> {
    let cargo = || process::cargo(workspace);
    process::show("format", cargo().args(["fmt", "--all", "--check"]))?;
    process::show("format, fuzz targets", cargo().args(["fmt", "--check"]).args(FUZZ_WORKSPACE))?;
    tidy::check(&workspace.root)?;
    setup::run(workspace)?;
    deny(workspace)?;
    process::show(
        "clippy",
        cargo().args(["clippy", "--quiet", "--all-targets"]).args(HOST_PACKAGES).args(WARNINGS),
    )?;
    // Clippy belongs to the host's compiler, which has no `core` for BPF, so it checks the kernel
    // programs as if they were for the host, where a crate without `std` must abort on a panic.
    // The build for BPF shows the compiler's own warnings.
    process::show(
        "clippy, kernel programs",
        cargo()
            .args(["clippy", "--quiet", "--package", "mesh-ebpf", "--config"])
            .args(["profile.dev.panic=\"abort\""])
            .args(WARNINGS),
    )?;
    process::show(
        "clippy, fuzz targets",
        cargo()
            .args(["clippy", "--quiet"])
            .args(FUZZ_WORKSPACE)
            // Nothing is linked, so libFuzzer need not be compiled.
            .env("CUSTOM_LIBFUZZER_PATH", "./none")
            .args(WARNINGS),
    )?;
    process::show(
        "documentation",
        cargo()
            .args(["doc", "--quiet", "--no-deps", "--document-private-items"])
            .args(HOST_PACKAGES)
            .env("RUSTDOCFLAGS", "-Dwarnings"),
    )?;
    if skip_tests {
        return Ok(());
    }
    run::tests(workspace, None)
}

/// The workspace that is not ours: of the fuzz targets.
const FUZZ_WORKSPACE: [&str; 2] = ["--manifest-path", "fuzz/Cargo.toml"];

/// Makes clippy fail on a warning.
const WARNINGS: [&str; 3] = ["--", "-D", "warnings"];

/// Checks licences, bans and sources; installs `cargo-deny` first.
///
/// Not its fourth check, of advisories: their database is a git repository, which a build that
/// reaches package registries only cannot fetch. Run `cargo deny check advisories` by hand.
fn deny(workspace: &Workspace) -> Result<()> {
    let root =
        toolchain::tool_dir("cargo-deny", DENY_VERSION).context("there is no home folder")?;
    let program = root.join("bin/cargo-deny");
    if !toolchain::reports_version(&program, DENY_VERSION) {
        // Unoptimized: it builds in half the time, and runs for a second.
        let options = ["--debug"];
        setup::install_tool(workspace, &root, "cargo-deny", DENY_VERSION, &options, None)?;
    }
    process::show(
        "licences, bans and sources of the dependencies",
        std::process::Command::new(program)
            .args(["--log-level", "error", "check", "licenses", "bans", "sources"])
            .current_dir(&workspace.root),
    )
}
