//! Memory and descriptors of processes.

use std::fs;
use std::io;
use std::path::Path;

use nix::unistd::Pid;

/// Memory and descriptors that processes hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory of their own (`RssAnon`), in bytes.
    pub memory_bytes: u64,
    /// Descriptors that are open.
    pub descriptors: usize,
}

impl Usage {
    /// The usage of one process.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn of(pid: Pid) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let kib = kib.ok_or_else(|| io::Error::other("a process without RssAnon has ended"))?;
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        Ok(Self { memory_bytes: kib * 1024, descriptors })
    }

    /// The usage of all processes of a cgroup together. Those that end meanwhile do not count.
    ///
    /// # Errors
    ///
    /// There is no such group.
    pub fn of_group(cgroup: &Path) -> io::Result<Self> {
        let processes = fs::read_to_string(cgroup.join("cgroup.procs"))?;
        let pids = processes.lines().filter_map(|line| line.parse().ok());
        let all = pids.filter_map(|pid| Self::of(Pid::from_raw(pid)).ok());
        Ok(all.fold(Self::default(), |sum, one| Self {
            memory_bytes: sum.memory_bytes + one.memory_bytes,
            descriptors: sum.descriptors + one.descriptors,
        }))
    }

    /// The larger of both, each by itself.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.max(other.memory_bytes),
            descriptors: self.descriptors.max(other.descriptors),
        }
    }

    /// The growth since `before`; what has shrunk has not grown.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.saturating_sub(before.memory_bytes),
            descriptors: self.descriptors.saturating_sub(before.descriptors),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_descriptors() {
        let own = Usage::of(Pid::this()).unwrap();
        let held: Vec<_> = (0..50).map(|_| fs::File::open("/dev/null").unwrap()).collect();
        let bytes = vec![1_u8; 64 << 20];
        let now = Usage::of(Pid::this()).unwrap().since(own);
        assert!(now.memory_bytes >= 60 << 20, "{now:?}");
        // Other tests open and close some meanwhile.
        assert!(now.descriptors >= 25, "{now:?}");
        drop((held, bytes));
    }
}
