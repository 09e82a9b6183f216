//! The work that judging takes (pure): how much one judgement may compare.

use std::cell::Cell;

/// The most steps of one judgement: a comparison is one, and one more for each 16 bytes that it looks
/// at: as many as the values of 32 policies that have all that one may. Some 5 ms of a processor at the
/// most.
const MAX_STEPS: usize = 1 << 18;

/// Bytes that are looked at in one step.
const BYTES_EACH: usize = 16;

/// The rest of the work of one judgement. A client sends as many fields, elements and bytes as
/// it likes, and whoever writes policies as many as they like: their product has a bound here.
#[derive(Debug)]
pub(super) struct Work {
    left: Cell<usize>,
}

impl Default for Work {
    fn default() -> Self {
        Self { left: Cell::new(MAX_STEPS) }
    }
}

impl Work {
    /// Takes the steps of a comparison with `bytes`. True: nothing is left, and what is compared now
    /// does not matter any more.
    pub(super) fn spend(&self, bytes: usize) -> bool {
        let left = self.left.get().saturating_sub(1 + bytes / BYTES_EACH);
        self.left.set(left);
        left == 0
    }

    /// Whether nothing is left.
    pub(super) fn is_spent(&self) -> bool {
        self.left.get() == 0
    }
}
