//! Integration tests: real namespaces, cgroups and processes. They need root, and fail without.

#[cfg(test)]
mod address_families;
#[cfg(test)]
mod capture;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod outbound_tcp;
#[cfg(test)]
mod routes;
