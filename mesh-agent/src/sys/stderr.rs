//! Last words of a process to standard error, whose reader may have stopped.

use std::io::{Write as _, stderr};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

/// Writes `text` from a thread of its own, and waits for that no longer than `limit`. Returns whether it
/// is written.
pub fn write_within(text: String, limit: Duration) -> bool {
    let (done, is_done) = sync_channel(1);
    let writing = thread::Builder::new().name("last-words".to_owned()).spawn(move || {
        let written = stderr().write_all(text.as_bytes()).is_ok();
        // Nobody may wait for it any more.
        let _late: Result<(), _> = done.send(written);
    });
    writing.is_ok() && is_done.recv_timeout(limit).unwrap_or(false)
}
