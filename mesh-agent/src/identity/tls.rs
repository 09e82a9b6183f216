//! TLS for tunnels between nodes: TLS 1.3, mutual, and resumed where that skips no check.
//!
//! A resumed handshake shows no certificates, so that rustls verifies none. Everything that was verified when
//! the session began is verified again when it is resumed, by the same code: see [`Dial::check`]
//! and [`Accept::check`]. A session ends with our own certificate and with the roots that it began
//! under, because its table does.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{ClientConfig, ResolvesClientCert, Resumption};
use rustls::server::danger::ClientCertVerifier as _;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerConfig};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CommonState, ConfigBuilder, HandshakeKind, SignatureScheme, WantsVersions};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::identity::cert::Facts;
use crate::identity::crypto::provider;
use crate::identity::sessions::{self, Accepting, Chain, Dialing, Recent, Sessions, Tickets, lock};
use crate::identity::standing::{Judge, Standing};
use crate::identity::trust::Bundle;
use crate::identity::verify::{ClientVerifier, PeerError, ServerVerifier};
use crate::identity::{Current, Identity};
use crate::model::spiffe::SpiffeId;
use crate::task::clock;

/// Tickets that a server sends after each handshake: one for the next tunnel, and one more, because
/// a ticket is used once and another data thread may want a tunnel too.
const TICKETS: usize = 2;

/// How many sessions one workload keeps. At the bounds what is oldest is forgotten, and a full
/// handshake made.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Peers with whose sessions a client keeps.
    pub targets: usize,
    /// Sessions with each of them.
    pub tickets: usize,
    /// Sessions of a server.
    pub sessions: usize,
}

/// The destination of a client. Sessions of one target are never used for another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where it is.
    pub peer: SocketAddr,
    /// The identities that may be there.
    pub expected: Vec<SpiffeId>,
    /// By which name it is asked for. One is sent if it is a name, and none if it is an address.
    pub name: ServerName<'static>,
}

/// TLS of one workload as a client. It follows the identity's rotation and the change of roots.
pub struct Clients {
    identity: Arc<Identity>,
    alpn: Vec<Vec<u8>>,
    bounds: Bounds,
    made: Mutex<Option<Known>>,
}

/// The targets that were called since the certificate or the roots have changed.
struct Known {
    basis: Basis,
    clients: Recent<Target, Arc<Client>>,
}

/// The parts that all handshakes with one target share.
struct Client {
    config: ClientConfig,
    /// When our certificate ceases to be valid.
    not_after: SystemTime,
    verifier: Arc<ServerVerifier>,
    tickets: Arc<Tickets>,
}

/// One handshake of a client.
#[must_use = "it says who is there"]
pub struct Dial {
    config: Arc<ClientConfig>,
    /// The roots of the moment in which it began.
    roots: Arc<Bundle>,
    not_after: SystemTime,
    name: ServerName<'static>,
    verifier: Arc<ServerVerifier>,
    store: Arc<Dialing>,
}

/// TLS of one workload as a server. It follows the identity's rotation and the change of roots.
pub struct Server {
    identity: Arc<Identity>,
    alpn: Vec<Vec<u8>>,
    bounds: Bounds,
    made: Mutex<Option<(Basis, Arc<Host>)>>,
}

/// The parts that all handshakes with one certificate of a server share.
struct Host {
    config: ServerConfig,
    verifier: Arc<ClientVerifier>,
    sessions: Arc<Sessions>,
}

/// One handshake of a server.
#[must_use = "it says who is there"]
pub struct Accept {
    config: Arc<ServerConfig>,
    /// The roots of the moment in which it began.
    roots: Arc<Bundle>,
    verifier: Arc<ClientVerifier>,
    store: Arc<Accepting>,
}

/// A peer after a handshake.
#[derive(Clone, Debug)]
pub struct Met {
    /// Its identity.
    pub id: SpiffeId,
    /// The handshake has resumed an earlier session.
    pub resumed: bool,
    /// Whether it would still be accepted. To be kept with the tunnel, and asked.
    pub standing: Arc<Standing>,
}

/// The things that a session must not outlive: our own certificate, which the peer keeps with it, and the
/// roots.
struct Basis {
    current: Arc<Current>,
    roots: Arc<Bundle>,
}

impl Basis {
    fn of(identity: &Identity) -> Self {
        Self { current: identity.current.load_full(), roots: identity.trust.bundle() }
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.current, &other.current) && Arc::ptr_eq(&self.roots, &other.roots)
    }
}

impl Clients {
    /// A client that is `identity`, and offers the protocols `alpn` (RFC 7301), the best first.
    pub fn new(identity: Arc<Identity>, alpn: Vec<Vec<u8>>, bounds: Bounds) -> Self {
        Self { identity, alpn, bounds, made: Mutex::default() }
    }

    /// The next handshake with `target`, with the certificate of this moment. It resumes an earlier
    /// one if there was one.
    ///
    /// The caller checks that a protocol was negotiated: rustls accepts a server that chooses none.
    pub fn dial(&self, target: &Target) -> Dial {
        let client = self.client(target);
        let store = Arc::new(Dialing::new(Arc::clone(&client.tickets)));
        let mut config = client.config.clone();
        config.resumption = Resumption::store(Arc::<Dialing>::clone(&store));
        let (config, name) = (Arc::new(config), target.name.clone());
        let (not_after, verifier) = (client.not_after, Arc::clone(&client.verifier));
        let roots = self.identity.trust.bundle();
        Dial { config, roots, not_after, name, verifier, store }
    }

    fn client(&self, target: &Target) -> Arc<Client> {
        let basis = Basis::of(&self.identity);
        let mut made = lock(&self.made);
        let known = match made.take() {
            Some(known) if known.basis.is(&basis) => known,
            _ => Known { basis, clients: Recent::new(self.bounds.targets) },
        };
        let known = made.insert(known);
        if let Some(client) = known.clients.get(target) {
            return Arc::clone(client);
        }
        let client = Arc::new(self.make(&known.basis.current, target));
        known.clients.put(target.clone(), Arc::clone(&client));
        client
    }

    fn make(&self, current: &Current, target: &Target) -> Client {
        let trust = &self.identity.trust;
        let expected = target.expected.as_slice().into();
        let verifier = Arc::new(ServerVerifier { trust: Arc::clone(trust), expected });
        // rustls resumes a session only with the verifier and the resolver that it began with:
        // both are this target's alone.
        let mut config = tls13(ClientConfig::builder_with_provider(provider()))
            .dangerous()
            .with_custom_certificate_verifier(Arc::<ServerVerifier>::clone(&verifier))
            .with_client_cert_resolver(Arc::new(Resolver::of(&self.identity, current)));
        config.alpn_protocols.clone_from(&self.alpn);
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        // `io::tls` seals and opens records itself.
        config.enable_secret_extraction = true;
        let tickets = Tickets::new(Arc::clone(trust), target.name.clone(), self.bounds.tickets);
        let not_after = current.not_after;
        Client { config, not_after, verifier, tickets: Arc::new(tickets) }
    }
}

impl Dial {
    /// For the handshake.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// For the handshake.
    pub fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// When the certificate that we show ceases to be valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The peer, once the handshake is over. To be called before a byte is sent or believed.
    ///
    /// If the handshake has resumed a session, the server's certificates, which rustls has kept with
    /// it, are verified as in a full handshake: with the roots, the time and the placement of now.
    ///
    /// # Errors
    ///
    /// The server is not who it must be. `verify::peer_error` finds the reason in it.
    pub fn check(&self, session: &CommonState) -> io::Result<Met> {
        let verify = |leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]| {
            self.verifier
                .verify_server_cert(leaf, rest, &self.name, &[], clock::for_tls(clock::now()))
                .map(|_verified| ())
        };
        let met = meet(session, session.handshake_kind(), verify);
        let (id, resumed, chain) = met.inspect_err(|_error| self.store.refused())?;
        self.store.verified(&chain);
        let judge = Judge::Server(Arc::clone(&self.verifier), self.name.clone());
        let standing = self.verifier.trust.stand(chain, judge, &self.roots).map_err(refused)?;
        Ok(Met { id, resumed, standing })
    }
}

impl Server {
    /// A server that is `identity`; clients have to show a certificate. Of what they offer, the
    /// first of `alpn` is chosen.
    pub fn new(identity: Arc<Identity>, alpn: Vec<Vec<u8>>, bounds: Bounds) -> Self {
        Self { identity, alpn, bounds, made: Mutex::default() }
    }

    /// The next handshake, with the certificate of this moment.
    ///
    /// The caller checks the protocol here too: rustls accepts a client that offers none at all.
    pub fn accept(&self) -> Accept {
        let host = self.host();
        let store = Arc::new(Accepting::new(Arc::clone(&host.sessions)));
        let mut config = host.config.clone();
        config.session_storage = Arc::<Accepting>::clone(&store);
        let roots = self.identity.trust.bundle();
        Accept { config: Arc::new(config), roots, verifier: Arc::clone(&host.verifier), store }
    }

    fn host(&self) -> Arc<Host> {
        let basis = Basis::of(&self.identity);
        let mut made = lock(&self.made);
        if let Some((known, host)) = &*made
            && known.is(&basis)
        {
            return Arc::clone(host);
        }
        let host = Arc::new(self.make(&basis.current));
        *made = Some((basis, Arc::clone(&host)));
        host
    }

    fn make(&self, current: &Current) -> Host {
        let trust = &self.identity.trust;
        let verifier = Arc::new(ClientVerifier { trust: Arc::clone(trust) });
        let mut config = tls13(ServerConfig::builder_with_provider(provider()))
            .with_client_cert_verifier(Arc::<ClientVerifier>::clone(&verifier))
            .with_cert_resolver(Arc::new(Resolver::of(&self.identity, current)));
        config.alpn_protocols.clone_from(&self.alpn);
        config.ignore_client_order = true;
        // Sessions are kept here, and the ticket is no more than a number. The other way, to give
        // the client the session in a ticket that a key of ours encrypts, needs no memory; but who
        // gets that key could speak for every client whose ticket passed on the wire, a ticket
        // could be used twice, and nothing would end with our certificate. Each handshake replaces
        // this storage by its own way to `sessions`.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = TICKETS;
        // None of a resumed connection's data is sent with the first flight (0-RTT): it could be
        // sent again by anyone who has seen it.
        config.max_early_data_size = 0;
        config.enable_secret_extraction = true;
        let sessions = Sessions::new(Arc::clone(trust), self.bounds.sessions);
        Host { config, verifier, sessions: Arc::new(sessions) }
    }
}

impl Accept {
    /// For the handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// The peer, once the handshake is over. To be called before a byte is sent or believed;
    /// only then may the client resume.
    ///
    /// If the handshake has resumed a session, the client's certificates, which were kept with it,
    /// are verified as in a full handshake: with the roots, the time and the placement of now.
    ///
    /// # Errors
    ///
    /// The client may not call us. `verify::peer_error` finds the reason in it.
    pub fn check(&self, session: &CommonState) -> io::Result<Met> {
        let verify = |leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]| {
            self.verifier
                .verify_client_cert(leaf, rest, clock::for_tls(clock::now()))
                .map(|_verified| ())
        };
        let (id, resumed, chain) = meet(session, session.handshake_kind(), verify)?;
        self.store.verified(&chain);
        let judge = Judge::Client(Arc::clone(&self.verifier));
        let standing = self.verifier.trust.stand(chain, judge, &self.roots).map_err(refused)?;
        Ok(Met { id, resumed, standing })
    }
}

fn refused(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The identity of a peer, whether the handshake was resumed, and what it has shown. rustls has verified it
/// in a full handshake, and `verify` does in any other.
fn meet(
    session: &CommonState,
    kind: Option<HandshakeKind>,
    verify: impl FnOnce(&CertificateDer<'_>, &[CertificateDer<'_>]) -> Result<(), rustls::Error>,
) -> io::Result<(SpiffeId, bool, Chain)> {
    let none = || refused(PeerError::NoCertificate.into());
    let chain = sessions::chain(session.peer_certificates()).ok_or_else(none)?;
    let (leaf, rest) = chain.split_first().ok_or_else(none)?;
    let full = [HandshakeKind::Full, HandshakeKind::FullWithHelloRetryRequest];
    let resumed = !kind.is_some_and(|kind| full.contains(&kind));
    if resumed {
        verify(leaf, rest).map_err(refused)?;
    }
    let id = peer_identity(leaf).ok_or_else(|| refused(PeerError::NoSpiffeId.into()))?;
    Ok((id, resumed, chain))
}

/// The identity in a verified peer's own certificate.
pub fn peer_identity(leaf: &CertificateDer<'_>) -> Option<SpiffeId> {
    Facts::read(leaf).ok()?.spiffe_id()
}

fn tls13<S: rustls::ConfigSide>(
    builder: ConfigBuilder<S, WantsVersions>,
) -> ConfigBuilder<S, rustls::WantsVerifier> {
    builder.with_protocol_versions(&[&TLS13]).expect("invariant: the provider has TLS 1.3 suites")
}

/// Answers with one certificate of an identity.
struct Resolver {
    id: SpiffeId,
    key: Arc<CertifiedKey>,
}

impl Resolver {
    fn of(identity: &Identity, current: &Current) -> Self {
        Self { id: identity.id.clone(), key: Arc::clone(&current.key) }
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.key))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resolver").field(&self.id).finish()
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clients").field(self.identity.id()).finish()
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(self.identity.id()).finish()
    }
}
