//! Programs of Python in a pod, or in another namespace and cgroup.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result};

use crate::netns::Netns;
use crate::pod::Pod;
use crate::process::{Killed, inside, run};

/// Debian's own Python, which has the package `python3-h2`.
pub const PYTHON: &str = "/usr/bin/python3";

/// A program that talks in lines, and is killed when it is dropped.
#[derive(Debug)]
pub struct Script {
    child: Killed,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Script {
    /// Starts a program in a pod, as one of its processes; with the first line that it says.
    ///
    /// # Errors
    ///
    /// It cannot be started, or says nothing.
    pub fn start(pod: &Pod, program: &str) -> Result<(Self, String)> {
        Self::start_in(pod.netns(), pod.cgroup(), program)
    }

    /// The same in a namespace and a cgroup.
    ///
    /// # Errors
    ///
    /// Those of [`Self::start`].
    pub fn start_in(netns: &Netns, cgroup: &Path, program: &str) -> Result<(Self, String)> {
        let mut command = python(netns, cgroup, program)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Killed(command.spawn().context("cannot start Python")?);
        let stdout = child.0.stdout.take().context("a script has no output")?;
        let mut script = Self { child, lines: BufReader::new(stdout).lines() };
        let first = script.line()?;
        Ok((script, first))
    }

    /// Waits for its next line.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn line(&mut self) -> Result<String> {
        self.lines.next().context("a script has ended")?.context("a script says no text")
    }

    /// Tells it a line.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.0.stdin.as_mut().context("a script has no input")?;
        writeln!(stdin, "{line}").context("a script has ended")
    }
}

/// Runs a program to its end in a namespace and a cgroup, and returns what it printed.
///
/// # Errors
///
/// It cannot be started, or fails.
pub fn run_in(netns: &Netns, cgroup: &Path, program: &str) -> Result<String> {
    run(&mut python(netns, cgroup, program)?)
}

fn python(netns: &Netns, cgroup: &Path, program: &str) -> Result<Command> {
    let mut command = inside(netns, cgroup)?;
    command.args(["exec", "--", PYTHON, "-c", program]);
    Ok(command)
}
