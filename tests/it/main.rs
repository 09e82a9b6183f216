//! Integration tests: real namespaces, cgroups and processes. They need root, and fail without.

#[cfg(test)]
mod lab;
