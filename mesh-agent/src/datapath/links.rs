//! Attaches the programs by pinned links, and takes pinned links over.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::programs::links::{CgroupAttachMode, FdLink};
use aya::programs::{BtfTracePoint, Program, ProgramError, ProgramFd};
use aya::{Btf, Ebpf};

use crate::datapath::Error;
use crate::sys::bpf::{self, Attached};
use crate::sys::cgroup;

/// A program of the object, and how it is attached.
pub(super) struct Hook {
    /// The program's name in the object.
    pub(super) program: &'static str,
    /// The link's name in the pin folder.
    pub(super) link: &'static str,
    /// `enum bpf_attach_type`: the kernel does not compare it when a link is updated.
    pub(super) attach_type: u32,
}

/// Every hook. Those that accept come before those that redirect, so that no connection is
/// redirected whose record would not be kept.
const HOOKS: &[Hook] = &[
    Hook { program: "mesh_sockops", link: "link_sockops", attach_type: 3 },
    Hook { program: "mesh_peername4", link: "link_peername4", attach_type: 29 },
    Hook { program: "mesh_peername6", link: "link_peername6", attach_type: 30 },
    Hook { program: "mesh_bind4", link: "link_bind4", attach_type: 12 },
    Hook { program: "mesh_bind6", link: "link_bind6", attach_type: 13 },
    Hook { program: "mesh_sockname4", link: "link_sockname4", attach_type: 31 },
    Hook { program: "mesh_sockname6", link: "link_sockname6", attach_type: 32 },
    Hook { program: "mesh_connect4", link: "link_connect4", attach_type: 10 },
    Hook { program: "mesh_connect6", link: "link_connect6", attach_type: 11 },
];

/// Whether a path in the pin folder is a link.
pub(crate) fn is_link(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"link_"))
}

/// Detaches what is pinned at `path`. If that fails, removing the pin does it a little later.
pub(crate) fn detach(path: &Path) {
    match bpf::pinned(path).and_then(|link| bpf::link_detach(link.as_fd())) {
        // Those of tracepoints never can.
        Err(error) if error.kind() != io::ErrorKind::Unsupported => {
            tracing::warn!(%error, path = %path.display(), "a link cannot be detached at once");
        }
        _ => {}
    }
}

/// Gives the link that is pinned at `path` the new program, with no moment in which none is
/// attached; attaches the program by a link of its own if there is none that is of use.
///
/// For links whose kind says what they take: the kernel does not compare attach types of cgroups'.
pub(super) fn put(
    path: &Path,
    program: &ProgramFd,
    target: impl AsFd,
    attach_type: u32,
) -> io::Result<()> {
    match bpf::pinned(path).and_then(|link| bpf::link_update(link.as_fd(), program)) {
        Ok(()) => Ok(()),
        Err(_none) => create(path, program, target, attach_type),
    }
}

/// Attaches a program by a link of its own, pinned at `path`, instead of one that is of no use.
pub(super) fn create(
    path: &Path,
    program: &ProgramFd,
    target: impl AsFd,
    attach_type: u32,
) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let link = bpf::link_create(program, target, attach_type)?;
    bpf::pin(link.as_fd(), path)
}

/// Attaches a program to a tracepoint, by a link that is pinned at `path`.
///
/// A link to a tracepoint cannot be given another program, and two programs would act twice: what an
/// earlier agent has pinned stays, which its maps being of the same version makes right.
///
/// # Errors
///
/// The kernel has no types to be read, or refuses the program or the pin.
pub(super) fn trace(
    ebpf: &mut Ebpf,
    name: &'static str,
    tracepoint: &str,
    path: &Path,
) -> Result<(), Error> {
    if bpf::pinned(path).is_ok() {
        return Ok(());
    }
    let refused = |source: ProgramError| Error::Program { name, source: Box::new(source) };
    let program = ebpf.program_mut(name).ok_or(Error::Missing(name))?;
    let program: &mut BtfTracePoint =
        program.try_into().map_err(|_other_type| Error::Missing(name))?;
    let types = Btf::from_sys_fs().map_err(ProgramError::Btf).map_err(refused)?;
    program.load(tracepoint, &types).map_err(refused)?;
    let link = program.attach().and_then(|id| program.take_link(id)).map_err(refused)?;
    let pin =
        |error: aya::pin::PinError| Error::Pin { path: path.to_owned(), source: error.into() };
    drop(FdLink::from(link).pin(path).map_err(pin)?);
    Ok(())
}

/// Loads every program that is not, and attaches it to `cgroup`; links that are pinned in `folder` and are
/// there are kept. Returns the pins of the links that were made.
///
/// # Errors
///
/// The verifier refused a program, or the kernel to attach it.
pub(crate) fn attach_all(
    ebpf: &mut Ebpf,
    cgroup: &Path,
    folder: &Path,
) -> Result<Vec<PathBuf>, Error> {
    let refused = |source| Error::Cgroup { path: cgroup.to_owned(), source };
    let file = File::open(cgroup).map_err(refused)?;
    let id = cgroup::id(cgroup).map_err(refused)?;
    let mut made = Vec::new();
    for hook in HOOKS {
        let path = folder.join(hook.link);
        let program = load(ebpf, hook.program)?;
        if take_over(&path, program, id, hook) {
            continue;
        }
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Attach {
            program: hook.program,
            cgroup: cgroup.to_owned(),
            source,
        };
        let link = attach(ebpf, hook.program, &file).map_err(failed)?;
        // A link that is detached, or to a cgroup that is gone, or to another one.
        if path.exists() {
            fs::remove_file(&path).map_err(|error| failed(error.into()))?;
        }
        drop(link.pin(&path).map_err(|error| failed(error.into()))?);
        made.push(path);
    }
    Ok(made)
}

/// Loads one program, and returns its descriptor.
fn load<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a ProgramFd, Error> {
    let refused = |source| Error::Program { name, source: Box::new(source) };
    match ebpf.program_mut(name).ok_or(Error::Missing(name))? {
        Program::SockOps(program) => {
            loaded(program.load()).map_err(refused)?;
            program.fd().map_err(refused)
        }
        Program::CgroupSockAddr(program) => {
            loaded(program.load()).map_err(refused)?;
            program.fd().map_err(refused)
        }
        Program::CgroupSock(program) => {
            loaded(program.load()).map_err(refused)?;
            program.fd().map_err(refused)
        }
        _ => Err(Error::Missing(name)),
    }
}

/// A program that is loaded already is no error.
pub(super) fn loaded(result: Result<(), ProgramError>) -> Result<(), ProgramError> {
    match result {
        Err(ProgramError::AlreadyLoaded) => Ok(()),
        result => result,
    }
}

/// Gives a pinned link the new program. False: there is none, or it is not where it should be.
pub(super) fn take_over(path: &Path, program: &ProgramFd, cgroup: u64, hook: &Hook) -> bool {
    let Ok(link) = bpf::pinned(path) else { return false };
    let here = Attached::Cgroup { id: cgroup, attach_type: hook.attach_type };
    match bpf::attached(link.as_fd()) {
        Ok(place) if place == Some(here) => {}
        Ok(_elsewhere) => return false,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "a pinned link cannot be read");
            return false;
        }
    }
    match bpf::link_update(link.as_fd(), program.as_fd()) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "a pinned link cannot be taken over");
            false
        }
    }
}

/// Attaches one program.
fn attach(
    ebpf: &mut Ebpf,
    name: &'static str,
    cgroup: &File,
) -> Result<FdLink, Box<dyn std::error::Error + Send + Sync>> {
    // With links the kernel always allows several programs, and refuses to be told so.
    let mode = CgroupAttachMode::Single;
    match ebpf.program_mut(name).ok_or(Error::Missing(name))? {
        Program::SockOps(program) => {
            let id = program.attach(cgroup, mode)?;
            Ok(FdLink::try_from(program.take_link(id)?)?)
        }
        Program::CgroupSockAddr(program) => {
            let id = program.attach(cgroup, mode)?;
            Ok(FdLink::try_from(program.take_link(id)?)?)
        }
        Program::CgroupSock(program) => {
            let id = program.attach(cgroup, mode)?;
            Ok(FdLink::try_from(program.take_link(id)?)?)
        }
        _ => Err(Error::Missing(name).into()),
    }
}
