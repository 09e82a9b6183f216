//! Resumed handshakes: when there are any, and that they skip no check.

use std::io;
use std::sync::atomic::AtomicBool;

use nix::time::{ClockId, clock_gettime};
use rustls::client::ClientConnection;
use rustls::server::ServerConnection;
use rustls::{HandshakeKind, NamedGroup};
use rustls_pki_types::{DnsName, ServerName};

use super::fixture::{HOUR, Handshake, Mesh, clients, handshake, id, now, open, server, target};
use super::tls::{Accept, Clients, Dial, Met, Server, Target};
use super::verify::{PeerError, peer_error};
use super::*;

/// A client's and a server's node, each with a say in where the other's workload runs.
struct Nodes {
    a: Identities,
    b: Identities,
    /// Whether the client's node believes that the server is where it is.
    a_places: Arc<AtomicBool>,
    /// Whether the server's node believes that of the client.
    b_places: Arc<AtomicBool>,
    clients: Clients,
    server: Server,
    target: Target,
}

impl Nodes {
    fn new() -> Self {
        let mesh = Mesh::new("cluster.local");
        let node = |name: &str| {
            let places = Arc::new(AtomicBool::new(true));
            let asked = Arc::clone(&places);
            let placement = move |_id: &SpiffeId, _node: &str| asked.load(Ordering::Relaxed);
            (open(mesh.files(name, &[]), name, placement), places)
        };
        let ((a, a_places), (b, b_places)) = (node("node-a"), node("node-b"));
        let clients = clients(&a.ensure_now(&id("client")).unwrap());
        let server = server(&b.ensure_now(&id("server")).unwrap());
        Self { a, b, a_places, b_places, clients, server, target: target(vec![id("server")]) }
    }

    /// Nodes that have met: the next handshake is to be resumed.
    fn acquainted() -> Self {
        let nodes = Self::new();
        assert!(!nodes.meet().resumed());
        nodes
    }

    fn meet(&self) -> Meeting {
        Meeting::of(self.clients.dial(&self.target), self.server.accept()).checked()
    }

    /// Whether the workloads run where they are, for both nodes.
    fn place(&self, here: bool) {
        for places in [&self.a_places, &self.b_places] {
            places.store(here, Ordering::Relaxed);
        }
    }

    /// Makes new certificates for all workloads of a node.
    fn rotate(node: &Identities) {
        for identity in node.held().values() {
            let issued = now(node.shared.issue(identity.id(), clock::now())).unwrap();
            identity.current.store(Arc::new(issued));
        }
    }

    /// Trusts the roots of another mesh, and of none else.
    fn distrust(node: &Identities) {
        let other = Mesh::new("cluster.local");
        let roots = open(other.files("node-c", &[]), "node-c", |_: &SpiffeId, _: &str| true);
        node.shared.trust.replace(&roots.shared.authority.trusted()).unwrap();
    }
}

/// Two that had a handshake.
struct Meeting {
    dial: Dial,
    accept: Accept,
    done: Handshake,
    client: Option<io::Result<Met>>,
    server: Option<io::Result<Met>>,
}

impl Meeting {
    /// Both have finished, or one has refused; neither has checked who is there.
    fn of(dial: Dial, accept: Accept) -> Self {
        let done = handshake(dial.config(), accept.config());
        Self { dial, accept, done, client: None, server: None }
    }

    fn checked(mut self) -> Self {
        if self.done.client_error.is_none() {
            self.client = Some(self.dial.check(&self.done.client));
        }
        if self.done.server_error.is_none() {
            self.server = Some(self.accept.check(&self.done.server));
        }
        self
    }

    /// Whether both say that it was resumed; they have accepted each other.
    #[track_caller]
    fn resumed(&self) -> bool {
        let client = self.client.as_ref().unwrap().as_ref().unwrap();
        let server = self.server.as_ref().unwrap().as_ref().unwrap();
        assert_eq!((&client.id, &server.id), (&id("server"), &id("client")));
        assert_eq!(client.resumed, server.resumed);
        client.resumed
    }

    fn kinds(&self) -> [Option<HandshakeKind>; 2] {
        [self.done.client.handshake_kind(), self.done.server.handshake_kind()]
    }
}

fn refusal(result: Option<io::Result<Met>>) -> Option<PeerError> {
    peer_error(&result.unwrap().unwrap_err())
}

const RESUMED: [Option<HandshakeKind>; 2] = [Some(HandshakeKind::Resumed); 2];

#[test]
fn the_second_handshake_is_resumed_and_tells_who_is_there() {
    let nodes = Nodes::acquainted();
    let second = nodes.meet();
    assert!(second.resumed());
    assert_eq!(second.kinds(), RESUMED);
    // The key exchange is made anew, and is the post-quantum one.
    let group = second.done.client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    assert_eq!(second.done.client.tls13_tickets_received(), 2);
    assert!(nodes.meet().resumed());
}

#[test]
fn nothing_is_sent_before_the_handshake_is_over() {
    let nodes = Nodes::acquainted();
    let Meeting { mut done, .. } = nodes.meet();
    assert!(done.client.early_data().is_none() && done.server.early_data().is_none());
}

#[test]
fn a_session_of_one_target_is_never_used_for_another() {
    let nodes = Nodes::acquainted();
    let name = DnsName::try_from("web.demo.workload.mesh.internal").unwrap();
    let mut elsewhere = nodes.target.clone();
    elsewhere.peer.set_port(1);
    for other in [
        elsewhere,
        Target { expected: vec![id("server"), id("other")], ..nodes.target.clone() },
        Target { name: ServerName::DnsName(name), ..nodes.target.clone() },
    ] {
        let met = Meeting::of(nodes.clients.dial(&other), nodes.server.accept()).checked();
        assert!(!met.resumed(), "{other:?}");
    }
    assert!(nodes.meet().resumed());
}

#[test]
fn a_session_of_one_identity_is_never_used_for_another() {
    let nodes = Nodes::acquainted();
    let other = clients(&nodes.a.ensure_now(&id("other")).unwrap());
    let met = Meeting::of(other.dial(&nodes.target), nodes.server.accept()).checked();
    let met = met.server.unwrap().unwrap();
    assert_eq!((met.id, met.resumed), (id("other"), false));
}

#[test]
fn sessions_end_with_the_certificate_of_either_side() {
    for rotates in
        [|nodes: &Nodes| Nodes::rotate(&nodes.a), |nodes: &Nodes| Nodes::rotate(&nodes.b)]
    {
        let nodes = Nodes::acquainted();
        rotates(&nodes);
        let next = nodes.meet();
        assert!(!next.resumed());
        let shown = cert::Facts::read(&next.done.server.peer_certificates().unwrap()[0]).unwrap();
        assert_eq!(shown.serial, nodes.a.summary()[0].serial);
        assert!(nodes.meet().resumed());
    }
}

#[test]
fn sessions_end_with_the_roots_of_either_side() {
    for node in [|nodes: &Nodes| nodes.a.clone(), |nodes: &Nodes| nodes.b.clone()] {
        let nodes = Nodes::acquainted();
        let node = node(&nodes);
        // The same ones, read again: that they are the same is not looked at.
        node.shared.trust.replace(&node.shared.authority.trusted()).unwrap();
        assert!(!nodes.meet().resumed());
        assert!(nodes.meet().resumed());
    }
}

#[test]
fn a_server_of_roots_that_are_gone_is_refused() {
    let nodes = Nodes::acquainted();
    Nodes::distrust(&nodes.a);
    let met = nodes.meet();
    assert!(matches!(met.done.client_error, Some(PeerError::UntrustedIssuer)));
}

#[test]
fn what_is_placed_elsewhere_is_refused_in_a_full_handshake() {
    let nodes = Nodes::acquainted();
    nodes.b_places.store(false, Ordering::Relaxed);
    let met = nodes.meet();
    assert!(matches!(met.done.server_error, Some(PeerError::NotOnNode { .. })));
    assert!(matches!(met.done.client_error, Some(PeerError::Refused(_))), "it is told");
    nodes.b_places.store(true, Ordering::Relaxed);
    nodes.a_places.store(false, Ordering::Relaxed);
    let met = nodes.meet();
    assert!(matches!(met.done.client_error, Some(PeerError::NotOnNode { .. })));
}

/// A change while a handshake is under way is seen by the check that follows it.
#[track_caller]
fn check_late(
    change: impl Fn(&Nodes),
    client: impl Fn(&PeerError) -> bool,
    server: impl Fn(&PeerError) -> bool,
) {
    let nodes = Nodes::acquainted();
    let met = Meeting::of(nodes.clients.dial(&nodes.target), nodes.server.accept());
    assert_eq!(met.kinds(), RESUMED);
    change(&nodes);
    let met = met.checked();
    let (from_client, from_server) = (refusal(met.client), refusal(met.server));
    assert!(client(from_client.as_ref().unwrap()), "{from_client:?}");
    assert!(server(from_server.as_ref().unwrap()), "{from_server:?}");
}

#[test]
fn a_resumed_peer_is_verified_with_the_roots_of_now() {
    let distrust = |nodes: &Nodes| [&nodes.a, &nodes.b].into_iter().for_each(Nodes::distrust);
    let untrusted = |error: &PeerError| matches!(error, PeerError::UntrustedIssuer);
    check_late(distrust, untrusted, untrusted);
}

#[test]
fn a_peer_of_a_full_handshake_is_verified_again_if_the_roots_have_changed_since() {
    let nodes = Nodes::new();
    let met = Meeting::of(nodes.clients.dial(&nodes.target), nodes.server.accept());
    assert_eq!(met.kinds(), [Some(HandshakeKind::Full); 2]);
    [&nodes.a, &nodes.b].into_iter().for_each(Nodes::distrust);
    let met = met.checked();
    for refused in [refusal(met.client), refusal(met.server)] {
        assert!(matches!(refused, Some(PeerError::UntrustedIssuer)), "{refused:?}");
    }
}

#[test]
fn a_resumed_peer_is_verified_with_the_placement_of_now() {
    let displace = |nodes: &Nodes| nodes.place(false);
    let of_b = |error: &PeerError| {
        matches!(error, PeerError::NotOnNode { id: got, node }
            if *got == id("server") && node == "node-b")
    };
    let of_a = |error: &PeerError| {
        matches!(error, PeerError::NotOnNode { id: got, node }
            if *got == id("client") && node == "node-a")
    };
    check_late(displace, of_b, of_a);
}

#[test]
fn a_refused_peer_is_not_resumed_again() {
    let nodes = Nodes::acquainted();
    assert!(nodes.meet().resumed());
    let met = Meeting::of(nodes.clients.dial(&nodes.target), nodes.server.accept());
    nodes.place(false);
    drop(met.checked());
    nodes.place(true);
    assert!(!nodes.meet().resumed());
}

#[test]
fn what_nobody_has_checked_is_not_resumed() {
    let nodes = Nodes::new();
    for _ in 0..2 {
        let met = Meeting::of(nodes.clients.dial(&nodes.target), nodes.server.accept());
        assert_eq!(met.kinds(), [Some(HandshakeKind::Full); 2]);
    }
}

#[test]
fn time_ends_what_was_verified() {
    let nodes = Nodes::new();
    let client = nodes.a.ensure_now(&id("client")).unwrap();
    let chain = client.current.load().key.cert.clone();
    let check = |now, expect| {
        assert_eq!(nodes.b.shared.trust.still_stands(&chain, now), expect, "{now:?}");
    };
    let now = clock::now();
    check(now, true);
    check(client.summary().not_after, true);
    check(now + HOUR * 2, false);
    check(now - HOUR, false);
    assert!(!nodes.b.shared.trust.still_stands(&[], now));
}

#[test]
fn many_targets_and_tickets_stay_within_their_bounds() {
    let nodes = Nodes::acquainted();
    // Two tickets come with each handshake, and one goes.
    for _ in 0..8 {
        assert!(nodes.meet().resumed());
    }
    for port in 1..=4 {
        let mut other = nodes.target.clone();
        other.peer.set_port(port);
        let met = Meeting::of(nodes.clients.dial(&other), nodes.server.accept()).checked();
        assert!(!met.resumed());
    }
    assert!(!nodes.meet().resumed(), "the first was forgotten");
}

/// The processor time of this thread.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// The result of `f`, and the processor time that it takes.
fn timed<T>(spent: &mut Duration, f: impl FnOnce() -> T) -> T {
    let before = cpu();
    let result = f();
    *spent += cpu().saturating_sub(before);
    result
}

/// The processor time of one handshake, of the client and of the server, checks and tickets
/// included, and whether it was resumed.
fn cost(nodes: &Nodes) -> (Duration, Duration, bool) {
    let [mut ours, mut theirs] = [Duration::ZERO; 2];
    let (dial, mut client) = timed(&mut ours, || {
        let dial = nodes.clients.dial(&nodes.target);
        let client = ClientConnection::new(dial.config(), dial.name()).unwrap();
        (dial, client)
    });
    let (accept, mut server) = timed(&mut theirs, || {
        let accept = nodes.server.accept();
        let server = ServerConnection::new(accept.config()).unwrap();
        (accept, server)
    });
    let mut wire = Vec::new();
    while client.wants_write() || server.wants_write() {
        timed(&mut ours, || {
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
        });
        timed(&mut theirs, || {
            let mut rest = wire.as_slice();
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets().unwrap();
            }
            wire.clear();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
        });
        timed(&mut ours, || {
            let mut rest = wire.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets().unwrap();
            }
            wire.clear();
        });
    }
    let met = timed(&mut ours, || dial.check(&client)).unwrap();
    let seen = timed(&mut theirs, || accept.check(&server)).unwrap();
    assert_eq!(met.resumed, seen.resumed);
    (ours, theirs, met.resumed)
}

/// Prints what handshakes and renewals cost, of as many as `MESH_HANDSHAKES` says:
/// `MESH_HANDSHAKES=2000 cargo test --release -p mesh-agent --lib handshakes_cost -- --nocapture`.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test has no settings")]
fn handshakes_cost_processor_time() {
    let count = std::env::var("MESH_HANDSHAKES").map_or(3, |count| count.parse().unwrap());
    let nodes = Nodes::new();
    for resumed in [false, true] {
        let (mut client, mut server) = (Vec::new(), Vec::new());
        for _ in 0..count {
            if !resumed {
                Nodes::rotate(&nodes.a);
            }
            let (ours, theirs, was) = cost(&nodes);
            assert_eq!(was, resumed);
            client.push(ours);
            server.push(theirs);
        }
        let median = |mut all: Vec<Duration>| {
            all.sort_unstable();
            all[all.len() / 2].as_micros()
        };
        let (client, server) = (median(client), median(server));
        let kind = if resumed { "resumed" } else { "full" };
        println!("{kind}: client {client} us, server {server} us");
    }
    let mut renewals: Vec<_> = (0..count)
        .map(|_| {
            let mut spent = Duration::ZERO;
            timed(&mut spent, || Nodes::rotate(&nodes.a));
            spent
        })
        .collect();
    renewals.sort_unstable();
    println!("renewal: {} us", renewals[renewals.len() / 2].as_micros());
}
