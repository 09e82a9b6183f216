//! Finds what builds the kernel programs: a compiler with the source of `core`, and a linker.
//!
//! One file for two programs, so that they cannot disagree: `mesh-agent/build.rs` builds with what
//! is found here, and `cargo xtask setup` installs what is not. Nothing here installs, downloads
//! or builds.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The compiler of the kernel programs.
///
/// Its LLVM (22) is the one the linker is built with, and it is the newest that both rustup and
/// Debian 12 (package `rustc-web`) offer, so that both ways give the same object.
pub(crate) const RUST_VERSION: &str = "1.96.0";

/// The version of `bpf-linker`.
pub(crate) const LINKER_VERSION: &str = "0.13.0";

/// The target that the kernel programs are compiled for: little-endian BPF.
const TARGET: &str = "bpfel-unknown-none";

/// The environment variable that chooses a [`Way`].
pub(crate) const WAY_VARIABLE: &str = "MESH_EBPF_TOOLCHAIN";

/// Where the compiler comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// Debian's packages `rustc-web` and `rust-web-src`.
    Debian,
    /// A toolchain of rustup with the component `rust-src`.
    Rustup,
}

impl Way {
    /// The choice of `MESH_EBPF_TOOLCHAIN`; `None` is "whichever works".
    ///
    /// # Errors
    ///
    /// The variable has a value that names no way.
    pub(crate) fn forced() -> Result<Option<Self>, String> {
        match env::var_os(WAY_VARIABLE) {
            None => Ok(None),
            Some(value) if value.is_empty() => Ok(None),
            Some(value) if value == "debian" => Ok(Some(Self::Debian)),
            Some(value) if value == "rustup" => Ok(Some(Self::Rustup)),
            Some(value) => {
                Err(format!("{WAY_VARIABLE} is {}: say `rustup` or `debian`", value.display()))
            }
        }
    }
}

/// Everything that is needed to build the kernel programs.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    /// The compiler, at [`RUST_VERSION`].
    rustc: PathBuf,
    /// `bpf-linker`, at [`LINKER_VERSION`].
    linker: PathBuf,
}

impl Toolchain {
    /// The toolchain of this machine.
    ///
    /// # Errors
    ///
    /// A sentence for each thing that is missing.
    pub(crate) fn find() -> Result<Self, String> {
        match (find_rustc(Way::forced()?), find_linker()) {
            (Some(rustc), Some(linker)) => Ok(Self { rustc, linker }),
            (rustc, linker) => {
                let mut missing = Vec::new();
                if rustc.is_none() {
                    missing.push(format!("there is no Rust {RUST_VERSION} with its sources"));
                }
                if linker.is_none() {
                    missing.push(format!("there is no bpf-linker {LINKER_VERSION}"));
                }
                Err(missing.join(", and "))
            }
        }
    }

    /// The command that builds the kernel programs of `workspace` in `target_dir`; the result is
    /// at [`object`].
    ///
    /// `cargo` is the cargo that runs us. Everything that it (or clippy, through it) has put into our
    /// environment about the host's compilation is removed: wrappers, flags and the target folder
    /// would otherwise be applied to the kernel programs as well.
    pub(crate) fn build(&self, cargo: &OsStr, workspace: &Path, target_dir: &Path) -> Command {
        let mut command = Command::new(cargo);
        for (name, _) in env::vars_os() {
            if is_about_the_host(&name.to_string_lossy()) {
                command.env_remove(name);
            }
        }
        command
            .env("RUSTC", &self.rustc)
            // `-Z build-std` is unstable; this lets a stable compiler accept it.
            .env("RUSTC_BOOTSTRAP", "1")
            // BTF is made from the debug information of every crate in the object.
            .env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf")
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .env("CARGO_TARGET_DIR", target_dir)
            .env("CARGO_TERM_COLOR", "never")
            .args(["build", "--package", "mesh-ebpf", "--release"])
            .args(["-Z", "build-std=core", "--target", TARGET])
            .current_dir(workspace);
        command
    }
}

/// Where [`Toolchain::build`] leaves the object.
pub(crate) fn object(target_dir: &Path) -> PathBuf {
    target_dir.join(TARGET).join("release/mesh-ebpf")
}

/// Variables that cargo and rustup read or set, apart from those that say where things are kept
/// and how to reach the network.
fn is_about_the_host(name: &str) -> bool {
    const KEPT: &[&str] = &[
        "CARGO_HOME",
        "CARGO_HTTP",
        "CARGO_MAKEFLAGS",
        "CARGO_NET",
        "CARGO_REGISTRIES",
        "CARGO_REGISTRY",
        "CARGO_SOURCE",
        "RUSTUP_HOME",
        "RUSTUP_DIST_SERVER",
    ];
    let cargo = name.starts_with("CARGO") || name.starts_with("RUST");
    cargo && !KEPT.iter().any(|kept| name.starts_with(kept))
}

/// A compiler of the right version that has the source of `core` beside it.
pub(crate) fn find_rustc(way: Option<Way>) -> Option<PathBuf> {
    let rustup = || rustup_toolchain().map(|sysroot| sysroot.join("bin/rustc"));
    let debian = || {
        let rustc = PathBuf::from("/usr/bin/rustc");
        let right = has_sources(Path::new("/usr")) && reports_version(&rustc, RUST_VERSION);
        right.then_some(rustc)
    };
    match way {
        Some(Way::Rustup) => rustup(),
        Some(Way::Debian) => debian(),
        None => rustup().or_else(debian),
    }
}

/// The folder of rustup's toolchain. Does not run rustup, which might start a download.
fn rustup_toolchain() -> Option<PathBuf> {
    let rustup = match env::var_os("RUSTUP_HOME") {
        Some(home) => PathBuf::from(home),
        None => env::home_dir()?.join(".rustup"),
    };
    // rustup names a toolchain `<version>-<arch>-unknown-linux-gnu` or `-musl`.
    let prefix = format!("{RUST_VERSION}-{}-", env::consts::ARCH);
    let toolchains = fs::read_dir(rustup.join("toolchains")).ok()?;
    toolchains.filter_map(Result::ok).map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&prefix) && path.join("bin/rustc").exists() && has_sources(path)
    })
}

/// Whether a sysroot has what `-Z build-std` compiles.
fn has_sources(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
}

/// `bpf-linker`: the project's own, or one of the right version in `PATH`.
pub(crate) fn find_linker() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own = tool_dir("bpf-linker", LINKER_VERSION).map(|dir| dir.join("bin"));
    own.into_iter()
        .chain(env::split_paths(&path))
        .map(|dir| dir.join("bpf-linker"))
        .filter(|linker| linker.is_file())
        .find(|linker| reports_version(linker, LINKER_VERSION))
}

/// Where the project keeps a tool of its own: by user and version, so that clones share it.
pub(crate) fn tool_dir(name: &str, version: &str) -> Option<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME") {
        Some(cache) if !cache.is_empty() => PathBuf::from(cache),
        _ => env::home_dir()?.join(".cache"),
    };
    Some(cache.join("nodemesh/tools").join(format!("{name}-{version}")))
}

/// Whether `program --version` runs and the second word it prints is `version`.
pub(crate) fn reports_version(program: &Path, version: &str) -> bool {
    let Ok(output) = Command::new(program).arg("--version").output() else { return false };
    let text = String::from_utf8_lossy(&output.stdout);
    output.status.success() && text.split_whitespace().nth(1) == Some(version)
}
