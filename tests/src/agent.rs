//! A real agent on a node.

use std::fs::{self, File};
use std::io::{PipeReader, Read as _, Seek as _, SeekFrom, Write as _, pipe};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;

use crate::expect::eventually;
use crate::metrics::Metrics;
use crate::node::Node;
use crate::process::{self, DEADLINE, Killed, inside};
use crate::usage::Usage;

/// The port of the admin server; each node's loopback is its own.
const ADMIN_PORT: u16 = 15000;

/// The admin server's Unix socket, in the agent's folder.
const ADMIN_SOCKET: &str = "admin.sock";

/// How long the admin server may take for one answer.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The arguments of an agent.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    /// The folder of its certificates.
    pub ca: &'a Path,
    /// The folder of the mesh's configuration.
    pub config: &'a Path,
    /// More arguments of `mesh-agent run`.
    pub args: &'a [&'a str],
}

/// A running agent. Dropping it kills it, as `SIGKILL` does.
#[derive(Debug)]
pub struct Agent {
    child: Killed,
    node: Node,
    folder: PathBuf,
    config: PathBuf,
}

impl Agent {
    /// Starts the agent of `node` in its namespace and its cgroup, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// It is not built, it ended, or it was not ready within [`DEADLINE`]: the end of its log is in
    /// the error.
    pub fn start(node: &Node, options: &Options<'_>) -> Result<Self> {
        Self::spawn(node, options)?.started()
    }

    /// Starts it where a process may have no more than `files` open.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    pub fn start_within(node: &Node, options: &Options<'_>, files: u64) -> Result<Self> {
        Self::spawn_within(node, options, (Some(files), None), &[])?.started()
    }

    /// Starts it with variables in its environment, and does not wait.
    ///
    /// # Errors
    ///
    /// As [`Self::spawn`].
    pub fn spawn_with(
        node: &Node,
        options: &Options<'_>,
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        Self::spawn_within(node, options, (None, None), variables)
    }

    /// Starts it with standard error into a pipe, which the caller may leave unread.
    ///
    /// # Errors
    ///
    /// As [`Self::start`]; its log is in the pipe, and not in the error.
    pub fn start_unread(node: &Node, options: &Options<'_>) -> Result<(Self, PipeReader)> {
        let (reader, writer) = pipe().context("cannot make a pipe")?;
        let agent = Self::spawn_within(node, options, (None, Some(writer.into())), &[])?;
        Ok((agent.started()?, reader))
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    ///
    /// It ended, or it was not ready within [`DEADLINE`]: the end of its log is in the error.
    pub fn started(self) -> Result<Self> {
        let mut agent = self;
        let ended = eventually("the agent to be ready", DEADLINE, || {
            if let Some(status) = agent.child.0.try_wait().transpose() {
                return Some(Some(status));
            }
            agent.ready().then_some(None)
        });
        match ended {
            Ok(None) => Ok(agent),
            Ok(Some(status)) => {
                bail!("the agent ended with {}:\n{}", status?, agent.log_end())
            }
            Err(error) => Err(error.context(format!("the agent said:\n{}", agent.log_end()))),
        }
    }

    /// Starts the agent of `node`, and does not wait.
    ///
    /// # Errors
    ///
    /// It is not built or cannot be started.
    pub fn spawn(node: &Node, options: &Options<'_>) -> Result<Self> {
        Self::spawn_within(node, options, (None, None), &[])
    }

    fn spawn_within(
        node: &Node,
        options: &Options<'_>,
        (files, stderr): (Option<u64>, Option<Stdio>),
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let folder = node.lab().state().join(node.name());
        fs::create_dir_all(&folder).context("cannot make the agent's folder")?;
        let log = File::options().create(true).append(true).open(folder.join("agent.log"));
        let log = log.context("cannot make the agent's log")?;
        let mut command = inside(node.netns(), &node.cgroup().join("agent"))?;
        command.arg("exec");
        if let Some(files) = files {
            command.args(["--files", &files.to_string()]);
        }
        command.arg("--").arg(binary_of(node)?).args(["run", "--node", node.name()]);
        command.arg("--config").arg(options.config).arg("--ca").arg(options.ca);
        command.arg("--cgroup").arg(node.cgroup());
        command.arg("--access-log").arg(folder.join("access.log"));
        command.arg("--admin").arg(admin().to_string());
        command.arg("--admin-socket").arg(folder.join(ADMIN_SOCKET));
        command.args(options.args);
        command.envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone()?);
        command.stderr(stderr.unwrap_or_else(|| log.into()));
        let child = Killed(command.spawn().context("cannot start the agent")?);
        Ok(Self { child, node: node.clone(), folder, config: options.config.to_owned() })
    }

    /// The process.
    pub fn pid(&self) -> Pid {
        self.child.pid()
    }

    /// The descriptors that it has open.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(Usage::of(self.pid()).context("the agent has no descriptors")?.descriptors)
    }

    /// The memory that it has of its own (`RssAnon`), in bytes.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn memory_bytes(&self) -> Result<u64> {
        Ok(Usage::of(self.pid()).context("the agent has no memory")?.memory_bytes)
    }

    /// The folder of the mesh's configuration.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Its node.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Whether it says that it is ready.
    pub fn ready(&self) -> bool {
        self.get("/readyz").is_ok_and(|(status, _body)| status == 200)
    }

    /// Asks its admin server, from inside the node, for a status and a body.
    ///
    /// # Errors
    ///
    /// It cannot be reached, or its answer is no HTTP.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        get(&self.node, path)
    }

    /// Its admin server's Unix socket, for `mesh-agent certs` and others.
    pub fn admin_socket(&self) -> PathBuf {
        self.folder.join(ADMIN_SOCKET)
    }

    /// Its metrics.
    ///
    /// # Errors
    ///
    /// The admin server does not give them.
    pub fn metrics(&self) -> Result<Metrics> {
        let (status, page) = self.get("/metrics")?;
        ensure!(status == 200, "the admin server answered {status}: {page}");
        Ok(Metrics::parse(&page))
    }

    /// The conditions of each resource.
    ///
    /// # Errors
    ///
    /// The admin server does not give it.
    pub fn conditions(&self) -> Result<Value> {
        let (status, body) = self.get("/conditions")?;
        ensure!(status == 200, "the admin server answered {status}: {body}");
        serde_json::from_str(&body).context("conditions are not JSON")
    }

    /// The lines of its access log. A line that is being written is not among them.
    ///
    /// # Errors
    ///
    /// A line is not JSON.
    pub fn access_log(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.folder.join("access.log")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _unfinished)| whole);
        let lines = whole.lines();
        lines.map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// Waits until a line of the access log is as `matches` wants it.
    ///
    /// # Errors
    ///
    /// There is none within [`DEADLINE`].
    pub fn logged(&self, what: &str, matches: impl Fn(&Value) -> bool) -> Result<Value> {
        let what = format!("{what} in the access log of {}", self.node.name());
        eventually(&what, DEADLINE, || self.access_log().ok()?.into_iter().find(&matches))
    }

    /// The log for developers.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default()
    }

    /// Waits for `words` in [`Self::log`], which a thread of its own writes.
    ///
    /// # Errors
    ///
    /// They are not there within [`DEADLINE`].
    pub fn says(&self, words: &str) -> Result<()> {
        let what = format!("`{words}` in the log of {}", self.node.name());
        eventually(&what, DEADLINE, || self.log().contains(words).then_some(()))
    }

    /// The size of [`Self::log`], for [`Self::log_from`].
    pub fn log_bytes(&self) -> u64 {
        fs::metadata(self.folder.join("agent.log")).map_or(0, |file| file.len())
    }

    /// The rest of [`Self::log`] after so many bytes.
    pub fn log_from(&self, bytes: u64) -> String {
        let mut rest = Vec::new();
        let read = File::open(self.folder.join("agent.log")).and_then(|mut log| {
            log.seek(SeekFrom::Start(bytes))?;
            log.read_to_end(&mut rest)
        });
        read.map_or_else(|_none| String::new(), |_| String::from_utf8_lossy(&rest).into_owned())
    }

    /// Asks it to end (`SIGTERM`) and waits for that.
    ///
    /// # Errors
    ///
    /// It still runs after [`DEADLINE`], or a task of it has panicked.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        self.child.signal(Signal::SIGTERM)?;
        let status = self.child.wait(DEADLINE)?;
        ensure!(!self.log().contains("panicked"), "a task panicked:\n{}", self.log_end());
        Ok(status)
    }

    /// Waits for its end, after a signal.
    ///
    /// # Errors
    ///
    /// It still runs after [`DEADLINE`].
    pub fn ended(&mut self) -> Result<ExitStatus> {
        self.child.wait(DEADLINE)
    }

    /// Sends it a signal, for example `SIGSTOP`.
    ///
    /// # Errors
    ///
    /// The kernel refuses.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.child.signal(signal)
    }

    /// Ends it at once (`SIGKILL`), so that it can tidy nothing.
    pub fn kill(self) {
        drop(self);
    }

    fn log_end(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

/// Where the program is: `MESH_AGENT_BIN`, or beside ours.
///
/// # Errors
///
/// It is not built.
pub fn binary() -> Result<PathBuf> {
    match std::env::var_os("MESH_AGENT_BIN") {
        Some(path) => Ok(path.into()),
        None => process::binary("mesh-agent", "mesh-agent"),
    }
}

/// The program of a node's agent: [`binary`], or for all nodes but the lab's first what
/// `MESH_LAB_PEER_AGENT` names, so that two versions meet.
fn binary_of(node: &Node) -> Result<PathBuf> {
    match std::env::var_os("MESH_LAB_PEER_AGENT").filter(|_| !node.is_first()) {
        Some(path) => Ok(path.into()),
        None => binary(),
    }
}

/// Asks the admin server of whatever agent serves `node`, from inside it, for a status and a body.
///
/// # Errors
///
/// None answers, or its answer is no HTTP.
pub fn get(node: &Node, path: &str) -> Result<(u16, String)> {
    node.netns().run(|| http_get(admin(), path))?
}

/// The address of agents' admin servers, in their nodes.
pub fn admin() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, ADMIN_PORT).into()
}

/// HTTP/1.0, so that the answer is neither chunked nor followed by another.
fn http_get(addr: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&addr, ADMIN_TIMEOUT)?;
    stream.set_read_timeout(Some(ADMIN_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {addr}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a body")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.context("an answer without a status")?, body.to_owned()))
}
