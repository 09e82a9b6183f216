//! TLS 1.3 on a socket: the handshake is rustls', and so is what protects a record; in between,
//! records are opened where they were read and given on without a copy.
//!
//! rustls' own buffers copy each byte four times on its way through two agents, which is a seventh
//! of what a bulk transfer costs. [`handshake`] drives rustls record by record until it is over, and
//! takes the keys; [`record`] seals and opens with them, by the implementations that rustls uses
//! itself; [`stream`] reads and writes, and answers what may come between the data (RFC 8446,
//! sections 4.6 and 6).

mod allowance;
mod arena;
pub mod handshake;
mod pieces;
pub mod record;
pub mod stream;

#[cfg(test)]
mod tests;
