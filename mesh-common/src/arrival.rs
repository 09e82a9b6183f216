//! What holds for a connection that arrives. Pure, so that it is tested on the host.

use crate::source::{ENROLLED, Source};
use crate::workload::{CAPTURE, GUARDED, Inbound};

/// What holds for a port of a namespace of which `INBOUND` has no entry: nothing, unless the namespace
/// is a workload's. Then it is not known what the policies say, and the agent has to.
#[inline(always)]
pub const fn without_entry(source: &Source) -> Option<Inbound> {
    if source.flags & ENROLLED == 0 {
        return None;
    }
    Some(Inbound { workload: source.workload, flags: CAPTURE | GUARDED, pad: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{BY_CGROUP, NODE, WAITING};
    use crate::workload::FAIL_OPEN;

    #[test]
    fn a_workload_without_an_entry_is_not_open() {
        let check = |flags: u32, expect: Option<u64>| {
            let found = without_entry(&Source { workload: 7, namespace: 1, flags, pad: 0 });
            assert_eq!(found.map(|inbound| inbound.workload), expect, "{flags:#x}");
            if let Some(inbound) = found {
                assert_eq!(inbound.flags, CAPTURE | GUARDED);
            }
        };
        check(ENROLLED, Some(7));
        check(ENROLLED | WAITING | FAIL_OPEN, Some(7));
        // The host's own: what is no unit's is not the mesh's.
        check(BY_CGROUP | NODE, None);
        check(NODE, None);
    }
}
