//! What is measured: the paths, the workloads, and who carries the bytes.

use clap::ValueEnum;

/// Where a connection goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// From a pod of the mesh to one on another node that is not the mesh's: what the mesh costs
    /// those who do not use it.
    Unmeshed,
    /// To a service whose pod is on the same node.
    SameNode,
    /// To a service whose pod is on the other node.
    CrossNode,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Workload {
    /// Sends as much as it can on one connection
    #[value(name = "bulk_1")]
    Bulk1,
    /// Sends as much as it can on eight connections
    #[value(name = "bulk_8")]
    Bulk8,
    /// Sends a byte and waits for it to come back, again and again
    Pingpong,
    /// Sends 1,000 requests a second over 16 connections, whether they are answered or not
    HttpRate,
    /// Sends a request on each of 32 connections as soon as the last one is answered
    HttpSaturated,
    /// Opens a connection for each request, 16 at a time
    HttpNewConnection,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Nobody: the pods talk to each other.
    Direct,
    /// The mesh, with an agent on each node.
    Mesh,
    /// A pair of haproxy, one on each node, with mutual TLS between them.
    Haproxy,
}

impl Path {
    pub(crate) const ALL: [Self; 3] = [Self::Unmeshed, Self::SameNode, Self::CrossNode];

    /// The name for machines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unmeshed => "unmeshed",
            Self::SameNode => "same_node",
            Self::CrossNode => "cross_node",
        }
    }

    /// The name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Unmeshed => "from a pod of the mesh to one outside of it",
            Self::SameNode => "to a service on the same node",
            Self::CrossNode => "to a service on another node",
        }
    }
}

impl Workload {
    pub(crate) const ALL: [Self; 6] = [
        Self::Bulk1,
        Self::Bulk8,
        Self::Pingpong,
        Self::HttpRate,
        Self::HttpSaturated,
        Self::HttpNewConnection,
    ];

    /// The name for machines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bulk1 => "bulk_1",
            Self::Bulk8 => "bulk_8",
            Self::Pingpong => "pingpong",
            Self::HttpRate => "http_rate",
            Self::HttpSaturated => "http_saturated",
            Self::HttpNewConnection => "http_new_connection",
        }
    }

    /// The name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Bulk1 => "bulk, 1 stream",
            Self::Bulk8 => "bulk, 8 streams",
            Self::Pingpong => "1-byte round trips",
            Self::HttpRate => "HTTP, 1,000/s",
            Self::HttpSaturated => "HTTP, 32 busy conns",
            Self::HttpNewConnection => "HTTP, new conns",
        }
    }

    /// The port of the servers for it.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Bulk1 | Self::Bulk8 => DISCARD,
            Self::Pingpong => ECHO,
            Self::HttpRate | Self::HttpSaturated | Self::HttpNewConnection => HTTP,
        }
    }
}

impl Contender {
    /// The name, for machines and people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Mesh => "mesh",
            Self::Haproxy => "haproxy",
        }
    }
}

/// Where servers read to the end, and then say how much it was.
pub(crate) const DISCARD: u16 = 9009;

/// Where servers send back what they read.
pub(crate) const ECHO: u16 = 9007;

/// Where servers answer HTTP requests.
pub(crate) const HTTP: u16 = 8080;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_know_workloads_by_their_names() {
        for workload in Workload::ALL {
            assert_eq!(Workload::from_str(workload.name(), false), Ok(workload));
        }
    }
}
