//! Local ports: as many as without the mesh, in both directions.

use mesh_tests::apps::{Client, Server};
use mesh_tests::expect::eventually;
use mesh_tests::fixture::{World, service6};
use mesh_tests::mesh::{Mesh, Service, Workload};
use mesh_tests::pair::{ECHO, PORT, Pair};
use mesh_tests::pod::Pod;
use mesh_tests::process::DEADLINE;
use mesh_tests::script::run_in;

/// Local ports that a pod has in these tests, so that they are soon used up.
const PORTS: &str = "20000 20099";

/// Connections that would be too many for one address and port.
const MANY: u64 = 300;

/// Connections to each of several destinations, which together would be too many for one.
const EACH: u64 = 80;

fn few_ports(pod: &Pod) {
    pod.netns().sysctl(&[("net/ipv4/ip_local_port_range", PORTS)]).unwrap();
}

#[test]
fn clients_of_an_application_do_not_share_the_ports_of_its_pod() {
    let pair = Pair::new().unwrap();
    let [_a, _b] = [&pair.a, &pair.b].map(|node| pair.agent(node, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    few_ports(&pair.echo);
    // Short ones, whose ends wait for a minute, and those that stay open.
    let short = Client::to(ECHO).echo("hello").times(MANY, 4).run(&pair.client).unwrap().totals;
    assert_eq!((short.failed, short.errors.into_keys().next()), (0, None));
    let (held, opened) =
        Client::to(ECHO).echo("hello").times(MANY, MANY).hold(&pair.client).unwrap();
    assert_eq!((opened.connections, opened.failed), (MANY, 0), "{:?}", opened.errors);
    assert_eq!(held.stop().unwrap().failed, 0);
}

#[test]
fn destinations_of_an_application_do_not_share_its_ports() {
    let pair = Pair::new().unwrap();
    let other = Service::new("other").at([10, 96, 0, 11]).select("app", "echo");
    pair.config.write(&pair.mesh().service(&other.port(80, PORT).port(81, PORT))).unwrap();
    let [_a, _b] = [&pair.a, &pair.b].map(|node| pair.agent(node, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    few_ports(&pair.client);
    let destinations = [
        ECHO,
        pair.echo.at(PORT),
        "10.96.0.11:80".parse().unwrap(),
        "10.96.0.11:81".parse().unwrap(),
    ];
    let mut all = Vec::new();
    for to in destinations {
        let client = Client::to(to).echo("hello").times(EACH, EACH);
        let (held, opened) = client.hold(&pair.client).unwrap();
        assert_eq!((opened.connections, opened.failed), (EACH, 0), "{to}: {:?}", opened.errors);
        all.push(held);
    }
    for held in all {
        assert_eq!(held.stop().unwrap().failed, 0);
    }
}

#[test]
fn clients_of_an_application_do_not_share_the_ports_of_its_pod_by_ipv6() {
    let world = World::start(1).unwrap();
    let _servers = world.serve().unwrap();
    few_ports(world.v1());
    let to = service6(0);
    let short = Client::to(to).echo("hello").times(MANY, 4).run(world.client()).unwrap().totals;
    assert_eq!((short.failed, short.errors.into_keys().next()), (0, None));
    let (held, opened) =
        Client::to(to).echo("hello").times(MANY, MANY).hold(world.client()).unwrap();
    assert_eq!((opened.connections, opened.failed), (MANY, 0), "{:?}", opened.errors);
    assert_eq!(held.stop().unwrap().failed, 0);
    // So many needed addresses of the agent's own. They go with the workload.
    let has_route = || {
        let program = "print('fd5e9c1a70b36d65' in open('/proc/net/ipv6_route').read())";
        let said = run_in(world.v1().netns(), world.v1().cgroup(), program).unwrap();
        said.trim() == "True"
    };
    assert!(has_route());
    let client = Workload::of(world.client()).account("client");
    world.config.write(&Mesh::new("demo").workload(&client)).unwrap();
    eventually("the route to go", DEADLINE, || (!has_route()).then_some(())).unwrap();
}

#[test]
fn destinations_of_an_application_do_not_share_its_ports_by_ipv6() {
    let world = World::start(1).unwrap();
    let v1 = world.v1();
    let _servers = [8080, 8081].map(|port| Server::echo(v1, port, "v1").unwrap());
    few_ports(world.client());
    let mut all = Vec::new();
    for to in [service6(0), service6(1), v1.at6(8080), v1.at6(8081)] {
        let client = Client::to(to).echo("hello").times(EACH, EACH);
        let (held, opened) = client.hold(world.client()).unwrap();
        assert_eq!((opened.connections, opened.failed), (EACH, 0), "{to}: {:?}", opened.errors);
        all.push(held);
    }
    for held in all {
        assert_eq!(held.stop().unwrap().failed, 0);
    }
}

#[test]
fn a_port_that_a_service_does_not_have_is_refused_at_once() {
    let pair = Pair::new().unwrap();
    let [a, _b] = [&pair.a, &pair.b].map(|node| pair.agent(node, &[]).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let met = |port: u16| {
        let to = (ECHO.ip(), port).into();
        let totals = Client::to(to).echo("hello").run(&pair.client).unwrap().totals;
        totals.errors.into_keys().next()
    };
    assert_eq!(met(ECHO.port()), None);
    assert_eq!(met(ECHO.port() + 1).as_deref(), Some("connect ECONNREFUSED"));
    let told = a.logged("the refusal", |line| line["failure"] == "no_endpoint").unwrap();
    assert_eq!(told["source_workload"], "client");
}
