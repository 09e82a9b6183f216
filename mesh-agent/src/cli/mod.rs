//! The commands that a person runs.

pub mod ca;
