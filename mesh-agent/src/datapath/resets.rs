//! Sight of resets: a program at the kernel's tracepoint for resets that come notes them on sockets of
//! direct connections, so that an end by the client and one by the server are told apart.

use std::path::Path;

use aya::Ebpf;

use crate::datapath::{Error, links};

/// The tracepoint; there since Linux 4.16.
const TRACEPOINT: &str = "tcp_receive_reset";

/// The program.
const PROGRAM: &str = "mesh_reset";

/// Attaches the program by a link that is pinned in `folder`.
///
/// # Errors
///
/// The kernel has no types to be read, or refuses the program or the pin.
pub(super) fn watch(ebpf: &mut Ebpf, folder: &Path) -> Result<(), Error> {
    links::trace(ebpf, PROGRAM, TRACEPOINT, &folder.join("link_reset"))
}
