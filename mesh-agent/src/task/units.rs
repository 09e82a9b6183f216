//! The budget of a task's turn, in units: tokio gives 128 of them to each poll of a task.

use std::task::{Context, Poll};

use tokio::task::coop;

/// Spends so many more, or what is left.
pub fn spend(cx: &mut Context<'_>, units: usize) {
    for _ in 0..units {
        // Not asked for what there is not: that would wake the task.
        if !coop::has_budget_remaining() {
            return;
        }
        if let Poll::Ready(more) = coop::poll_proceed(cx) {
            more.made_progress();
        }
    }
}
