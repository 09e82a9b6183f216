//! Builds and runs the fuzz targets of `fuzz/`.
//!
//! The pinned stable compiler builds them: `RUSTC_BOOTSTRAP=1` lets it take `-Z sanitizer`, whose
//! runtime is in rustup's toolchain, so no nightly is needed. The kernel object is left out.

use std::env::consts;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{Fuzz, Workspace, process, setup, toolchain};

/// The version of `cargo-fuzz`, which knows how to compile for libFuzzer.
const CARGO_FUZZ_VERSION: &str = "0.13.2";

/// Into how many units a crate is split, as in other release builds: one, the default of cargo-fuzz,
/// takes twice as long to build.
const CODEGEN_UNITS: &str = "16";

/// An input that takes longer is a failure. The slowest takes milliseconds; this is for a machine
/// that does much else.
const INPUT_LIMIT_SECS: u32 = 20;

/// Builds the targets, and runs those that are asked for.
///
/// # Errors
///
/// There is no such target, the build fails, or an input makes a target fail: the error names it.
pub(crate) fn run(workspace: &Workspace, options: &Fuzz) -> Result<()> {
    let mut targets = targets(&workspace.root)?;
    if let Some(target) = &options.target {
        if !targets.contains(target) {
            bail!("there is no target `{target}`, only {}", targets.join(", "));
        }
        targets.retain(|name| name == target);
    }
    setup::cpp()?;
    let cargo_fuzz = install(workspace)?;
    // A folder of its own: whatever else is built has other flags.
    let target_dir = workspace.target_dir.join(if options.fast { "fuzz-fast" } else { "fuzz" });
    let flags: &[_] =
        if options.fast { &["--sanitizer", "none", "--no-trace-compares"] } else { &[] };
    // The sanitizer's runtime is made for glibc.
    let triple = format!("{}-unknown-linux-gnu", consts::ARCH);
    process::step(
        "building the fuzz targets (5 to 15 min the first time)",
        Command::new(cargo_fuzz)
            .args(["build", "--codegen-units", CODEGEN_UNITS, "--target", &triple])
            .args(flags)
            .arg("--target-dir")
            .arg(&target_dir)
            .args(options.target.as_slice())
            .current_dir(&workspace.root)
            .env("AYA_BUILD_SKIP", "1")
            .env("RUSTC_BOOTSTRAP", "1"),
    )?;
    let seconds = seconds(options, targets.len());
    for target in &targets {
        let program = target_dir.join(&triple).join("release").join(target);
        match &options.input {
            Some(input) => process::show(target, Command::new(program).arg(input))?,
            None => fuzz(workspace, &program, target, seconds)?,
        }
    }
    Ok(())
}

/// How long each of so many targets runs.
fn seconds(options: &Fuzz, targets: usize) -> u32 {
    let share = |within: u32| within / u32::try_from(targets.max(1)).unwrap_or(u32::MAX);
    options.within.map_or(options.seconds, |within| share(within).max(1))
}

/// The names of the targets, sorted.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("fuzz/fuzz_targets");
    let files = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let files: Vec<_> = files.collect::<Result<_, _>>()?;
    let names =
        files.iter().filter_map(|file| file.path().file_stem()?.to_str().map(str::to_owned));
    let mut names: Vec<_> = names.collect();
    names.sort();
    Ok(names)
}

/// Finds `cargo-fuzz` among our tools, or builds it.
fn install(workspace: &Workspace) -> Result<PathBuf> {
    let root =
        toolchain::tool_dir("cargo-fuzz", CARGO_FUZZ_VERSION).context("there is no home folder")?;
    let program = root.join("bin/cargo-fuzz");
    if !toolchain::reports_version(&program, CARGO_FUZZ_VERSION) {
        // Unoptimized: it builds in half the time, and only starts cargo.
        let options = ["--debug"];
        setup::install_tool(workspace, &root, "cargo-fuzz", CARGO_FUZZ_VERSION, &options, None)?;
    }
    Ok(program)
}

/// Runs a target for a while. An input that it finds worth keeping goes to a folder of this machine's, never
/// to the corpus that is committed.
fn fuzz(workspace: &Workspace, program: &Path, target: &str, seconds: u32) -> Result<()> {
    let scratch = workspace.target_dir.join("fuzz");
    let (found, temporary) = (scratch.join("corpus").join(target), scratch.join("tmp"));
    let artifacts = workspace.root.join("fuzz/artifacts");
    for dir in [&found, &temporary, &artifacts] {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    // A name that is known before, so that nothing has to be searched for after.
    let mut names = (1_u32..).map(|number| artifacts.join(format!("{target}-{number}")));
    let failing = names.find(|path| !path.exists()).context("all numbers are taken")?;
    let result = process::step(
        &format!("fuzzing {target} for {seconds} s"),
        Command::new(program)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={INPUT_LIMIT_SECS}"))
            .arg(format!("-exact_artifact_path={}", failing.display()))
            // New inputs are written to the first.
            .args([&found, &workspace.root.join("fuzz/corpus").join(target)])
            .env("TMPDIR", &temporary),
    );
    if result.is_err() && failing.exists() {
        let input = failing.display();
        bail!("{target} fails on {input}; to see it again: cargo xtask fuzz {target} {input}");
    }
    result
}
