//! How many handshakes may begin in a second, and be under way, of one set of peers. Pure: time is
//! an argument.
//!
//! A rate is a token bucket, kept as the moment at which it will be full again; each handshake
//! moves that moment by its share of a second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many handshakes may begin.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// In the long run. Not 0.
    pub per_second: u32,
    /// At once, after a rest.
    pub burst: u32,
}

/// The most that may begin, and be under way.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    /// Begin.
    pub rate: Rate,
    /// Are under way.
    pub under_way: usize,
}

/// The limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Handshakes that begin in a second.
    Rate,
    /// Handshakes that are under way.
    UnderWay,
}

/// When a bucket is full again; `None`: it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket(Option<Instant>);

/// Handshakes that may begin and be under way, less those that have and are.
#[derive(Debug)]
pub struct Budget {
    most: Most,
    bucket: Bucket,
    under_way: usize,
}

/// The budget that all namespaces of the node have together. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Node(Arc<Mutex<Budget>>);

impl Bucket {
    /// The bucket after one more; `None`: there is none left.
    pub(super) fn less_one(self, rate: Rate, now: Instant) -> Option<Self> {
        let each = Duration::from_secs(1) / rate.per_second.max(1);
        let full = self.0.map_or(now, |full| full.max(now)) + each;
        (full - now <= each * rate.burst).then_some(Self(Some(full)))
    }

    pub(super) fn is_full(self, now: Instant) -> bool {
        self.0.is_none_or(|full| full <= now)
    }
}

impl Budget {
    /// Nothing has begun yet.
    pub fn new(most: Most) -> Self {
        Self { most, bucket: Bucket::default(), under_way: 0 }
    }

    /// Whether one more may begin: what the bucket is then, for [`Budget::begin`].
    pub(super) fn less_one(&self, now: Instant) -> Result<Bucket, Over> {
        if self.under_way >= self.most.under_way {
            return Err(Over::UnderWay);
        }
        self.bucket.less_one(self.most.rate, now).ok_or(Over::Rate)
    }

    /// One more begins.
    pub(super) fn begin(&mut self, bucket: Bucket) {
        self.bucket = bucket;
        self.under_way += 1;
    }

    /// One is over.
    pub(super) fn finish(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    #[cfg(test)]
    pub(super) const fn under_way(&self) -> usize {
        self.under_way
    }
}

impl Node {
    /// Nothing has begun yet.
    pub fn new(most: Most) -> Self {
        Self(Arc::new(Mutex::new(Budget::new(most))))
    }

    /// To be held for one call.
    pub fn lock(&self) -> MutexGuard<'_, Budget> {
        // A panic elsewhere leaves the numbers whole: each change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
