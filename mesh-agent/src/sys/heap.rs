//! Memory that was freed, back to the system.

use nix::libc;

/// Gives whole pages of freed memory back to the system. The C library keeps them otherwise, also
/// when a thousand connections have gone: it looks only at the end of each thread's heap.
///
/// Locks each thread's heap for as long as it takes: some milliseconds for 100 MiB.
#[cfg(target_env = "gnu")]
pub fn give_back() {
    // JUSTIFICATION: the allocator is the C library's; nothing else can ask it.
    // SAFETY: it may be called at any time by any thread (malloc_trim(3)).
    let _whether_any: libc::c_int = unsafe { libc::malloc_trim(0) };
}

/// Nothing: this C library gives back by itself.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
