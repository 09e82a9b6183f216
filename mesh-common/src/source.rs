//! The owner of a socket: never answered by its IP address. Never answered by its IP address.

use crate::addr::{self, Addr};

abi! {
    /// Key of `SOURCES`: what a socket belongs to.
    pub struct SourceKey[16] {
        /// The cookie of the network namespace, or the id of the cgroup.
        pub id: u64,
        /// [`NETNS`] or [`CGROUP`].
        pub kind: u32,
        /// Explicit padding; always zero, because keys compare by bytes.
        pub pad: u32,
    }
}

abi! {
    /// Value of `SOURCES`.
    pub struct Source[48] {
        /// The workload's [id](crate::workload#ids); 0 for a namespace that is [`BY_CGROUP`].
        pub workload: u64,
        /// The [id](crate::workload#ids) of the workload's namespace: routes may depend on it.
        pub namespace: u64,
        /// A set of [`ENROLLED`], [`BY_CGROUP`], [`NODE`], [`WAITING`], and of `workload`'s flags.
        pub flags: u32,
        /// 1 if the kernel has made the entry, by `PLACES`; otherwise 0.
        pub made: u32,
        /// The workload's first IPv6 address; zeros: it has none.
        pub v6: [u32; 4],
        /// Its first IPv4 address, network byte order; 0: it has none.
        pub v4_be: u32,
        /// The network device that has both addresses. 0: there is none, or it is not known yet.
        pub device: u32,
    }
}

/// The longest path of a cgroup that the kernel knows before it is there, with the zero at its end.
pub const PATH_BYTES: usize = 256;

abi! {
    /// Key of `PLACES`: the path of a cgroup from the root of the hierarchy on, with zeros at its end.
    pub struct PathKey[256] {
        /// `/system.slice/web.service`.
        pub path: [u8; PATH_BYTES],
    }
}

/// `SourceKey::kind`: the id is a network namespace's cookie (`SO_NETNS_COOKIE`; Linux 5.14).
pub const NETNS: u32 = 1;
/// `SourceKey::kind`: the id is that of a cgroup v2 directory (its inode number).
pub const CGROUP: u32 = 2;

/// `Source::flags`: connections from here are the mesh's business.
pub const ENROLLED: u32 = 1;
/// `Source::flags`: the namespace is the node's own; its sockets' cgroups say which workload it
/// is.
pub const BY_CGROUP: u32 = 2;
/// `Source::flags`: the namespace is the node's. The health probes of its own processes, which are
/// of no workload, pass.
pub const NODE: u32 = 4;
/// `Source::flags`: the agent does not serve the workload yet, though it may serve others of the same
/// namespace.
pub const WAITING: u32 = 8;

/// `Source::flags`: connections to what the mesh does not know are reported.
pub const REPORT_OUTSIDE: u32 = 1 << 4;
/// `Source::flags`: connections to what the mesh does not know are denied.
pub const DENY_OUTSIDE: u32 = 1 << 5;

/// The deepest cgroup that is looked at, counted from the root (0). systemd nests 4 to 6 levels,
/// Kubernetes 5; the kernel's loop needs a bound.
pub const MAX_CGROUP_LEVEL: u32 = 12;

impl Source {
    /// An entry of which only the flags are known.
    #[inline]
    pub const fn new(flags: u32) -> Self {
        Self { workload: 0, namespace: 0, flags, made: 0, v6: [0; 4], v4_be: 0, device: 0 }
    }

    /// Whether the network device `device` has the workload's address of a family.
    #[inline(always)]
    pub const fn is_at(&self, device: u32, v4: bool) -> bool {
        let has = if v4 { self.v4_be != 0 } else { !addr::is_unspecified(self.v6) };
        has && self.device == device
    }

    /// The address that an application of the workload is told to be its own, where its socket, which
    /// was sent to the agent, has `local`. `None`: that one. It is the application's choice, or the
    /// workload has no address of the family.
    #[inline]
    pub const fn sockname(&self, local: Addr) -> Option<Addr> {
        if !addr::is_source_loopback(local) {
            return None;
        }
        match (addr::to_v4_be(local), self.v4_be, self.v6) {
            (Some(_), 0, _) | (None, _, [0, 0, 0, 0]) => None,
            (Some(_), v4_be, _) => Some(addr::from_v4_be(v4_be)),
            (None, _, v6) => Some(v6),
        }
    }
}

impl PathKey {
    /// Of a path. `None`: it is too long.
    pub fn new(path: &[u8]) -> Option<Self> {
        let mut key = Self { path: [0; PATH_BYTES] };
        // The last one is zero.
        let room = key.path.split_last_mut()?.1.get_mut(..path.len())?;
        room.copy_from_slice(path);
        Some(key)
    }
}

impl SourceKey {
    /// The key of a network namespace.
    #[inline]
    pub const fn netns(cookie: u64) -> Self {
        Self { id: cookie, kind: NETNS, pad: 0 }
    }

    /// The key of a cgroup.
    #[inline]
    pub const fn cgroup(id: u64) -> Self {
        Self { id, kind: CGROUP, pad: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::from_v4_be;

    const POD: u32 = 0x0a00_0001_u32.to_be();
    const POD6: Addr = [0xfd00_0000_u32.to_be(), 0, 0, 7];
    const LOOPBACK: Addr = from_v4_be(0x7f00_0001_u32.to_be());
    const LOOPBACK6: Addr = [0, 0, 0, 1_u32.to_be()];

    #[track_caller]
    fn check((v4_be, v6): (u32, Addr), local: Addr, expect: Option<Addr>) {
        assert_eq!(Source { v6, v4_be, ..Source::new(0) }.sockname(local), expect);
    }

    #[test]
    fn loopback_is_the_workloads_address_of_the_family() {
        check((POD, POD6), LOOPBACK, Some(from_v4_be(POD)));
        check((POD, POD6), LOOPBACK6, Some(POD6));
        check((0, POD6), LOOPBACK, None);
        check((POD, [0; 4]), LOOPBACK6, None);
    }

    #[test]
    fn a_device_that_has_not_the_addresses_has_none() {
        let source = Source { v6: POD6, v4_be: POD, device: 2, ..Source::new(0) };
        assert!(source.is_at(2, true) && source.is_at(2, false));
        assert!(!source.is_at(3, true) && !source.is_at(3, false));
        assert!(!Source { v4_be: 0, ..source }.is_at(2, true));
        assert!(!Source { v6: [0; 4], ..source }.is_at(2, false));
    }

    #[test]
    fn an_address_that_the_way_to_the_agent_has_not_made_stays() {
        for local in [from_v4_be(POD), POD6, [0; 4], from_v4_be(0)] {
            check((POD, POD6), local, None);
        }
        check((POD, POD6), from_v4_be(0x7f00_0002_u32.to_be()), None);
    }
}
