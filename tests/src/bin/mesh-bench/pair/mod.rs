//! Pairs of well-known proxies with mutual TLS between them, in the same run.
//!
//! They are told what to do, where a mesh takes over what applications do anyway: the client
//! connects to the proxy of its node, which knows one destination.

pub(crate) mod haproxy;
pub(crate) mod nginx;

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
use nix::sys::signal::Signal;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

use crate::workload::{Contender, HTTP};

/// The number that is added to a server's port for the port of the client's proxy.
const ENTRY: u16 = 10_000;

/// The number that is added to a server's port for the port of the server's proxy.
const EXIT: u16 = 20_000;

/// The same two, where the proxies speak HTTP. Ports of what is not HTTP are too large for that.
const HTTP_ENTRY: u16 = 30_000;
const HTTP_EXIT: u16 = 40_000;

/// How many connections a proxy may have.
const MAX_CONNECTIONS: u16 = 9000;

/// A running proxy. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Proxy {
    child: Killed,
}

/// The port of the client's proxy for the servers' port `port`: of one that carries bytes, or of one
/// that reads HTTP.
pub(crate) fn entry(port: u16, reads_http: bool) -> u16 {
    port + if reads_http { HTTP_ENTRY } else { ENTRY }
}

/// Where the two proxies and the server are.
#[derive(Clone, Copy, Debug)]
struct Places {
    /// The client's node.
    near: IpAddr,
    /// The server's node.
    far: IpAddr,
    /// The server's pod.
    server: Ipv4Addr,
}

/// How a kind of proxy is started.
#[derive(Clone, Copy, Debug)]
struct Kind {
    program: &'static str,
    /// Before the path of the configuration.
    args: &'static [&'static str],
    /// The configuration of the client's proxy, with the certificates of a folder.
    entry: fn(&Path, Places) -> String,
    /// The configuration of the server's proxy.
    exit: fn(&Path, Places) -> String,
    /// The numbers that are added to the port of HTTP to see whether they listen.
    offsets: [u16; 2],
}

impl Kind {
    /// Starts a proxy on each node: the first takes connections from clients on its node's address,
    /// the second brings them to the pod at `server`.
    fn pair(&self, lab: &Lab, nodes: [&Node; 2], server: Ipv4Addr) -> Result<[Proxy; 2]> {
        let folder = lab.state().join(self.program);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        certificates(&folder)?;
        let [near, far] = nodes.map(|node| node.addresses()[0]);
        let places = Places { near, far, server };
        let [a, b] = nodes;
        let [entry, exit] = self.offsets.map(|offset| HTTP + offset);
        let exit = (b, SocketAddr::new(far, exit), (self.exit)(&folder, places));
        let entry = (a, SocketAddr::new(near, entry), (self.entry)(&folder, places));
        let exit = self.start(&folder, "exit", exit)?;
        Ok([self.start(&folder, "entry", entry)?, exit])
    }

    /// Starts a proxy where the node's agent would be, and waits until it listens.
    fn start(
        &self,
        folder: &Path,
        name: &str,
        (node, addr, config): (&Node, SocketAddr, String),
    ) -> Result<Proxy> {
        let path = folder.join(format!("{name}.conf"));
        let program = self.program;
        fs::write(&path, config).with_context(|| format!("cannot configure {program}"))?;
        let log = folder.join(format!("{name}.log"));
        let output = fs::File::create(&log).with_context(|| format!("no log of {program}"))?;
        let mut command = inside(node.netns(), &node.cgroup().join("agent"))?;
        command.args(["exec", "--", program]).args(self.args).arg(path);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let mut proxy = Proxy { child: Killed(child) };
        let listening = || {
            let connect = || TcpStream::connect_timeout(&addr, Duration::from_secs(1)).is_ok();
            node.netns().run(connect).is_ok_and(|listens| listens)
        };
        let ended = eventually(&format!("{program} to listen"), DEADLINE, || {
            match proxy.child.0.try_wait() {
                Ok(None) => listening().then_some(false),
                Ok(Some(_)) | Err(_) => Some(true),
            }
        })?;
        let said = fs::read_to_string(&log).unwrap_or_default();
        ensure!(!ended, "{program} ended at once: {said}");
        Ok(proxy)
    }
}

impl Drop for Proxy {
    /// Asks it to end first: a master that is killed leaves its workers behind.
    fn drop(&mut self) {
        // It is killed after that, whatever becomes of this.
        if self.child.signal(Signal::SIGTERM).is_ok() {
            drop(self.child.wait(DEADLINE));
        }
    }
}

/// The name of a pair's program, or the package that is to be installed for it; `None` if
/// a contender is no pair.
pub(crate) fn program(contender: Contender) -> Option<Result<String, &'static str>> {
    let (program, package) = match contender {
        Contender::Haproxy => ("haproxy", "haproxy"),
        Contender::Nginx => ("nginx", "nginx-light"),
        _ => return None,
    };
    Some(version(program).ok_or(package))
}

fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("-v").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8([output.stdout, output.stderr].concat()).ok()?;
    text.lines().next().map(str::to_owned)
}

/// Makes an authority and a certificate for each proxy: `ca.pem`, and `entry.pem` and `exit.pem` with
/// their keys.
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
