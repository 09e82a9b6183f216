//! The attacker, in a pod; and the server that it attacks where there is no agent.

use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use mesh_tests::flood::{Aim, Counts, Credentials, Flood, Party, sink};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::load::BEGIN;
use crate::serve::READY;
use crate::threads;

/// Floods a workload.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Attack {
    /// The kind of flood
    #[arg(long)]
    pub flood: Flood,
    /// The party that sends it
    #[arg(long)]
    pub by: Party,
    /// The application
    #[arg(long)]
    pub to: SocketAddr,
    /// The port of tunnels of the same workload
    #[arg(long)]
    pub tunnel: SocketAddr,
    /// The folder of the certificates
    #[arg(long)]
    pub credentials: PathBuf,
}

/// Takes handshakes, and reads what comes.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Sink {
    /// The folder of the certificates
    #[arg(long)]
    pub credentials: PathBuf,
}

/// The size of a flood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FloodReport {
    /// Connections, or connects that were refused.
    pub attempts: u64,
    /// Steps of all of them: bytes, streams or pieces.
    pub steps: u64,
    /// Time that it took.
    pub seconds: f64,
}

/// Floods until a line comes, and reports.
///
/// # Errors
///
/// The certificates cannot be read.
pub(crate) fn run(attack: &Attack) -> Result<()> {
    let aim = Aim { to: attack.to, tunnel: attack.tunnel, credentials: attack.credentials.clone() };
    let (counts, begin) = (Counts::default(), Instant::now());
    let (sender, ended) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        let line = std::io::stdin().lock().lines().next();
        // An end of the input is an end as well.
        drop(line);
        // Its end is the signal, too.
        drop(sender);
    });
    writeln!(std::io::stdout(), "{BEGIN}").context("nobody reads our reports")?;
    let ended = async { drop(ended.await) };
    threads::runtime()?.block_on(attack.flood.send(attack.by, &aim, &counts, ended))?;
    let seconds = begin.elapsed().as_secs_f64();
    let report = FloodReport { attempts: counts.attempts(), steps: counts.steps(), seconds };
    let report = serde_json::to_string(&report).context("a report is valid JSON")?;
    writeln!(std::io::stdout(), "{report}").context("nobody reads our reports")
}

/// Takes handshakes until the input closes.
///
/// # Errors
///
/// The port is taken, or the certificates cannot be read.
pub(crate) fn run_sink(options: &Sink) -> Result<()> {
    let credentials = Credentials::load(&options.credentials)?;
    let runtime = threads::runtime()?;
    std::thread::spawn(move || {
        // An error is seen by those who wait for the end of our output.
        if let Err(error) = runtime.block_on(sink(&credentials)) {
            drop(writeln!(std::io::stderr(), "mesh-bench: {error:#}"));
        }
    });
    writeln!(std::io::stdout(), "{READY}").context("nobody reads our reports")?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).context("cannot read our input")?;
    Ok(())
}
