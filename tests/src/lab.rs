//! A lab: nodes that reach each other over a fabric, and nothing else.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Uid;

use crate::cgroup;
use crate::netns::Netns;
use crate::node::Node;
use crate::sweep;

/// The setting in which a namespace's congestion control must be listed, in the root namespace.
const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// A fabric and its nodes. All of it is removed when the last of the lab, its nodes and its pods is
/// dropped.
#[derive(Clone, Debug)]
pub struct Lab(Arc<Inner>);

/// The things that a lab owns.
#[derive(Debug)]
pub(crate) struct Inner {
    id: String,
    fabric: Netns,
    cgroup: PathBuf,
    state: PathBuf,
    nodes: Mutex<Vec<Netns>>,
}

impl Lab {
    /// Makes a lab without nodes, after removing labs whose process is dead.
    ///
    /// # Errors
    ///
    /// We are not root, `ip` is missing, cgroup v2 is not mounted, or the kernel refuses.
    pub fn new() -> Result<Self> {
        ensure!(Uid::effective().is_root(), "a lab makes network namespaces: run as root");
        let root = cgroup::mount()?;
        let id = format!("{:06x}", rand::random::<u32>() & 0xff_ffff);
        prepare_host(&id)?;
        // From here on a failure must remove what was made: `Inner` does when it is dropped.
        let inner = Inner {
            cgroup: root.join(sweep::cgroup_name(&id)),
            state: sweep::state(&id),
            fabric: Netns::create(&format!("{}fabric", sweep::netns_prefix(&id)))
                .inspect_err(|_| drop(sweep::remove(&id)))?,
            nodes: Mutex::new(Vec::new()),
            id,
        };
        fs::create_dir(&inner.cgroup).context("cannot make the lab's cgroup")?;
        fs::create_dir(&inner.state).context("cannot make the lab's folder")?;
        inner
            .fabric
            .ip("link add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up")?;
        Ok(Self(Arc::new(inner)))
    }

    /// The random part of every name in this lab.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The namespace that all traffic between nodes crosses.
    pub fn fabric(&self) -> &Netns {
        &self.0.fabric
    }

    /// A folder for the lab's files, removed with it.
    pub fn state(&self) -> &Path {
        &self.0.state
    }

    /// The lab's group: the parent of its nodes'.
    pub fn cgroup(&self) -> &Path {
        &self.0.cgroup
    }

    /// Adds a node: `name` is short, unique in the lab, and letters, digits and hyphens.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or the lab has 255 nodes.
    pub fn node(&self, name: &str) -> Result<Node> {
        let mut others = self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let index = u8::try_from(others.len() + 1).context("a lab has at most 255 nodes")?;
        let node = Node::create(self, name, index, &others)?;
        others.push(node.netns().clone());
        Ok(node)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = sweep::remove(&self.id).and_then(|()| sweep::leave()) {
            // A failed write to stderr has nowhere to be reported.
            drop(writeln!(std::io::stderr(), "lab {}: {error:#}", self.id));
        }
    }
}

/// The things that every lab of this host needs once, and the record of lab `id`, who is one of
/// those that need it from then on.
fn prepare_host(id: &str) -> Result<()> {
    let _lock = sweep::lock()?;
    sweep::sweep()?;
    allow_cubic()?;
    sweep::mount_bpffs()?;
    sweep::own(id)
}

/// Lets namespaces choose `cubic`, so that measurements do not depend on the host's default.
///
/// A namespace may only choose what the root namespace lists; reno is always listed.
fn allow_cubic() -> Result<()> {
    let allowed = fs::read_to_string(ALLOWED).with_context(|| format!("cannot read {ALLOWED}"))?;
    if allowed.split_whitespace().any(|name| name == "cubic") {
        return Ok(());
    }
    fs::write(ALLOWED, format!("{} cubic", allowed.trim()))
        .with_context(|| format!("cannot add cubic to {ALLOWED}: modprobe tcp_cubic"))
}
