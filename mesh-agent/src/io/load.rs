//! The load of a tunnel: how many streams, and how many of them are bulk transfers. The next
//! stream's tunnel is chosen by it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::io::bulk::Bulk;

/// The load of a tunnel. Everything of it is on one data thread.
#[derive(Debug, Default)]
pub struct Load {
    streams: AtomicU32,
    bulk: AtomicU32,
    last_bulk: Mutex<Option<Instant>>,
}

/// The part of one stream in its tunnel's load. Dropping it takes that off.
#[derive(Debug)]
pub struct Meter {
    load: Arc<Load>,
    bulk: Mutex<Bulk>,
    /// The streams to come may need another tunnel.
    crowds: Notify,
}

impl Load {
    /// Adds a stream, unless there are `most`.
    pub fn add(self: &Arc<Self>, most: u32) -> Option<Meter> {
        if self.streams.fetch_add(1, Ordering::AcqRel) >= most {
            self.streams.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Meter { load: Arc::clone(self), bulk: Mutex::default(), crowds: Notify::new() })
    }

    /// Streams that are open, or will be.
    pub fn streams(&self) -> u32 {
        self.streams.load(Ordering::Acquire)
    }

    /// Those of them that are bulk transfers.
    pub fn bulk(&self) -> u32 {
        self.bulk.load(Ordering::Acquire)
    }

    /// When a stream last became a bulk transfer.
    pub fn last_bulk(&self) -> Option<Instant> {
        *lock(&self.last_bulk)
    }
}

impl Meter {
    /// Notes how much the stream has sent or received at once.
    pub fn carry(&self, bytes: usize) {
        let mut bulk = lock(&self.bulk);
        let was = bulk.is_bulk();
        bulk.carry(bytes);
        match (was, bulk.is_bulk()) {
            (false, true) => {
                self.load.bulk.fetch_add(1, Ordering::AcqRel);
                *lock(&self.load.last_bulk) = Some(Instant::now());
                self.crowds.notify_one();
            }
            (true, false) => drop(self.load.bulk.fetch_sub(1, Ordering::AcqRel)),
            _ => {}
        }
    }

    /// The stream has come to a tunnel that carries bulk, because all do.
    pub fn note_crowd(&self) {
        self.crowds.notify_one();
    }

    /// Resolves when the stream has become a bulk transfer, or shares a tunnel with one: if all
    /// tunnels are like that, those to come need another.
    pub async fn crowds(&self) {
        self.crowds.notified().await;
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if lock(&self.bulk).is_bulk() {
            self.load.bulk.fetch_sub(1, Ordering::AcqRel);
        }
        self.load.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A panic elsewhere leaves these whole: each change is one store.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(load: &Load, expect: (u32, u32, bool)) {
        assert_eq!((load.streams(), load.bulk(), load.last_bulk().is_some()), expect);
    }

    #[test]
    fn a_stream_counts_as_bulk_while_it_is() {
        let load = Arc::new(Load::default());
        let (first, second) = (load.add(2).unwrap(), load.add(2).unwrap());
        assert!(load.add(2).is_none(), "there is no third place");
        check(&load, (2, 0, false));
        first.carry(2 << 20);
        check(&load, (2, 1, true));
        second.carry(2 << 20);
        second.carry(64 << 10);
        check(&load, (2, 2, true));
        drop(second);
        check(&load, (1, 1, true));
        for _ in 0..32 {
            first.carry(100);
        }
        check(&load, (1, 0, true));
        drop(first);
        check(&load, (0, 0, true));
    }

    #[tokio::test]
    async fn one_that_becomes_bulk_says_so() {
        let load = Arc::new(Load::default());
        let meter = load.add(1).unwrap();
        meter.carry(2 << 20);
        meter.crowds().await;
    }
}
