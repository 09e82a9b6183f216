//! Errors of this agent's own authority.

use std::io;
use std::path::PathBuf;

use crate::model::spiffe::SpiffeId;
use crate::model::trust_domain::InvalidName;

/// Why the authority cannot be used, or a certificate cannot be made.
///
/// Names the file and says what to do; the operator reads it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory has a root, and nothing to sign with.
    #[error(
        "{dir} has neither root.key nor node.crt with node.key: \
         make them with `mesh-agent ca node` and copy them there"
    )]
    NoKey {
        /// The authority's directory.
        dir: PathBuf,
    },
    /// There is no authority.
    #[error(
        "there is no {path}: make an authority with `mesh-agent ca init`, or copy the files of \
         this node there; if they are elsewhere, name their folder"
    )]
    NoRoot {
        /// The file.
        path: PathBuf,
    },
    /// The root does not say which trust domain it is for.
    #[error(
        "{path} has no root with the URI name spiffe://<trust domain> that signed for this node: \
         make a root with `mesh-agent ca init`"
    )]
    NoTrustDomain {
        /// The file.
        path: PathBuf,
    },
    /// A name that cannot be put into a certificate.
    #[error(
        "`{0}` cannot be the name of a node: use letters, digits, `.`, `-` and `_`, at most 253"
    )]
    NodeName(String),
    /// A trust domain that cannot be one.
    #[error(transparent)]
    TrustDomainName(#[from] InvalidName),
    /// The roots are of another trust domain than the one that was asked for.
    #[error(
        "{path} is for the trust domain `{found}`, and --trust-domain is `{named}`: correct --trust-domain, \
         or use the roots of `{named}`"
    )]
    OtherRoot {
        /// The file with the roots.
        path: PathBuf,
        /// Their trust domains.
        found: String,
        /// The trust domain of the settings.
        named: String,
    },
    /// The file is not what its name says.
    #[error("{path} holds no {what} in PEM, or a damaged one: restore the file, or make it again")]
    Pem {
        /// The file.
        path: PathBuf,
        /// The contents that it should have.
        what: &'static str,
    },
    /// The key and the certificate do not belong together.
    #[error("{key} is not the key of {certificate}: restore the two files that were made together")]
    KeyMismatch {
        /// The private key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// Peers would refuse what the node's certificate signs.
    #[error(
        "{path} was not signed by a root in root.crt, or is revoked by crl.pem: \
         make it again, or add the root that signed it"
    )]
    Chain {
        /// The node's certificate.
        path: PathBuf,
        /// The verdict of the verification.
        #[source]
        source: rustls::Error,
    },
    /// A certificate that this root cannot revoke, because another has signed it.
    #[error("{found} was not signed by {root}, whose key is here: revoke it where it was signed")]
    NotOurs {
        /// The certificate's subject.
        found: String,
        /// The root.
        root: String,
    },
    /// The certificate's time is over, or has not begun.
    #[error(
        "{path} is valid from {from} to {to}, and the clock here says {now}: renew it with \
         `mesh-agent ca node`, or set the clock"
    )]
    NotValidNow {
        /// The certificate's file.
        path: PathBuf,
        /// The beginning.
        from: String,
        /// The end.
        to: String,
        /// The time of day.
        now: String,
    },
    /// The certificate, or the request for it, was made for another node.
    #[error(
        "{path} is for {found}, and the node is `{node}`: make one for this \
         node, or correct --node"
    )]
    OtherNode {
        /// The node's certificate.
        path: PathBuf,
        /// The node that it is for.
        found: String,
        /// The node that it should be for.
        node: String,
    },
    /// The authority could not be asked, or refused.
    #[error("{address} gave no certificate for {id}: {reason}")]
    Asked {
        /// Where it is.
        address: String,
        /// For whom.
        id: SpiffeId,
        /// Its answer, or why there was none.
        reason: String,
    },
    /// The authority cannot be reached under this address, whatever happens.
    #[error("`{address}` cannot be the address of an authority: {reason}")]
    Address {
        /// The address that was given.
        address: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// The certificate in the file is for somebody else.
    #[error("{path} is for `{found}`, and should be for {id}: put the right one there")]
    OtherIdentity {
        /// The certificate's file.
        path: PathBuf,
        /// Its URI names.
        found: String,
        /// The identity that it should be for.
        id: SpiffeId,
    },
    /// An identity that this authority may not vouch for.
    #[error("{id} is not of the trust domain `{ours}`")]
    OtherTrustDomain {
        /// The identity.
        id: SpiffeId,
        /// The authority's trust domain.
        ours: String,
    },
    /// A file of the authority cannot be read.
    #[error("cannot read {path}; make the file, and let the agent read it")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The signing request is not one that its key signed.
    #[error("the signing request is not valid")]
    Request(#[source] rcgen::Error),
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Sign(#[from] rcgen::Error),
    /// The file with the token that shows who this agent is holds none.
    #[error(
        "{path} (--ca-token) holds no token of at most 16 KiB: mount one for the audience `istio-ca` there"
    )]
    Token {
        /// The file.
        path: PathBuf,
    },
    /// A key or a root that TLS cannot use.
    #[error("TLS cannot use the key or the roots")]
    Tls(#[from] rustls::Error),
    /// The roots changed to those of another mesh while the agent runs.
    #[error("the trust domain changed from `{from}` to `{to}`: restart the agent")]
    TrustDomainChanged {
        /// The trust domain in use.
        from: String,
        /// The trust domain of the new root.
        to: String,
    },
}
