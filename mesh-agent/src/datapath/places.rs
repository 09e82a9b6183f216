//! The programs that see cgroups which are made and removed: those at the places of workloads are known
//! before a process is in them.

use std::io;
use std::path::Path;

use aya::programs::links::FdLink;
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};

use crate::datapath::Error;
use crate::failure::chain;
use crate::sys::bpf;
use crate::sys::btf::Types;

/// The programs, their tracepoints, and the names of their links.
const PROGRAMS: [(&str, &str, &str); 2] = [
    // What removes first: nothing is noted that stays.
    ("mesh_cgroup_removed", "cgroup_rmdir", "link_cgroup_rmdir"),
    ("mesh_cgroup_made", "cgroup_mkdir", "link_cgroup_mkdir"),
];

/// Where the programs look in the kernel's structures.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offsets {
    node: u32,
    root: u32,
    hierarchy: u32,
    id: u32,
}

impl Offsets {
    /// Those of the running kernel. `None`: it does not say; that is logged.
    pub(super) fn of_kernel() -> Option<Self> {
        let types = Types::of_kernel();
        let types = types.inspect_err(|error| {
            tracing::warn!(%error, "units that restart are noticed late: no types of the kernel");
        });
        let types = types.ok()?;
        let offset = |of, name| types.offset(of, name);
        let found = || {
            Some(Self {
                node: offset("cgroup", "kn")?,
                root: offset("cgroup", "root")?,
                hierarchy: offset("cgroup_root", "hierarchy_id")?,
                id: offset("kernfs_node", "id")?,
            })
        };
        let found = found();
        if found.is_none() {
            tracing::warn!("units that restart are noticed late: the kernel's cgroups are others");
        }
        found
    }

    /// Tells the programs.
    pub(super) fn tell<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader
            .override_global("CGROUP_NODE", &self.node, true)
            .override_global("CGROUP_ROOT", &self.root, true)
            .override_global("ROOT_HIERARCHY", &self.hierarchy, true)
            .override_global("NODE_ID", &self.id, true);
    }
}

/// Attaches the programs by links that are pinned in `folder`. A link to a tracepoint cannot be given
/// another program: what an earlier agent has pinned stays, whose maps are of the same version. A kernel
/// that refuses is said, and the agent notices what it can by itself.
pub(super) fn attach(ebpf: &mut Ebpf, folder: &Path) {
    for (program, tracepoint, link) in PROGRAMS {
        let path = folder.join(link);
        if bpf::pinned(&path).is_ok() {
            continue;
        }
        if let Err(error) = attach_one(ebpf, (program, tracepoint), &path) {
            let error = chain(&error);
            tracing::warn!(program, error, "units that restart are noticed late");
        }
    }
}

fn attach_one(
    ebpf: &mut Ebpf,
    (name, tracepoint): (&'static str, &str),
    path: &Path,
) -> Result<(), Error> {
    let refused = |source: ProgramError| Error::Program { name, source: Box::new(source) };
    let program = ebpf.program_mut(name).ok_or(Error::Missing(name))?;
    let program: &mut BtfTracePoint =
        program.try_into().map_err(|_other_type| Error::Missing(name))?;
    let types = Btf::from_sys_fs().map_err(ProgramError::Btf).map_err(refused)?;
    program.load(tracepoint, &types).map_err(refused)?;
    let link = program.attach().and_then(|id| program.take_link(id)).map_err(refused)?;
    let pin = |error: aya::pin::PinError| Error::Pin {
        path: path.to_owned(),
        source: io::Error::other(error).into(),
    };
    drop(FdLink::from(link).pin(path).map_err(pin)?);
    Ok(())
}
