//! The laboratory: nodes and pods out of network namespaces, veth pairs, bridges and cgroups, with
//! real processes in them.
//!
//! Everything a [`lab::Lab`] makes carries its random id in its name and goes away with it, also
//! when the test panics. It needs root, and says so where it cannot run.

// The parts of a node.
pub mod netns;
pub mod cgroup;
pub mod sweep;
pub mod lab;
pub mod node;
pub mod pod;

// Programs in a pod.
pub mod join;
pub mod pattern;
pub mod report;
pub mod process;
pub mod usage;
pub mod script;
pub mod tracer;
pub mod apps;
pub mod http;

// The mesh: its agents, configuration, certificates.
pub mod agent;
pub mod clock;
pub mod systemd;
pub mod mesh;
pub mod metrics;
pub mod pki;
pub mod pair;
pub mod peers;
pub mod flood;
pub mod tunnel;
pub mod istio_ca;

// The beginning of most tests.
pub mod fixture;

// The expectations of a test.
pub mod expect;
pub mod capture;
