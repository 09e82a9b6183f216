//! This program inside a pod.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context as _, Result};
use mesh_tests::pod::Pod;
use mesh_tests::process::{Killed, inside};

/// A running program. Dropping it kills it; it also ends when its standard input closes.
#[derive(Debug)]
pub(crate) struct InPod {
    lines: Receiver<String>,
    _child: Killed,
    stdin: Option<ChildStdin>,
}

impl InPod {
    /// Starts this program with `args` in a pod: in its namespace and its cgroup.
    ///
    /// # Errors
    ///
    /// `mesh-app` is not built, or cannot be started.
    pub(crate) fn start(pod: &Pod, args: &[&str]) -> Result<Self> {
        Self::start_by(pod, &[], args)
    }

    /// The same, with the scheduling policy `SCHED_IDLE` (sched(7)): it gets the processor time that
    /// nobody else wants.
    ///
    /// # Errors
    ///
    /// As [`Self::start`]; `chrt` (util-linux) is missing.
    pub(crate) fn start_idle(pod: &Pod, args: &[&str]) -> Result<Self> {
        Self::start_by(pod, &["chrt", "--idle", "0"], args)
    }

    /// Starts this program by another one.
    fn start_by(pod: &Pod, launcher: &[&str], args: &[&str]) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find our own program")?;
        let mut command = inside(pod.netns(), pod.cgroup())?;
        command.args(["exec", "--"]).args(launcher).arg(own).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Killed(command.spawn().context("cannot start a program in a pod")?);
        let stdin = child.0.stdin.take();
        let stdout = child.0.stdout.take().context("a piped output is there")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // The end of the lines is the end of the program: whoever waits for one is told.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { lines, _child: child, stdin })
    }

    /// Says a line to the program.
    ///
    /// # Errors
    ///
    /// It ended.
    pub(crate) fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("a program in a pod has no input")?;
        writeln!(stdin, "{line}").context("a program in a pod does not listen")
    }

    /// Waits for the next line.
    ///
    /// # Errors
    ///
    /// There is none within `deadline`, or the program ended.
    pub(crate) fn line(&self, deadline: Duration) -> Result<String> {
        self.lines.recv_timeout(deadline).context("a program in a pod says nothing more")
    }
}
