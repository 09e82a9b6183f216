//! Integration tests: real namespaces, cgroups and processes. They need root, and fail without.

#[cfg(test)]
mod acceleration;
#[cfg(test)]
mod address_families;
#[cfg(test)]
mod capture;
#[cfg(test)]
mod check;
#[cfg(test)]
mod clocks;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod interop;
#[cfg(test)]
mod lab;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod notify;
#[cfg(test)]
mod systemd;
#[cfg(test)]
mod outbound_tcp;
#[cfg(test)]
mod partitions;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod reload;
#[cfg(test)]
mod restarts;
#[cfg(test)]
mod resets;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod routes;
#[cfg(test)]
mod security;
#[cfg(test)]
mod sockets;
#[cfg(test)]
mod strays;
#[cfg(test)]
mod telemetry;
#[cfg(test)]
mod transport;
#[cfg(test)]
mod arrivals;
#[cfg(test)]
mod confinement;
#[cfg(test)]
mod coverage;
#[cfg(test)]
mod detached;
#[cfg(test)]
mod direct;
#[cfg(test)]
mod failure_modes;
#[cfg(test)]
mod handover;
#[cfg(test)]
mod authorities;
#[cfg(test)]
mod authorization;
#[cfg(test)]
mod egress;
#[cfg(test)]
mod bare_metal;
#[cfg(test)]
mod http;
