//! The observer of how connections of workloads go: for every cgroup of the machine, as long as the
//! agent runs. What is redirected does not depend on it.

use std::fmt;
use std::fs::File;
use std::path::Path;

use aya::Ebpf;
use aya::maps::{MapData, PerCpuHashMap};
use aya::programs::links::CgroupAttachMode;
use aya::programs::{CgroupSock, ProgramError, SockOps};
use mesh_common::coverage::{CoverKey, HOW};
use mesh_common::maps;

use crate::datapath::Error;
use crate::datapath::load::take;
use crate::failure::chain;

/// What the observer has counted: by workload's id and way. Readable from any thread.
pub struct Coverage {
    counts: PerCpuHashMap<MapData, CoverKey, u64>,
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
            tracing::warn!(error = %chain(&error), "connections are not observed: coverage is unknown");
        }
        Ok(Self { counts: take(ebpf, maps::COVERAGE)? })
    }

    /// What was counted so far, in no particular order.
    pub fn counts(&self) -> Vec<Covered> {
        let known = self.counts.iter().filter_map(Result::ok);
        known
            .filter_map(|(key, by_cpu)| {
                let count = by_cpu.iter().sum();
                let (_, direction, how) = *HOW.iter().find(|(how, ..)| *how == key.how)?;
                Some(Covered { workload: key.workload, direction, how, count })
            })
            .collect()
    }
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
