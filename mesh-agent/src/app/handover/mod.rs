//! Hand-over from the agent of a node to its successor (docs/handover.md).
//!
//! The one that runs changes nothing in the kernel while its successor starts, and goes on serving. The
//! successor says when it serves everything; if it ends before that, the other one goes on as if nothing
//! had been.

mod message;
mod running;
mod starting;

use std::path::{Path, PathBuf};

pub(super) use self::running::{Office, Replaced, Successor};
pub(super) use self::starting::{Predecessor, find, lock};

/// The name of the socket, beside the admin socket.
const SOCKET: &str = "handover.sock";

/// The socket of a hand-over.
pub(super) fn socket(admin_socket: &Path) -> PathBuf {
    admin_socket.with_file_name(SOCKET)
}
