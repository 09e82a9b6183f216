//! Takes the sums of connections that have no event of their own.

use aya::maps::{Array, HashMap, MapData, MapError};
use mesh_common::maps;
use mesh_common::summary::{Sum, SumKey};

/// The sums that the kernel programs keep.
///
/// The kernel adds to the sums of the current interval. [`Summaries::take`] takes those of earlier
/// ones, which no program changes any more, and begins the next, so that nothing is counted twice or
/// not at all.
pub struct Summaries {
    sums: HashMap<MapData, SumKey, Sum>,
    interval: Array<MapData, u32>,
}

impl std::fmt::Debug for Summaries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Summaries").finish_non_exhaustive()
    }
}

impl Summaries {
    pub(super) const fn new(
        sums: HashMap<MapData, SumKey, Sum>,
        interval: Array<MapData, u32>,
    ) -> Self {
        Self { sums, interval }
    }

    /// Takes what was summed before the last call. At most one task may call this, and not more than
    /// once a second: a program that began before the last call has ended by then.
    ///
    /// # Errors
    ///
    /// The kernel refused to say which sums there are, or to begin an interval.
    pub fn take(&mut self) -> Result<Vec<(SumKey, Sum)>, MapError> {
        let keys: Vec<_> = self.sums.keys().take(maps::MAX_SUMS).collect::<Result<_, _>>()?;
        if keys.is_empty() {
            return Ok(vec![]);
        }
        let current = self.interval.get(&0, 0)?;
        self.interval.set(0, current.wrapping_add(1), 0)?;
        let mut taken = Vec::with_capacity(keys.len());
        for key in keys {
            // The kernel may give a key twice, if others are added meanwhile. A sum that cannot be
            // removed is taken the next time.
            if key.interval != current
                && let Ok(sum) = self.sums.get(&key, 0)
                && self.sums.remove(&key).is_ok()
            {
                taken.push((key, sum));
            }
        }
        Ok(taken)
    }
}
