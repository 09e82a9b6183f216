//! Mixed traffic over two nodes for as long as one likes, with agents and workloads that restart, links
//! that are cut and documents that change meanwhile, and an account of every connection, request and
//! byte at the end.
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a command-line tool")]

mod account;
mod event;
mod slope;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::account::Account;
use crate::event::Event;
use crate::world::World;

/// The longest calm between two events.
const CALM_MS: u64 = 3_000;

/// Runs mixed traffic through the mesh while things restart and break. Needs root; leaves nothing behind.
#[derive(Clone, Debug, Parser)]
#[command(name = "mesh-soak")]
struct Args {
    /// How long it lasts
    #[arg(long, value_name = "MINUTES", default_value_t = 3.0)]
    minutes: f64,
    /// The order of events and their times follow from this number [default: a random one]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Only these events, with commas between [default: all]
    #[arg(long, value_name = "EVENTS", value_delimiter = ',', value_enum)]
    only: Vec<Event>,
    /// At most this many connections a second of each kind, and as many requests: for an hour on a machine
    /// that others use [default: as many as there can be]
    #[arg(long, value_name = "NUMBER")]
    rate: Option<u32>,
    /// Print the account as one JSON object on the last line of standard output
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(account) => {
            if args.json {
                println!("{}", account.json());
            } else {
                print!("{account}");
            }
            if account.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a calm between events is a time")]
fn run(args: &Args) -> Result<Account> {
    let seed = args.seed.unwrap_or_else(rand::random);
    eprintln!("seed {seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let events = if args.only.is_empty() { &Event::ALL[..] } else { &args.only };
    let mut world = World::start(args.rate).context("making the world")?;
    let mut account = Account::new(&world)?;
    let end = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    while Instant::now() < end {
        let calm = Duration::from_millis(dice.random_range(100..CALM_MS));
        std::thread::sleep(calm);
        // Nothing that happened before explains what fails from here on.
        account.calm(&mut world)?;
        let event = events[dice.random_range(0..events.len())];
        let began = Instant::now();
        event.happen(&mut world, &mut dice).with_context(|| format!("the event: {event:?}"))?;
        account.after(&mut world, event)?;
        eprintln!("{:>6.1} s  {event:?} took {:?}", account.seconds(), began.elapsed());
    }
    account.close(world)?;
    Ok(account)
}
