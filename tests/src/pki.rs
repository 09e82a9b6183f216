//! The mesh's authority, and certificates that it would never issue.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::agent;
use crate::process::run;

/// The authority of a test mesh, made by `mesh-agent ca`.
#[derive(Clone, Debug)]
pub struct Authority {
    folder: PathBuf,
    /// The root's own folder, below it.
    root: PathBuf,
}

impl Authority {
    /// Makes a root in `folder`/root.
    ///
    /// # Errors
    ///
    /// `mesh-agent` is not built, or refuses.
    pub fn init(folder: &Path, trust_domain: &str) -> Result<Self> {
        let authority = Self { folder: folder.to_owned(), root: folder.join("root") };
        authority.make_root(trust_domain)?;
        Ok(authority)
    }

    /// Another root of the same trust domain, for the same nodes: none trusts it yet.
    ///
    /// # Errors
    ///
    /// `mesh-agent` refuses.
    pub fn next(&self, trust_domain: &str) -> Result<Self> {
        let name = format!("root-{:08x}", rand::random::<u32>());
        let next = Self { folder: self.folder.clone(), root: self.folder.join(name) };
        next.make_root(trust_domain)?;
        Ok(next)
    }

    fn make_root(&self, trust_domain: &str) -> Result<()> {
        let mut command = Command::new(agent::binary()?);
        command.args(["ca", "init", "--trust-domain", trust_domain]);
        run(command.arg("--dir").arg(&self.root)).map(drop)
    }

    /// The folder with the root's key: for an agent that is its own authority.
    pub fn root(&self) -> PathBuf {
        self.root.clone()
    }

    /// Has `node` trust these roots, and no others.
    ///
    /// # Errors
    ///
    /// A file cannot be read or written.
    pub fn trust(&self, node: &str, roots: &[&Self]) -> Result<()> {
        let read = |authority: &&Self| fs::read_to_string(authority.root.join("root.crt"));
        let all = roots.iter().map(read).collect::<Result<String, _>>();
        replace(&self.folder.join(node).join("root.crt"), &all.context("cannot read a root")?)
    }

    /// Signs the certificate of `node` again, for the key that the node has.
    ///
    /// # Errors
    ///
    /// `mesh-agent` refuses, or [`Self::node`] was not called for it.
    pub fn renew(&self, node: &str) -> Result<()> {
        let (folder, signed) = (self.folder.join(node), self.folder.join(format!("{node}.signed")));
        let program = agent::binary()?;
        let mut request = Command::new(&program);
        run(request.args(["ca", "csr", "--node", node, "--out"]).arg(&folder))?;
        let mut sign = Command::new(program);
        sign.args(["ca", "node", "--node", node, "--dir"]).arg(&self.root);
        run(sign.arg("--csr").arg(folder.join("node.csr")).arg("--out").arg(&signed))?;
        let certificate = fs::read_to_string(signed.join("node.crt"));
        replace(&folder.join("node.crt"), &certificate.context("cannot read a certificate")?)
    }

    /// Makes a node's certificate, and returns the folder for its agent.
    ///
    /// # Errors
    ///
    /// `mesh-agent` refuses.
    pub fn node(&self, node: &str) -> Result<PathBuf> {
        let out = self.folder.join(node);
        let mut command = Command::new(agent::binary()?);
        command.args(["ca", "node", "--node", node]);
        run(command.arg("--dir").arg(self.root()).arg("--out").arg(&out))?;
        Ok(out)
    }

    /// The stolen key of a node: signs whatever it is told to.
    ///
    /// # Errors
    ///
    /// [`Self::node`] was not called for it.
    pub fn steal(&self, node: &str) -> Result<Signer> {
        let folder = self.folder.join(node);
        Signer::load(&folder.join("node.crt"), &folder.join("node.key"))
    }

    /// The root's key, for what only a broken root would sign.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn steal_root(&self) -> Result<Signer> {
        let mut signer =
            Signer::load(&self.root().join("root.crt"), &self.root().join("root.key"))?;
        signer.anchor = signer.chain.pop();
        Ok(signer)
    }
}

/// An issuer that asks no questions.
#[derive(Debug)]
pub struct Signer {
    issuer: Issuer<'static, KeyPair>,
    chain: Vec<CertificateDer<'static>>,
    anchor: Option<CertificateDer<'static>>,
}

/// The identity of a peer: a certificate with its chain, and the key.
#[derive(Debug)]
pub struct Identity {
    /// The leaf first, then its issuers up to the root, without it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    /// The chain in PEM.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|der| block("CERTIFICATE", der)).collect()
    }

    /// The key in PEM (PKCS #8).
    pub fn key_pem(&self) -> String {
        block("PRIVATE KEY", self.key.secret_der())
    }
}

/// Replaces a file as a whole.
fn replace(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn block(tag: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(tag, der))
}

impl Signer {
    /// Another mesh's root of the same name.
    ///
    /// # Errors
    ///
    /// No key can be made.
    pub fn foreign_root(trust_domain: &str) -> Result<Self> {
        let mut params = authority_params("root", trust_domain, BasicConstraints::Unconstrained);
        let uri = format!("spiffe://{trust_domain}").try_into()?;
        params.subject_alt_names.push(SanType::URI(uri));
        let key = KeyPair::generate()?;
        let anchor = Some(params.self_signed(&key)?.der().clone());
        Ok(Self { issuer: Issuer::new(params, key), chain: Vec::new(), anchor })
    }

    /// A chain without a root, in which everything fits: after the leaf six layers of eight
    /// authorities, each of which may have signed for each of the layer below, in `count`
    /// certificates; the others fit nowhere, and are read before them.
    ///
    /// # Errors
    ///
    /// No key can be made.
    pub fn maze(count: usize) -> Result<Identity> {
        const LAYERS: usize = 6;
        const WIDTH: usize = 8;
        let key = KeyPair::generate()?;
        let named = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name = DistinguishedName::new();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        let signed = |params: &CertificateParams, by: &str| {
            params.signed_by(&key, &Issuer::from_params(&named(by), &key))
        };
        let mut leaf = named("leaf");
        leaf.is_ca = IsCa::NoCa;
        let mut chain = vec![signed(&leaf, "0")?.into()];
        let other: CertificateDer<'_> = signed(&named("other"), "other")?.into();
        chain.resize(count.saturating_sub(LAYERS * WIDTH).max(1), other);
        for layer in 0..LAYERS {
            let next: CertificateDer<'_> =
                signed(&named(&layer.to_string()), &(layer + 1).to_string())?.into();
            chain.extend(std::iter::repeat_n(next, WIDTH));
        }
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        Ok(Identity { chain, key })
    }

    /// Reads an issuer from its certificate and key.
    ///
    /// # Errors
    ///
    /// One of the files is missing or wrong.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self> {
        let read = |path: &Path| {
            fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let pem = read(certificate)?;
        let key = KeyPair::from_pem(&read(key)?).context("the key is wrong")?;
        let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&pem, key)?, chain, anchor: None })
    }

    /// The certificate to trust, if this is a root.
    pub fn anchor(&self) -> Option<&CertificateDer<'static>> {
        self.anchor.as_ref()
    }

    /// The signer.
    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// Signs an intermediate for a node.
    ///
    /// # Errors
    ///
    /// No key can be made.
    pub fn node(&self, node: &str) -> Result<Self> {
        let params = authority_params("node", node, BasicConstraints::Constrained(0));
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Ok(Self { issuer: Issuer::new(params, key), chain, anchor: None })
    }

    /// Signs a leaf for the SPIFFE ID `uri` that is valid now.
    ///
    /// # Errors
    ///
    /// No key can be made, or `uri` is not ASCII.
    pub fn leaf(&self, uri: &str) -> Result<Identity> {
        self.leaf_with(uri, |_params| ())
    }

    /// Signs a leaf that `change` made wrong: expired, with two names, with none.
    ///
    /// # Errors
    ///
    /// No key can be made, or `uri` is not ASCII.
    pub fn leaf_with(
        &self,
        uri: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        params.key_usages.push(KeyUsagePurpose::DigitalSignature);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Ok(Identity { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() })
    }
}

/// Makes a leaf that expired long ago; for [`Signer::leaf_with`].
pub fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2020, 1, 2);
}

fn authority_params(unit: &str, name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "nodemesh");
    params.distinguished_name.push(DnType::OrganizationalUnitName, unit);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::server::WebPkiClientVerifier;
    use rustls_pki_types::UnixTime;

    use super::*;

    const CLIENT: &str = "spiffe://demo.example/ns/demo/sa/client";

    /// Whether one who trusts `root` believes `identity`.
    fn check(root: &Signer, identity: &Identity, expect: bool) {
        let mut roots = RootCertStore::empty();
        roots.add(root.anchor().unwrap().clone()).unwrap();
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        let (leaf, issuers) = identity.chain.split_first().unwrap();
        let verified = verifier.build().unwrap().verify_client_cert(leaf, issuers, UnixTime::now());
        assert_eq!(verified.is_ok(), expect, "{verified:?}");
    }

    #[test]
    fn a_leaf_is_believed_by_those_who_trust_its_root() {
        let root = Signer::foreign_root("demo.example").unwrap();
        let other = Signer::foreign_root("demo.example").unwrap();
        let leaf = root.node("a").unwrap().leaf(CLIENT).unwrap();
        check(&root, &leaf, true);
        check(&other, &leaf, false);
    }

    #[test]
    fn a_leaf_can_be_wrong() {
        let root = Signer::foreign_root("demo.example").unwrap();
        check(&root, &root.leaf_with(CLIENT, expired).unwrap(), false);
        // An intermediate below an intermediate, which the path length forbids.
        let deep = root.node("a").unwrap().node("b").unwrap();
        check(&root, &deep.leaf(CLIENT).unwrap(), false);
    }
}
