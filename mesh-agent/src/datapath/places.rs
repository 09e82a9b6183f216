//! The programs that see cgroups which are made and removed: those at the places of workloads are known
//! before a process is in them.

use std::path::Path;

use aya::{Ebpf, EbpfLoader};

use crate::datapath::links;
use crate::failure::chain;
use crate::sys::btf::Types;

/// The programs, their tracepoints, and the names of their links.
const PROGRAMS: [(&str, &str, &str); 2] = [
    // Removal comes first: nothing is noted that stays.
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
    /// The running kernel's. `None`: it does not say; that is logged.
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

/// Attaches the programs by links that are pinned in `folder`. A kernel that refuses is said, and the
/// agent notices what it can by itself.
pub(super) fn attach(ebpf: &mut Ebpf, folder: &Path) {
    for (program, tracepoint, link) in PROGRAMS {
        if let Err(error) = links::trace(ebpf, program, tracepoint, &folder.join(link)) {
            let error = chain(&error);
            tracing::warn!(program, error, "units that restart are noticed late");
        }
    }
}
