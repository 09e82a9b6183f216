//! Somebody who has no part in an attack, and is served all the same: by the agent under attack, and
//! soon.

use std::net::SocketAddr;
use std::time::Duration;

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::mesh::{ConfigDir, Mesh, MeshPolicy, Workload};
use mesh_tests::pair::{PORT, Pair};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;

/// How soon the fastest exchange is over.
const SOON: Duration = Duration::from_millis(100);

/// Exchanges at a time, one after the other. The machine is shared, so that one may be slow by
/// chance, but not all.
const EXCHANGES: u64 = 5;

/// The same, for a median.
const MEANWHILE: u64 = 25;

/// A workload of one node that asks one of another node, each with an identity of its own, in a
/// namespace that no attack is about. Both demand mutual TLS: whatever is exchanged has gone through
/// the agents of both nodes.
pub(super) struct Bystander {
    client: Pod,
    to: SocketAddr,
    _server: Server,
    /// The other node's agent, if the test has none.
    _agent: Option<Agent>,
}

impl Bystander {
    /// One whose client is on the node of `from`, and whose server on that of `to`.
    pub(super) fn between(from: &Agent, to: &Agent) -> Self {
        let client = from.node().pod("by-client").unwrap();
        let server = to.node().pod("by-server").unwrap();
        let mesh = Mesh::new("bystander")
            .workload(&Workload::of(&client).account("by-client"))
            .workload(&Workload::of(&server).account("by-server").port(PORT))
            .policy(&MeshPolicy::new("bystander").mtls("STRICT"));
        let config = ConfigDir::create(from.config().to_owned()).unwrap();
        config.write_file("bystander.yaml", &mesh.yaml()).unwrap();
        let running = Server::echo(&server, PORT, "bystander").unwrap();
        let bystander = Self { client, to: server.at(PORT), _server: running, _agent: None };
        let enrolled = || {
            // Until then, it may be refused or served by nobody.
            let _outcome = bystander.exchange(1);
            [from, to].iter().all(|agent| carries(agent)).then_some(())
        };
        eventually("the bystander's connection by mutual TLS", DEADLINE, enrolled).unwrap();
        bystander
    }

    /// One of a pair of which only the server's node has an agent: starts the client's.
    pub(super) fn of_pair(pair: &Pair, agent: &Agent) -> Self {
        let client = pair.agent(&pair.a, &[]).unwrap();
        let bystander = Self::between(&client, agent);
        Self { _agent: Some(client), ..bystander }
    }

    /// Asserts that every exchange succeeds, and that the fastest is over [`SOON`]. Returns how long
    /// that one took: from `connect()` to the end, which another process of the node has timed.
    #[track_caller]
    pub(super) fn served(&self) -> Duration {
        let mut best = Duration::MAX;
        let soon = || {
            let (fastest, failures) = self.exchange(EXCHANGES);
            assert_eq!(failures, Vec::<String>::new(), "the bystander is not served");
            best = best.min(fastest);
            (best <= SOON).then_some(best)
        };
        let served = eventually("a bystander's exchange", DEADLINE, soon);
        served.unwrap_or_else(|error| panic!("{error}: it takes {best:?} at its best"))
    }

    /// Asserts that exchanges succeed while an attack goes on, and that half of them are over [`SOON`].
    /// Returns their median.
    #[track_caller]
    pub(super) fn served_meanwhile(&self) -> Duration {
        let client = Client::to(self.to).echo("hello").times(MEANWHILE, 1);
        let outcome = client.run(&self.client).unwrap();
        assert!(outcome.totals.errors.is_empty(), "{:?}", outcome.totals.errors);
        let mut all: Vec<_> = outcome.connections.iter().map(|one| one.total_us).collect();
        all.sort_unstable();
        let median = Duration::from_micros(all[all.len() / 2]);
        assert!(median <= SOON, "half of the bystander's exchanges take more than {median:?}");
        median
    }

    /// Connects and has something echoed so many times. Returns how long the fastest took, and what
    /// the others met.
    fn exchange(&self, count: u64) -> (Duration, Vec<String>) {
        let client = Client::to(self.to).echo("hello").times(count, 1);
        let outcome = client.run(&self.client).unwrap();
        let good = outcome.connections.iter().filter(|one| one.error.is_none());
        let fastest =
            good.map(|one| one.total_us).min().map_or(Duration::MAX, Duration::from_micros);
        (fastest, outcome.totals.errors.into_keys().collect())
    }
}

/// Whether the agent has carried a connection of the bystander by mutual TLS.
fn carries(agent: &Agent) -> bool {
    let lines = agent.access_log().unwrap();
    lines.iter().any(|line| {
        line["source_workload"] == "by-client"
            && line["connection_security_policy"] == "mutual_tls"
            && line["failure"].is_null()
    })
}
