//! HTTP and gRPC between two agents: routes of Gateway API, and what is not to be noticed.

pub(crate) mod suite;

mod lab;
mod leaving;
mod conformance;
mod refusals;
mod clients;
mod counts;
mod fidelity;
mod mirrors;
mod sessions;
mod split_by;
mod switch;
mod patience;
mod plain;
mod hostile;
mod crowds;
mod accounts;
mod authorized;
mod hosts;
mod upgrades;
mod beside;
