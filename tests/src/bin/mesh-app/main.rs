//! A real TCP application for tests: servers and clients that report what they see.
//!
//! It joins a cgroup and a network namespace before it makes a socket, as a container's process
//! would be in them, and ends when its standard input closes.

mod args;
mod client;
mod connect;
mod control;
mod datagram;
mod dial;
mod hold;
mod listen;
mod press;
mod serve;
mod transfer;
mod web;

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser as _;
use mesh_tests::join::join;
use mesh_tests::report::Event;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::args::{Args, Service, Verb};

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A failed write to stderr has nowhere to be reported.
            drop(writeln!(std::io::stderr(), "mesh-app: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    join(args.netns.as_deref(), args.cgroup.as_deref())?;
    if let Verb::Exec { files, command } = args.verb {
        if let Some(files) = files {
            let soft = files.min(1024);
            setrlimit(Resource::RLIMIT_NOFILE, soft, files).context("cannot limit open files")?;
        }
        let (program, rest) = command.split_first().context("nothing to execute")?;
        let error = Command::new(program).args(rest).exec();
        return Err(error).with_context(|| format!("cannot execute {program}"));
    }
    // A thousand connections need a thousand descriptors; the usual soft limit is 1,024.
    let (_soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read a limit")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the open files")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        match args.verb {
            Verb::Serve(serve) if matches!(serve.service, Service::Datagram) => {
                datagram::serve(&serve).await
            }
            Verb::Datagram(target) => datagram::run(&target).await,
            Verb::Serve(serve) => listen::run(serve).await,
            Verb::Connect(connect) => connect::run(connect).await,
            Verb::Transfer(transfer) => transfer::run(&transfer).await,
            Verb::Press(press) => press::run(press).await,
            Verb::Hold(hold) => hold::run(hold).await,
            Verb::HttpServe(options) => web::serve(options).await,
            Verb::Http(http) => web::run(http).await,
            Verb::Exec { .. } => Ok(()),
        }
    })
}

/// Tells the harness.
fn tell(event: &Event) -> Result<()> {
    let mut line = serde_json::to_string(event).context("a report is valid JSON")?;
    line.push('\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes()).context("nobody reads our reports")?;
    stdout.flush().context("nobody reads our reports")
}
