//! A wall clock of an agent's own, which a test sets while the machine's stays right.
//!
//! Processes share the wall clock of their machine: Linux has namespaces for the clocks that nobody
//! sets only (`time_namespaces(7)`). So a library that is loaded before libc answers for it, and adds
//! the offset of a file.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::node::Node;
use crate::process::run;

/// The library. In C: what is loaded before libc can have no runtime.
const SOURCE: &str = include_str!("clock.c");

/// Names the file of the offset, to the library.
const VARIABLE: &str = "MESH_LAB_CLOCK";

/// A wall clock. Processes that are to have it are started with [`Self::variables`].
#[derive(Debug)]
pub struct WallClock {
    /// In memory, so that nothing is left of it, and no mount that forbids programs is in its way.
    library: File,
    offset: File,
    path: PathBuf,
}

impl WallClock {
    /// Makes one that shows the machine's time, for agents of `node`.
    ///
    /// # Errors
    ///
    /// There is no C compiler, or the lab's folder cannot be written.
    pub fn new(node: &Node) -> Result<Self> {
        let path = node.lab().state().join(format!("{}.clock", node.name()));
        let offset = File::create_new(&path).context("cannot make the file of a clock")?;
        let clock = Self { library: compile()?, offset, path };
        clock.set(0)?;
        Ok(clock)
    }

    /// The environment of processes that have this clock.
    pub fn variables(&self) -> [(&'static str, String); 2] {
        let library = format!("/proc/{}/fd/{}", std::process::id(), self.library.as_raw_fd());
        [("LD_PRELOAD", library), (VARIABLE, self.path.display().to_string())]
    }

    /// Sets it: from now on it shows the machine's time and `ahead_ms` milliseconds, which are negative
    /// for one that is behind.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn set(&self, ahead_ms: i64) -> Result<()> {
        let ahead_ns = ahead_ms.checked_mul(1_000_000).context("a time beyond the clock's end")?;
        // In one write: the library reads it at any moment.
        self.offset.write_all_at(&ahead_ns.to_ne_bytes(), 0).context("cannot set a clock")
    }
}

/// Compiles the library into memory.
fn compile() -> Result<File> {
    let folder = tempfile::tempdir().context("cannot make a folder for a clock")?;
    let path = |name: &str| folder.path().join(name);
    fs::write(path("clock.c"), SOURCE).context("cannot write the source of a clock")?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o"]);
    run(cc.arg(path("clock.so")).arg(path("clock.c")).arg("-ldl"))
        .context("clocks of agents need a C compiler: run `cargo xtask setup`")?;
    in_memory(&path("clock.so"))
}

fn in_memory(path: &Path) -> Result<File> {
    let made = memfd_create("mesh-lab-clock", MFdFlags::MFD_CLOEXEC);
    let mut file = File::from(made.context("cannot make a file in memory")?);
    file.write_all(&fs::read(path)?).context("cannot keep the library of a clock")?;
    Ok(file)
}
