//! The synchronization that a tunnel is built of: real, or that of loom, which runs the tests of
//! `model_tests.rs` in every order that threads may take.

#[cfg(not(feature = "model"))]
mod real {
    pub(crate) use std::sync::atomic::AtomicUsize;
    pub(crate) use std::sync::mpsc::{Receiver, Sender, channel};
    pub(crate) use std::sync::{Mutex, MutexGuard};

    pub(crate) use atomic_waker::AtomicWaker;

    /// Wakes `waker` from now on.
    pub(crate) fn register(atomic: &AtomicWaker, waker: &std::task::Waker) {
        atomic.register(waker);
    }
}

#[cfg(feature = "model")]
mod model {
    pub(crate) use loom::future::AtomicWaker;
    pub(crate) use loom::sync::atomic::AtomicUsize;
    pub(crate) use loom::sync::mpsc::{Receiver, Sender, channel};
    pub(crate) use loom::sync::{Mutex, MutexGuard};

    /// Wakes `waker` from now on.
    pub(crate) fn register(atomic: &AtomicWaker, waker: &std::task::Waker) {
        atomic.register_by_ref(waker);
    }
}

#[cfg(feature = "model")]
pub(super) use model::*;
#[cfg(not(feature = "model"))]
pub(super) use real::*;
