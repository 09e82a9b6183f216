//! An authority that speaks `istio.v1.auth.IstioCertificateService`: istiod, istio-csr and others.
//!
//! The key is made here and a signing request is sent, with the token that the platform has given
//! this agent. The answer is verified the way a peer will verify it, before it is used.

mod answer;
mod message;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use tokio::task::spawn_blocking;
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate as Pem, Channel, ClientTlsConfig, Endpoint, Uri};
use tonic::{Request, Status};

use crate::failure::chain;
use crate::identity::authority::{Authority, Certificate, Life, Look, Pending};
use crate::identity::error::Error;
use crate::identity::files;
use crate::identity::root;
use crate::identity::trust::Trusted;
use crate::model::spiffe::SpiffeId;
use crate::model::trust_domain;
use crate::sys::socket::PeerTimeout;
use crate::task::clock;

pub use self::answer::{Answer, Flaw, read};

/// To reach the authority, with TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one certificate. istiod signs in milliseconds; istio-csr waits for cert-manager.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer: a hundred certificates of 2,048-bit RSA.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// The longest token that is sent. Projected tokens of Kubernetes have about 1 KiB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Where the authority is, and how this agent shows who it is.
#[derive(Clone, Debug)]
pub struct Options {
    /// `https://<host>[:<port>]`.
    pub address: String,
    /// The file with the bearer token; read for each request, because it is renewed under us.
    pub token: PathBuf,
    /// The file with the roots, PEM: of the authority's own certificate, and of the mesh.
    pub roots: PathBuf,
    /// The file with revocation lists, PEM; it may be missing.
    pub lists: PathBuf,
    /// The name of this cluster, `clusterid` in the request (Istio `CLUSTER_ID`).
    pub cluster: String,
    /// The trust domain of the mesh.
    pub trust_domain: String,
    /// How long the authority may leave everything without an answer.
    pub peer_timeout: PeerTimeout,
}

/// Asks an authority over gRPC.
pub struct Istio {
    options: Options,
    trusted: ArcSwap<Trusted>,
    state: Mutex<State>,
}

/// The files' contents when they were last used.
struct State {
    roots: Vec<u8>,
    lists: Option<Vec<u8>>,
    /// The roots that came with the last certificate, PEM.
    told: Vec<u8>,
    /// Made of `roots`; one connection for all requests.
    channel: Option<Channel>,
}

impl Istio {
    /// Reads the roots; blocks. The authority itself is first asked for a certificate.
    ///
    /// # Errors
    ///
    /// The address is none, or has no TLS; the roots are missing, damaged or expired.
    pub fn open(options: Options) -> Result<Self, Error> {
        let refuse = |reason: &str| {
            Err(Error::Address { address: options.address.clone(), reason: reason.to_owned() })
        };
        let uri: Uri = match options.address.parse() {
            Ok(uri) => uri,
            Err(_invalid) => return refuse("it is no URL"),
        };
        if uri.scheme_str() != Some("https") {
            return refuse("use https://, because the token must not be sent in clear");
        }
        trust_domain::check_name(&options.trust_domain)?;
        let roots = files::read(&options.roots)?;
        let lists = files::read_if_there(&options.lists)?;
        let state = State { roots, lists, told: Vec::new(), channel: None };
        let trusted = state.trusted(&options, clock::now())?;
        root::check_trust_domain(&trusted.roots, &options.roots, &options.trust_domain)?;
        Ok(Self { options, trusted: ArcSwap::from_pointee(trusted), state: Mutex::new(state) })
    }

    fn with_state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        // No code panics while it holds the lock, and the state is whole after every step.
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over files or roots that have changed and are good.
    fn adopt(&self, change: impl FnOnce(&mut State), at: Look) -> Result<(), Error> {
        self.with_state(|state| {
            let mut next =
                State { roots: state.roots.clone(), lists: state.lists.clone(), ..State::empty() };
            next.told.clone_from(&state.told);
            change(&mut next);
            let is_same =
                next.told == state.told && next.roots == state.roots && next.lists == state.lists;
            if is_same && !at.anew {
                return Ok(());
            }
            let trusted = next.trusted(&self.options, at.now)?;
            if next.roots == state.roots {
                next.channel = state.channel.take();
            }
            tracing::info!(
                roots = trusted.roots.len(),
                lists = trusted.lists.len(),
                "other roots are trusted now"
            );
            *state = next;
            self.trusted.store(Arc::new(trusted));
            Ok(())
        })
    }

    /// The one connection, which is made when it is first used and again after it broke.
    fn channel(&self) -> Result<Channel, Error> {
        self.with_state(|state| {
            if let Some(channel) = &state.channel {
                return Ok(channel.clone());
            }
            let roots = Pem::from_pem(&state.roots);
            let tls = ClientTlsConfig::new().ca_certificate(roots);
            let endpoint = Endpoint::from_shared(self.options.address.clone())
                .and_then(|endpoint| endpoint.tls_config(tls))
                .map_err(|error| Error::Address {
                    address: self.options.address.clone(),
                    reason: chain(&error),
                })?;
            let (idle, interval, probes) = self.options.peer_timeout.keepalive();
            let endpoint = endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(ANSWER_TIMEOUT)
                .tcp_keepalive(Some(idle))
                .tcp_keepalive_interval(Some(interval))
                .tcp_keepalive_retries(Some(probes));
            let channel = endpoint.connect_lazy();
            state.channel = Some(channel.clone());
            Ok(channel)
        })
    }

    async fn ask(
        &self,
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Certificate, Error> {
        if id.trust_domain() != self.options.trust_domain {
            let ours = self.options.trust_domain.clone();
            return Err(Error::OtherTrustDomain { id: id.clone(), ours });
        }
        let refused = |reason: String| Error::Asked {
            address: self.options.address.clone(),
            id: id.clone(),
            reason,
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let message = message::CertificateRequest::new(
            signing_request(id, &key)?,
            i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX),
            id.to_string(),
        );
        let mut request = Request::new(message);
        self.authorize(&mut request).await?;
        let patience = CONNECT_TIMEOUT + ANSWER_TIMEOUT;
        let channel = self.channel()?;
        let answer = message::create_certificate(channel, request, MAX_ANSWER_BYTES, patience)
            .await
            .map_err(|status| {
                // The connection may lead nowhere: data that waits in it would hold up every later
                // request until TCP gives it up.
                self.with_state(|state| state.channel = None);
                refused(explain(&status))
            })?;
        let answer = read(&answer.cert_chain).map_err(|flaw| refused(flaw.to_string()))?;
        let told = answer.roots.clone();
        let lists = Arc::clone(&self.trusted.load().lists);
        let issued =
            answer.check(id, &key, &lists, now).map_err(|flaw| refused(flaw.to_string()))?;
        self.adopt(|state| state.told = told, Look { now, anew: false })?;
        Ok(issued)
    }

    /// Says who asks. The token is read anew: the kubelet replaces it long before it expires.
    async fn authorize<T>(&self, request: &mut Request<T>) -> Result<(), Error> {
        let path = self.options.token.clone();
        let read = spawn_blocking(move || files::read(&path).map(|token| (path, token)));
        let (path, token) = match read.await {
            Ok(read) => read?,
            Err(_cancelled) => return Ok(()),
        };
        let bad = || Error::Token { path: path.clone() };
        let token = String::from_utf8(token).map_err(|_binary| bad())?;
        let token = token.trim();
        if token.is_empty() || token.len() > MAX_TOKEN_BYTES {
            return Err(bad());
        }
        let bearer = MetadataValue::try_from(format!("Bearer {token}"));
        let mut bearer = bearer.map_err(|_invalid| bad())?;
        bearer.set_sensitive(true);
        let metadata = request.metadata_mut();
        metadata.insert("authorization", bearer);
        if let Ok(cluster) = MetadataValue::try_from(self.options.cluster.as_str()) {
            metadata.insert("clusterid", cluster);
        }
        Ok(())
    }
}

impl State {
    const fn empty() -> Self {
        Self { roots: Vec::new(), lists: None, told: Vec::new(), channel: None }
    }

    /// The roots of the file and those that the authority has told, each once.
    fn trusted(&self, options: &Options, now: SystemTime) -> Result<Trusted, Error> {
        let mut roots = files::valid_roots(&self.roots, &options.roots, now)?;
        for told in files::certificates(&self.told).unwrap_or_default() {
            if !roots.contains(&told) {
                roots.push(told);
            }
        }
        let lists = files::lists(self.lists.as_deref(), &options.lists, now)?;
        Ok(Trusted { roots, lists })
    }
}

/// A request to sign the key, PEM. Its only name is the SPIFFE ID, as Istio's agents ask.
fn signing_request(id: &SpiffeId, key: &KeyPair) -> Result<String, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(id.to_string().try_into()?)];
    Ok(params.serialize_request(key)?.pem()?)
}

/// The authority's answer, or why there was none. It is the other side's text: bounded here,
/// and quoted by whoever prints it.
fn explain(status: &Status) -> String {
    const MOST: usize = 300;
    let mut text = format!("{:?}", status.code());
    let message: String = status.message().chars().take(MOST).collect();
    if !message.is_empty() {
        write!(text, ": {message}").expect("invariant: a String takes all text");
    }
    if let Some(source) = std::error::Error::source(status) {
        write!(text, " ({})", chain(source)).expect("invariant: a String takes all text");
    }
    text
}

impl Authority for Istio {
    fn trust_domain(&self) -> &str {
        &self.options.trust_domain
    }

    fn trusted(&self) -> Arc<Trusted> {
        self.trusted.load_full()
    }

    fn issue<'a>(
        &'a self,
        id: &'a SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Pending<'a, Certificate> {
        Box::pin(self.ask(id, ttl, now))
    }

    fn refresh(&self, _used: HashSet<SpiffeId>, at: Look) -> Pending<'_, bool> {
        Box::pin(async move {
            let (roots, lists) = (self.options.roots.clone(), self.options.lists.clone());
            let read = spawn_blocking(move || {
                Ok::<_, Error>((files::read(&roots)?, files::read_if_there(&lists)?))
            });
            let Ok(read) = read.await else { return Ok(false) };
            let (roots, lists) = read?;
            self.adopt(|state| (state.roots, state.lists) = (roots, lists), at)?;
            Ok(false)
        })
    }

    fn life(&self) -> Option<Life> {
        None
    }

    fn kind(&self) -> &'static str {
        "istio"
    }
}
