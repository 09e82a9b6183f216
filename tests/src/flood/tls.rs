//! TLS of floods: the handshakes of attackers, and a plain server that takes all that comes.

use std::fs;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::discard;
use super::frames::Transport;
use crate::peers::{Caller, HBONE_PORT, server_config};
use crate::pki::Identity;

/// The names of the files of [`Credentials`].
const CHAIN: &str = "chain.pem";
const KEY: &str = "key.pem";
const ROOT: &str = "root.der";

/// An identity and the root to believe, in a folder, for programs in pods.
#[derive(Debug)]
pub struct Credentials {
    /// The certificate to show.
    pub identity: Identity,
    /// The root of the others' certificates.
    pub root: CertificateDer<'static>,
}

impl Credentials {
    /// Writes them into a new folder.
    ///
    /// # Errors
    ///
    /// The file system refuses.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
        };
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        write(CHAIN, self.identity.chain_pem().as_bytes())?;
        write(KEY, self.identity.key_pem().as_bytes())?;
        write(ROOT, &self.root)
    }

    /// Reads them.
    ///
    /// # Errors
    ///
    /// A file is missing or wrong.
    pub fn load(folder: &Path) -> Result<Self> {
        let name = folder.display();
        let chain = CertificateDer::pem_file_iter(folder.join(CHAIN))
            .and_then(Iterator::collect)
            .with_context(|| format!("no certificate in {name}"))?;
        let key = PrivateKeyDer::from_pem_file(folder.join(KEY))
            .with_context(|| format!("no key in {name}"))?;
        let root = fs::read(folder.join(ROOT)).with_context(|| format!("no root in {name}"))?;
        Ok(Self { identity: Identity { chain, key }, root: root.into() })
    }
}

/// A client of TLS that begins anew each time.
#[derive(Clone, Debug)]
pub(super) struct Handshaker {
    configs: [Arc<ClientConfig>; 2],
}

impl Handshaker {
    /// One that shows the identity of `credentials`, or none.
    pub(super) fn new(credentials: &Credentials, is_peer: bool) -> Result<Self> {
        let identity = is_peer.then_some(&credentials.identity);
        let caller = Caller::new(identity, &credentials.root)?;
        let config = |transport: Transport| {
            let config = caller.clone().alpn(&[transport.alpn()]).config();
            let mut config = Arc::unwrap_or_clone(config);
            // A session that goes on would spare both sides the signatures.
            config.resumption = Resumption::disabled();
            Arc::new(config)
        };
        Ok(Self { configs: [config(Transport::Native), config(Transport::Hbone)] })
    }

    /// Connects, and makes a handshake.
    pub(super) async fn connect(
        &self,
        to: SocketAddr,
        transport: Transport,
    ) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        let [native, hbone] = &self.configs;
        let config = if transport == Transport::Native { native } else { hbone };
        let connector = TlsConnector::from(Arc::clone(config));
        connector.connect(ServerName::from(to.ip()), stream).await
    }
}

/// A server of mutual TLS at the port of tunnels, that reads and answers nothing: the target of
/// floods where there is no agent.
///
/// # Errors
///
/// The credentials cannot be used, or the port is taken.
pub async fn sink(credentials: &Credentials) -> Result<()> {
    let protocols = [Transport::Native.alpn(), Transport::Hbone.alpn()];
    let config = server_config(&credentials.identity, &credentials.root, &protocols)?;
    let acceptor = TlsAcceptor::from(config);
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, HBONE_PORT)).await;
    let listener = listener.context("cannot listen for tunnels")?;
    loop {
        // A client may be gone before it was accepted.
        let Ok((stream, _peer)) = listener.accept().await else { continue };
        let acceptor = acceptor.clone();
        // The client sees the end of a connection that fails.
        drop(tokio::spawn(async move { discard(acceptor.accept(stream).await?).await }));
    }
}
