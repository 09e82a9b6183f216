//! Capabilities of this process, and of this kernel.

use std::fs;
use std::io;

/// Capabilities that the agent needs, by number (include/uapi/linux/capability.h), and why.
pub const NEEDED: &[(u8, &str, &str)] = &[
    (12, "CAP_NET_ADMIN", "to attach programs to cgroups"),
    (21, "CAP_SYS_ADMIN", "to enter the workloads' network namespaces (setns)"),
    (38, "CAP_PERFMON", "to load programs that read kernel structures"),
    (39, "CAP_BPF", "to load programs and maps"),
];

/// The oldest kernel that has all that is used: `SO_NETNS_COOKIE` and taking entries out of LRU
/// maps are of 5.14.
pub const OLDEST_KERNEL: (u32, u32) = (5, 18);

/// The capabilities of `NEEDED` that this process lacks.
///
/// # Errors
///
/// `/proc/self/status` cannot be read.
pub fn missing() -> io::Result<Vec<(&'static str, &'static str)>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let effective = effective(&status)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no line CapEff"))?;
    Ok(lacking(effective))
}

/// Whether the process `pid` has all of `NEEDED`, as an agent that starts does. A process of root without
/// them is none.
///
/// # Errors
///
/// It cannot be told: it has ended, or is not visible from here.
pub fn are_an_agents(pid: i32) -> io::Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(effective(&status).is_some_and(|effective| lacking(effective).is_empty()))
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn lacking(effective: u64) -> Vec<(&'static str, &'static str)> {
    let lacks = |number: u8| effective & (1 << number) == 0;
    NEEDED.iter().filter(|need| lacks(need.0)).map(|need| (need.1, need.2)).collect()
}

/// Major and minor version of the running kernel.
///
/// # Errors
///
/// `/proc/sys/kernel/osrelease` cannot be read or is not of the form `6.1…`.
pub fn kernel_version() -> io::Result<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    parse_version(&release).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("`{}` is no version", release.trim()))
    })
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions() {
        assert_eq!(parse_version("6.18.44-generic\n"), Some((6, 18)));
        assert_eq!(parse_version("5.14-rc1"), Some((5, 14)));
        assert_eq!(parse_version("next"), None);
    }

    #[test]
    fn names_what_is_missing() {
        assert_eq!(effective("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert!(lacking(u64::MAX).is_empty());
        let names: Vec<_> = lacking(1 << 12).iter().map(|need| need.0).collect();
        assert_eq!(names, ["CAP_SYS_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
    }
}
