//! A child process in a namespace and a cgroup, that talks JSON lines.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::expect::eventually;
use crate::netns::Netns;
use crate::report::Event;

/// How long a process may be silent or may take to end. Long, because tests share the machine.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// A running `mesh-app`. Dropping it kills it.
///
/// It also ends by itself when its standard input closes, so that it does not outlive a harness
/// that was killed.
#[derive(Debug)]
pub struct Process {
    child: Killed,
    stdin: Option<ChildStdin>,
    events: Receiver<Result<Event>>,
}

impl Process {
    /// Starts `mesh-app` with `args` in `netns` and in the group at `cgroup`.
    ///
    /// # Errors
    ///
    /// It is not built, or cannot be started.
    pub fn app<S: AsRef<str>>(
        netns: &Netns,
        cgroup: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Result<Self> {
        let mut command = inside(netns, cgroup)?;
        command.args(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Killed(command.spawn().context("cannot start mesh-app")?);
        let stdin = child.0.stdin.take();
        let stdout = child.0.stdout.take().context("a piped output is there")?;
        let (sender, events) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let event = line.context("cannot read from mesh-app").and_then(|line| {
                    serde_json::from_str(&line).with_context(|| format!("mesh-app said {line:?}"))
                });
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, stdin, events })
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        self.child.pid()
    }

    /// Waits for the next line.
    ///
    /// # Errors
    ///
    /// There is none within [`DEADLINE`], or the process ended.
    pub fn event(&self) -> Result<Event> {
        self.event_within(DEADLINE)
    }

    /// Waits for the next line of a process that may be silent for long.
    ///
    /// # Errors
    ///
    /// There is none within `deadline`, or the process ended.
    pub fn event_within(&self, deadline: Duration) -> Result<Event> {
        self.events.recv_timeout(deadline).context("mesh-app says nothing more")?
    }

    /// The lines that it has said already.
    pub fn so_far(&self) -> impl Iterator<Item = Result<Event>> {
        self.events.try_iter()
    }

    /// Sends it a signal, if it still runs.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.child.signal(signal)
    }

    /// Says a line to the process.
    ///
    /// # Errors
    ///
    /// It ended, or [`Self::finish`] was called.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the input of mesh-app was closed")?;
        writeln!(stdin, "{line}").context("mesh-app does not listen")
    }

    /// Closes its input, waits for its end and returns what it said until then.
    ///
    /// # Errors
    ///
    /// It does not end within [`DEADLINE`], or with an error.
    pub fn finish(mut self) -> Result<Vec<Event>> {
        drop(self.stdin.take());
        let events = self.events.iter().collect::<Result<Vec<_>>>()?;
        let status = self.child.wait(DEADLINE)?;
        ensure!(status.success(), "mesh-app ended with {status}");
        Ok(events)
    }
}

/// A command that will run in `netns` and in the group at `cgroup`: add what `mesh-app` shall do.
///
/// # Errors
///
/// `mesh-app` is not built.
pub fn inside(netns: &Netns, cgroup: &Path) -> Result<Command> {
    let mut command = Command::new(binary("mesh-app", "mesh-tests")?);
    command.arg("--netns").arg(netns.path()).arg("--cgroup").arg(cgroup);
    Ok(command)
}

/// Finds a program of this workspace beside the running one.
///
/// # Errors
///
/// It is not built.
pub fn binary(name: &str, package: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find our own program")?;
    // Test programs are in `deps`, one below the others.
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("{name} is not built: cargo build -p {package} --bins"))
}

/// A child that is killed when it is dropped.
#[derive(Debug)]
pub struct Killed(pub Child);

impl Killed {
    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    /// Sends a signal, if it still runs.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        // Until it is waited for, its id is not used again.
        if self.0.try_wait().context("cannot wait for a child")?.is_none() {
            kill(self.pid(), signal).with_context(|| format!("cannot send {signal}"))?;
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// It still runs after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let pid = self.pid();
        eventually(&format!("process {pid} to end"), deadline, || self.0.try_wait().transpose())?
            .context("cannot wait for a child")
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // An error says that it ended before.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs a program of ours to its end and returns what it printed.
///
/// # Errors
///
/// It cannot be started, or fails: what it said is in the error.
pub fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} failed: {}", args.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
