//! Threads for the load: each with its own runtime, so that none waits for another.

use std::thread::available_parallelism;

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Runtime};

/// How many a program of the load has at most. Clients and servers have as many.
const MOST: usize = 4;

/// How many threads a client and a server have each: half of the machine, the rest is for what is
/// measured.
pub(crate) fn count() -> usize {
    let cpus = available_parallelism().map_or(1, std::num::NonZero::get);
    (cpus / 2).clamp(1, MOST)
}

/// A runtime for one thread.
///
/// # Errors
///
/// The kernel refuses.
pub(crate) fn runtime() -> Result<Runtime> {
    Builder::new_current_thread().enable_all().build().context("cannot start a runtime")
}

/// How many of `all` are for thread `index` of `threads`.
pub(crate) fn share(all: usize, threads: usize, index: usize) -> usize {
    all / threads + usize::from(index < all % threads)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for (all, threads) in [(1, 1), (8, 3), (32, 4), (2, 4)] {
            let sum: usize = (0..threads).map(|index| share(all, threads, index)).sum();
            assert_eq!(sum, all);
        }
    }
}
