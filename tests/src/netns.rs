//! Network namespaces by name, as `ip netns` makes them.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

/// Where `ip netns` keeps the names of namespaces.
const FOLDER: &str = "/run/netns";

/// A named network namespace. Dropping it does not remove it; its lab does.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes the namespace, with `lo` up and no waiting for duplicate addresses.
    ///
    /// # Errors
    ///
    /// `ip netns add` refused, or the kernel has no IPv6.
    pub fn create(name: &str) -> Result<Self> {
        ip(&["netns", "add", name], "")?;
        let netns = Self { name: name.to_owned() };
        netns.sysctl(&[
            // A new address is usable at once (RFC 4862, section 5.4 would wait a second).
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
        ])?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The names of all namespaces that start with `prefix`.
    pub fn names(prefix: &str) -> Vec<String> {
        let entries = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.starts_with(prefix)).collect()
    }

    /// Removes a namespace by name. A missing one is no error.
    ///
    /// # Errors
    ///
    /// `ip netns del` refused.
    pub fn remove(name: &str) -> Result<()> {
        let removed = ip(&["netns", "del", name], "");
        if Path::new(FOLDER).join(name).exists() { removed } else { Ok(()) }
    }

    /// The name below `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        Path::new(FOLDER).join(&self.name)
    }

    /// Runs `f` on a fresh thread inside the namespace, and waits for it.
    ///
    /// The thread stays in the caller's cgroup: programs that the mesh attached to a pod's cgroup
    /// do not see its sockets. A program that they are to see is a process of its own (`Pod::start`).
    ///
    /// # Errors
    ///
    /// The namespace is gone, or we may not enter; `f` has not run.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || -> Result<T> {
                setns(&file, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
                Ok(f())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Opens the file that stands for the namespace.
    ///
    /// # Errors
    ///
    /// The namespace is gone.
    pub fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("no namespace {}", self.name))
    }

    /// Runs `ip` commands, one a line, in the namespace.
    ///
    /// # Errors
    ///
    /// One of them was refused; those before it are done.
    pub fn ip(&self, commands: &str) -> Result<()> {
        ip(&["-n", &self.name, "-batch", "-"], commands)
    }

    /// Writes settings below `/proc/sys` as the namespace sees it, as `net/ipv4/ip_forward`.
    ///
    /// # Errors
    ///
    /// The kernel has no such setting or refuses the value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (key, value) in settings {
                std::fs::write(Path::new("/proc/sys").join(key), value)
                    .with_context(|| format!("cannot set {key} to {value}"))?;
            }
            Ok(())
        })?
    }
}

/// Runs `ip` with `args`, feeding it `input`.
///
/// # Errors
///
/// It is not installed, or it failed: its own words are in the error.
pub fn ip(args: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip: install iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).context("ip closed its input")?;
    }
    let output = child.wait_with_output().context("cannot wait for ip")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("ip {} refused: {}\n{input}", args.join(" "), said.trim());
    }
    Ok(())
}
