//! Gives up what this process does not need: capabilities at once, system calls once it has started.

use std::collections::BTreeMap;
use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// The capabilities that are kept; [`caps::NEEDED`](super::caps::NEEDED) says why.
const KEPT: [Capability; 4] = [
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_PERFMON,
    Capability::CAP_BPF,
];

/// System calls that the agent never makes, and that somebody who has taken it over would: by the
/// groups of `systemd.exec(5)`, `SystemCallFilter=`, and those that start programs.
const FORBIDDEN: &[libc::c_long] = &[
    // To start another program.
    libc::SYS_execve,
    libc::SYS_execveat,
    // @debug, and other processes' memory.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_userfaultfd,
    libc::SYS_personality,
    // @module, @reboot, @swap.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // @mount: the file systems that are needed are there.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    // Other namespaces than a workload's are not entered, and none are made.
    libc::SYS_unshare,
    // @clock.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    // @keyring, and files by handle.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    // To become somebody else, or to make a file that lets others.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_mknodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    // A second way to make system calls, and accounting.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

/// Keeps the capabilities that the agent needs, of those that it has, in the calling thread and in
/// those that it starts from now on. To be called before there is another. From now on there is no
/// way to gain any, and no core is dumped: it would have private keys in it.
///
/// # Errors
///
/// The kernel refused.
pub fn drop_capabilities() -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    nix::sys::prctl::set_dumpable(false)?;
    let kept: CapsHashSet = KEPT.into();
    let failed = |error: caps::errors::CapsError| io::Error::other(error.to_string());
    let may_bound = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP);
    if may_bound.map_err(failed)? {
        for capability in caps::all().difference(&kept) {
            // One that this kernel does not know is not there to be dropped.
            let _unknown: Result<(), _> = caps::drop(None, CapSet::Bounding, *capability);
        }
    }
    let has = caps::read(None, CapSet::Permitted).map_err(failed)?;
    let keeps: CapsHashSet = has.intersection(&kept).copied().collect();
    caps::clear(None, CapSet::Ambient).map_err(failed)?;
    caps::set(None, CapSet::Effective, &keeps).map_err(failed)?;
    caps::set(None, CapSet::Permitted, &keeps).map_err(failed)?;
    caps::clear(None, CapSet::Inheritable).map_err(failed)
}

/// Forbids the system calls that the agent never makes, in all threads and for good: they fail with
/// `EPERM`.
///
/// # Errors
///
/// The filter cannot be built for this processor, or the kernel refused it.
pub fn forbid_system_calls() -> io::Result<()> {
    let program = filter().map_err(io::Error::other)?;
    seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules: BTreeMap<_, _> = FORBIDDEN.iter().map(|call| (*call, Vec::new())).collect();
    let architecture = std::env::consts::ARCH.try_into()?;
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)?.try_into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_compiles_and_names_each_call_once() {
        assert!(filter().unwrap().len() > FORBIDDEN.len());
        let unique: std::collections::BTreeSet<_> = FORBIDDEN.iter().collect();
        assert_eq!(unique.len(), FORBIDDEN.len());
    }

    #[test]
    fn what_is_kept_is_what_is_said_to_be_needed() {
        let needed = crate::sys::caps::NEEDED.iter().map(|(number, name, _)| (*number, *name));
        let mut kept: Vec<_> = KEPT.iter().map(|one| (one.index(), one.to_string())).collect();
        kept.sort_unstable();
        assert_eq!(kept, needed.map(|(n, name)| (n, name.to_owned())).collect::<Vec<_>>());
    }
}
