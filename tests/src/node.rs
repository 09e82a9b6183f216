//! A node: a namespace with a bridge for its pods and a link to the lab's fabric.
//!
//! Node *n* has the pod networks `10.n.0.0/16` and `fd00:n::/64`, and reaches the others through
//! its fabric addresses `172.16.0.n` and `fd00:ffff::n`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result};

use crate::lab::Lab;
use crate::netns::Netns;
use crate::pod::Pod;
use crate::sweep;

/// The first pod of a node has this number: those below are the gateway's and for growth.
const FIRST_POD: u16 = 10;

/// A node of a lab.
#[derive(Clone, Debug)]
pub struct Node(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    lab: Lab,
    name: String,
    index: u8,
    netns: Netns,
    cgroup: PathBuf,
    pods: AtomicU16,
}

impl Node {
    pub(crate) fn create(lab: &Lab, name: &str, index: u8, others: &[Netns]) -> Result<Self> {
        let cgroup = lab.cgroup().join(name);
        fs::create_dir_all(cgroup.join("agent")).context("cannot make the agent's cgroup")?;
        fs::create_dir_all(cgroup.join("pods")).context("cannot make the pods' cgroup")?;
        let netns = Netns::create(&format!("{}{name}", sweep::netns_prefix(lab.id())))?;
        tune(&netns)?;
        netns.sysctl(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
        lab.fabric().ip(&format!(
            "link add n{index} type veth peer name up0 netns {}\n\
             link set n{index} master br0 up\n",
            netns.name()
        ))?;
        netns.ip(&format!(
            "link add br0 type bridge forward_delay 0 mcast_snooping 0\n\
             link set br0 up\n\
             addr add 10.{index}.0.1/16 dev br0\n\
             addr add fd00:{index:x}::1/64 dev br0 nodad\n\
             addr add {}/16 dev up0\n\
             addr add {}/64 dev up0 nodad\n\
             link set up0 up\n",
            fabric_v4(index),
            fabric_v6(index),
        ))?;
        let node = Self(Arc::new(Inner {
            name: sweep::node_name(lab.id(), name),
            lab: lab.clone(),
            index,
            netns,
            cgroup,
            pods: AtomicU16::new(FIRST_POD),
        }));
        for (other, netns) in (1..).zip(others) {
            node.netns().ip(&routes_to(other))?;
            netns.ip(&routes_to(index))?;
        }
        Ok(node)
    }

    /// Adds a pod: `name` is unique in the lab, and letters, digits and hyphens.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let number = self.0.pods.fetch_add(1, Ordering::Relaxed);
        Pod::create(self, name, number)
    }

    /// The lab of this node.
    pub fn lab(&self) -> &Lab {
        &self.0.lab
    }

    /// The name by which agents and certificates know it, unique on this host.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether it is the first node of its lab.
    pub fn is_first(&self) -> bool {
        self.0.index == 1
    }

    /// Its namespace: where its agent runs.
    pub fn netns(&self) -> &Netns {
        &self.0.netns
    }

    /// Its group, with the children `agent` and `pods/<pod>`.
    pub fn cgroup(&self) -> &Path {
        &self.0.cgroup
    }

    /// The address of pod number `number` in this node's IPv4 network.
    pub(crate) fn v4(&self, number: u16) -> Ipv4Addr {
        let [high, low] = number.to_be_bytes();
        Ipv4Addr::new(10, self.0.index, high, low)
    }

    /// The address of pod number `number` in this node's IPv6 network.
    pub(crate) fn v6(&self, number: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, self.0.index.into(), 0, 0, 0, 0, 0, number)
    }

    /// The fabric's end of its link to it.
    pub fn fabric_link(&self) -> String {
        format!("n{}", self.0.index)
    }

    /// The node's own addresses on the fabric.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [fabric_v4(self.0.index).into(), fabric_v6(self.0.index).into()]
    }
}

/// Settings that make namespaces behave alike whatever the host's are.
pub(crate) fn tune(netns: &Netns) -> Result<()> {
    netns.sysctl(&[
        ("net/ipv4/tcp_congestion_control", "cubic"),
        ("net/core/somaxconn", "4096"),
        // Above the agent's listeners, below nothing: 49,152 connections to one destination.
        ("net/ipv4/ip_local_port_range", "16384 65535"),
    ])
}

fn fabric_v4(index: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 0, index)
}

fn fabric_v6(index: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0xffff, 0, 0, 0, 0, 0, index.into())
}

fn routes_to(index: u8) -> String {
    format!(
        "route add 10.{index}.0.0/16 via {}\nroute add fd00:{index:x}::/64 via {}\n",
        fabric_v4(index),
        fabric_v6(index)
    )
}
