//! The node agent, as a library: the binary is `main.rs`, and tests may use the parts.
//!
//! In reading order, which is also the order of the layers: a module may use those above its own
//! row in `LAYERS` (xtask/src/tidy/layers.rs), and nothing else.

pub mod failure;
pub mod sys;
pub mod task;
pub mod model;
pub mod authz;
pub mod bounds;
pub mod route;
pub mod balance;
pub mod io;
pub mod telemetry;
pub mod store;
pub mod datapath;
pub mod identity;
pub mod source;
pub mod flows;
pub mod hbone;
pub mod native;
pub mod tunnels;
pub mod proxy;
pub mod pods;
pub mod admin;
pub mod settings;
pub mod app;
pub mod cli;
