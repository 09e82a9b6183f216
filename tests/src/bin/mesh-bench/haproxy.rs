//! A pair of haproxy with mutual TLS between them: a well-known proxy in the same run.
//!
//! It is told what to do, where a mesh takes over what applications do anyway: the client connects
//! to the proxy of its node, which knows one destination.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::expect::eventually;
use mesh_tests::lab::Lab;
use mesh_tests::node::Node;
use mesh_tests::process::{DEADLINE, Killed, inside};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

use crate::workload::{HTTP, PORTS};

/// What is added to a server's port for the port of the client's proxy.
const ENTRY: u16 = 10_000;

/// What is added to a server's port for the port of the server's proxy.
const EXIT: u16 = 20_000;

/// What both configurations begin with. Time-outs are longer than any measurement.
const COMMON: &str = "\
global
    maxconn 9000
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-server-options ssl-min-ver TLSv1.3
defaults
    mode tcp
    maxconn 9000
    timeout connect 5s
    timeout client 600s
    timeout server 600s
";

/// A running haproxy. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Haproxy {
    _child: Killed,
}

/// The port of the client's proxy for the servers' port `port`.
pub(crate) fn entry(port: u16) -> u16 {
    port + ENTRY
}

/// What this machine's program calls itself; `None` if there is none.
pub(crate) fn version() -> Option<String> {
    let output = Command::new("haproxy").arg("-v").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(str::to_owned)
}

/// Starts a proxy on each node: the first takes connections from clients on its node's address, the
/// second brings them to the pod at `server`.
///
/// # Errors
///
/// haproxy refuses its configuration or does not listen.
pub(crate) fn pair(lab: &Lab, nodes: [&Node; 2], server: Ipv4Addr) -> Result<[Haproxy; 2]> {
    let folder = lab.state().join("haproxy");
    fs::create_dir_all(&folder).context("cannot make the folder of haproxy")?;
    certificates(&folder)?;
    let [a, b] = nodes;
    let [near, far] = [a.addresses()[0], b.addresses()[0]];
    let exit = start(b, &folder, "exit", &exit_config(&folder, far, server), far, EXIT)?;
    let entry = start(a, &folder, "entry", &entry_config(&folder, near, far), near, ENTRY)?;
    Ok([entry, exit])
}

/// What the client's proxy shall do.
fn entry_config(folder: &Path, near: IpAddr, far: IpAddr) -> String {
    let pem = folder.display();
    listeners(|port| {
        format!(
            "    bind {near}:{}\n    server far {far}:{} ssl verify required ca-file {pem}/ca.pem \
             crt {pem}/entry.pem sni str(exit) verifyhost exit\n",
            port + ENTRY,
            port + EXIT,
        )
    })
}

/// What the server's proxy shall do.
fn exit_config(folder: &Path, far: IpAddr, server: Ipv4Addr) -> String {
    let pem = folder.display();
    listeners(|port| {
        format!(
            "    bind {far}:{} ssl crt {pem}/exit.pem ca-file {pem}/ca.pem verify required\n    \
             server pod {server}:{port}\n",
            port + EXIT,
        )
    })
}

fn listeners(lines: impl Fn(u16) -> String) -> String {
    let listen = |port: u16| format!("listen p{port}\n{}", lines(port));
    COMMON.to_owned() + &PORTS.map(listen).concat()
}

/// Starts haproxy where the node's agent would be, and waits until it listens.
fn start(
    node: &Node,
    folder: &Path,
    name: &str,
    config: &str,
    addr: IpAddr,
    offset: u16,
) -> Result<Haproxy> {
    let path = folder.join(format!("{name}.cfg"));
    fs::write(&path, config).context("cannot write the configuration of haproxy")?;
    let log = folder.join(format!("{name}.log"));
    let mut child = spawn(node, &path, &log)?;
    let listening = || {
        let addr = SocketAddr::new(addr, HTTP + offset);
        node.netns().run(|| TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok())
    };
    let ended = eventually("haproxy to listen", DEADLINE, || match child.0.try_wait() {
        Ok(None) => listening().is_ok_and(|listens| listens).then_some(false),
        Ok(Some(_)) | Err(_) => Some(true),
    })?;
    let said = fs::read_to_string(&log).unwrap_or_default();
    ensure!(!ended, "haproxy ended at once: {said}");
    Ok(Haproxy { _child: child })
}

fn spawn(node: &Node, config: &Path, log: &Path) -> Result<Killed> {
    let log = fs::File::create(log).context("cannot make the log of haproxy")?;
    let mut command = inside(node.netns(), &node.cgroup().join("agent"))?;
    command.args(["exec", "--", "haproxy", "-db", "-f"]).arg(config);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(Killed(command.spawn().context("cannot start haproxy")?))
}

/// Makes an authority and a certificate for each proxy.
fn certificates(folder: &Path) -> Result<()> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "authority of the benchmark");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let root = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    write(folder.join("ca.pem"), &root)?;
    for name in ["entry", "exit"] {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?.pem();
        write(folder.join(format!("{name}.pem")), &(certificate + &key.serialize_pem()))?;
    }
    Ok(())
}

fn write(path: PathBuf, text: &str) -> Result<()> {
    let written: io::Result<()> = fs::write(&path, text);
    written.with_context(|| format!("cannot write {}", path.display()))
}
