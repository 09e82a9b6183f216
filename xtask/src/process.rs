//! Runs other programs, and shows that they are getting on.

use std::collections::VecDeque;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Lines of output that are kept, to be shown if the program fails.
const MAX_KEPT_LINES: usize = 80;

/// How often progress is shown where there is no terminal, so that a log stays short.
const LOG_INTERVAL: Duration = Duration::from_secs(20);

/// Runs `command` with its output hidden behind one line of progress.
///
/// # Errors
///
/// The program does not start or does not succeed; the error has the end of its output.
pub(crate) fn step(title: &str, command: &mut Command) -> Result<()> {
    step_within(title, command, Duration::MAX)
}

/// Like [`step`]; kills the program when it takes longer than `limit`.
pub(crate) fn step_within(title: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let program = name_of(command);
    let started = now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let (tx, rx) = mpsc::sync_channel(64);
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, tx.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, tx);
    }
    let mut progress = Progress::new(title, started);
    let mut kept = VecDeque::new();
    loop {
        match rx.recv_timeout(Duration::from_secs(1)) {
            Ok(line) => {
                line.trim().clone_into(&mut progress.line);
                kept.push_back(line);
                if MAX_KEPT_LINES < kept.len() {
                    kept.pop_front();
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if limit < started.elapsed() {
            progress.end("✗");
            child.kill().context("stopping it")?;
            child.wait().context("waiting for it to stop")?;
            bail!("{program} was stopped after {} s", limit.as_secs());
        }
        progress.show();
    }
    let status = child.wait().with_context(|| format!("waiting for {program}"))?;
    if !status.success() {
        progress.end("✗");
        for line in kept {
            eprintln!("    {line}");
        }
        bail!("{program} failed ({status})");
    }
    progress.end("✓");
    Ok(())
}

/// Runs `command` with its output shown, under a title, and says how long it took.
///
/// # Errors
///
/// The program does not start or does not succeed.
pub(crate) fn show(title: &str, command: &mut Command) -> Result<()> {
    let started = now();
    eprintln!("• {title}");
    let program = name_of(command);
    let status = command.status().with_context(|| format!("starting {program}"))?;
    if !status.success() {
        bail!("{title}: {program} failed ({status})");
    }
    eprintln!("✓ {title} ({})", seconds(started.elapsed()));
    Ok(())
}

/// A cargo command in the workspace: the cargo that runs us.
pub(crate) fn cargo(workspace: &crate::Workspace) -> Command {
    let mut command = Command::new(cargo_path());
    command.current_dir(&workspace.root).env("CARGO_TARGET_DIR", &workspace.target_dir);
    command
}

/// The cargo that runs us.
pub(crate) fn cargo_path() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| OsStr::new("cargo").to_owned())
}

/// The first program of that name in `PATH`.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// Whether we are root.
pub(crate) fn is_root() -> bool {
    // The owner of our own entry in /proc is our effective user.
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// `12.3 s` or `4 min 05 s`.
pub(crate) fn seconds(time: Duration) -> String {
    if time < Duration::from_mins(1) {
        return format!("{:.1} s", time.as_secs_f64());
    }
    format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
}

/// The time now: automation measures how long real programs take.
#[expect(clippy::disallowed_methods, reason = "there is no runtime whose time could be paused")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

fn name_of(command: &Command) -> String {
    let path = PathBuf::from(command.get_program());
    path.file_name().unwrap_or(command.get_program()).display().to_string()
}

/// Sends the lines of `stream` from a thread of its own, which ends with the stream.
fn forward(stream: impl Read + Send + 'static, tx: SyncSender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            if tx.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
}

/// One line that is written over and over on a terminal, and now and then into a log.
struct Progress<'a> {
    title: &'a str,
    started: Instant,
    /// The last line of the program's output.
    line: String,
    terminal: bool,
    shown: Instant,
}

impl<'a> Progress<'a> {
    fn new(title: &'a str, started: Instant) -> Self {
        let terminal = io::stderr().is_terminal();
        eprint!("• {title}{}", if terminal { "" } else { "\n" });
        Self { title, started, line: String::new(), terminal, shown: started }
    }

    fn show(&mut self) {
        let interval = if self.terminal { Duration::from_millis(100) } else { LOG_INTERVAL };
        if self.shown.elapsed() < interval {
            return;
        }
        self.shown = now();
        let elapsed = self.started.elapsed().as_secs();
        if self.terminal {
            let line: String = self.line.chars().take(50).collect();
            eprint!("\r\x1b[2K• {} ({elapsed} s) {line}", self.title);
        } else {
            eprintln!("  … {elapsed} s: {}", self.line);
        }
    }

    fn end(&self, mark: &str) {
        let start = if self.terminal { "\r\x1b[2K" } else { "" };
        eprintln!("{start}{mark} {} ({})", self.title, seconds(self.started.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_an_error_and_a_success_is_not() {
        assert!(step("succeeding", &mut Command::new("true")).is_ok());
        assert!(step("failing", &mut Command::new("false")).is_err());
        assert!(step("missing", &mut Command::new("/nonexistent")).is_err());
    }

    #[test]
    fn a_program_that_takes_too_long_is_stopped() {
        let mut command = Command::new("sleep");
        let error = step_within("sleeping", command.arg("600"), Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains("stopped"), "{error}");
    }

    #[test]
    fn times_read_well() {
        assert_eq!(seconds(Duration::from_millis(12_340)), "12.3 s");
        assert_eq!(seconds(Duration::from_secs(245)), "4 min 05 s");
    }
}
