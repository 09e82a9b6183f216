//! Answers of an authority, before they are believed.

use std::time::SystemTime;

use rcgen::{KeyPair, PublicKeyData as _};
use rustls_pki_types::CertificateDer;

use crate::identity::authority::{Certificate, check_chain};
use crate::identity::cert::Facts;
use crate::identity::files;
use crate::identity::trust::{Lists, Trusted};
use crate::model::spiffe::SpiffeId;

/// A chain, and the roots that came with it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The leaf, then what is between it and the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The roots, PEM.
    pub roots: Vec<u8>,
}

/// Why an answer is not believed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Flaw {
    /// There are fewer than a leaf and a root.
    #[error("the answer has no chain of a certificate and a root")]
    Short,
    /// A part holds no certificate in PEM.
    #[error("part {0} of the answer's chain holds no certificate in PEM")]
    Pem(usize),
    /// The leaf is of another key.
    #[error("the certificate in the answer is not of the key that was sent")]
    Key,
    /// The leaf is somebody else's.
    #[error("the certificate in the answer is for `{0}`")]
    Identity(String),
    /// Peers would refuse it.
    #[error("peers would refuse the certificate in the answer: {0}")]
    Chain(rustls::Error),
}

/// Reads the chain of an answer: the last part is the roots, as Istio's own agents take it.
///
/// # Errors
///
/// It is too short, or a part is not PEM.
pub fn read(parts: &[String]) -> Result<Answer, Flaw> {
    let (roots, rest) = parts.split_last().ok_or(Flaw::Short)?;
    if rest.is_empty() {
        return Err(Flaw::Short);
    }
    if files::certificates(roots.as_bytes()).is_none() {
        return Err(Flaw::Pem(parts.len() - 1));
    }
    let mut chain = Vec::new();
    for (index, part) in rest.iter().enumerate() {
        chain.extend(files::certificates(part.as_bytes()).ok_or(Flaw::Pem(index))?);
    }
    Ok(Answer { chain, roots: roots.clone().into_bytes() })
}

impl Answer {
    /// Believes the answer, if peers will: it is of the key, for the identity, and in time.
    ///
    /// # Errors
    ///
    /// It is not.
    pub(crate) fn check(
        self,
        id: &SpiffeId,
        key: &KeyPair,
        lists: &Lists,
        now: SystemTime,
    ) -> Result<Certificate, Flaw> {
        let (leaf, rest) = self.chain.split_first().ok_or(Flaw::Short)?;
        let facts = Facts::read(leaf).map_err(|_malformed| Flaw::Pem(0))?;
        if key.subject_public_key_info() != facts.public_key {
            return Err(Flaw::Key);
        }
        if facts.spiffe_id().as_ref() != Some(id) {
            return Err(Flaw::Identity(facts.uris.join(", ")));
        }
        let roots = files::certificates(&self.roots).ok_or(Flaw::Pem(self.chain.len()))?;
        let trusted = Trusted { roots, lists: Lists::clone(lists) };
        check_chain((leaf, rest), &trusted, now).map_err(Flaw::Chain)?;
        Ok(Certificate {
            not_before: facts.not_before,
            not_after: facts.not_after,
            serial: facts.serial,
            key: rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            chain: self.chain,
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::PKCS_ECDSA_P256_SHA256;

    use super::*;
    use crate::identity::fixture::{HOUR, Mesh, id};
    use crate::identity::local_ca::LocalCa;
    use crate::identity::root::BACKDATE;
    use crate::task::clock;

    fn block(der: &[u8]) -> String {
        pem::encode(&pem::Pem::new("CERTIFICATE", der))
    }

    /// An honest answer, and the key that was asked for.
    fn honest(mesh: &Mesh) -> (Vec<String>, KeyPair) {
        let now = clock::now();
        let ca = LocalCa::from_files(mesh.files("node-a", &[]), "node-a", None, (BACKDATE, now))
            .unwrap();
        let leaf = ca.issue(&id("web"), HOUR, now).unwrap();
        let mut parts: Vec<_> = leaf.chain.iter().map(|der| block(der)).collect();
        parts.push(mesh.pems.certificate.clone());
        let rustls_pki_types::PrivateKeyDer::Pkcs8(key) = leaf.key else { panic!() };
        (parts, KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).unwrap())
    }

    #[track_caller]
    fn check(parts: &[String], account: &str, key: &KeyPair, expect: &str) {
        let believed = read(parts)
            .and_then(|answer| answer.check(&id(account), key, &Lists::default(), clock::now()));
        let flaw = believed.err().unwrap().to_string();
        assert!(flaw.contains(expect), "{flaw}");
    }

    #[test]
    fn an_honest_answer_is_believed() {
        let (parts, key) = honest(&Mesh::new("cluster.local"));
        let answer = read(&parts).unwrap();
        assert_eq!(answer.roots, parts[2].as_bytes());
        let issued = answer.check(&id("web"), &key, &Lists::default(), clock::now()).unwrap();
        assert_eq!(issued.chain.len(), 2);
    }

    #[test]
    fn what_peers_would_refuse_is_not_believed() {
        let mesh = Mesh::new("cluster.local");
        let (parts, key) = honest(&mesh);
        check(&[], "web", &key, "no chain");
        check(&parts[..1], "web", &key, "no chain");
        check(&[parts[0].clone(), "?".to_owned()], "web", &key, "part 1");
        check(&["?".to_owned(), parts[2].clone()], "web", &key, "part 0");
        check(&parts, "admin", &key, "is for `spiffe://cluster.local/ns/demo/sa/web`");
        check(&parts, "web", &KeyPair::generate().unwrap(), "not of the key");
        let mut foreign = parts.clone();
        foreign[2] = Mesh::new("cluster.local").pems.certificate;
        check(&foreign, "web", &key, "peers would refuse");
        // Without the node's certificate, nothing leads to the root.
        check(&[parts[0].clone(), parts[2].clone()], "web", &key, "peers would refuse");
    }
}
