//! Builds the kernel programs and tells the agent where the object is: `MESH_EBPF_OBJECT`.
//!
//! The object is compiled by a cargo of its own, with a compiler of its own (see
//! `xtask/src/toolchain.rs`), in `<target>/ebpf`: one build serves every profile, and clippy.
//! With `AYA_BUILD_SKIP=1` the object is an empty file, and nothing is needed; the agent then says
//! that it was built without its kernel programs.

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::toolchain::{Toolchain, WAY_VARIABLE};

/// The variable that makes a stub; the same as in aya's own build helper.
const SKIP_VARIABLE: &str = "AYA_BUILD_SKIP";

/// Sources of the object, from the workspace's root.
const INPUTS: &[&str] = &[
    "mesh-ebpf/src",
    "mesh-ebpf/Cargo.toml",
    "mesh-common/src",
    "mesh-common/Cargo.toml",
    "xtask/src/toolchain.rs",
    "Cargo.toml",
    "Cargo.lock",
];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Cargo shows this line as the error, and without it a backtrace.
            for line in format!("{error:#}").lines() {
                println!("cargo::error={line}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Says what the build depends on, and makes the object or the stub.
fn run() -> Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the crate is not inside its workspace")?;
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    for variable in [SKIP_VARIABLE, WAY_VARIABLE] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out_dir = variable("OUT_DIR")?;
    let object = out_dir.join("mesh-ebpf.o");
    if env::var_os(SKIP_VARIABLE).is_some_and(|skip| skip == "1" || skip == "true") {
        fs::write(&object, []).context("writing the stub object")?;
    } else {
        let built = build(workspace, &out_dir)?;
        fs::copy(&built, &object).with_context(|| format!("copying {}", built.display()))?;
    }
    println!("cargo::rustc-env=MESH_EBPF_OBJECT={}", object.display());
    Ok(())
}

/// Builds the object; returns where it is.
fn build(workspace: &Path, out_dir: &Path) -> Result<PathBuf> {
    let toolchain = match Toolchain::find() {
        Ok(toolchain) => toolchain,
        Err(missing) => {
            bail!("cannot build the kernel programs: {missing}: run `cargo xtask setup`")
        }
    };
    // <target>/<profile>/build/<package>/out
    let target_dir = out_dir.ancestors().nth(4).context("OUT_DIR is too short")?.join("ebpf");
    let cargo = variable("CARGO")?;
    let output = toolchain
        .build(cargo.as_os_str(), workspace, &target_dir)
        .arg("--quiet")
        .output()
        .context("running cargo for the kernel programs")?;
    let log = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("the kernel programs do not build\n{log}");
    }
    for line in log.lines() {
        println!("cargo::warning={line}");
    }
    Ok(toolchain::object(&target_dir))
}

/// A path that cargo has put into the environment.
fn variable(name: &str) -> Result<PathBuf> {
    env::var_os(name).map(PathBuf::from).with_context(|| format!("cargo has not set {name}"))
}
