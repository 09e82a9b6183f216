//! The parent of an agent that a service manager restarts (`--as-child`).
//!
//! A manager starts a unit's next process when the former one has ended, which an agent with open
//! connections does late. So the process that the manager knows is the parent of the agent's: it ends at
//! SIGUSR2, and the agent serves until its successor does. The parent does nothing else; signals are the
//! agent's, and so is the exit status.

use std::process::ExitCode;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid};

use crate::sys::child::{self, Side};
use crate::sys::confine;

/// Signals that the parent passes on.
const PASSED: [Signal; 5] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGABRT];

/// The signal at which the parent ends and the agent serves on; the kernel sends it to the agent when the
/// parent is gone, whatever has ended it.
const LEAVE: Signal = Signal::SIGUSR2;

/// Number that is added to a signal's for an exit status, as shells do.
const BY_SIGNAL: u8 = 128;

/// Continues in a child. In the parent it returns the status to end with, when the child has ended, or
/// before that at [`LEAVE`].
///
/// # Errors
///
/// There is no child: the system refused, or this process has several threads.
pub(super) fn split() -> anyhow::Result<Option<ExitCode>> {
    let mut waited: SigSet = PASSED.into_iter().collect();
    waited.add(Signal::SIGCHLD);
    waited.add(LEAVE);
    // From before the child is there, so that none is lost.
    let before = waited.thread_swap_mask(SigmaskHow::SIG_BLOCK).context("blocking signals")?;
    let own = Pid::this();
    match child::fork().context("starting the agent's process")? {
        Side::Child => {
            prctl::set_pdeathsig(LEAVE).context("asking for the parent's end")?;
            anyhow::ensure!(getppid() == own, "the parent has ended");
            before.thread_set_mask().context("unblocking signals")?;
            Ok(None)
        }
        Side::Parent(child) => {
            if let Err(error) = confine::forbid_system_calls() {
                tracing::warn!(%error, "the agent's parent keeps its system calls");
            }
            Ok(Some(ExitCode::from(watch(child, waited))))
        }
    }
}

/// Passes signals on to `child`, and returns the status to end with.
fn watch(child: Pid, waited: SigSet) -> u8 {
    loop {
        match waited.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(status) = ended(child) {
                    return status;
                }
            }
            Ok(LEAVE) => return 0,
            // It has just ended if the kernel knows it no more.
            Ok(signal) => drop(kill(child, signal)),
            Err(Errno::EINTR) => {}
            Err(_impossible) => return 1,
        }
    }
}

/// The exit status of `child`, if it has ended.
fn ended(child: Pid) -> Option<u8> {
    match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::Exited(_, status)) => Some(u8::try_from(status).unwrap_or(1)),
        Ok(WaitStatus::Signaled(_, signal, _core)) => {
            Some(u8::try_from(signal as i32).map_or(1, |number| BY_SIGNAL.saturating_add(number)))
        }
        Ok(_goes_on) => None,
        Err(_none) => Some(1),
    }
}
