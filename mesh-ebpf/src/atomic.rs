//! Words that several CPUs change.
//!
//! `core` has no read-modify-write atomics for BPF, but the intrinsics below them, which compile to
//! the instructions of Linux 5.12. On the host, where clippy checks this crate, they are unstable.

#[cfg(target_arch = "bpf")]
use core::intrinsics::{AtomicOrdering::Relaxed, atomic_cxchg, atomic_xadd};
#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Adds to a word.
///
/// # Safety
///
/// The pointer is to an aligned word that nobody changes but atomically.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) unsafe fn add(word: *mut u64, by: u64) {
    // SAFETY: the caller's.
    let _before = unsafe { atomic_xadd::<u64, u64, { Relaxed }>(word, by) };
}

/// Makes a word `new` if it is `old`. False: it was not.
///
/// # Safety
///
/// As of [`add`].
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) unsafe fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's.
    unsafe { atomic_cxchg::<u64, { Relaxed }, { Relaxed }>(word, old, new).1 }
}

/// As for BPF.
///
/// # Safety
///
/// As for BPF.
#[cfg(not(target_arch = "bpf"))]
pub(crate) unsafe fn add(word: *mut u64, by: u64) {
    // SAFETY: the caller's.
    unsafe { AtomicU64::from_ptr(word) }.fetch_add(by, Relaxed);
}

/// As for BPF.
///
/// # Safety
///
/// As for BPF.
#[cfg(not(target_arch = "bpf"))]
pub(crate) unsafe fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's.
    let word = unsafe { AtomicU64::from_ptr(word) };
    word.compare_exchange(old, new, Relaxed, Relaxed).is_ok()
}
