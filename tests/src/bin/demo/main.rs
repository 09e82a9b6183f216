//! The mesh at work: two nodes, a service with two versions, another one whose second version is
//! delivered step by step, and what is on the wire between them.
//!
//! Everything in it is real: agents, kernel programs, applications, certificates. It fails if one
//! of its claims does not hold.

mod claims;
mod delivery;
mod outcome;
mod screen;
mod shop;
mod story;
mod world;

use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread;

use anyhow::{Context as _, Result};
use clap::Parser;
use mesh_tests::sweep;
use nix::sys::signal::{SigSet, Signal};

use crate::screen::Screen;

/// Shows a mesh on this machine, between network namespaces. Needs root; leaves nothing behind.
#[derive(Clone, Copy, Debug, Parser)]
#[command(name = "demo")]
struct Args {
    /// Print the results as one JSON object on standard output, and all else on standard error
    #[arg(long)]
    json: bool,
    /// Leave everything running until Ctrl-C, to look around
    #[arg(long)]
    keep: bool,
}

/// The id of the lab, as soon as there is one.
type LabId = Arc<OnceLock<String>>;

/// The messages that the main thread waits for.
#[derive(Debug)]
enum Message {
    /// The story is over.
    Done(Result<bool>),
    /// Somebody wants us to end.
    Signal(Signal),
}

fn main() -> ExitCode {
    let args = Args::parse();
    let screen = Screen::new(args.json);
    match run(args, &screen) {
        Ok(Message::Done(Ok(true))) => ExitCode::SUCCESS,
        Ok(Message::Done(Ok(false))) => ExitCode::FAILURE,
        Ok(Message::Done(Err(error))) | Err(error) => {
            screen.error(&error);
            ExitCode::FAILURE
        }
        // As a shell tells of a program that a signal ended.
        Ok(Message::Signal(signal)) => {
            ExitCode::from(128 + u8::try_from(signal as i32).unwrap_or(0))
        }
    }
}

/// Tells the story on a thread of its own, so that a signal can end it in the middle.
fn run(args: Args, screen: &Screen) -> Result<Message> {
    // Blocked before there are other threads, which inherit that; children do not.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block().context("cannot block signals")?;
    let (sender, messages) = channel();
    let id = LabId::default();
    let (story_sender, story_id) = (Sender::clone(&sender), Arc::clone(&id));
    thread::spawn(move || {
        let done = Message::Done(tell(args, &story_id));
        // The other end is gone only when the process is ending.
        drop(story_sender.send(done));
    });
    thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            drop(sender.send(Message::Signal(signal)));
        }
    });
    let message = messages.recv().context("nobody tells the story")?;
    if matches!(message, Message::Signal(_)) {
        screen.line("");
        if let Some(id) = id.get() {
            sweep::remove(id)?;
            sweep::leave()?;
        }
        screen.line("everything is removed");
    }
    Ok(message)
}

/// Tells the story. Returns whether every claim holds.
fn tell(args: Args, id: &LabId) -> Result<bool> {
    let screen = Screen::new(args.json);
    let (world, claims) = story::tell(&screen, id)?;
    claims.show(&screen);
    if args.json {
        screen.result(&claims.json())?;
    }
    if args.keep {
        world.explain(&screen);
        loop {
            // Until a signal ends the process: parking may end without a reason.
            thread::park();
        }
    }
    drop(world);
    Ok(claims.hold())
}
