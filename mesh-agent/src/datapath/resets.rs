//! Sight of resets: a program at the kernel's tracepoint for resets that come notes them on sockets of
//! direct connections, so that an end by the client and one by the server are told apart.

use std::path::Path;

use aya::programs::links::FdLink;
use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Btf, Ebpf};

use crate::datapath::Error;
use crate::sys::bpf;

/// The tracepoint; there since Linux 4.16.
const TRACEPOINT: &str = "tcp_receive_reset";

/// The program.
const PROGRAM: &str = "mesh_reset";

/// Attaches the program by a link that is pinned in `folder`. One that an earlier agent has pinned
/// stays: a link to a tracepoint cannot be given another program, and its maps are the same.
///
/// # Errors
///
/// The kernel has no types to be read, or refuses the program or the pin.
pub(super) fn watch(ebpf: &mut Ebpf, folder: &Path) -> Result<(), Error> {
    let path = folder.join("link_reset");
    if bpf::pinned(&path).is_ok() {
        return Ok(());
    }
    let refused = |source: ProgramError| Error::Program { name: PROGRAM, source: Box::new(source) };
    let program = ebpf.program_mut(PROGRAM).ok_or(Error::Missing(PROGRAM))?;
    let program: &mut BtfTracePoint = program.try_into().map_err(refused)?;
    let types = Btf::from_sys_fs().map_err(|error| refused(error.into()))?;
    program.load(TRACEPOINT, &types).map_err(refused)?;
    let link = program.attach().and_then(|id| program.take_link(id)).map_err(refused)?;
    let pin = |error: aya::pin::PinError| Error::Pin { path: path.clone(), source: error.into() };
    drop(FdLink::from(link).pin(&path).map_err(pin)?);
    Ok(())
}
