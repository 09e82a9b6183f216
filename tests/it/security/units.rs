//! A unit of a host that runs as root without capabilities, in the namespace that all units share:
//! takes other units' connections from the agent.

use mesh_tests::apps::{Client, Server};
use mesh_tests::node::Node;

use super::{Arena, Bystander, Trace};
use crate::bare_metal::{DB, Hosts, Thief, WEB, start_after};

/// Connections of each kind that an attacker waits for.
const CONNECTIONS: u64 = 200;

fn serves(hosts: &Hosts) {
    assert_eq!(hosts.met(&hosts.unit("web"), hosts.far.at(WEB)), None);
    let [v4, v6] = hosts.host.addresses();
    for ip in [v4, v6] {
        assert_eq!(hosts.met(&hosts.unit("web"), (ip, DB).into()), None);
        assert_eq!(hosts.met(&hosts.unit("job"), (ip, DB).into()).unwrap(), "connect EPERM");
        let outcome = Client::to((ip, DB).into()).echo("x").run(&hosts.far).unwrap();
        assert_eq!(outcome.totals.failed, 0, "{ip}");
    }
}

/// Has the units send and get connections of every kind, and says how many the thief was given.
fn told(hosts: &Hosts, thief: Thief, n_listeners: usize) -> String {
    let netns = hosts.host.netns();
    for to in [hosts.far.at(WEB), hosts.far.at6(WEB)] {
        let client = Client::to(to).echo("x").times(CONNECTIONS, 4);
        let totals = client.run_in(netns, &hosts.unit("web")).unwrap().totals;
        assert_eq!(totals.failed, 0, "{:?}", totals.errors);
    }
    for ip in hosts.host.addresses() {
        // In plaintext, from nobody.
        let client = Client::to((ip, WEB).into()).echo("x").times(CONNECTIONS, 4);
        let totals = client.run_in(netns, hosts.host.cgroup()).unwrap().totals;
        assert_eq!(totals.failed, CONNECTIONS, "{:?}", totals.errors);
    }
    let taken = thief.taken();
    assert_eq!(taken, 0, "at {n_listeners} addresses");
    format!(
        "listens at {n_listeners} addresses, and is given none of {} connections",
        CONNECTIONS * 4
    )
}

#[test]
fn a_unit_does_not_share_the_agents_listeners() {
    let (hosts, ()) = start_after(|_host: &Node| ());
    let _far = Server::echo(&hosts.far, WEB, "far").unwrap();
    let bystander = Bystander::between(&hosts.a, &hosts.b);
    let arena =
        Arena { by: "unit", agent: &hosts.a, serves: &|| serves(&hosts), bystander: &bystander };
    for (name, addresses) in [
        ("to join all that listen on its host, as root", "list(there())"),
        (
            "to listen beside the agent at its ports, as root",
            "ports('127.0.0.1', '127.0.0.9', '::1', '::9', '0.0.0.0', '::')",
        ),
    ] {
        arena.attack(name, Trace::Told, || {
            // In case that it can join nothing.
            let addresses = format!("{addresses} + [('127.0.0.99', 9099)]");
            let mut thief = Thief::start(&hosts.host, &addresses);
            let n_listeners = thief.listens();
            told(&hosts, thief, n_listeners)
        });
    }
}

#[test]
fn a_unit_does_not_keep_others_out_by_the_agents_ports() {
    let addresses = "ports('0.0.0.0', '::')";
    let (hosts, thief) = start_after(|host| {
        let mut thief = Thief::start(host, addresses);
        assert_eq!(thief.listens(), 6);
        thief
    });
    let _far = Server::echo(&hosts.far, WEB, "far").unwrap();
    let bystander = Bystander::between(&hosts.a, &hosts.b);
    let arena =
        Arena { by: "unit", agent: &hosts.a, serves: &|| serves(&hosts), bystander: &bystander };
    let name = "to hold the agent's ports before it starts, as root";
    arena.attack(name, Trace::Told, || told(&hosts, thief, 6));
}
