//! Connections that have more to do than a turn has room for: how many of them a thread has, so that all
//! their turns together take no longer than a few.
//!
//! Whoever opens many connections would have as many turns. So the more of them wait, the less each one
//! gets.

use std::cell::Cell;

/// So many connections may have a whole turn, one after the other.
const WHOLE_TURNS: usize = 4;

thread_local! {
    static BUSY: Cell<usize> = const { Cell::new(0) };
}

/// Whether a connection is one of them; no longer when it is dropped.
#[derive(Debug, Default)]
pub struct Busy(bool);

impl Busy {
    /// Says so.
    pub fn set(&mut self, is_busy: bool) {
        if std::mem::replace(&mut self.0, is_busy) != is_busy {
            // A thread that is ending counts no more.
            let _ended = BUSY.try_with(|busy| {
                let change = if is_busy { usize::wrapping_add } else { usize::wrapping_sub };
                busy.set(change(busy.get(), 1));
            });
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// The part of a turn that one of them has now: one of so many.
pub fn parts() -> usize {
    (BUSY.get() / WHOLE_TURNS).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_wait_the_less_each_has() {
        let mut all: Vec<_> = (0..300).map(|_| Busy::default()).collect();
        let mut seen = Vec::new();
        for busy in &mut all {
            busy.set(true);
            busy.set(true);
            seen.push(parts());
        }
        assert_eq!((seen[0], seen[7], seen[299]), (1, 2, 75));
        all.truncate(8);
        assert_eq!(parts(), 2);
        all[0].set(false);
        assert_eq!(parts(), 1);
    }
}
