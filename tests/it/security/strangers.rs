//! A network attacker: reaches the port of tunnels, and has no identity of the mesh, or a wrong one.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use mesh_tests::agent;
use mesh_tests::apps::Server;
use mesh_tests::pair::{PORT, Pair, spiffe};
use mesh_tests::peers::{Caller, HBONE_PORT, connect};
use mesh_tests::pki::{Identity, Signer, expired};
use mesh_tests::process::run;
use rcgen::{ExtendedKeyUsagePurpose, SanType, date_time_ymd};
use rustls::version::TLS12;
use rustls_pki_types::CertificateDer;

use super::{Arena, Bystander, Trace};

/// The longest that a server may wait for a handshake that does not go on (10 s), and some.
const PATIENCE: Duration = Duration::from_secs(30);

/// The root that the mesh's agents trust.
pub(super) fn root(pair: &Pair) -> CertificateDer<'static> {
    pair.authority.steal_root().unwrap().anchor().unwrap().clone()
}

/// The identity that an agent of the client's node would show.
pub(super) fn client(pair: &Pair) -> Identity {
    pair.authority.steal(pair.a.name()).unwrap().leaf(&spiffe("client")).unwrap()
}

/// Asks the server's agent for its application.
fn call(pair: &Pair, caller: &Caller) -> anyhow::Result<u16> {
    let request = connect(&pair.echo.at(PORT).to_string(), None)?;
    let said = caller.call(pair.client.netns(), IpAddr::V4(pair.echo.v4()), request, b"hello")?;
    Ok(said.status)
}

/// Checks that a client who may is served.
pub(super) fn serves(pair: &Pair) {
    let caller = Caller::new(Some(&client(pair)), &root(pair)).unwrap();
    assert_eq!(call(pair, &caller).unwrap(), 200);
}

/// The agent's answer to these bytes on its port of tunnels, until it closes.
fn raw(pair: &Pair, bytes: &[u8]) -> Vec<u8> {
    let said = pair.client.netns().run(|| {
        let mut stream = TcpStream::connect((pair.echo.v4(), HBONE_PORT)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // It may have closed before all is written.
        drop(stream.write_all(bytes));
        let mut said = Vec::new();
        match stream.read_to_end(&mut said) {
            Ok(_) => said,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => said,
            Err(error) => panic!("it is still open: {error}"),
        }
    });
    said.unwrap()
}

/// A certificate that a root would not sign, if nobody had its key.
fn wrong(pair: &Pair) -> Vec<(&'static str, Option<Identity>, &'static str)> {
    let node = pair.authority.steal(pair.a.name()).unwrap();
    let root = pair.authority.steal_root().unwrap();
    let foreign = Signer::foreign_root("demo.example").unwrap();
    let id = spiffe("client");
    let leaf =
        |change: &dyn Fn(&mut rcgen::CertificateParams)| Some(node.leaf_with(&id, change).unwrap());
    let elsewhere = "spiffe://other.example/ns/demo/sa/client";
    let second = |params: &mut rcgen::CertificateParams| {
        let uri = spiffe("echo").as_str().try_into().unwrap();
        params.subject_alt_names.push(SanType::URI(uri));
    };
    vec![
        ("no client certificate", None, "has sent no certificate"),
        ("an expired certificate", leaf(&expired), "has expired"),
        (
            "a certificate from the future",
            leaf(&|params| params.not_before = date_time_ymd(2999, 1, 1)),
            "is not valid yet: it begins at 2999-01-01 00:00:00 UTC, and the clock here says 20",
        ),
        (
            "a certificate of another mesh's root",
            Some(foreign.node(pair.a.name()).unwrap().leaf(&id).unwrap()),
            "not signed by a trusted root",
        ),
        (
            "a root of the attacker's own with the mesh's name",
            Some(foreign.leaf(&id).unwrap()),
            "not signed by a trusted root",
        ),
        (
            "an identity of another trust domain",
            Some(node.leaf(elsewhere).unwrap()),
            "is not of the trust domain",
        ),
        (
            "an identity of another trust domain, signed by the root",
            Some(root.leaf(elsewhere).unwrap()),
            "is not of the trust domain",
        ),
        (
            "a certificate without an identity",
            leaf(&|params| params.subject_alt_names.clear()),
            "SPIFFE",
        ),
        ("a certificate with two identities", leaf(&second), "SPIFFE"),
        (
            "an identity of another form",
            Some(node.leaf("spiffe://demo.example/workload/client").unwrap()),
            "SPIFFE",
        ),
        ("a maze of certificates", Some(Signer::maze(150).unwrap()), "has 149 intermediates"),
        (
            "a certificate for servers only",
            leaf(&|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            "chain is not valid",
        ),
    ]
}

#[test]
fn wrong_certificates_are_refused() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena =
        Arena { by: "network", agent: &agent, serves: &|| serves(&pair), bystander: &bystander };
    for (name, identity, reason) in wrong(&pair) {
        arena.attack(name, Trace::Access(&["identity", reason]), || {
            let caller = Caller::new(identity.as_ref(), &root(&pair)).unwrap();
            call(&pair, &caller).unwrap_err();
        });
    }
}

#[test]
fn what_is_not_the_protocol_is_refused() {
    let pair = Pair::new().unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena =
        Arena { by: "network", agent: &agent, serves: &|| serves(&pair), bystander: &bystander };
    let good = || Caller::new(Some(&client(&pair)), &root(&pair)).unwrap();
    arena.attack("TLS 1.2", Trace::Access(&["tls"]), || {
        let old = Caller::with(Some(&client(&pair)), &root(&pair), &[&TLS12]).unwrap();
        call(&pair, &old).unwrap_err();
    });
    for (name, protocols) in [("no ALPN", &[][..]), ("ALPN of HTTP/1.1", &[&b"http/1.1"[..]])] {
        arena.attack(name, Trace::Access(&["tls"]), || {
            call(&pair, &good().alpn(protocols)).unwrap_err();
        });
    }
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    arena.attack("HTTP/2 without TLS", Trace::Access(&["tls"]), || {
        raw(&pair, preface);
    });
    arena.attack("plain HTTP", Trace::Access(&["tls"]), || {
        let said = raw(&pair, b"GET / HTTP/1.1\r\nhost: echo\r\n\r\n");
        assert!(!said.starts_with(b"HTTP"), "{said:?}");
    });
    arena.attack("a record longer than TLS allows", Trace::Access(&["tls"]), || {
        let mut record = vec![22, 3, 1, 0xff, 0xff];
        record.resize(5 + 0xffff, 1);
        raw(&pair, &record);
    });
    arena.attack("half a hello, and silence", Trace::Access(&["timeout"]), || {
        // The length says 512 bytes, of which one comes.
        raw(&pair, &[22, 3, 1, 2, 0, 1]);
    });
}

#[test]
fn what_was_revoked_is_refused() {
    let pair = Pair::new().unwrap();
    let ca = |name: &str| pair.lab.state().join("ca").join(name);
    let mut revoke = Command::new(agent::binary().unwrap());
    let stolen = pair.authority.node("stolen").unwrap();
    revoke.args(["ca", "revoke", "--dir"]).arg(pair.authority.root());
    run(revoke.arg("--certificate").arg(stolen.join("node.crt"))).unwrap();
    let list = pair.authority.root().join("crl.pem");
    std::fs::copy(list, ca(pair.b.name()).join("crl.pem")).unwrap();
    let agent = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let bystander = Bystander::of_pair(&pair, &agent);
    let arena =
        Arena { by: "network", agent: &agent, serves: &|| serves(&pair), bystander: &bystander };
    let name = "a node's certificate that was revoked";
    arena.attack(name, Trace::Access(&["identity", "has been revoked"]), || {
        let node = pair.authority.steal("stolen").unwrap();
        let leaf = node.leaf(&spiffe("client")).unwrap();
        let caller = Caller::new(Some(&leaf), &root(&pair)).unwrap();
        call(&pair, &caller).unwrap_err();
    });
}
