//! The addresses that applications see, and the ways in which they may connect.

use std::net::{IpAddr, SocketAddr};

use mesh_tests::apps::{Client, Server};
use mesh_tests::fixture::{World, service, service6};
use mesh_tests::pod::Pod;
use mesh_tests::report::Connection;

/// Connects once, and must have gone well.
#[track_caller]
fn connect(client: &Client, pod: &Pod) -> Connection {
    client.clone().echo("hello").run(pod).unwrap().single().unwrap()
}

/// Checks that a connection has the addresses as if there was no mesh: the client sees `peer`, the server
/// sees `client` as its peer, and so does the client itself.
#[track_caller]
fn check(seen: &Connection, peer: SocketAddr, client: IpAddr) {
    assert_eq!(seen.peername, Some(peer));
    let banner = seen.banner.as_ref().unwrap();
    let local = seen.local.unwrap();
    assert_eq!(local.ip().to_canonical(), client.to_canonical());
    let client = SocketAddr::new(client, local.port());
    assert_eq!((banner.peer, banner.peername), (client, client));
}

fn mapped(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        SocketAddr::V6(_) => addr,
    }
}

#[test]
fn both_ends_see_each_other_and_not_the_agents() {
    let world = World::start(1).unwrap();
    let (client, v1) = (world.client(), world.v1());
    let _dual = Server::echo(v1, 8080, "dual").unwrap();
    let only4 = ["echo", "--name", "v4", "--listen", "0.0.0.0:8081"];
    let _only4 = Server::start(v1, &only4).unwrap();
    let (ip4, ip6) = (IpAddr::from(client.v4()), IpAddr::from(client.v6()));
    let ip4_mapped = client.v4().to_ipv6_mapped().into();
    // A listener for both families sees IPv4 clients as mapped addresses.
    for (to, seen_as) in [
        (service(0), ip4_mapped),
        (service(1), ip4),
        (service6(0), ip6),
        (v1.at(8080), ip4_mapped),
        (v1.at(8081), ip4),
        (v1.at6(8080), ip6),
    ] {
        check(&connect(&Client::to(to), client), to, seen_as);
        check(&connect(&Client::to(to).mapped(), client), mapped(to), seen_as);
        check(&connect(&Client::to(to).arg("--blocking"), client), to, seen_as);
        check(&connect(&Client::to(to).mapped().arg("--blocking"), client), mapped(to), seen_as);
    }
}

#[test]
fn a_service_is_reached_by_the_family_that_was_asked_for() {
    let world = World::start(1).unwrap();
    let _servers = world.serve().unwrap();
    for (to, endpoint) in [(service(0), world.v1().at(8080)), (service6(0), world.v1().at6(8080))] {
        connect(&Client::to(to), world.client());
        let line = world
            .a
            .logged("the connection", |line| line["downstream_local_address"] == to.to_string());
        assert_eq!(line.unwrap()["upstream_host"], endpoint.to_string());
        let line = world.b.logged("the connection", |line| {
            line["downstream_local_address"] == endpoint.to_string()
        });
        let client = world.client();
        let ip: IpAddr = if to.is_ipv4() { client.v4().into() } else { client.v6().into() };
        let remote = line.unwrap()["downstream_remote_address"].as_str().unwrap().to_owned();
        assert_eq!(remote.parse::<SocketAddr>().unwrap().ip(), ip);
    }
}

#[test]
fn a_socket_may_be_bound_to_the_pods_address_before() {
    let world = World::start(1).unwrap();
    let _servers = world.serve().unwrap();
    let client = world.client();
    let (ip4, ip6) = (client.v4().to_string(), client.v6().to_string());
    for (to, bind, ip) in [(service(0), &ip4, client.at(0)), (service6(0), &ip6, client.at6(0))] {
        let seen = connect(&Client::to(to).arg("--bind").arg(bind), client);
        assert_eq!(seen.local.unwrap().ip(), ip.ip());
        let seen_as = if to.is_ipv4() { client.v4().to_ipv6_mapped().into() } else { ip.ip() };
        check(&seen, to, seen_as);
    }
    let seen = connect(&Client::to(service(0)).mapped().arg("--bind").arg(&ip4), client);
    check(&seen, mapped(service(0)), client.v4().to_ipv6_mapped().into());
}

#[test]
fn a_socket_may_be_used_again_after_a_failure() {
    let world = World::start(2).unwrap();
    let _servers = world.serve().unwrap();
    let (client, outside) = (world.client(), world.on.b.pod("outside").unwrap());
    let _unknown = Server::echo(&outside, 8080, "outside").unwrap();
    // First to an address that the mesh does not know, then to a service.
    let refused = outside.at(9).to_string();
    let seen = connect(&Client::to(service(0)).arg("--first").arg(&refused), client);
    check(&seen, service(0), client.v4().to_ipv6_mapped().into());
    // First straight to a workload of the node that refuses, then to an address that the mesh does
    // not know: nothing of the workload is left on the socket.
    let [v1, v2] = [0, 1].map(|n| &world.on.versions[n]);
    let refused = v2.at(9).to_string();
    for to in [Client::to(outside.at(8080)), Client::to(outside.at(8080)).mapped()] {
        let seen = connect(&to.arg("--first").arg(&refused), v1);
        assert_eq!(seen.version(), Some("outside"));
        let peer = seen.peername.unwrap();
        assert_eq!((peer.ip().to_canonical(), peer.port()), (outside.at(0).ip(), 8080));
    }
}
