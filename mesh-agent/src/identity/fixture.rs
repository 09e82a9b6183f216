//! Meshes for tests: roots, nodes' authorities and handshakes in memory.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rcgen::KeyPair;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use rustls_pki_types::ServerName;

use crate::identity::authority::Embedded;
use crate::identity::files::{self, Files};
use crate::identity::root::{self, BACKDATE, Pems, Root};
use crate::identity::tls::{Bounds, Clients, Server, Target};
use crate::identity::verify::{PeerError, classify};
use crate::identity::{Error, Identities, Identity, Options, Placement};
use crate::model::spiffe::SpiffeId;
use crate::task::clock;

pub(crate) const HOUR: Duration = Duration::from_hours(1);
pub(crate) const DAY: Duration = Duration::from_hours(24);

/// A protocol to be negotiated.
pub(crate) const ALPN: &[u8] = b"h2";

/// How many sessions are kept.
pub(crate) const BOUNDS: Bounds = Bounds { targets: 4, tickets: 3, sessions: 8 };

/// A client that offers [`ALPN`].
pub(crate) fn clients(client: &Arc<Identity>) -> Clients {
    Clients::new(Arc::clone(client), vec![ALPN.to_vec()], BOUNDS)
}

/// Any of `expected` that is there.
pub(crate) fn target(expected: Vec<SpiffeId>) -> Target {
    let peer = SocketAddr::from(([192, 0, 2, 1], 15008));
    Target { peer, expected, name: ServerName::from(peer.ip()) }
}

/// A server that takes [`ALPN`].
pub(crate) fn server(server: &Arc<Identity>) -> Server {
    Server::new(Arc::clone(server), vec![ALPN.to_vec()], BOUNDS)
}

/// For one handshake of a client that has never made one.
pub(crate) fn client_config(client: &Arc<Identity>, expected: Vec<SpiffeId>) -> Arc<ClientConfig> {
    clients(client).dial(&target(expected)).config()
}

/// For one handshake of a server that has never made one.
pub(crate) fn server_config(identity: &Arc<Identity>) -> Arc<ServerConfig> {
    server(identity).accept().config()
}

pub(crate) fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "demo", account).unwrap()
}

/// A root and what it signs.
pub(crate) struct Mesh {
    pub(crate) root: Root,
    pub(crate) pems: Pems,
}

impl Mesh {
    pub(crate) fn new(trust_domain: &str) -> Self {
        Self::dated(trust_domain, Duration::ZERO)
    }

    /// One whose root begins so much later.
    pub(crate) fn dated(trust_domain: &str, later: Duration) -> Self {
        let pems = root::init_at(trust_domain, DAY * 3650, clock::now() + later).unwrap();
        let files = Files {
            dir: "ca".into(),
            root_cert: pems.certificate.clone().into_bytes(),
            root_key: Some(pems.key.clone().into_bytes().into()),
            node: None,
            lists: None,
        };
        Self { root: Root::open(&files).unwrap(), pems }
    }

    /// A node's directory; `more` are further roots that it trusts.
    pub(crate) fn files(&self, node: &str, more: &[&Self]) -> Files {
        let key = KeyPair::generate().unwrap();
        let cert = self.root.sign_node(node, &key, DAY * 90, clock::now()).unwrap();
        let mut root_cert = self.pems.certificate.clone();
        for mesh in more {
            root_cert.push_str(&mesh.pems.certificate);
        }
        let node = Some((cert.pem().into_bytes(), key.serialize_pem().into_bytes().into()));
        Files {
            dir: "ca".into(),
            root_cert: root_cert.into_bytes(),
            root_key: None,
            node,
            lists: None,
        }
    }

    /// A node's identities, for which every identity runs on every node.
    pub(crate) fn node(&self, node: &str) -> Identities {
        open(self.files(node, &[]), node, |_: &SpiffeId, _: &str| true)
    }
}

pub(crate) fn options() -> Options {
    Options {
        leaf_ttl: HOUR,
        poll_interval: Duration::from_secs(30),
        trust_domain_aliases: BTreeSet::new(),
        stale_timeout: Duration::from_hours(1),
    }
}

pub(crate) fn open(files: Files, node: &str, placement: impl Placement + 'static) -> Identities {
    let authority = Embedded::from_files(files, node, None, (BACKDATE, clock::now())).unwrap();
    Identities::new(Box::new(authority), Arc::new(placement), options()).unwrap()
}

/// The result of what does not wait.
#[track_caller]
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

impl Identities {
    /// The same as [`Self::ensure`], with an authority that signs here.
    #[track_caller]
    pub(crate) fn ensure_now(&self, id: &SpiffeId) -> Result<Arc<Identity>, Error> {
        now(self.ensure(id))
    }
}

/// Writes a node's directory.
pub(crate) fn write(dir: &Path, files: &Files) {
    let (cert, key) = files.node.as_ref().unwrap();
    std::fs::write(dir.join(files::ROOT_CERT), &files.root_cert).unwrap();
    std::fs::write(dir.join(files::NODE_CERT), cert).unwrap();
    std::fs::write(dir.join(files::NODE_KEY), key).unwrap();
}

/// A finished handshake, or who refused whom and why.
pub(crate) struct Handshake {
    pub(crate) client: ClientConnection,
    pub(crate) server: ServerConnection,
    /// The client's result.
    pub(crate) client_error: Option<PeerError>,
    /// The server's result.
    pub(crate) server_error: Option<PeerError>,
}

/// Runs a handshake, with real TLS records, until neither side has more to say.
pub(crate) fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Handshake {
    let name = ServerName::try_from("192.0.2.1").unwrap();
    let mut client = ClientConnection::new(client, name).unwrap();
    let mut server = ServerConnection::new(server).unwrap();
    let (mut client_error, mut server_error) = (None, None);
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while server_error.is_none() && !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            if let Err(error) = server.process_new_packets() {
                server_error = Some(classify(&error).unwrap_or_else(|| panic!("{error}")));
            }
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while client_error.is_none() && !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            if let Err(error) = client.process_new_packets() {
                client_error = Some(classify(&error).unwrap_or_else(|| panic!("{error}")));
            }
        }
    }
    Handshake { client, server, client_error, server_error }
}
