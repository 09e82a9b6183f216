//! A second implementation of HBONE, that does what it is told, right or wrong.
//!
//! It shares no code with the agent, so that what they agree on is the protocol.

use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http::{Request, Response};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{
    CryptoProvider, SupportedKxGroup, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, HandshakeKind, NamedGroup, ProtocolVersion, RootCertStore,
    ServerConfig, SignatureScheme, SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::netns::Netns;
use crate::pki::Identity;

/// Where agents take tunnels (ztunnel's port).
pub const HBONE_PORT: u16 = 15008;

/// How long one call may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// A client of HBONE servers.
#[derive(Clone, Debug)]
pub struct Caller(pub(crate) Arc<ClientConfig>);

/// The answer of a server.
#[derive(Clone, Debug)]
pub struct Said {
    /// The status.
    pub status: u16,
    /// All data of the answer.
    pub body: Vec<u8>,
    /// The parameters that were negotiated.
    pub tls: Negotiated,
    /// The server's own certificate.
    pub server: CertificateDer<'static>,
}

/// The parameters that two TLS implementations agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The version.
    pub version: Option<ProtocolVersion>,
    /// The suite, as `TLS13_AES_128_GCM_SHA256`.
    pub suite: String,
    /// The key exchange.
    pub group: Option<NamedGroup>,
    /// The protocol inside.
    pub alpn: Option<Vec<u8>>,
    /// Whether a session of an earlier call went on.
    pub resumed: bool,
}

impl Caller {
    /// One that shows `identity`, or no certificate, and believes those who `root` vouches for.
    ///
    /// # Errors
    ///
    /// The identity or the root cannot be used.
    pub fn new(identity: Option<&Identity>, root: &CertificateDer<'static>) -> Result<Self> {
        Self::with(identity, root, &[&rustls::version::TLS13])
    }

    /// One that speaks these versions of TLS.
    ///
    /// # Errors
    ///
    /// The identity or the root cannot be used.
    pub fn with(
        identity: Option<&Identity>,
        root: &CertificateDer<'static>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Self> {
        let verifier = AnyName { roots: roots(root)?, provider: provider() };
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match identity {
            Some(own) => config.with_client_auth_cert(own.chain.clone(), own.key.clone_key())?,
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    /// The same, with another protocol inside, or none.
    #[must_use]
    pub fn alpn(mut self, protocols: &[&[u8]]) -> Self {
        Arc::make_mut(&mut self.0).alpn_protocols =
            protocols.iter().map(|protocol| protocol.to_vec()).collect();
        self
    }

    /// Its configuration, for another way of calling.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.0)
    }

    /// Calls the server of `to` from `from`: one tunnel, one stream with `request`, and in it
    /// `data` and the end.
    ///
    /// # Errors
    ///
    /// There is no answer: the server, or TLS, or HTTP/2 refused.
    pub fn call(
        &self,
        from: &Netns,
        to: IpAddr,
        request: Request<()>,
        data: &'static [u8],
    ) -> Result<Said> {
        let stream = from.run(|| TcpStream::connect((to, HBONE_PORT)))??;
        stream.set_nonblocking(true)?;
        let calling = async {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let connector = TlsConnector::from(Arc::clone(&self.0));
            let tls = connector.connect(ServerName::from(to), stream).await?;
            let session = tls.get_ref().1;
            let negotiated = Negotiated {
                version: session.protocol_version(),
                suite: format!("{:?}", session.negotiated_cipher_suite().map(|it| it.suite())),
                group: session.negotiated_key_exchange_group().map(<dyn SupportedKxGroup>::name),
                alpn: session.alpn_protocol().map(<[u8]>::to_vec),
                resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
            };
            let server = session.peer_certificates().and_then(<[_]>::first);
            let server = server.context("a server without a certificate")?.clone().into_owned();
            let (requests, connection) = h2::client::handshake(tls).await?;
            let driving = tokio::spawn(connection);
            let mut requests = requests.ready().await?;
            let (response, mut send) = requests.send_request(request, false)?;
            let response = response.await?;
            let status = response.status().as_u16();
            if status == 200 {
                send.send_data(Bytes::from_static(data), true)?;
            }
            let mut receive = response.into_body();
            let mut body = Vec::new();
            while let Some(part) = receive.data().await {
                let part = part?;
                receive.flow_control().release_capacity(part.len())?;
                body.extend_from_slice(&part);
            }
            driving.abort();
            Ok(Said { status, body, tls: negotiated, server })
        };
        runtime()?.block_on(async { timeout(DEADLINE, calling).await })?
    }
}

/// The request of a tunnel's stream to `authority`, with a header `forwarded` if there is one.
///
/// # Errors
///
/// It is no request, whatever one thinks of it.
pub fn connect(authority: &str, forwarded: Option<&str>) -> Result<Request<()>> {
    let request = Request::connect(authority);
    let request = match forwarded {
        Some(forwarded) => request.header("forwarded", forwarded),
        None => request,
    };
    request.body(()).context("not a request")
}

/// An [`Impostor`]'s behavior on tunnels and streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    /// Answers 200, and then says what it is told.
    Echo,
    /// Answers another status.
    Status(u16),
    /// Talks another language than HTTP/2, once TLS is up.
    Garbage,
    /// Says goodbye as soon as HTTP/2 is up.
    GoAway,
}

/// A tunnel that a client opened to an [`Impostor`].
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// The client's own certificate.
    pub client: CertificateDer<'static>,
    /// The client has resumed the session of an earlier tunnel.
    pub resumed: bool,
    /// `:authority` and `forwarded` of each stream.
    pub streams: Vec<(String, Option<String>)>,
}

/// An HBONE server in a pod's namespace, in the place of the agent. Dropping it closes it.
#[derive(Debug)]
pub struct Impostor {
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    manner: Mutex<(Arc<ServerConfig>, Behavior)>,
    tunnels: Mutex<Vec<Tunnel>>,
}

impl Impostor {
    /// Listens in `netns`.
    ///
    /// # Errors
    ///
    /// The port is taken.
    pub fn start(netns: &Netns, config: Arc<ServerConfig>, behavior: Behavior) -> Result<Self> {
        let listener = netns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, HBONE_PORT)))??;
        listener.set_nonblocking(true)?;
        let manner = Mutex::new((config, behavior));
        let shared = Arc::new(Shared { manner, tunnels: Mutex::default() });
        let (stop, stopped) = oneshot::channel();
        let (serving, runtime) = (Arc::clone(&shared), runtime()?);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    // Also when the sender is dropped.
                    _ = stopped => {}
                    _ = accept(listener, serving) => {}
                }
            });
        });
        Ok(Self { shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Shows another certificate to new tunnels, and does something else with new streams.
    pub fn change(&self, config: Arc<ServerConfig>, behavior: Behavior) {
        *lock(&self.shared.manner) = (config, behavior);
    }

    /// The tunnels that were opened, once HTTP/2 was up.
    pub fn tunnels(&self) -> Vec<Tunnel> {
        lock(&self.shared.tunnels).clone()
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of it is seen by those who expected an answer.
            drop(thread.join());
        }
    }
}

/// The TLS of a server that shows `identity`, asks for certificates that `root` vouches for, and
/// knows these protocols.
///
/// # Errors
///
/// The identity or the root cannot be used.
pub fn server_config(
    identity: &Identity,
    root: &CertificateDer<'static>,
    protocols: &[&[u8]],
) -> Result<Arc<ServerConfig>> {
    let clients = WebPkiClientVerifier::builder_with_provider(roots(root)?, provider()).build()?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Whether a certificate names `uri`, as DER writes it: length, then text.
pub fn names(certificate: &CertificateDer<'_>, uri: &str) -> bool {
    let mut wanted = vec![u8::try_from(uri.len()).unwrap_or(0)];
    wanted.extend_from_slice(uri.as_bytes());
    certificate.windows(wanted.len()).any(|window| window == wanted)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _client) = listener.accept().await?;
        let shared = Arc::clone(&shared);
        // A tunnel that fails is what a test wants to see at the other end.
        drop(tokio::spawn(async move { drop(serve(stream, shared).await) }));
    }
}

async fn serve(stream: tokio::net::TcpStream, shared: Arc<Shared>) -> Result<()> {
    let (config, behavior) = lock(&shared.manner).clone();
    let mut tls = TlsAcceptor::from(config).accept(stream).await?;
    if behavior == Behavior::Garbage {
        tls.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await?;
        // The client ends it; a reset would destroy what it has not read.
        while tls.read(&mut [0; 1024]).await? > 0 {}
        return Ok(());
    }
    let session = tls.get_ref().1;
    let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    let client = session.peer_certificates().and_then(<[_]>::first);
    let client = client.context("a client without a certificate")?.clone().into_owned();
    let mut connection = h2::server::handshake(tls).await?;
    let index = {
        let mut tunnels = lock(&shared.tunnels);
        tunnels.push(Tunnel { client, resumed, streams: Vec::new() });
        tunnels.len() - 1
    };
    if behavior == Behavior::GoAway {
        connection.abrupt_shutdown(h2::Reason::NO_ERROR);
    }
    while let Some(next) = connection.accept().await {
        let (request, mut respond) = next?;
        let forwarded = request.headers().get("forwarded");
        let forwarded = forwarded.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let opened = (request.uri().to_string(), forwarded);
        if let Some(tunnel) = lock(&shared.tunnels).get_mut(index) {
            tunnel.streams.push(opened);
        }
        let behavior = lock(&shared.manner).1;
        let status = if let Behavior::Status(status) = behavior { status } else { 200 };
        let answer = Response::builder().status(status).body(())?;
        let send = respond.send_response(answer, status != 200)?;
        if status == 200 {
            let echoing = echo(send, request.into_body());
            drop(tokio::spawn(async { drop(echoing.await) }));
        }
    }
    Ok(())
}

async fn echo(mut send: h2::SendStream<Bytes>, mut receive: h2::RecvStream) -> Result<()> {
    while let Some(part) = receive.data().await {
        let part = part?;
        receive.flow_control().release_capacity(part.len())?;
        send.send_data(part, false)?;
    }
    Ok(send.send_data(Bytes::new(), true)?)
}

/// Believes a server of whatever name, if the chain is good: HBONE names are not hosts'.
#[derive(Debug)]
struct AnyName {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(root: &CertificateDer<'static>) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).map_err(|error| anyhow!("a root cannot be used: {error}"))?;
    Ok(Arc::new(roots))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start a runtime")
}

/// A panic elsewhere leaves the tables whole: each change is one call.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
