//! Integration tests: real namespaces, cgroups and processes. They need root, and fail without.

#[cfg(test)]
mod check;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod telemetry;
