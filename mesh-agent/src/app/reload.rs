//! SIGHUP: the access log's file is opened by its name again, for whoever renames it (logrotate), and
//! the configuration is read at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use crate::app::notify::Reloads;
use crate::source::file::Again;
use crate::task::scope::Scope;
use crate::telemetry::Telemetry;

/// How long a reload may take until the next one is taken. A disk that hangs takes longer, and so do
/// very many documents; both go on.
const DEADLINE: Duration = Duration::from_secs(30);

/// SIGHUP, from the moment that it is made.
#[derive(Debug)]
pub(super) struct Hangup(Signal);

impl Hangup {
    /// Listens from now on. Before, the signal ends the process.
    ///
    /// # Errors
    ///
    /// The system refused.
    pub(super) fn new() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Reloads at each signal, until `scope` drains. Signals that come meanwhile are one.
    pub(super) async fn run(
        mut self,
        telemetry: Telemetry,
        (source, manager): (Again, Reloads),
        scope: Scope,
    ) {
        loop {
            tokio::select! {
                biased;
                () = scope.draining() => return,
                received = self.0.recv() => if received.is_none() { return },
            }
            tracing::info!(signal = "SIGHUP", "reloading");
            manager.begin();
            tokio::select! {
                biased;
                () = scope.draining() => return,
                done = timeout(DEADLINE, reload(&telemetry, &source)) => if done.is_err() {
                    tracing::error!(
                        seconds = DEADLINE.as_secs(),
                        "the reload is not done yet: a disk hangs, or there are very many documents"
                    );
                },
            }
            manager.end();
        }
    }
}

/// Reloads everything, and says so. Nothing is written to the file of the access log that was renamed
/// once it is said.
async fn reload(telemetry: &Telemetry, source: &Again) {
    let is_file = match telemetry.reopen_access_log().await {
        Ok(is_file) => is_file,
        Err(error) => {
            tracing::error!(
                %error,
                "cannot open the access log again, and goes on in the file that it has; make its \
                 folder writable for the agent and send SIGHUP again"
            );
            false
        }
    };
    if source.read().await {
        tracing::info!(access_log_reopened = is_file, "reloaded");
    }
}
