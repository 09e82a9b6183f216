//! The kernel object, compiled by `build.rs` and carried in the binary.

use crate::datapath::Error;

/// The object, or nothing if the build was told to skip it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MESH_EBPF_OBJECT"));

/// The bytes of the object.
///
/// # Errors
///
/// The agent was built with `AYA_BUILD_SKIP`.
pub const fn bytes() -> Result<&'static [u8], Error> {
    if OBJECT.is_empty() { Err(Error::NotBuilt) } else { Ok(OBJECT) }
}
