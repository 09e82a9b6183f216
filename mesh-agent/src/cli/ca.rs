//! `mesh-agent ca`: makes and shows the certificates of the embedded authority.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use clap::{Subcommand, value_parser};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::identity::cert::{Facts, print_time};
use crate::identity::files::{
    self, CRL, Files, NODE_CERT, NODE_KEY, NODE_REQUEST, ROOT_CERT, ROOT_KEY,
};
use crate::identity::root::{self, Root};
use crate::settings::args::parse_trust_domain;
use crate::task::clock;

const DAY: Duration = Duration::from_hours(24);

/// The authority's commands.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Make a new mesh's root certificate and its private key
    Init {
        /// The directory to put root.crt and root.key into
        #[arg(long, env = "MESH_CA", default_value = "/etc/mesh/ca")]
        dir: PathBuf,
        /// The trust domain of every identity in the mesh
        #[arg(long, env = "MESH_TRUST_DOMAIN", default_value = "cluster.local",
            value_parser = parse_trust_domain)]
        trust_domain: String,
        /// How many days the root is valid
        #[arg(long, default_value_t = 3650, value_parser = value_parser!(u32).range(1..=36_500))]
        days: u32,
    },
    /// Sign a node's certificate, on the host that has root.key
    #[command(visible_alias = "issue-node")]
    Node {
        /// The authority's directory
        #[arg(long, env = "MESH_CA", default_value = "/etc/mesh/ca")]
        dir: PathBuf,
        /// The node's name, as in `mesh-agent run --node`
        #[arg(long)]
        node: String,
        /// The directory to put the node's files into
        #[arg(long)]
        out: PathBuf,
        /// How many days the node's certificate is valid; never beyond the root's end
        #[arg(long, default_value_t = 90, value_parser = value_parser!(u32).range(1..=3650))]
        days: u32,
        /// The request made by `mesh-agent ca csr` on the node; without it a key is made here
        #[arg(long)]
        csr: Option<PathBuf>,
    },
    /// Make a node's private key, which stays there, and a request to sign its certificate
    Csr {
        /// The node's name, as in `mesh-agent run --node`
        #[arg(long)]
        node: String,
        /// The directory to put node.key and node.csr into; a node.key that is there is used
        #[arg(long)]
        out: PathBuf,
    },
    /// Revoke a node's certificate, on the host that has root.key
    Revoke {
        /// The authority's directory
        #[arg(long, env = "MESH_CA", default_value = "/etc/mesh/ca")]
        dir: PathBuf,
        /// The certificate to revoke, node.crt
        #[arg(long)]
        certificate: PathBuf,
        /// How many days the list is up to date
        #[arg(long, default_value_t = 30, value_parser = value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Show what is in an authority's directory
    Show {
        /// The authority's directory
        #[arg(long, env = "MESH_CA", default_value = "/etc/mesh/ca")]
        dir: PathBuf,
    },
}

/// Runs the command; what it did is printed to `out`.
///
/// # Errors
///
/// A file is missing, unusable or in the way; the error says what to do.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<()> {
    match &args.command {
        Command::Init { dir, trust_domain, days } => init(dir, trust_domain, *days, out),
        Command::Node { dir, node, out: to, days, csr } => {
            sign(dir, node, to, *days, csr.as_deref(), out)
        }
        Command::Csr { node, out: to } => request(node, to, out),
        Command::Revoke { dir, certificate, days } => revoke(dir, certificate, *days, out),
        Command::Show { dir } => show(dir, out),
    }
}

fn init(dir: &Path, trust_domain: &str, days: u32, out: &mut dyn Write) -> anyhow::Result<()> {
    for name in [ROOT_CERT, ROOT_KEY] {
        let path = dir.join(name);
        ensure!(
            !path.exists(),
            "{} is there already, and a mesh cannot do without its root: \
             choose another --dir, or move the file away",
            path.display()
        );
    }
    let pems = root::init(trust_domain, DAY * days)?;
    make_dir(dir)?;
    let (cert, key) = (dir.join(ROOT_CERT), dir.join(ROOT_KEY));
    files::create_private(&key, &pems.key).with_context(|| writing(&key))?;
    files::create_public(&cert, &pems.certificate).with_context(|| writing(&cert))?;
    writeln!(out, "Made the root of trust domain {trust_domain}, valid for {days} days:")?;
    writeln!(out, "  {}  the certificate; every node gets it", cert.display())?;
    writeln!(out, "  {}  its private key; keep it here, and a copy offline", key.display())?;
    writeln!(
        out,
        "Next, for each node: mesh-agent ca node --dir {} --node NAME --out DIR",
        dir.display()
    )?;
    Ok(())
}

fn sign(
    dir: &Path,
    node: &str,
    to: &Path,
    days: u32,
    csr: Option<&Path>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let authority = Files::read(dir)?;
    let root = Root::open(&authority)?;
    let now = clock::now();
    ensure!(
        now < root.facts().not_after,
        "the root expired on {}: make another with `mesh-agent ca init`",
        print_time(root.facts().not_after)
    );
    ensure!(
        !to.join(ROOT_KEY).exists(),
        "{} is an authority's own directory, which needs no node certificate: choose another --out",
        to.display()
    );
    let key_path = to.join(NODE_KEY);
    let (cert, key) = if let Some(csr) = csr {
        let request =
            fs::read_to_string(csr).with_context(|| format!("reading {}", csr.display()))?;
        (root.sign_request(node, &request, DAY * days, now)?, None)
    } else {
        ensure!(
            !key_path.exists(),
            "{} is there already: choose an empty --out, or renew with the key that the node has \
             (`mesh-agent ca csr` there, then `mesh-agent ca node --csr` here)",
            key_path.display()
        );
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("making a key")?;
        (root.sign_node(node, &key, DAY * days, now)?, Some(key))
    };
    let end = Facts::read(cert.der()).context("reading the new certificate")?.not_after;
    make_dir(to)?;
    let (root_path, cert_path) = (to.join(ROOT_CERT), to.join(NODE_CERT));
    if let Some(key) = key {
        files::create_private(&key_path, &key.serialize_pem())
            .with_context(|| writing(&key_path))?;
    }
    files::replace_public(&root_path, &authority.root_cert).with_context(|| writing(&root_path))?;
    files::replace_public(&cert_path, cert.pem().as_bytes())
        .with_context(|| writing(&cert_path))?;
    writeln!(out, "Signed the certificate of node {node}, valid until {}:", print_time(end))?;
    writeln!(out, "  {}  the trusted roots", root_path.display())?;
    writeln!(out, "  {}  the node's certificate", cert_path.display())?;
    if csr.is_none() {
        writeln!(
            out,
            "  {}  its private key; move it to the node, and leave no copy",
            key_path.display()
        )?;
    }
    writeln!(
        out,
        "Next: copy them to /etc/mesh/ca on {node}; a running agent adopts them within a minute"
    )?;
    Ok(())
}

fn request(node: &str, to: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    root::check_node_name(node)?;
    make_dir(to)?;
    let (key_path, request_path) = (to.join(NODE_KEY), to.join(NODE_REQUEST));
    let is_there = key_path.exists();
    let key = if is_there {
        files::key(&files::read(&key_path)?)
            .with_context(|| format!("{} holds no private key in PEM", key_path.display()))?
    } else {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("making a key")?;
        files::create_private(&key_path, &key.serialize_pem())
            .with_context(|| writing(&key_path))?;
        key
    };
    let request = root::request(node, &key)?;
    files::replace_public(&request_path, request.as_bytes())
        .with_context(|| writing(&request_path))?;
    let verb = if is_there { "Used the private key that is there" } else { "Made a private key" };
    writeln!(out, "{verb}, and a request for the certificate of node {node}:")?;
    writeln!(out, "  {}  the key; it stays here", key_path.display())?;
    writeln!(out, "  {}  the request; copy it to the authority", request_path.display())?;
    writeln!(out, "Next, there: mesh-agent ca node --node {node} --csr node.csr --out DIR")?;
    Ok(())
}

fn revoke(dir: &Path, certificate: &Path, days: u32, out: &mut dyn Write) -> anyhow::Result<()> {
    let authority = Files::read(dir)?;
    let root = Root::open(&authority)?;
    let certs = files::certificates(&files::read(certificate)?)
        .with_context(|| format!("{} holds no certificate in PEM", certificate.display()))?;
    let facts =
        Facts::read(&certs[0]).with_context(|| format!("reading {}", certificate.display()))?;
    let path = dir.join(CRL);
    let (list, count) =
        root.revoke(&facts, authority.lists.as_deref(), &path, (DAY * days, clock::now()))?;
    files::replace_public(&path, list.as_bytes()).with_context(|| writing(&path))?;
    writeln!(out, "Revoked {}, serial {}:", facts.subject, facts.serial)?;
    writeln!(
        out,
        "  {}  the list of what the root has revoked ({count}), up to date for {days} days",
        path.display()
    )?;
    writeln!(out, "Next: copy it to /etc/mesh/ca on every node; agents adopt it within a minute")?;
    Ok(())
}

fn show(dir: &Path, out: &mut dyn Write) -> anyhow::Result<()> {
    let contents = Files::read(dir)?;
    let now = clock::now();
    writeln!(out, "{:<9} {:<48} {:<23}  STATE", "FILE", "SUBJECT", "VALID UNTIL")?;
    show_certificates(ROOT_CERT, &contents.root_cert, now, out)?;
    if let Some((cert, _key)) = &contents.node {
        show_certificates(NODE_CERT, cert, now, out)?;
    }
    let mut is_usable = false;
    if contents.root_key.is_some() {
        let fits = Root::open(&contents).map(|_root| ());
        is_usable = fits.is_ok();
        show_key(&dir.join(ROOT_KEY), ROOT_KEY, fits.map_err(|error| error.to_string()), out)?;
    }
    if let Some((cert, key)) = &contents.node {
        let fits = key_fits(cert, key);
        is_usable |= fits.is_ok();
        show_key(&dir.join(NODE_KEY), NODE_KEY, fits, out)?;
    }
    if !is_usable {
        bail!("{} has no key to sign with: see `mesh-agent ca node`", dir.display());
    }
    Ok(())
}

fn show_certificates(
    name: &str,
    pem: &[u8],
    now: SystemTime,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let certs =
        files::certificates(pem).with_context(|| format!("{name} holds no certificate in PEM"))?;
    for cert in certs {
        let facts = Facts::read(&cert).with_context(|| format!("reading {name}"))?;
        let (subject, until) = (&facts.subject, print_time(facts.not_after));
        writeln!(out, "{name:<9} {subject:<48} {until}  {}", state(&facts, now))?;
        let domain = facts.trust_domain().map(|name| format!("  trust domain {name}"));
        writeln!(out, "{:<9} serial {}{}", "", facts.serial, domain.unwrap_or_default())?;
    }
    Ok(())
}

fn show_key(
    path: &Path,
    name: &str,
    fits: Result<(), String>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let state = match (fits, files::readable_by_others(path)) {
        (Err(problem), _) => problem,
        (Ok(()), Some(mode)) => {
            format!("belongs to its certificate; others can read it ({mode:04o}): run chmod 600")
        }
        (Ok(()), None) => "belongs to its certificate".to_owned(),
    };
    writeln!(out, "{name:<9} {state}")?;
    Ok(())
}

fn key_fits(cert: &[u8], key: &[u8]) -> Result<(), String> {
    use rcgen::PublicKeyData as _;
    let certs = files::certificates(cert).ok_or("node.crt holds no certificate in PEM")?;
    let facts = Facts::read(&certs[0]).map_err(|malformed| malformed.to_string())?;
    let key = files::key(key).ok_or("node.key holds no private key in PEM")?;
    if key.subject_public_key_info() == facts.public_key {
        Ok(())
    } else {
        Err("is not the key of node.crt: put the two back that were made together".to_owned())
    }
}

fn state(facts: &Facts, now: SystemTime) -> String {
    if now < facts.not_before {
        return "not valid yet".to_owned();
    }
    match facts.not_after.duration_since(now) {
        Ok(left) => match left.as_secs() / DAY.as_secs() {
            0 => "expires within a day".to_owned(),
            days => format!("{days} days left"),
        },
        Err(_expired) => "expired".to_owned(),
    }
}

fn make_dir(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))
}

fn writing(path: &Path) -> String {
    format!("writing {}", path.display())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::identity::authority::{Authority as _, Embedded};

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    /// Runs a command line; `DIR` in it is the scratch folder.
    fn ca(scratch: &Path, line: &str) -> Result<String, String> {
        let line = line.replace("DIR", scratch.to_str().unwrap());
        let words = std::iter::once("ca").chain(line.split_whitespace());
        let args = Cli::try_parse_from(words).map_err(|error| error.to_string())?.args;
        let mut out = Vec::new();
        match run(&args, &mut out) {
            Ok(()) => Ok(String::from_utf8(out).unwrap()),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    #[test]
    fn a_mesh_is_made_and_its_nodes_are_signed() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path();
        let made = ca(dir, "init --dir DIR/ca --trust-domain mesh.test").unwrap();
        assert!(made.contains("Next, for each node: mesh-agent ca node"), "{made}");
        assert_eq!(files::readable_by_others(&dir.join("ca/root.key")), None);
        ca(dir, "node --dir DIR/ca --node node-a --out DIR/a").unwrap();
        assert_eq!(files::readable_by_others(&dir.join("a/node.key")), None);
        let authority = Embedded::open(&dir.join("a"), "node-a", None, root::BACKDATE).unwrap();
        assert_eq!(authority.trust_domain(), "mesh.test");
        // The host with the root needs no certificate of its own.
        Embedded::open(&dir.join("ca"), "node-x", None, root::BACKDATE).unwrap();
    }

    #[test]
    fn a_nodes_key_never_leaves_it_and_is_kept_when_renewed() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path();
        ca(dir, "init --dir DIR/ca").unwrap();
        ca(dir, "csr --node node-b --out DIR/b").unwrap();
        let key = fs::read(dir.join("b/node.key")).unwrap();
        let sign = "node --dir DIR/ca --node node-b --csr DIR/b/node.csr --out DIR/signed";
        ca(dir, sign).unwrap();
        assert!(!dir.join("signed/node.key").exists());
        for name in ["root.crt", "node.crt"] {
            fs::copy(dir.join("signed").join(name), dir.join("b").join(name)).unwrap();
        }
        let end = || {
            Embedded::open(&dir.join("b"), "node-b", None, root::BACKDATE)
                .unwrap()
                .life()
                .unwrap()
                .to
        };
        let first = end();
        let again = ca(dir, "csr --node node-b --out DIR/b").unwrap();
        assert!(again.contains("Used the private key that is there"), "{again}");
        assert_eq!(fs::read(dir.join("b/node.key")).unwrap(), key);
        ca(dir, &format!("{sign} --days 180")).unwrap();
        fs::copy(dir.join("signed/node.crt"), dir.join("b/node.crt")).unwrap();
        assert!(end() > first);
    }

    #[test]
    fn revoked_nodes_are_listed_one_after_the_other() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path();
        ca(dir, "init --dir DIR/ca").unwrap();
        for (node, count) in [("a", 1), ("b", 2), ("a", 2)] {
            if !dir.join(node).exists() {
                ca(dir, &format!("issue-node --dir DIR/ca --node {node} --out DIR/{node}"))
                    .unwrap();
            }
            let line = format!("revoke --dir DIR/ca --certificate DIR/{node}/node.crt");
            let said = ca(dir, &line).unwrap();
            assert!(said.contains(&format!("revoked ({count})")), "{said}");
            fs::copy(dir.join("ca/crl.pem"), dir.join(node).join("crl.pem")).unwrap();
            let error = Embedded::open(&dir.join(node), node, None, root::BACKDATE).err().unwrap();
            assert!(error.to_string().contains("is revoked by crl.pem"), "{error}");
        }
        ca(dir, "init --dir DIR/other").unwrap();
        ca(dir, "node --dir DIR/other --node c --out DIR/c").unwrap();
        ca(dir, "init --dir DIR/third --trust-domain third.test").unwrap();
        let error = ca(dir, "revoke --dir DIR/third --certificate DIR/c/node.crt").unwrap_err();
        assert!(error.contains("revoke it where it was signed"), "{error}");
    }

    #[test]
    fn nothing_precious_is_overwritten() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path();
        ca(dir, "init --dir DIR/ca").unwrap();
        let root = fs::read(dir.join("ca/root.key")).unwrap();
        let error = ca(dir, "init --dir DIR/ca").unwrap_err();
        assert!(error.contains("choose another --dir, or move the file away"), "{error}");
        assert_eq!(fs::read(dir.join("ca/root.key")).unwrap(), root);
        ca(dir, "node --dir DIR/ca --node a --out DIR/a").unwrap();
        let error = ca(dir, "node --dir DIR/ca --node a --out DIR/a").unwrap_err();
        assert!(error.contains("choose an empty --out"), "{error}");
        let error = ca(dir, "node --dir DIR/ca --node a --out DIR/ca").unwrap_err();
        assert!(error.contains("choose another --out"), "{error}");
        let error = ca(dir, "node --dir DIR/none --node a --out DIR/a").unwrap_err();
        assert!(error.contains("none/root.crt"), "{error}");
    }

    #[test]
    fn show_prints_what_is_there_and_fails_without_a_key() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path();
        ca(dir, "init --dir DIR/ca --trust-domain mesh.test --days 100").unwrap();
        let shown = ca(dir, "show --dir DIR/ca").unwrap();
        assert!(shown.contains("99 days left"), "{shown}");
        assert!(shown.contains("trust domain mesh.test"), "{shown}");
        assert!(shown.contains("root.key  belongs to its certificate\n"), "{shown}");
        ca(dir, "node --dir DIR/ca --node a --out DIR/a --days 1").unwrap();
        let shown = ca(dir, "show --dir DIR/a").unwrap();
        assert!(shown.contains("OU=node, CN=a"), "{shown}");
        fs::remove_file(dir.join("a/node.key")).unwrap();
        assert!(ca(dir, "show --dir DIR/a").unwrap_err().contains("no key to sign with"));
    }
}
