//! A pod: a namespace on its node's bridge, and a cgroup.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::expect::eventually;
use crate::netns::Netns;
use crate::node::{Node, tune};
use crate::process::{DEADLINE, Process};
use crate::sweep;

/// A pod of a node.
#[derive(Clone, Debug)]
pub struct Pod {
    name: String,
    number: u16,
    node: Node,
    netns: Netns,
    cgroup: PathBuf,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Pod {
    pub(crate) fn create(node: &Node, name: &str, number: u16) -> Result<Self> {
        let cgroup = node.cgroup().join("pods").join(name);
        fs::create_dir(&cgroup).with_context(|| format!("cannot make the cgroup of {name}"))?;
        let netns = Netns::create(&format!("{}{name}", sweep::netns_prefix(node.lab().id())))?;
        let (v4, v6) = (node.v4(number), node.v6(number));
        let (name, node) = (name.to_owned(), node.clone());
        let pod = Self { name, number, node, netns, cgroup, v4, v6 };
        pod.connect()?;
        Ok(pod)
    }

    /// Connects its namespace to the node.
    fn connect(&self) -> Result<()> {
        let Self { number, node, netns, v4, v6, .. } = self;
        tune(netns)?;
        // The same each time: neighbors remember it.
        let [high, low] = number.to_be_bytes();
        node.netns().ip(&format!(
            "link add p{number} type veth peer name eth0 address 02:00:00:00:{high:02x}:{low:02x} \
             netns {}\n\
             link set p{number} master br0 up\n",
            netns.name()
        ))?;
        netns.ip(&format!(
            "addr add {v4}/16 dev eth0\n\
             addr add {v6}/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via {}\n\
             route add default via {}\n",
            node.v4(1),
            node.v6(1),
        ))
    }

    /// Removes its namespace, waits until nobody holds it, and makes another of the same name and
    /// addresses.
    ///
    /// # Errors
    ///
    /// The kernel refuses, or the namespace is held for longer than [`DEADLINE`].
    pub fn restart(&self) -> Result<()> {
        Netns::remove(self.netns.name())?;
        let link = format!("link show dev p{}\n", self.number);
        let gone = || self.node.netns().ip(&link).is_err().then_some(());
        eventually("the namespace to be let go", DEADLINE, gone)?;
        Netns::create(self.netns.name())?;
        self.connect()
    }

    /// The short name it was made with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node it is on.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its group.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        self.v6
    }

    /// Its IPv4 address, with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.v4), port)
    }

    /// Its IPv6 address, with a port.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.v6), port)
    }

    /// Starts `mesh-app` with `args` in the pod: in its namespace and its cgroup.
    ///
    /// # Errors
    ///
    /// `mesh-app` is not built, or cannot be started.
    pub fn start<S: AsRef<str>>(&self, args: impl IntoIterator<Item = S>) -> Result<Process> {
        Process::app(&self.netns, &self.cgroup, args)
    }
}
