//! Keeps the kernel equal to what the snapshot asks for.
//!
//! [`load`] puts the programs and maps in place; [`sync`] is the one task that writes the maps, and
//! nothing else does; [`Kernel`] is what connections ask, from any thread.

pub mod object;
pub mod observe;
mod resets;
pub mod load;
pub mod links;
pub mod lock;
pub mod accel;
pub mod kernel;
pub mod events;
pub mod summaries;
pub mod desired;
mod places;
pub mod plan;
pub mod tables;
pub mod sync;
pub mod inbound;
pub mod pins;

use std::path::PathBuf;

pub use kernel::Kernel;

/// Settings of the datapath.
#[derive(Clone, Debug)]
pub struct Options {
    /// This node's name; a part of the pin path.
    pub node: String,
    /// Where the BPF file system is mounted.
    pub bpffs: PathBuf,
    /// The cgroup v2 folder below which sockets are watched.
    pub cgroup: PathBuf,
    /// Where cgroup v2 is mounted.
    pub cgroup_root: PathBuf,
    /// How much the kernel programs log: 0 nothing, 5 everything (aya-log's levels).
    pub log_level: u8,
}

/// Why the kernel side could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program could not be attached.
    #[error("cannot attach {program} to {}", cgroup.display())]
    Attach {
        /// The program's name.
        program: &'static str,
        /// The cgroup.
        cgroup: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The cgroup is not there.
    #[error("cannot open the cgroup {}", path.display())]
    Cgroup {
        /// The folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused the object.
    #[error("the kernel refused the programs; `mesh-agent check` says what it lacks")]
    Load(#[from] Box<aya::EbpfError>),
    /// A map or program of the object is missing or of another type.
    #[error("the object has no `{0}` of the expected type")]
    Missing(&'static str),
    /// The agent was built without the programs.
    #[error(
        "this agent was built with AYA_BUILD_SKIP and holds no kernel programs; build it again"
    )]
    NotBuilt,
    /// Something could not be pinned, or what is pinned not be read.
    #[error("cannot use the pins in {}", path.display())]
    Pin {
        /// The folder or file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A program was refused by the verifier, or the kernel lacks something.
    #[error("the kernel refused the program {name}")]
    Program {
        /// The program's name.
        name: &'static str,
        /// The cause.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
}
