//! Everything the standard library cannot do safely: raw system calls and namespaces.

pub mod netns;
