//! Standard input: lines are commands, its end is the end.

use std::io::BufRead as _;

use tokio::sync::mpsc::{Receiver, channel};

/// Lines of the standard input. `None` when it is closed.
pub(crate) fn lines() -> Receiver<String> {
    let (sender, receiver) = channel(1);
    // A thread of its own, because reads of a terminal or a file cannot be awaited.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
