//! Bounds of what an agent may need while it is attacked.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use mesh_tests::agent::Agent;
use mesh_tests::expect::eventually;
use mesh_tests::process::DEADLINE;
use mesh_tests::usage::Usage;

/// The time between two samples.
const PERIOD: Duration = Duration::from_millis(20);

/// The most that an agent needs beyond what it had before an attack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Memory of its own, in bytes, at any time of the attack.
    pub memory_bytes: u64,
    /// Descriptors, at any time of the attack.
    pub descriptors: usize,
    /// Descriptors, a moment after the attack.
    pub descriptors_after: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { memory_bytes: 32 << 20, descriptors: 256, descriptors_after: 16 }
    }
}

/// The bounds of a flood that is refused beyond its share of sockets, and goes on while it is seen that
/// others are served: a descriptor for each socket, and some for what is being refused.
pub(super) fn holding(share: u32) -> Bounds {
    let descriptors = usize::try_from(share).unwrap() + 64;
    Bounds { descriptors, descriptors_after: descriptors, ..Bounds::default() }
}

/// The growth of an agent by an attack.
#[derive(Clone, Copy, Debug)]
pub(super) struct Growth {
    /// During the attack.
    pub most: Usage,
    /// Descriptors, a moment after the attack.
    pub descriptors_after: usize,
}

/// Samples of what the agent of a node has, whichever process it is.
pub(super) struct Watch {
    group: PathBuf,
    before: Usage,
    most: Arc<Mutex<Usage>>,
    /// Ends the thread when it is dropped.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins before an attack.
    pub(super) fn start(agent: &Agent) -> Self {
        let group = agent.node().cgroup().join("agent");
        let before = usage(&group);
        assert!(before.memory_bytes > 0, "no agent runs in {}", group.display());
        let most = Arc::new(Mutex::new(before));
        let (stop, stopped) = channel::<()>();
        let (sampled, sum) = (group.clone(), Arc::clone(&most));
        let thread = std::thread::spawn(move || {
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                let now = usage(&sampled);
                let mut most = sum.lock().unwrap();
                *most = most.max(now);
            }
        });
        Self { group, before, most, stop: Some(stop), thread: Some(thread) }
    }

    /// Asserts what the agent needs, after the attack `name`.
    #[track_caller]
    pub(super) fn check(&self, name: &str, bounds: Bounds) -> Growth {
        let growth = || usage(&self.group).since(self.before);
        let most = self.most.lock().unwrap().since(self.before).max(growth());
        assert!(
            most.memory_bytes <= bounds.memory_bytes && most.descriptors <= bounds.descriptors,
            "`{name}` has cost {most:?}: more than {bounds:?}"
        );
        let few = || Some(growth().descriptors).filter(|n| *n <= bounds.descriptors_after);
        let Ok(descriptors_after) = eventually("few descriptors", DEADLINE, few) else {
            panic!("`{name}` has left {:?}: more than {bounds:?}", growth());
        };
        Growth { most, descriptors_after }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        // A panic of the thread is one of the test, unless that has failed anyway.
        assert!(std::thread::panicking() || ended.is_none_or(|ended| ended.is_ok()));
    }
}

fn usage(group: &Path) -> Usage {
    Usage::of_group(group).unwrap()
}
