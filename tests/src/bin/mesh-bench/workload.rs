//! Subjects of the measurements: the paths, the workloads, and who carries the bytes.

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
    /// The same, where HTTP routes decide about each request.
    Routed,
}

/// The task of a client.
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
    /// Opens connections that the server closes at once, 16 at a time
    Connect,
    /// Sends requests on 99 busy connections, while the reader of one more stops
    StoppedReader,
    /// The same, and that one has carried bulk
    StoppedReaderBulk,
    /// Sends 1,000 requests a second, and as much as it can on one connection beside them
    #[value(name = "mixed_1")]
    Mixed1,
    /// The same, and as much as it can on eight connections
    #[value(name = "mixed_8")]
    Mixed8,
    /// The same, and 1 Gb/s on one connection
    MixedPaced,
    /// Sends 1,000 requests a second over 16 connections of HTTP/2
    Http2Rate,
    /// Has four requests on each of 8 connections of HTTP/2 at all times
    Http2Saturated,
}

/// The contenders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Nobody: the pods talk to each other.
    Direct,
    /// The mesh, with an agent on each node.
    Mesh,
    /// The mesh, with acceleration between workloads of one node.
    Accelerated,
    /// The mesh, with connections inside of a node carried by its agent.
    Agent,
    /// The mesh, with connections inside of a node carried by its agent through a tunnel.
    Mtls,
    /// The mesh, with 1,000 rules for a service, of which the last is true.
    ManyRules,
    /// A pair of haproxy, one on each node, with mutual TLS between them.
    Haproxy,
    /// A pair of nginx, likewise.
    Nginx,
}

impl Path {
    pub(crate) const ALL: [Self; 4] =
        [Self::Unmeshed, Self::SameNode, Self::CrossNode, Self::Routed];

    /// The name for machines.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Unmeshed => "unmeshed",
            Self::SameNode => "same_node",
            Self::CrossNode => "cross_node",
            Self::Routed => "routed",
        }
    }

    /// The name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Unmeshed => "from a pod of the mesh to one outside of it",
            Self::SameNode => "to a service on the same node",
            Self::CrossNode => "to a service on another node",
            Self::Routed => "to a service on another node, by HTTP routes",
        }
    }

    /// The workload that is tried to see whether a contender is ready.
    pub(crate) fn trial(self) -> Workload {
        match self {
            Self::Unmeshed | Self::SameNode | Self::CrossNode => Workload::Bulk1,
            Self::Routed => Workload::HttpSaturated,
        }
    }
}

impl Workload {
    pub(crate) const ALL: [Self; 14] = [
        Self::Bulk1,
        Self::Bulk8,
        Self::Pingpong,
        Self::HttpRate,
        Self::HttpSaturated,
        Self::HttpNewConnection,
        Self::Http2Rate,
        Self::Http2Saturated,
        Self::Connect,
        Self::StoppedReader,
        Self::StoppedReaderBulk,
        Self::Mixed1,
        Self::Mixed8,
        Self::MixedPaced,
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
            Self::Connect => "connect",
            Self::StoppedReader => "stopped_reader",
            Self::StoppedReaderBulk => "stopped_reader_bulk",
            Self::Mixed1 => "mixed_1",
            Self::Mixed8 => "mixed_8",
            Self::MixedPaced => "mixed_paced",
            Self::Http2Rate => "http2_rate",
            Self::Http2Saturated => "http2_saturated",
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
            Self::Connect => "new connections",
            Self::StoppedReader => "stopped reader",
            Self::StoppedReaderBulk => "stopped bulk reader",
            Self::Mixed1 => "1,000/s and bulk",
            Self::Mixed8 => "1,000/s and 8 bulk",
            Self::MixedPaced => "1,000/s and 1 Gb/s",
            Self::Http2Rate => "HTTP/2, 1,000/s",
            Self::Http2Saturated => "HTTP/2, 32 streams",
        }
    }

    /// The port of the servers for it.
    pub(crate) fn port(self) -> u16 {
        match self {
            Self::Bulk1 | Self::Bulk8 => DISCARD,
            Self::Pingpong => ECHO,
            Self::HttpRate
            | Self::HttpSaturated
            | Self::HttpNewConnection
            | Self::StoppedReader
            | Self::StoppedReaderBulk
            | Self::Mixed1
            | Self::Mixed8
            | Self::MixedPaced => HTTP,
            Self::Http2Rate | Self::Http2Saturated => HTTP2,
            Self::Connect => CLOSE,
        }
    }

    /// The port of the servers for what disturbs it on purpose, if anything does.
    pub(crate) fn beside(self) -> Option<u16> {
        match self {
            Self::StoppedReader | Self::StoppedReaderBulk => Some(ECHO),
            Self::Mixed1 | Self::Mixed8 | Self::MixedPaced => Some(DISCARD),
            Self::Bulk1
            | Self::Bulk8
            | Self::Pingpong
            | Self::HttpRate
            | Self::HttpSaturated
            | Self::HttpNewConnection
            | Self::Http2Rate
            | Self::Http2Saturated
            | Self::Connect => None,
        }
    }

    /// Whether it is measured on a path: what connections do to each other is a question where
    /// something carries them together, and HTTP/2 is bytes like others where no route reads it.
    pub(crate) fn is_on(self, path: Path) -> bool {
        match self {
            Self::HttpRate | Self::HttpSaturated | Self::HttpNewConnection => true,
            Self::Http2Rate | Self::Http2Saturated => path == Path::Routed,
            Self::Bulk1 | Self::Bulk8 | Self::Pingpong | Self::Connect => path != Path::Routed,
            Self::StoppedReader
            | Self::StoppedReaderBulk
            | Self::Mixed1
            | Self::Mixed8
            | Self::MixedPaced => path == Path::CrossNode,
        }
    }

    /// Whether its connections are HTTP/2.
    pub(crate) fn is_http2(self) -> bool {
        self.port() == HTTP2
    }

    /// How many connections a client has open at the same time.
    pub(crate) fn connections(self) -> usize {
        match self {
            Self::Pingpong => 1,
            Self::Bulk1 | Self::Bulk8 => self.bulk_streams(),
            Self::HttpRate | Self::HttpNewConnection | Self::Http2Rate | Self::Connect => 16,
            Self::Http2Saturated => 8,
            Self::HttpSaturated => 32,
            Self::StoppedReader | Self::StoppedReaderBulk => 100,
            Self::Mixed1 | Self::Mixed8 | Self::MixedPaced => 16 + self.bulk_streams(),
        }
    }

    /// On how many of them it sends bulk.
    pub(crate) fn bulk_streams(self) -> usize {
        match self {
            Self::Bulk1 | Self::Mixed1 | Self::MixedPaced => 1,
            Self::Bulk8 | Self::Mixed8 => 8,
            Self::Pingpong
            | Self::HttpRate
            | Self::HttpSaturated
            | Self::HttpNewConnection
            | Self::Http2Rate
            | Self::Http2Saturated
            | Self::Connect
            | Self::StoppedReader
            | Self::StoppedReaderBulk => 0,
        }
    }

    /// Whether each exchange has a connection of its own.
    pub(crate) fn is_of_new_connections(self) -> bool {
        matches!(self, Self::HttpNewConnection | Self::Connect)
    }
}

impl Contender {
    /// All, in the order of their columns.
    pub(crate) const ALL: [Self; 8] = [
        Self::Direct,
        Self::Mesh,
        Self::Accelerated,
        Self::Agent,
        Self::Mtls,
        Self::ManyRules,
        Self::Haproxy,
        Self::Nginx,
    ];

    /// Whether it has this path at all.
    pub(crate) fn has(self, path: Path) -> bool {
        match self {
            Self::Direct | Self::Mesh => true,
            Self::Accelerated | Self::Agent | Self::Mtls => path == Path::SameNode,
            Self::Haproxy => matches!(path, Path::CrossNode | Path::Routed),
            Self::ManyRules | Self::Nginx => path == Path::Routed,
        }
    }

    /// The verdict of the kernel on the connections of this path: anything else would
    /// measure something else. `None` if no agent is asked.
    pub(crate) fn verdict(self, path: Path) -> Option<&'static str> {
        match (self, path) {
            (Self::Direct | Self::Haproxy | Self::Nginx, _) => None,
            (_, Path::Unmeshed) => Some("pass"),
            (Self::Mesh | Self::Accelerated, Path::SameNode) => Some("direct"),
            (_, Path::SameNode | Path::CrossNode | Path::Routed) => Some("proxy"),
        }
    }

    /// How many files one program must be allowed for a connection. Others hold a socket; an agent
    /// lets one client have a third of all that there may be, and a quarter where it holds both
    /// sides.
    pub(crate) fn files(self) -> u64 {
        match self {
            Self::Agent | Self::Mtls => 4,
            Self::Mesh | Self::Accelerated | Self::ManyRules => 3,
            Self::Direct | Self::Haproxy | Self::Nginx => 1,
        }
    }

    /// The name, for machines and people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Mesh => "mesh",
            Self::Accelerated => "accelerated",
            Self::Agent => "agent",
            Self::Mtls => "mtls",
            Self::ManyRules => "many_rules",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}

/// Where servers listen.
pub(crate) const PORTS: [u16; 6] = [HTTP, HTTP2, DISCARD, ECHO, CLOSE, DEAF];

/// Where servers read to the end, and then say how much it was.
pub(crate) const DISCARD: u16 = 9009;

/// Where servers send back what they read.
pub(crate) const ECHO: u16 = 9007;

/// Where servers accept and never read.
pub(crate) const DEAF: u16 = 9010;

/// Where servers close what they accept.
pub(crate) const CLOSE: u16 = 9011;

/// Where servers answer requests of HTTP/1.1.
pub(crate) const HTTP: u16 = 8080;

/// Where servers answer requests of HTTP/1.1 and, if that is what a client begins with, of HTTP/2.
pub(crate) const HTTP2: u16 = 8082;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_agent_carries_is_the_proxys() {
        for contender in Contender::ALL.into_iter().filter(|it| it.has(Path::SameNode)) {
            let verdict = contender.verdict(Path::SameNode);
            let expect = match contender.name() {
                "mesh" | "accelerated" => Some("direct"),
                "agent" | "mtls" => Some("proxy"),
                _ => None,
            };
            assert_eq!(verdict, expect, "{}", contender.name());
        }
        assert_eq!(Contender::Mesh.verdict(Path::CrossNode), Some("proxy"));
        assert_eq!(Contender::Mesh.verdict(Path::Unmeshed), Some("pass"));
    }

    #[test]
    fn clients_know_workloads_by_their_names() {
        for workload in Workload::ALL {
            assert_eq!(Workload::from_str(workload.name(), false), Ok(workload));
        }
    }
}
