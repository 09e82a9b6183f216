//! Removing what a lab made: its own at its end, and that of labs whose process died.
//!
//! `/run/mesh-lab/<id>` says who owns a lab, as process id and start time.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::cgroup;
use crate::netns::Netns;

/// Where the owners of labs are recorded.
pub const FOLDER: &str = "/run/mesh-lab";

/// The default mount point of the BPF file system.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Says that a lab has mounted the BPF file system: the last one takes it off again.
const MOUNTED: &str = "/run/mesh-lab/.bpffs";

/// The entries of every BPF file system, by the kernel (`bpf_preload`), and the folder of our pins.
const IN_EVERY_BPFFS: [&str; 3] = ["maps.debug", "progs.debug", "mesh"];

/// Makes labs of other processes wait, until it is dropped.
///
/// # Errors
///
/// The file cannot be made or locked.
pub fn lock() -> Result<Flock<fs::File>> {
    fs::create_dir_all(FOLDER).with_context(|| format!("cannot make {FOLDER}"))?;
    let file = fs::File::create(Path::new(FOLDER).join(".lock"))
        .context("cannot make the lock of the labs")?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .context("cannot lock the labs")
}

/// Mounts the BPF file system where every tool expects it, if nothing else has, under the labs' lock.
/// Agents that start at the same time would otherwise each mount their own, one over the other.
///
/// # Errors
///
/// The kernel refuses.
pub fn mount_bpffs() -> Result<()> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
        return Ok(());
    }
    fs::write(MOUNTED, "").with_context(|| format!("cannot write {MOUNTED}"))?;
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount bpffs at {BPFFS}"))
}

/// Takes off what labs have added to the host, if this was the last one and nobody else uses it.
///
/// # Errors
///
/// The labs cannot be locked, or the kernel refuses.
pub fn leave() -> Result<()> {
    let _lock = lock()?;
    let entries = fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let is_needed = entries.map(|it| it.file_name()).any(|name| !is_hidden(&name));
    if is_needed || !Path::new(MOUNTED).exists() {
        return Ok(());
    }
    let pins = fs::read_dir(Path::new(BPFFS).join("mesh")).into_iter().flatten().count();
    let others = fs::read_dir(BPFFS).into_iter().flatten().flatten();
    let is_used = others
        .map(|it| it.file_name())
        .any(|name| name.to_str().is_none_or(|name| !IN_EVERY_BPFFS.contains(&name)));
    if is_used || pins > 0 {
        return Ok(());
    }
    umount2(BPFFS, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {BPFFS}"))?;
    gone(fs::remove_file(MOUNTED)).with_context(|| format!("cannot remove {MOUNTED}"))
}

/// Whether an entry of [`FOLDER`] is no record of a lab.
fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// Records that this process owns lab `id`. Nothing of a lab may be made before this.
///
/// # Errors
///
/// The record cannot be written.
pub fn own(id: &str) -> Result<()> {
    fs::create_dir_all(FOLDER).with_context(|| format!("cannot make {FOLDER}"))?;
    let pid = std::process::id();
    let started = start_time(pid).context("cannot read our own start time")?;
    // Written whole under another name first: a sweep must never read half a record.
    let temporary = Path::new(FOLDER).join(format!(".{id}"));
    fs::write(&temporary, format!("{pid} {started}\n")).context("cannot record a lab's owner")?;
    fs::rename(&temporary, record(id)).context("cannot record a lab's owner")
}

/// Removes the labs whose owners are dead.
///
/// # Errors
///
/// Something of them could not be removed.
pub fn sweep() -> Result<()> {
    for entry in fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(id) = name.to_str().filter(|id| !id.starts_with('.')) else { continue };
        // Another sweep may be faster: a record that is gone needs nothing from us.
        let Ok(owner) = fs::read_to_string(entry.path()) else { continue };
        if !alive(&owner) {
            remove(id).with_context(|| format!("cannot remove what lab {id} left behind"))?;
        }
    }
    Ok(())
}

/// Removes all of lab `id`: processes, cgroups, namespaces with their links, pins, and the record.
///
/// # Errors
///
/// Something could not be removed; the rest is.
pub fn remove(id: &str) -> Result<()> {
    let mut result = Ok(());
    let mut keep = |outcome: Result<()>| {
        if result.is_ok() {
            result = outcome;
        }
    };
    keep(cgroup::mount().and_then(|root| cgroup::remove(&root.join(cgroup_name(id)))));
    for name in Netns::names(&netns_prefix(id)) {
        keep(Netns::remove(&name));
    }
    keep(remove_pins(id));
    keep(gone(fs::remove_dir_all(state(id))).context("cannot remove the lab's files"));
    if result.is_ok() {
        result = gone(fs::remove_file(record(id))).context("cannot remove the lab's record");
    }
    result
}

/// The beginning of the names of a lab's namespaces.
pub fn netns_prefix(id: &str) -> String {
    format!("mesh-{id}-")
}

/// A lab's group, below the cgroup v2 root.
pub fn cgroup_name(id: &str) -> String {
    format!("mesh-lab-{id}")
}

/// A lab's folder for configuration, keys and logs.
pub fn state(id: &str) -> PathBuf {
    Path::new(FOLDER).join(format!(".{id}.d"))
}

/// The name by which agents know a node: it ends in the lab's id, so that pins never collide.
pub fn node_name(id: &str, node: &str) -> String {
    format!("{node}-{id}")
}

fn record(id: &str) -> PathBuf {
    Path::new(FOLDER).join(id)
}

fn remove_pins(id: &str) -> Result<()> {
    let suffix = node_name(id, "");
    for entry in fs::read_dir(Path::new(BPFFS).join("mesh")).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(&suffix) {
            gone(fs::remove_dir_all(entry.path()))
                .with_context(|| format!("cannot remove the pins {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// A thing that is gone already is no error.
fn gone(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Whether the process of a record lives: the same id, started at the same time.
fn alive(owner: &str) -> bool {
    let mut words = owner.split_whitespace();
    let pid = words.next().and_then(|word| word.parse().ok());
    let started = words.next().and_then(|word| word.parse().ok());
    pid.and_then(start_time).is_some_and(|time| Some(time) == started)
}

/// When a process started, in clock ticks after boot: field 22 of `/proc/<pid>/stat` (proc(5)).
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive() {
        let pid = std::process::id();
        let started = start_time(pid).unwrap();
        assert!(alive(&format!("{pid} {started}\n")));
    }

    #[test]
    fn a_process_id_that_was_used_again_is_another_process() {
        let pid = std::process::id();
        let started = start_time(pid).unwrap();
        assert!(!alive(&format!("{pid} {}\n", started + 1)));
    }

    #[test]
    fn a_broken_record_has_no_owner() {
        assert!(!alive(""));
        assert!(!alive("x y"));
    }
}
