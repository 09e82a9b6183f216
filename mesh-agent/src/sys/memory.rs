//! The memory that this process may have: of the machine, or less where its control group says so.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// In bytes: the least of what the machine has, and of the limits of the control groups that this
/// process is in, of version 1 or 2. In a container, whose groups may be mounted as if they were the
/// whole hierarchy, these are the container's.
///
/// # Errors
///
/// `/proc` is not there.
pub fn available() -> io::Result<u64> {
    let machine = total(&fs::read_to_string("/proc/meminfo")?);
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let groups = fs::read_to_string("/proc/self/cgroup")?;
    let limits = mounts.lines().filter_map(|mount| limit(Mounted::parse(mount)?, &groups));
    let least = limits.chain(machine).min();
    least.ok_or_else(|| io::Error::other("/proc/meminfo has no line MemTotal"))
}

/// `MemTotal` of `/proc/meminfo` (proc(5)), in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

/// A hierarchy of control groups that knows about memory.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mounted {
    One(PathBuf),
    Two(PathBuf),
}

impl Mounted {
    /// Of a line of `/proc/self/mounts`.
    fn parse(mount: &str) -> Option<Self> {
        let mut fields = mount.split(' ');
        let (_device, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        let path = PathBuf::from(path.replace("\\040", " "));
        match kind {
            "cgroup2" => Some(Self::Two(path)),
            "cgroup" if fields.next()?.split(',').any(|option| option == "memory") => {
                Some(Self::One(path))
            }
            _ => None,
        }
    }
}

/// The least limit of the groups of `/proc/self/cgroup` in a hierarchy.
fn limit(mounted: Mounted, groups: &str) -> Option<u64> {
    let own = |is_it: &dyn Fn(&str) -> bool| {
        groups.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            is_it(controllers).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    match mounted {
        Mounted::One(root) => {
            let own = own(&|controllers| controllers.split(',').any(|it| it == "memory"))?;
            // It knows of the groups around it. Where the path is the host's, the root is ours.
            let read = |at: &Path| hierarchical(&fs::read_to_string(at.join("memory.stat")).ok()?);
            [root.join(own), root].iter().filter_map(|at| read(at)).min()
        }
        Mounted::Two(root) => {
            let own = root.join(own(&str::is_empty)?);
            let read = |at: &Path| max(&fs::read_to_string(at.join("memory.max")).ok()?);
            own.ancestors().take_while(|at| at.starts_with(&root)).filter_map(read).min()
        }
    }
}

/// `hierarchical_memory_limit` of `memory.stat` of version 1 (the kernel's cgroup-v1/memory.rst).
fn hierarchical(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("hierarchical_memory_limit "))?;
    line.trim().parse().ok()
}

/// `memory.max` of version 2; `None`: there is no limit (the kernel's cgroup-v2.rst).
fn max(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_memory() {
        let bytes = available().unwrap();
        assert!((64 << 20..1 << 50).contains(&bytes), "{bytes}");
        assert_eq!(total("MemTotal:       24627000 kB\nMemFree: 1 kB\n"), Some(24_627_000 << 10));
        assert_eq!(total("MemFree: 1 kB\n"), None);
    }

    #[test]
    fn hierarchies_are_told_from_their_mounts() {
        let check = |mount, expect| assert_eq!(Mounted::parse(mount), expect, "{mount}");
        let at = PathBuf::from;
        check("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", Some(Mounted::Two(at("/sys/fs/cgroup"))));
        let one = "cgroup /sys/fs/cgroup/memory cgroup rw,nosuid,memory 0 0";
        check(one, Some(Mounted::One(at("/sys/fs/cgroup/memory"))));
        check("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0", None);
        check("tmpfs /tmp tmpfs rw 0 0", None);
        check("", None);
    }

    #[test]
    fn the_least_limit_on_the_way_up_counts() {
        let root = std::env::temp_dir().join(format!("mesh-memory-{}", std::process::id()));
        let own = root.join("kubepods/pod");
        fs::create_dir_all(&own).unwrap();
        let two = || limit(Mounted::Two(root.clone()), "3:cpu:/x\n0::/kubepods/pod\n");
        assert_eq!(two(), None);
        fs::write(own.join("memory.max"), "max\n").unwrap();
        assert_eq!(two(), None);
        fs::write(root.join("kubepods/memory.max"), "536870912\n").unwrap();
        assert_eq!(two(), Some(512 << 20));
        fs::write(own.join("memory.max"), "268435456\n").unwrap();
        assert_eq!(two(), Some(256 << 20));
        let one = || limit(Mounted::One(root.clone()), "4:cpu,memory:/of/the/host\n0::/\n");
        assert_eq!(one(), None);
        fs::write(root.join("memory.stat"), "cache 1\nhierarchical_memory_limit 4096\n").unwrap();
        assert_eq!(one(), Some(4096));
        fs::remove_dir_all(root).unwrap();
    }
}
