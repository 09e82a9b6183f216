//! An authority that speaks `istio.v1.auth.IstioCertificateService`, and does what it is told.
//!
//! It shares no code with the agent: gRPC by hand over HTTP/2, and messages of its own.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use prost::Message as _;
use rcgen::{CertificateSigningRequestParams, ExtendedKeyUsagePurpose, SanType};
use rustls::ServerConfig;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use crate::netns::Netns;
use crate::peers;
use crate::pki::Signer;

/// Where it listens, in the namespace of a node.
pub const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15012);

/// How far certificates are dated back: no more than rounding needs, so that a life of seconds is
/// one of seconds.
const BACKDATE: Duration = Duration::from_secs(1);

const PATH: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// The authority's manner with requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Signs.
    Honest,
    /// Signs for so many seconds, whatever was asked for.
    Short(u64),
    /// Answers with this gRPC status and text.
    Refuse(u32, &'static str),
    /// Signs for another identity than was asked for.
    ForOther(&'static str),
    /// Signs with a root of its own, and says that another is to be trusted.
    OtherRoot,
    /// Answers with this chain.
    Chain(&'static [&'static str]),
}

/// A request that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The bearer token.
    pub token: String,
    /// `clusterid`.
    pub cluster: String,
    /// For whom.
    pub identity: String,
    /// For how many seconds.
    pub seconds: i64,
}

/// A running authority. Dropping it closes it, with all connections.
#[derive(Debug)]
pub struct IstioCa {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    signer: Signer,
    root: String,
    manner: Mutex<Manner>,
    asked: Mutex<Vec<Asked>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CertificateRequest {
    #[prost(string, tag = "1")]
    csr: String,
    #[prost(int64, tag = "3")]
    validity_duration: i64,
    #[prost(message, optional, tag = "4")]
    metadata: Option<Struct>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Value {
    #[prost(string, tag = "3")]
    string_value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CertificateResponse {
    #[prost(string, repeated, tag = "1")]
    cert_chain: Vec<String>,
}

impl IstioCa {
    /// Listens at [`ADDRESS`] in `netns`, with a certificate of `signer`, which is also what it
    /// signs with; `root` is the signer's own certificate, PEM.
    ///
    /// # Errors
    ///
    /// The port is taken, or the signer cannot be used.
    pub fn start(netns: &Netns, signer: Signer, root: String) -> Result<Self> {
        let own = signer.leaf_with("spiffe://istiod", |params| {
            params.subject_alt_names = vec![SanType::IpAddress(ADDRESS.ip())];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        })?;
        let config = ServerConfig::builder_with_provider(peers::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(own.chain, own.key)?;
        let mut config = config;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = netns.run(|| TcpListener::bind(ADDRESS))??;
        listener.set_nonblocking(true)?;
        let shared =
            Shared { signer, root, manner: Mutex::new(Manner::Honest), asked: Mutex::default() };
        let shared = Arc::new(shared);
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    // Also when the sender is dropped.
                    _ = stopped => {}
                    _ = accept(listener, TlsAcceptor::from(Arc::new(config)), serving) => {}
                }
            });
        });
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Does something else with the next requests.
    pub fn change(&self, manner: Manner) {
        *lock(&self.shared.manner) = manner;
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }
}

impl Drop for IstioCa {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of it is seen by those who expected an answer.
            drop(thread.join());
        }
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _client) = listener.accept().await?;
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        // A failure is seen by the agent, and in its log.
        drop(tokio::spawn(async move {
            let mut h2 = h2::server::handshake(tls.accept(stream).await?).await?;
            while let Some(request) = h2.accept().await {
                let (request, respond) = request?;
                let shared = Arc::clone(&shared);
                drop(tokio::spawn(async move { drop(answer(request, respond, &shared).await) }));
            }
            anyhow::Ok(())
        }));
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    shared: &Shared,
) -> Result<()> {
    let (head, mut body) = request.into_parts();
    let mut message = BytesMut::new();
    while let Some(data) = body.data().await.transpose()? {
        body.flow_control().release_capacity(data.len())?;
        message.extend_from_slice(&data);
    }
    let (status, text, answer) = match shared.judge(&head, message.freeze()) {
        Ok(answer) => (0, String::new(), Some(answer)),
        Err(error) => match error.downcast_ref::<Refusal>() {
            Some(Refusal(code, text)) => (*code, (*text).to_owned(), None),
            None => (3, format!("{error:#}"), None),
        },
    };
    let response = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut stream = respond.send_response(response, false)?;
    if let Some(answer) = answer {
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(answer.encoded_len())?);
        answer.encode(&mut frame)?;
        stream.send_data(frame.freeze(), false)?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.to_string().parse()?);
    trailers.insert("grpc-message", text.parse()?);
    Ok(stream.send_trailers(trailers)?)
}

/// A gRPC status that is not a mistake of this program.
#[derive(Debug)]
struct Refusal(u32, &'static str);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.0, self.1)
    }
}

impl std::error::Error for Refusal {}

impl Shared {
    fn judge(&self, head: &http::request::Parts, mut frame: Bytes) -> Result<CertificateResponse> {
        let header = |name: &str| {
            let value = head.headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        if head.uri.path() != PATH || header("content-type") != "application/grpc" {
            bail!("{} is not the method, or not gRPC", head.uri.path());
        }
        if frame.remaining() < 5 || frame.get_u8() != 0 {
            bail!("not one message without compression");
        }
        if usize::try_from(frame.get_u32())? != frame.len() {
            bail!("the length is not the message's");
        }
        let request = CertificateRequest::decode(frame)?;
        let metadata = request.metadata.unwrap_or_default();
        let identity = metadata.fields.get("ImpersonatedIdentity");
        let identity = identity.context("no ImpersonatedIdentity")?.string_value.clone();
        let token = header("authorization").strip_prefix("Bearer ").unwrap_or_default().to_owned();
        let seconds = request.validity_duration;
        let cluster = header("clusterid");
        lock(&self.asked).push(Asked { token, cluster, identity: identity.clone(), seconds });
        let manner = lock(&self.manner).clone();
        let (name, other) = match &manner {
            Manner::Refuse(code, text) => return Err(Refusal(*code, text).into()),
            Manner::Chain(parts) => {
                let cert_chain = parts.iter().map(|part| (*part).to_owned()).collect();
                return Ok(CertificateResponse { cert_chain });
            }
            Manner::ForOther(other) => ((*other).to_owned(), None),
            Manner::OtherRoot => (identity, Some(Signer::foreign_root("demo.example")?)),
            Manner::Honest | Manner::Short(_) => (identity, None),
        };
        let mut params = CertificateSigningRequestParams::from_pem(&request.csr)?;
        let now = SystemTime::now();
        params.params.not_before = (now - BACKDATE).into();
        let seconds = match manner {
            Manner::Short(seconds) => seconds,
            _ => u64::try_from(seconds)?,
        };
        params.params.not_after = (now + Duration::from_secs(seconds)).into();
        params.params.subject_alt_names = vec![SanType::URI(name.try_into()?)];
        params.params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        params.params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let signer = other.as_ref().unwrap_or(&self.signer);
        let leaf = params.signed_by(signer.issuer())?;
        Ok(CertificateResponse { cert_chain: vec![leaf.pem(), self.root.clone()] })
    }
}

/// A panic elsewhere leaves what is guarded whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
