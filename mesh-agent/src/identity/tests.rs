//! Handshakes between nodes: who is accepted, and who is refused for which reason.

use std::io;

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::client::ClientConfig;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::server::danger::ClientCertVerifier as _;
use rustls::{AlertDescription, CipherSuite, NamedGroup, ProtocolVersion};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::AsyncReadExt as _;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::fixture::{
    ALPN, HOUR, Handshake, Mesh, client_config, handshake, id, open, options, server_config,
};
use super::*;
use crate::identity::authority::Embedded;
use crate::identity::crypto::provider;
use crate::identity::files::Files;
use crate::identity::root::BACKDATE;
use crate::identity::tls::peer_identity;
use crate::identity::verify::{ClientVerifier, PeerError, ServerVerifier, classify, peer_error};

/// A handshake of `client` with `server`, which the client expects.
fn meet(client: &Arc<Identity>, server: &Arc<Identity>) -> Handshake {
    handshake(client_config(client, vec![server.id().clone()]), server_config(server))
}

/// A handshake in which the server refuses the client with `expect`, and tells it `alert`.
#[track_caller]
fn check_client(
    client: &Arc<Identity>,
    server: &Arc<Identity>,
    expect: impl Fn(&PeerError) -> bool,
    alert: AlertDescription,
) {
    let done = meet(client, server);
    let error = done.server_error.expect("the server accepted");
    assert!(expect(&error), "{error:?}");
    let told = done.client_error.expect("the client was not told");
    assert!(matches!(told, PeerError::Refused(a) if a == alert), "{told:?}");
}

/// A handshake in which the client refuses the server with `expect`.
#[track_caller]
fn check_server(
    client: &Arc<Identity>,
    server: &Arc<Identity>,
    expect: impl Fn(&PeerError) -> bool,
) {
    let error = meet(client, server).client_error.expect("the client accepted");
    assert!(expect(&error), "{error:?}");
}

#[track_caller]
fn check_accepted(client: &Arc<Identity>, server: &Arc<Identity>) -> Handshake {
    let done = meet(client, server);
    assert!(done.client_error.is_none(), "{:?}", done.client_error);
    assert!(done.server_error.is_none(), "{:?}", done.server_error);
    assert!(!done.client.is_handshaking() && !done.server.is_handshaking());
    done
}

/// A node's intermediate, with its certificate.
fn intermediate(files: &Files) -> (Issuer<'static, KeyPair>, CertificateDer<'static>) {
    let (cert, key) = files.node.as_ref().unwrap();
    let der = files::certificates(cert).unwrap().remove(0);
    (Issuer::from_ca_cert_der(&der, files::key(key).unwrap()).unwrap(), der)
}

/// Parameters of an honest leaf, for tests to spoil.
fn leaf_params(uris: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.subject_alt_names =
        uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    root::set_validity(&mut params, clock::now(), clock::now() + HOUR).unwrap();
    params
}

/// An identity of `like`'s mesh that shows a certificate of the test's making.
fn with_chain(
    like: &Arc<Identity>,
    key: KeyPair,
    chain: Vec<CertificateDer<'static>>,
) -> Arc<Identity> {
    let now = clock::now();
    let (not_before, not_after) = (now, now + HOUR);
    let serial = String::new();
    let issued = Certificate { chain, key: key.into(), not_before, not_after, serial };
    let current = ArcSwap::from_pointee(Current::new(issued, now, 0).unwrap());
    Arc::new(Identity { id: like.id.clone(), trust: Arc::clone(&like.trust), current })
}

/// An identity like `like` with a leaf of `params`, signed by the intermediate in `files`.
fn forged(like: &Arc<Identity>, params: &CertificateParams, files: &Files) -> Arc<Identity> {
    let (issuer, der) = intermediate(files);
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &issuer).unwrap().into();
    with_chain(like, key, vec![leaf, der])
}

#[test]
fn both_sides_see_each_other_over_the_preferred_cryptography() {
    let mesh = Mesh::new("cluster.local");
    let client = mesh.node("node-a").ensure_now(&id("client")).unwrap();
    let server = mesh.node("node-b").ensure_now(&id("server")).unwrap();
    let done = check_accepted(&client, &server);
    assert_eq!(peer_identity(&done.client.peer_certificates().unwrap()[0]), Some(id("server")));
    assert_eq!(peer_identity(&done.server.peer_certificates().unwrap()[0]), Some(id("client")));
    assert_eq!(done.client.alpn_protocol(), Some(ALPN));
    assert_eq!(done.server.alpn_protocol(), Some(ALPN));
    assert_eq!(done.client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let suite = done.client.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
    let group = done.client.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
    assert_eq!(done.server.server_name(), None, "none is sent to an address");
    assert_eq!(done.client.tls13_tickets_received(), 2);
}

#[test]
fn the_server_prefers_aes_128_whatever_the_client_prefers() {
    let mesh = Mesh::new("cluster.local");
    let server = mesh.node("node-b").ensure_now(&id("server")).unwrap();
    let client = mesh.node("node-a").ensure_now(&id("client")).unwrap();
    let mut config = ClientConfig::clone(&client_config(&client, vec![id("server")]));
    let mut other = rustls::crypto::CryptoProvider::clone(config.crypto_provider());
    other.cipher_suites.reverse();
    config = ClientConfig::builder_with_provider(Arc::new(other))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier {
            trust: Arc::clone(&client.trust),
            expected: [id("server")].into(),
        }))
        .with_client_cert_resolver(Arc::clone(&config.client_auth_cert_resolver));
    config.alpn_protocols = vec![ALPN.to_vec()];
    let done = handshake(Arc::new(config), server_config(&server));
    let suite = done.client.negotiated_cipher_suite().unwrap().suite();
    assert_eq!(suite, CipherSuite::TLS13_AES_128_GCM_SHA256);
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let mesh = Mesh::new("cluster.local");
    let node = mesh.node("node-b");
    let server = node.ensure_now(&id("server")).unwrap();
    let verifier =
        ServerVerifier { trust: Arc::clone(&server.trust), expected: [id("server")].into() };
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let done = handshake(Arc::new(config), server_config(&server));
    assert!(matches!(done.server_error, Some(PeerError::NoCertificate)));
    assert!(matches!(
        done.client_error,
        Some(PeerError::Refused(AlertDescription::CertificateRequired))
    ));
}

#[test]
fn an_expired_leaf_and_one_from_the_future_are_refused() {
    let mesh = Mesh::new("cluster.local");
    let node = mesh.node("node-a");
    let good = node.ensure_now(&id("good")).unwrap();
    let at = |now: SystemTime| {
        let issued = fixture::now(node.shared.authority.issue(&id("odd"), HOUR, now)).unwrap();
        let current = ArcSwap::from_pointee(Current::new(issued, now, 0).unwrap());
        Arc::new(Identity { id: id("odd"), trust: Arc::clone(&good.trust), current })
    };
    let expired = at(clock::now() - 2 * HOUR);
    let is_expired = |error: &PeerError| matches!(error, PeerError::Expired(_));
    check_client(&expired, &good, is_expired, AlertDescription::CertificateExpired);
    check_server(&good, &expired, is_expired);
    let future = at(clock::now() + HOUR);
    check_server(&good, &future, |error| matches!(error, PeerError::NotYetValid(_)));
}

#[test]
fn another_root_is_refused() {
    let ours = Mesh::new("cluster.local").node("node-a").ensure_now(&id("ours")).unwrap();
    let theirs = Mesh::new("cluster.local").node("node-a").ensure_now(&id("theirs")).unwrap();
    let is_untrusted = |error: &PeerError| matches!(error, PeerError::UntrustedIssuer);
    check_server(&ours, &theirs, is_untrusted);
    // The client accepts this server, so that the server comes to judge the client.
    let theirs_here = with_trust(&theirs, &ours);
    check_client(&theirs_here, &ours, is_untrusted, AlertDescription::UnknownCA);
}

/// `who` with its certificate, but trusting whom `like` trusts.
fn with_trust(who: &Arc<Identity>, like: &Arc<Identity>) -> Arc<Identity> {
    let issued = who.shared_current();
    Arc::new(Identity { id: who.id.clone(), trust: Arc::clone(&like.trust), current: issued })
}

impl Identity {
    fn shared_current(&self) -> ArcSwap<Current> {
        ArcSwap::new(self.current.load_full())
    }
}

#[test]
fn another_trust_domain_is_refused_unless_it_is_an_alias() {
    let mesh = Mesh::new("cluster.local");
    let files = mesh.files("node-a", &[]);
    let server = mesh.node("node-b").ensure_now(&id("server")).unwrap();
    let params = leaf_params(&["spiffe://old.local/ns/demo/sa/client"]);
    let client = forged(&server, &params, &files);
    let is_foreign = |error: &PeerError| matches!(error, PeerError::TrustDomain { .. });
    check_client(&client, &server, is_foreign, AlertDescription::CertificateUnknown);

    let mut options = options();
    options.trust_domain_aliases.insert("old.local".to_owned());
    let authority =
        Embedded::from_files(mesh.files("node-b", &[]), "node-b", None, (BACKDATE, clock::now()))
            .unwrap();
    let placement = Arc::new(|_: &SpiffeId, _: &str| true);
    let lenient = Identities::new(Box::new(authority), placement, options).unwrap();
    check_accepted(&client, &lenient.ensure_now(&id("server")).unwrap());
}

#[test]
fn the_root_of_another_trust_domain_cannot_vouch_for_ours() {
    let (ours, theirs) = (Mesh::new("cluster.local"), Mesh::new("other.local"));
    let server = open(ours.files("node-a", &[&theirs]), "node-a", |_: &SpiffeId, _: &str| true);
    let server = server.ensure_now(&id("server")).unwrap();
    let params = leaf_params(&["spiffe://cluster.local/ns/demo/sa/admin"]);
    let client = forged(&server, &params, &theirs.files("node-b", &[]));
    let is_untrusted = |error: &PeerError| matches!(error, PeerError::UntrustedIssuer);
    check_client(&client, &server, is_untrusted, AlertDescription::UnknownCA);
}

#[test]
fn a_server_that_is_someone_else_is_refused() {
    let node = Mesh::new("cluster.local").node("node-a");
    let client = node.ensure_now(&id("client")).unwrap();
    let server = node.ensure_now(&id("server")).unwrap();
    let config = client_config(&client, vec![id("bank"), id("vault")]);
    let done = handshake(config, server_config(&server));
    assert_eq!(
        done.client_error.unwrap().to_string(),
        "the peer is spiffe://cluster.local/ns/demo/sa/server, \
         expected spiffe://cluster.local/ns/demo/sa/bank or spiffe://cluster.local/ns/demo/sa/vault"
    );
    let told = done.server_error.unwrap();
    assert!(matches!(told, PeerError::Refused(AlertDescription::CertificateUnknown)), "{told:?}");
}

#[test]
fn a_node_cannot_vouch_for_what_it_does_not_run() {
    let mesh = Mesh::new("cluster.local");
    let only = |id: &SpiffeId, node: &str| match id.service_account() {
        "a" => node == "node-a",
        _ => node == "node-b",
    };
    let node_a = open(mesh.files("node-a", &[]), "node-a", only);
    let node_b = open(mesh.files("node-b", &[]), "node-b", only);
    let (a, b) = (node_a.ensure_now(&id("a")).unwrap(), node_b.ensure_now(&id("b")).unwrap());
    check_accepted(&a, &b);
    check_accepted(&b, &a);
    let stolen = node_a.ensure_now(&id("b")).unwrap();
    let is_misplaced = |error: &PeerError| {
        matches!(error, PeerError::NotOnNode { id: got, node }
            if *got == id("b") && node == "node-a")
    };
    check_server(&a, &stolen, is_misplaced);
    check_client(&stolen, &b, is_misplaced, AlertDescription::CertificateUnknown);
}

/// The revocation list of the root of `mesh`: with the certificate of the node whose files these are.
fn revocation(mesh: &Mesh, files: &Files) -> Vec<u8> {
    let (cert, _key) = files.node.as_ref().unwrap();
    let facts = cert::Facts::read(&files::certificates(cert).unwrap()[0]).unwrap();
    let span = (HOUR, clock::now());
    mesh.root.revoke(&facts, None, "crl.pem".as_ref(), span).unwrap().0.into_bytes()
}

#[test]
fn what_a_revoked_node_vouches_for_is_refused_on_both_sides() {
    let mesh = Mesh::new("cluster.local");
    let files = mesh.files("node-a", &[]);
    let anywhere = |_: &SpiffeId, _: &str| true;
    let lists = Some(revocation(&mesh, &files));
    let bad = open(files, "node-a", anywhere).ensure_now(&id("a")).unwrap();
    let knows = Files { lists, ..mesh.files("node-b", &[]) };
    let knows = open(knows, "node-b", anywhere).ensure_now(&id("b")).unwrap();
    let is_revoked = |error: &PeerError| matches!(error, PeerError::Revoked);
    check_client(&bad, &knows, is_revoked, AlertDescription::CertificateRevoked);
    check_server(&knows, &bad, is_revoked);
    // Others of the same root are not concerned, and who has no list accepts it.
    check_accepted(&mesh.node("node-c").ensure_now(&id("c")).unwrap(), &knows);
    check_accepted(&bad, &mesh.node("node-c").ensure_now(&id("c")).unwrap());
}

#[test]
fn a_list_that_another_has_signed_or_that_is_damaged_does_not_count() {
    let (mesh, other) = (Mesh::new("cluster.local"), Mesh::new("cluster.local"));
    let files = mesh.files("node-a", &[]);
    let forged = Files { lists: Some(revocation(&other, &files)), ..mesh.files("node-b", &[]) };
    // The name is the issuer's, the signature is not: this node's own chain does not verify then.
    let error =
        Embedded::from_files(forged, "node-b", None, (BACKDATE, clock::now())).err().unwrap();
    assert!(matches!(error, Error::Chain { .. }), "{error}");
    let damaged = Files { lists: Some(b"-----BEGIN X509 CRL-----".to_vec()), ..files };
    let error =
        Embedded::from_files(damaged, "node-a", None, (BACKDATE, clock::now())).err().unwrap();
    assert!(error.to_string().contains("crl.pem holds no revocation list in PEM"), "{error}");
}

#[test]
fn a_leaf_that_the_root_itself_signed_is_accepted() {
    let mesh = Mesh::new("cluster.local");
    let nowhere = open(mesh.files("node-a", &[]), "node-a", |_: &SpiffeId, _: &str| false);
    let server = nowhere.ensure_now(&id("server")).unwrap();
    let root = KeyPair::from_pem(&mesh.pems.key).unwrap();
    let root = Issuer::from_ca_cert_pem(&mesh.pems.certificate, root).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = leaf_params(&["spiffe://cluster.local/ns/demo/sa/server"]);
    let leaf = params.signed_by(&key, &root).unwrap().into();
    let direct = with_chain(&server, key, vec![leaf]);
    check_accepted(&direct, &direct);
}

#[test]
fn a_leaf_cannot_sign_a_certificate() {
    let mesh = Mesh::new("cluster.local");
    let files = mesh.files("node-a", &[]);
    let server = mesh.node("node-b").ensure_now(&id("server")).unwrap();
    let (node, node_der) = intermediate(&files);
    // A workload's honest leaf, and what it signs with its key under its issuer's name.
    let mut params = leaf_params(&["spiffe://cluster.local/ns/demo/sa/client"]);
    params.distinguished_name.push(DnType::CommonName, "leaf");
    let leaf_key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&leaf_key, &node).unwrap();
    let issuer = Issuer::from_params(&params, &leaf_key);
    let key = KeyPair::generate().unwrap();
    let below = leaf_params(&["spiffe://cluster.local/ns/demo/sa/admin"]);
    let below = below.signed_by(&key, &issuer).unwrap().into();
    let client = with_chain(&server, key, vec![below, leaf.into(), node_der]);
    let error = meet(&client, &server).server_error.unwrap();
    assert!(matches!(error, PeerError::InvalidChain(_) | PeerError::UntrustedIssuer), "{error:?}");
}

#[test]
fn a_node_cannot_make_itself_another_node() {
    let mesh = Mesh::new("cluster.local");
    let server = mesh.node("node-b").ensure_now(&id("server")).unwrap();
    let (node, node_der) = intermediate(&mesh.files("node-a", &[]));
    let mut forged = CertificateParams::default();
    forged.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    forged.distinguished_name = rcgen::DistinguishedName::new();
    forged.distinguished_name.push(DnType::OrganizationName, "nodemesh");
    forged.distinguished_name.push(DnType::OrganizationalUnitName, "node");
    forged.distinguished_name.push(DnType::CommonName, "node-b");
    let forged_key = KeyPair::generate().unwrap();
    let forged_der = forged.signed_by(&forged_key, &node).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = leaf_params(&["spiffe://cluster.local/ns/demo/sa/admin"]);
    let leaf = leaf.signed_by(&key, &Issuer::from_params(&forged, &forged_key)).unwrap().into();
    let client = with_chain(&server, key, vec![leaf, forged_der.into(), node_der]);
    let error = meet(&client, &server).server_error.unwrap();
    assert!(matches!(error, PeerError::InvalidChain(_) | PeerError::UntrustedIssuer), "{error:?}");
}

#[test]
fn an_issuer_that_two_nodes_could_be_is_refused() {
    let mesh = Mesh::new("cluster.local");
    let server = mesh.node("node-b").ensure_now(&id("server")).unwrap();
    let root = KeyPair::from_pem(&mesh.pems.key).unwrap();
    let root = Issuer::from_ca_cert_pem(&mesh.pems.certificate, root).unwrap();
    let mut two = CertificateParams::default();
    two.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    two.distinguished_name = rcgen::DistinguishedName::new();
    two.distinguished_name.push(DnType::OrganizationName, "nodemesh");
    two.distinguished_name.push(DnType::OrganizationalUnitName, "node");
    let two_key = KeyPair::generate().unwrap();
    let two_der = two.signed_by(&two_key, &root).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = leaf_params(&["spiffe://cluster.local/ns/demo/sa/admin"]);
    let leaf = leaf.signed_by(&key, &Issuer::from_params(&two, &two_key)).unwrap().into();
    let client = with_chain(&server, key, vec![leaf, two_der.into()]);
    let is_untrusted = |error: &PeerError| matches!(error, PeerError::UntrustedIssuer);
    check_client(&client, &server, is_untrusted, AlertDescription::CertificateUnknown);
}

#[test]
fn a_certificate_without_exactly_one_spiffe_id_is_refused() {
    let mesh = Mesh::new("cluster.local");
    let files = mesh.files("node-a", &[]);
    let server = mesh.node("node-b").ensure_now(&id("server")).unwrap();
    let one = "spiffe://cluster.local/ns/demo/sa/a";
    for uris in [&[][..], &[one, "spiffe://cluster.local/ns/demo/sa/b"], &["https://a.b/c"]] {
        let client = forged(&server, &leaf_params(uris), &files);
        let has_none = |error: &PeerError| matches!(error, PeerError::NoSpiffeId);
        check_client(&client, &server, has_none, AlertDescription::CertificateUnknown);
    }
    check_accepted(&forged(&server, &leaf_params(&[one]), &files), &server);
}

#[test]
fn a_certificate_for_servers_only_is_no_clients() {
    let mesh = Mesh::new("cluster.local");
    let server = mesh.node("node-b").ensure_now(&id("server")).unwrap();
    let mut params = leaf_params(&["spiffe://cluster.local/ns/demo/sa/a"]);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let client = forged(&server, &params, &mesh.files("node-a", &[]));
    let is_misused = |error: &PeerError| matches!(error, PeerError::InvalidChain(_));
    check_client(&client, &server, is_misused, AlertDescription::UnsupportedCertificate);
}

#[test]
fn an_identity_problem_is_found_inside_an_io_error() {
    let inner = rustls::Error::from(PeerError::NoSpiffeId);
    let error = io::Error::other(io::Error::new(io::ErrorKind::InvalidData, inner));
    assert!(matches!(peer_error(&error), Some(PeerError::NoSpiffeId)));
    assert!(peer_error(&io::Error::other(rustls::Error::DecryptError)).is_none());
    assert!(peer_error(&io::ErrorKind::ConnectionReset.into()).is_none());
    assert!(classify(&rustls::Error::AlertReceived(AlertDescription::DecodeError)).is_none());
}

#[tokio::test]
async fn a_refused_client_learns_it_with_its_first_read() {
    let mesh = Mesh::new("cluster.local");
    let node_a = mesh.node("node-a");
    let node_b = open(mesh.files("node-b", &[]), "node-b", |_: &SpiffeId, _: &str| false);
    let (client, server) =
        (node_a.ensure_now(&id("a")).unwrap(), node_b.ensure_now(&id("b")).unwrap());
    let (near, far) = tokio::io::duplex(16 << 10);
    let connector = TlsConnector::from(client_config(&client, vec![id("b")]));
    let acceptor = TlsAcceptor::from(server_config(&server));
    let name = ServerName::try_from("mesh.invalid").unwrap();
    let (stream, accepted) = tokio::join!(connector.connect(name, near), acceptor.accept(far));
    let refusal = peer_error(&accepted.err().unwrap());
    assert!(matches!(refusal, Some(PeerError::NotOnNode { .. })), "{refusal:?}");
    let error = stream.unwrap().read_u8().await.unwrap_err();
    let told = peer_error(&error);
    assert!(
        matches!(told, Some(PeerError::Refused(AlertDescription::CertificateUnknown))),
        "{error:?}"
    );
}

/// Judges `leaf` with both verifiers and classifies what they say.
fn judge(trust: &Arc<Trust>, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) {
    let now =
        UnixTime::since_unix_epoch(clock::now().duration_since(SystemTime::UNIX_EPOCH).unwrap());
    let server = ServerVerifier { trust: Arc::clone(trust), expected: [id("a")].into() };
    let name = ServerName::try_from("mesh.invalid").unwrap();
    if let Err(error) = server.verify_server_cert(leaf, rest, &name, &[], now) {
        assert!(classify(&error).is_some(), "{error:?}");
    }
    let client = ClientVerifier { trust: Arc::clone(trust) };
    if let Err(error) = client.verify_client_cert(leaf, rest, now) {
        assert!(classify(&error).is_some(), "{error:?}");
    }
    drop(peer_identity(leaf));
    trust.still_stands(std::slice::from_ref(leaf), clock::now());
}

#[test]
fn a_damaged_certificate_is_refused_and_classified() {
    let node = Mesh::new("cluster.local").node("node-a");
    let identity = node.ensure_now(&id("a")).unwrap();
    let chain = identity.current.load().key.cert.clone();
    proptest!(|(at in 0..chain[0].len(), bits in 1_u8.., length in 0..chain[0].len())| {
        let mut bytes = chain[0].to_vec();
        bytes[at] ^= bits;
        judge(&identity.trust, &bytes.into(), &chain[1..]);
        judge(&identity.trust, &chain[0][..length].into(), &chain[1..]);
    });
}

#[test]
fn arbitrary_bytes_are_refused_and_classified() {
    let node = Mesh::new("cluster.local").node("node-a");
    let identity = node.ensure_now(&id("a")).unwrap();
    proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..400))| {
        judge(&identity.trust, &bytes.into(), &[]);
    });
}

#[test]
fn identities_are_made_once_and_kept_while_wanted() {
    let node = Mesh::new("cluster.local").node("node-a");
    let (a, _b) = (node.ensure_now(&id("a")).unwrap(), node.ensure_now(&id("b")).unwrap());
    assert!(Arc::ptr_eq(&a, &node.ensure_now(&id("a")).unwrap()));
    let ids: Vec<_> = node.summary().into_iter().map(|summary| summary.id).collect();
    assert_eq!(ids, [id("a"), id("b")]);
    assert_eq!(node.retain(|held| *held == id("b")), 1);
    assert!(!Arc::ptr_eq(&a, &node.ensure_now(&id("a")).unwrap()));
    let foreign = SpiffeId::new("other.local", "demo", "a").unwrap();
    assert!(matches!(node.ensure_now(&foreign), Err(Error::OtherTrustDomain { .. })));
}
