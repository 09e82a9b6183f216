//! Whether the process can do its work, as a list of what is still missing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// All gates of one process. Ready when every gate has been passed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Ready(Arc<Mutex<Vec<Arc<State>>>>);

/// One thing that must be there before the process is ready. Closed when it is made.
#[derive(Clone, Debug)]
pub struct Gate(Arc<State>);

#[derive(Debug)]
struct State {
    name: Arc<str>,
    passed: AtomicBool,
}

impl Ready {
    /// No gates: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a closed gate. `name` is what operators read while it is closed: `first snapshot`.
    pub fn gate(&self, name: impl Into<Arc<str>>) -> Gate {
        let state = Arc::new(State { name: name.into(), passed: AtomicBool::new(false) });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&state));
        Gate(state)
    }

    /// The names of closed gates, in the order in which they were made. Empty: ready.
    pub fn pending(&self) -> Vec<String> {
        let gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = gates.iter().filter(|gate| !gate.passed.load(Ordering::Acquire));
        closed.map(|gate| gate.name.to_string()).collect()
    }
}

impl Gate {
    /// The thing is there.
    pub fn pass(&self) {
        self.0.passed.store(true, Ordering::Release);
    }

    /// The thing is gone: not ready until it is passed again. A drain closes a gate of its own.
    pub fn close(&self) {
        self.0.passed.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_gate_is_passed() {
        let ready = Ready::new();
        let (snapshot, listeners) = (ready.gate("snapshot"), ready.gate("listeners"));
        assert_eq!(ready.pending(), ["snapshot", "listeners"]);
        listeners.pass();
        assert_eq!(ready.pending(), ["snapshot"]);
        snapshot.pass();
        assert!(ready.pending().is_empty());
        listeners.close();
        assert_eq!(ready.pending(), ["listeners"]);
    }
}
