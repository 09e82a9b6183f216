//! Connections that the kernel decides alone: reported, and ended when a policy changes.
//!
//! The agent keeps no list of them. [`report`] turns the kernel's events into metrics and the
//! access log, by the [`names`] of what the events number, and [`summary`] the sums of those that
//! have no event of their own; [`enforce`] asks the kernel for the
//! sockets that it has and ends those that [`judge`] does not let be any more.

pub mod names;
pub mod report;
pub mod summary;
pub mod judge;
pub mod enforce;

#[cfg(test)]
mod testing;
