//! The authority's directory: `root.crt`, and `root.key` or `node.crt` with `node.key`.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::KeyPair;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use zeroize::Zeroizing;

use crate::identity::cert::{self, Facts};
use crate::identity::error::Error;
use crate::identity::trust::Lists;

/// The trusted roots, PEM; several while one replaces another.
pub(crate) const ROOT_CERT: &str = "root.crt";
/// The root's private key, PEM; only on the host that is the authority.
pub(crate) const ROOT_KEY: &str = "root.key";
/// The node's intermediate certificate, PEM.
pub(crate) const NODE_CERT: &str = "node.crt";
/// Its private key, PEM.
pub(crate) const NODE_KEY: &str = "node.key";
/// Revocation lists, PEM; several issuers' one after the other. Nothing is revoked without it.
pub(crate) const CRL: &str = "crl.pem";
/// A request for the node's certificate, PEM.
pub(crate) const NODE_REQUEST: &str = "node.csr";

/// Only the owner may read and write.
const PRIVATE: u32 = 0o600;
/// Everybody may read.
const PUBLIC: u32 = 0o644;

/// The contents of a private key's file, which leave no copy where they were.
pub(crate) type Secret = Zeroizing<Vec<u8>>;

/// The directory's contents at one moment.
///
/// Equal contents mean that nothing changed. Not `Debug`: it holds keys.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Files {
    /// Where they were read.
    pub(crate) dir: PathBuf,
    /// `root.crt`.
    pub(crate) root_cert: Vec<u8>,
    /// `root.key`, where this host is the authority.
    pub(crate) root_key: Option<Secret>,
    /// `node.crt` and `node.key`.
    pub(crate) node: Option<(Vec<u8>, Secret)>,
    /// `crl.pem`.
    pub(crate) lists: Option<Vec<u8>>,
}

impl Files {
    /// Reads the directory. Blocks.
    pub(crate) fn read(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(ROOT_CERT);
        let root_cert = read_if_there(&path)?.ok_or(Error::NoRoot { path })?;
        let root_key = read_if_there(&dir.join(ROOT_KEY))?.map(Secret::new);
        let cert = read_if_there(&dir.join(NODE_CERT))?;
        let key = read_if_there(&dir.join(NODE_KEY))?.map(Secret::new);
        let lists = read_if_there(&dir.join(CRL))?;
        Ok(Self { dir: dir.to_owned(), root_cert, root_key, node: cert.zip(key), lists })
    }

    /// Whether both sign alike: only what is revoked differs, if anything.
    pub(crate) fn sign_as(&self, other: &Self) -> bool {
        let signing =
            |files: &'_ Self| (files.root_cert.clone(), files.root_key.clone(), files.node.clone());
        signing(self) == signing(other)
    }

    /// The path of one of the files, for messages.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

/// Warns of private keys that others may read.
pub(crate) fn warn_of_readable_keys(dir: &Path) {
    for path in [dir.join(ROOT_KEY), dir.join(NODE_KEY)] {
        if let Some(mode) = readable_by_others(&path) {
            tracing::warn!(
                path = %path.display(),
                mode = %format_args!("{mode:04o}"),
                "others can read a private key: run `chmod 600` on it"
            );
        }
    }
}

/// The file's mode if its group or the world may read it.
pub(crate) fn readable_by_others(path: &Path) -> Option<u32> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o7777;
    (mode & 0o077 != 0).then_some(mode)
}

/// Reads a file that has to be there.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// Reads a file that may be missing.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Read { path: path.to_owned(), source }),
    }
}

/// Every certificate of a PEM file; `None` if one is damaged or there is none.
pub(crate) fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
    (!certs.is_empty()).then_some(certs)
}

/// The roots of `pem` that are valid at `now`; those that are not are left out with a warning,
/// because the verification of a chain does not look at the dates of its root.
pub(crate) fn valid_roots(
    pem: &[u8],
    path: &Path,
    now: SystemTime,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bad = || Error::Pem { path: path.to_owned(), what: "certificate" };
    let mut roots = certificates(pem).ok_or_else(bad)?;
    let mut invalid = None;
    let mut is_damaged = false;
    roots.retain(|root| match Facts::read(root) {
        Ok(facts) => match check_validity(&facts, path, now) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(path = %path.display(), root = %facts.subject, serial = %facts.serial,
                    "a root is not valid now and is left out: remove it from the file");
                invalid = Some(error);
                false
            }
        },
        Err(_malformed) => {
            is_damaged = true;
            false
        }
    });
    match invalid {
        _ if is_damaged => Err(bad()),
        Some(error) if roots.is_empty() => Err(error),
        _ => Ok(roots),
    }
}

/// Whether a certificate of ours is valid at `now`.
pub(crate) fn check_validity(facts: &Facts, path: &Path, now: SystemTime) -> Result<(), Error> {
    if (facts.not_before..facts.not_after).contains(&now) {
        return Ok(());
    }
    Err(Error::NotValidNow {
        path: path.to_owned(),
        from: cert::print_time(facts.not_before),
        to: cert::print_time(facts.not_after),
        now: cert::print_time(now),
    })
}

/// The revocation lists of a PEM file; none without one. One that is out of date is used, with a
/// warning: what it names stays revoked.
pub(crate) fn lists(pem: Option<&[u8]>, path: &Path, now: SystemTime) -> Result<Lists, Error> {
    let bad = || Error::Pem { path: path.to_owned(), what: "revocation list" };
    let Some(pem) = pem else { return Ok(Lists::default()) };
    let mut lists = Vec::new();
    for der in CertificateRevocationListDer::pem_slice_iter(pem) {
        let der = der.map_err(|_damaged| bad())?;
        let next = cert::next_update(&der).map_err(|_malformed| bad())?;
        if next.is_some_and(|next| next < now) {
            tracing::warn!(path = %path.display(),
                "a revocation list is out of date: what it names stays revoked; replace it");
        }
        let list = OwnedCertRevocationList::from_der(&der).map_err(|_malformed| bad())?;
        lists.push(CertRevocationList::from(list));
    }
    if lists.is_empty() { Err(bad()) } else { Ok(lists.into()) }
}

/// The private key of a PEM file.
pub(crate) fn key(pem: &[u8]) -> Option<KeyPair> {
    KeyPair::from_pem(std::str::from_utf8(pem).ok()?).ok()
}

/// Makes a private key's file, which may not be there yet.
pub(crate) fn create_private(path: &Path, text: &str) -> io::Result<()> {
    create(path, text, PRIVATE)
}

/// Makes a certificate's file, which may not be there yet.
pub(crate) fn create_public(path: &Path, text: &str) -> io::Result<()> {
    create(path, text, PUBLIC)
}

fn create(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Replaces a certificate's file at once: a reader sees the old contents or the new ones.
pub(crate) fn replace_public(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(PUBLIC).open(&temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ROOT_KEY);
        create_private(&path, "secret").unwrap();
        assert_eq!(readable_by_others(&path), None);
        assert!(create_private(&path, "other").is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(readable_by_others(&path), Some(0o640));
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NODE_CERT);
        replace_public(&path, b"a longer text").unwrap();
        replace_public(&path, b"short").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
