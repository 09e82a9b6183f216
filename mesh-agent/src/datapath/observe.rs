//! The observer of how connections of workloads go: for every cgroup of the machine, as long as the
//! agent runs. Redirecting does not depend on it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use aya::Ebpf;
use aya::maps::{MapData, PerCpuHashMap, PerCpuValues};
use aya::programs::links::CgroupAttachMode;
use aya::programs::{CgroupSock, ProgramError, SockOps};
use aya::util::nr_cpus;
use mesh_common::coverage::{CoverKey, EARLIER, HOW};
use mesh_common::maps;
use mesh_common::source::{CGROUP, SourceKey};

use crate::datapath::Error;
use crate::datapath::load::take;
use crate::failure::chain;
use crate::sys::diag::{self, Diag, Socket};

/// Counts of the observer: by workload's id and way. Readable from any thread.
pub struct Coverage {
    counts: Mutex<PerCpuHashMap<MapData, CoverKey, u64>>,
}

impl fmt::Debug for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coverage").finish_non_exhaustive()
    }
}

/// One count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The workload's id.
    pub workload: u64,
    /// `outbound`, `inbound` or `socket`.
    pub direction: &'static str,
    /// How it went.
    pub how: &'static str,
    /// How often since the agent started.
    pub count: u64,
}

impl Coverage {
    /// Attaches the observer to the cgroup v2 root. A kernel that refuses is said once, and nothing
    /// is counted then.
    ///
    /// # Errors
    ///
    /// The object has no map for the counts.
    pub(super) fn start(ebpf: &mut Ebpf, root: &Path) -> Result<Self, Error> {
        if let Err(error) = attach(ebpf, root) {
            // The verifier says much, and a field is cut short.
            let error = chain(&error);
            tracing::warn!("connections are not observed, coverage is unknown: {error}");
        }
        Ok(Self { counts: Mutex::new(take(ebpf, maps::COVERAGE)?) })
    }

    /// Adds `count` connections of a workload that were open when it was enrolled.
    ///
    /// # Errors
    ///
    /// The map is full.
    pub(super) fn earlier(&self, workload: u64, count: u64) -> io::Result<()> {
        let key = CoverKey { workload, how: EARLIER, pad: 0 };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody else writes it.
        let mut by_cpu: Vec<u64> = match counts.get(&key, 0) {
            Ok(before) => before.to_vec(),
            Err(_none) => vec![0; nr_cpus().map_err(|(_file, error)| error)?],
        };
        if let Some(first) = by_cpu.first_mut() {
            *first = first.saturating_add(count);
        }
        let by_cpu = PerCpuValues::try_from(by_cpu)?;
        counts.insert(key, by_cpu, 0).map_err(io::Error::other)
    }

    /// The counts so far, in no particular order.
    pub fn counts(&self) -> Vec<Covered> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts.iter().filter_map(Result::ok);
        known
            .filter_map(|(key, by_cpu)| {
                let count = by_cpu.iter().sum();
                let (_, direction, how) = *HOW.iter().find(|(how, ..)| *how == key.how)?;
                Some(Covered { workload: key.workload, direction, how, count })
            })
            .collect()
    }
}

/// How many connections of `source`, which is in the calling thread's namespace, are open without a
/// value in the socket storage `known`: nobody has decided about them.
pub(super) fn undecided(known: BorrowedFd<'_>, source: SourceKey) -> Result<u64, diag::Error> {
    let mut count = 0;
    Diag::open()?.without_storage(known, |socket, cgroup| {
        let is_its_own = source.kind != CGROUP || source.id == cgroup;
        count += u64::from(is_its_own && leaves(&socket));
    })?;
    Ok(count)
}

/// Whether a connection leaves where it was opened: others are not the mesh's.
fn leaves(socket: &Socket) -> bool {
    let (local, remote) = (socket.local().ip(), socket.remote().ip());
    local != remote && !local.is_loopback() && !remote.is_loopback()
}

fn attach(ebpf: &mut Ebpf, root: &Path) -> Result<(), ProgramError> {
    let root = File::open(root).map_err(ProgramError::IOError)?;
    let missing = || ProgramError::UnexpectedProgramType;
    let program: &mut SockOps = ebpf.program_mut("mesh_observe").ok_or_else(missing)?.try_into()?;
    program.load()?;
    // Links are multiple whatever the mode says, and go with the agent.
    let _link = program.attach(&root, CgroupAttachMode::default())?;
    let program: &mut CgroupSock =
        ebpf.program_mut("mesh_observe_made").ok_or_else(missing)?.try_into()?;
    program.load()?;
    let _link = program.attach(&root, CgroupAttachMode::default())?;
    Ok(())
}
