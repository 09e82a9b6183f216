//! Installs what the build needs and this machine lacks.
//!
//! Tools that are there are left alone, so that a second run does nothing and takes no time. Tools of our
//! own go to the user's cache (`toolchain::tool_dir`), by version; nothing is put into `PATH`.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::Workspace;
use crate::process::{self, which};
use crate::toolchain::{self, LINKER_VERSION, RUST_VERSION, Toolchain, Way};

/// Debian's folder of the LLVM that [`RUST_VERSION`] and `bpf-linker` share.
const LLVM_BIN: &str = "/usr/lib/llvm-22/bin";

/// How long rustup may try before the other way is tried: it waits long on a blocked network.
const RUSTUP_LIMIT: Duration = Duration::from_mins(5);

/// How long the package manager may wait for another one to finish, in seconds.
const APT_LOCK_OPTION: &str = "DPkg::Lock::Timeout=300";

/// Makes this machine able to build everything.
///
/// # Errors
///
/// Something could not be installed; the error says what to do by hand.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut apt = Apt { updated: false };
    let mut packages = Vec::new();
    if which("cc").is_none() {
        packages.extend(["gcc", "libc6-dev"]);
    }
    if which("ip").is_none() {
        packages.push("iproute2");
    }
    if !packages.is_empty() {
        apt.install(&packages, "a C compiler for the cryptography, `ip` for the laboratory")?;
    }
    let way = Way::forced().map_err(anyhow::Error::msg)?;
    if toolchain::find_rustc(way).is_none() {
        install_rust(way, &mut apt)?;
    }
    if toolchain::find_linker().is_none() {
        install_linker(workspace, &mut apt)?;
    }
    Toolchain::find().map_err(anyhow::Error::msg).context("after installing everything")?;
    Ok(())
}

/// Programs that tests use beside ours: clients of HTTP, and the manager of the agent's unit. With the
/// packages that have them.
const CLIENTS: [(&str, &str); 5] = [
    ("curl", "curl"),
    ("h2load", "nghttp2-client"),
    ("node", "nodejs"),
    ("systemctl", "systemd"),
    ("wrk", "wrk"),
];

/// Debian's own Python, whose packages are Debian's too.
const PYTHON: &str = "/usr/bin/python3";

/// Installs the clients that tests use.
///
/// # Errors
///
/// Something could not be installed; the error says what to do by hand.
pub(crate) fn clients() -> Result<()> {
    let missing = CLIENTS.iter().filter(|(program, _)| which(program).is_none());
    let mut packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    let mut python = Command::new(PYTHON);
    python.args(["-c", "import h2"]).stderr(Stdio::null());
    if !python.status().is_ok_and(|status| status.success()) {
        packages.push("python3-h2");
    }
    if packages.is_empty() {
        return Ok(());
    }
    let reason = "clients of HTTP for the mesh, and systemd for the agent's unit, in tests";
    Apt { updated: false }.install(&packages, reason)
}

/// Installs a C++ compiler if there is none: libFuzzer is compiled by it, and nothing else is.
///
/// # Errors
///
/// It could not be installed; the error says what to do by hand.
pub(crate) fn cpp() -> Result<()> {
    if which("c++").is_some() {
        return Ok(());
    }
    Apt { updated: false }.install(&["g++"], "a C++ compiler for libFuzzer")
}

/// Installs Debian's `packages`, which are missing, for `reason`.
///
/// # Errors
///
/// Something could not be installed; the error says what to do by hand.
pub(crate) fn packages(packages: &[&str], reason: &str) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    Apt { updated: false }.install(packages, reason)
}

/// Installs the compiler of the kernel programs, whichever way works.
fn install_rust(way: Option<Way>, apt: &mut Apt) -> Result<()> {
    let by_rustup = match way {
        Some(Way::Debian) => return install_rust_debian(apt),
        Some(Way::Rustup) => return install_rust_rustup(),
        None => install_rust_rustup(),
    };
    let Err(rustup) = by_rustup else { return Ok(()) };
    eprintln!("  rustup cannot: {rustup:#}; trying Debian's packages");
    install_rust_debian(apt).with_context(|| {
        format!("neither rustup ({rustup:#}) nor Debian's packages give Rust {RUST_VERSION}")
    })
}

fn install_rust_rustup() -> Result<()> {
    let rustup = which("rustup").context("rustup is not installed (see https://rustup.rs)")?;
    process::step_within(
        &format!("installing Rust {RUST_VERSION} with rustup: compiles the kernel programs (20 s)"),
        Command::new(rustup)
            .args(["toolchain", "install", RUST_VERSION, "--profile", "minimal"])
            // The user's rustup is not ours to change.
            .args(["--component", "rust-src", "--no-self-update"]),
        RUSTUP_LIMIT,
    )?;
    toolchain::find_rustc(Some(Way::Rustup))
        .context("rustup's toolchain is not where it belongs")?;
    Ok(())
}

fn install_rust_debian(apt: &mut Apt) -> Result<()> {
    apt.install(&["rustc-web", "rust-web-src"], "Rust 1.96 compiles the kernel programs")?;
    toolchain::find_rustc(Some(Way::Debian))
        .with_context(|| format!("the package rustc-web is not Rust {RUST_VERSION}"))?;
    Ok(())
}

/// Builds `bpf-linker` into the user's cache.
fn install_linker(workspace: &Workspace, apt: &mut Apt) -> Result<()> {
    let root =
        toolchain::tool_dir("bpf-linker", LINKER_VERSION).context("there is no home folder")?;
    if let Some(llvm) = find_llvm().or_else(|| install_llvm(apt)) {
        let mut path = llvm.into_os_string();
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        let features = ["--no-default-features", "--features", "llvm-22"];
        install_tool(workspace, &root, "bpf-linker", LINKER_VERSION, &features, Some(path))?;
    } else if which("cargo-binstall").is_some() {
        process::step(
            &format!("downloading bpf-linker {LINKER_VERSION}: links the kernel programs"),
            process::cargo(workspace)
                .args(["binstall", "--no-confirm", "--disable-strategies", "compile", "--root"])
                .arg(&root)
                .arg(format!("bpf-linker@{LINKER_VERSION}")),
        )?;
    } else {
        bail!(
            "bpf-linker needs LLVM 22: install your system's package (llvm-22-dev on Debian and \
             at https://apt.llvm.org), or `cargo install cargo-binstall`, and run `cargo xtask \
             setup` again"
        );
    }
    toolchain::find_linker().context("the bpf-linker that was installed does not run")?;
    Ok(())
}

fn find_llvm() -> Option<PathBuf> {
    let debian = Path::new(LLVM_BIN);
    debian.join("llvm-config").is_file().then(|| debian.to_owned())
}

fn install_llvm(apt: &mut Apt) -> Option<PathBuf> {
    match apt.install(&["llvm-22-dev"], "LLVM 22 is what bpf-linker is made of") {
        Ok(()) => find_llvm(),
        Err(error) => {
            eprintln!("  no LLVM 22 from packages: {error:#}");
            None
        }
    }
}

/// Builds a program from the registry into a folder of the user's cache.
///
/// # Errors
///
/// It does not build; the error has the end of the build's output.
pub(crate) fn install_tool(
    workspace: &Workspace,
    root: &Path,
    name: &str,
    version: &str,
    options: &[&str],
    path: Option<OsString>,
) -> Result<()> {
    let mut cargo = process::cargo(workspace);
    cargo.args(["install", name, "--version", version, "--locked", "--root"]).arg(root);
    // A folder of its own, so that it can be dropped: the dependencies are nobody else's.
    let target_dir = workspace.target_dir.join("tools").join(name);
    cargo.args(options).env("CARGO_TARGET_DIR", &target_dir);
    if let Some(path) = path {
        cargo.env("PATH", path);
    }
    process::step(&format!("building {name} {version} from source (1 to 3 min)"), &mut cargo)?;
    if let Err(error) = std::fs::remove_dir_all(&target_dir) {
        eprintln!("  {} is left: {error}", target_dir.display());
    }
    Ok(())
}

/// Debian's package manager.
struct Apt {
    /// Whether the lists of packages have been fetched in this run.
    updated: bool,
}

impl Apt {
    /// Installs `packages`, which are there for `reason`.
    fn install(&mut self, packages: &[&str], reason: &str) -> Result<()> {
        let list = packages.join(" ");
        if which("apt-get").is_none() {
            bail!("install with your system's package manager what Debian calls {list} ({reason})");
        }
        if !process::is_root() {
            bail!("run `sudo apt-get install --no-install-recommends {list}` ({reason})");
        }
        if !self.updated {
            process::step("fetching the lists of packages", apt_get().arg("update"))?;
            self.updated = true;
        }
        process::step(
            &format!("installing {list}: {reason} (20 to 60 s)"),
            apt_get().args(["install", "--yes", "--no-install-recommends"]).args(packages),
        )
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.args(["-o", APT_LOCK_OPTION]).env("DEBIAN_FRONTEND", "noninteractive");
    command
}
