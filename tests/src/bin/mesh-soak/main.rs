//! Mixed traffic over two nodes for as long as one likes, with agents and workloads that restart, links
//! that are cut, documents and certificates that change and clocks that are set meanwhile, and an account
//! of every connection, request and byte at the end: docs/soak.md.
#![expect(clippy::print_stderr, clippy::print_stdout, reason = "a command-line tool")]

mod account;
mod authority;
mod event;
mod slope;
mod starved;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
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
    /// Copy the agents' logs into this folder at the end
    #[arg(long, value_name = "FOLDER")]
    logs: Option<PathBuf>,
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

fn run(args: &Args) -> Result<Account> {
    let seed = args.seed.unwrap_or_else(rand::random);
    eprintln!("seed {seed}");
    let mut dice = StdRng::seed_from_u64(seed);
    let mut world = World::start(args.rate).context("making the world")?;
    let mut account = Account::new(world.starvation.clone());
    let ran = shake(args, &mut dice, &mut world, &mut account);
    if let Some(folder) = &args.logs {
        world.keep_logs(folder)?;
    }
    ran?;
    account.close(world)?;
    Ok(account)
}

/// Has events happen, in rounds of all of them, each round in another order, until the time is over.
#[expect(clippy::disallowed_methods, reason = "a calm between events is a time")]
fn shake(args: &Args, dice: &mut StdRng, world: &mut World, account: &mut Account) -> Result<()> {
    let mut round = if args.only.is_empty() { Event::ALL.to_vec() } else { args.only.clone() };
    let end = Instant::now() + Duration::from_secs_f64(args.minutes * 60.0);
    loop {
        round.shuffle(dice);
        for event in &round {
            if Instant::now() >= end {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(dice.random_range(100..CALM_MS)));
            // Nothing that happened before explains what fails from here on.
            account.calm(world)?;
            let began = Instant::now();
            let happened = event.happen(world, dice);
            let over = happened.with_context(|| format!("the event: {event:?}"))?;
            let took = began.elapsed();
            world.serves().with_context(|| format!("after the event: {event:?}"))?;
            let recovery = over.elapsed();
            account.after(world, *event, recovery)?;
            let seconds = account.seconds();
            eprintln!(
                "{seconds:>6.1} s  {event:?} took {took:.1?}, all works after {recovery:.1?}"
            );
        }
    }
}
