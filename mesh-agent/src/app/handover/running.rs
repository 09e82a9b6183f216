//! The side of the agent that runs.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::BufReader;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::app::handover::message::{Answer, Request, VERSION, receive, send, send_with};
use crate::app::ports::Ports;
use crate::datapath::lock::NodeLock;
use crate::settings;
use crate::sys::caps;
use crate::task::duty::{Duty, Pause};
use crate::task::ready::Gate;
use crate::task::scope::Scope;

/// How long a successor may take to say what it wants.
const ASK: Duration = Duration::from_secs(5);

/// The time between two tries to get back the lock of a successor that has ended.
const AGAIN: Duration = Duration::from_millis(50);

/// How long a successor may take until it serves before this agent is not ready: what documents say now is
/// not in force meanwhile.
const LATE: Duration = Duration::from_secs(10);

/// How much longer it may take before it is ended: it gives up by itself before that, unless it hangs.
const HANGS: Duration = Duration::from_secs(80);

/// How long to wait after a failed accept.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether another agent of the node is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::app) enum Successor {
    /// None is.
    #[default]
    None,
    /// One starts.
    Starts,
    /// One serves in this agent's place.
    Serves,
}

/// Whether a successor is there.
pub(in crate::app) type Replaced = watch::Receiver<Successor>;

/// Everything that is handed over.
pub(in crate::app) struct Office {
    /// The node's name.
    pub(in crate::app) node: Arc<str>,
    /// The BPF file system.
    pub(in crate::app) bpffs: PathBuf,
    /// This agent's number among those of the node that have handed over.
    pub(in crate::app) generation: u8,
    /// The right to change what the kernel does.
    pub(in crate::app) lock: NodeLock,
    /// The work of those who do.
    pub(in crate::app) duty: Duty,
    /// The workloads that are served, `<namespace>/<name>`.
    pub(in crate::app) workloads: Box<dyn Fn() -> Vec<String> + Send>,
    /// Has the kernel give connections to the successor's listeners alone.
    pub(in crate::app) yield_places: Box<dyn Fn() + Send>,
    /// The addresses at which this agent is asked, of which a successor is given the listeners.
    pub(in crate::app) ports: Ports,
    /// Closed while a successor is late.
    pub(in crate::app) in_force: Gate,
}

impl Office {
    /// Serves successors, one at a time, until one of them has taken over or `scope` drains. Says so in
    /// `replaced`.
    pub(in crate::app) async fn serve(
        mut self,
        listener: UnixListener,
        replaced: watch::Sender<Successor>,
        scope: Scope,
    ) {
        loop {
            replaced.send_replace(Successor::None);
            let accepted = tokio::select! {
                biased;
                () = scope.draining() => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => BufReader::new(stream),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a successor");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            replaced.send_replace(Successor::Starts);
            self = match self.hand_over(stream).await {
                Ok(office) => office,
                Err(pause) => {
                    replaced.send_replace(Successor::Serves);
                    // Until the process ends.
                    scope.draining().await;
                    return drop(pause);
                }
            };
        }
    }

    /// Hands over to one successor. An error: it has taken over, and this agent's work stays paused.
    async fn hand_over(self, mut stream: BufReader<UnixStream>) -> Result<Self, Pause> {
        let asked = match timeout(ASK, receive(&mut stream)).await {
            Ok(Ok(None)) | Err(_) => return Ok(self),
            Ok(asked) => asked.map(|asked| asked.zip(successor(&stream))),
        };
        let refused = match asked {
            // Root alone may open the socket, which a unit may run as, without its capabilities.
            Ok(None) => "a process without the capabilities of an agent, or of another PID namespace, is no \
                         successor"
                .to_owned(),
            Ok(Some((Request::TakeOver { version, node, agent, descriptors }, pid))) => {
                let takes_all = descriptors || self.ports.is_empty();
                if version == VERSION && *node == *self.node && takes_all {
                    return self.pause(stream, (pid, &agent)).await;
                }
                if !takes_all {
                    format!(
                        "this agent ({own}) hands its listeners of --admin and --metrics over, which \
                         the successor ({agent}) does not take",
                        own = settings::VERSION
                    )
                } else if version == VERSION {
                    format!("this is the agent of the node {}, not of {node}", self.node)
                } else {
                    format!(
                        "this agent ({own}) speaks version {VERSION} of the hand-over, and the \
                         successor ({agent}) version {version}",
                        own = settings::VERSION
                    )
                }
            }
            Ok(Some((Request::Done, _))) => "nothing was taken over".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(reason = %refused, "a successor is refused");
        drop(send(&mut stream, &Answer::Refused { reason: refused }).await);
        Ok(self)
    }

    async fn pause(
        self,
        mut stream: BufReader<UnixStream>,
        (pid, agent): (Pid, &str),
    ) -> Result<Self, Pause> {
        tracing::info!(version = agent, "a successor starts: this agent serves until it does");
        let Self { node, bpffs, generation, lock, duty, workloads, yield_places, ports, in_force } =
            self;
        let pause = duty.pause().await;
        drop(lock);
        let answer = Answer::Paused { generation, workloads: workloads() };
        let paused = send(&mut stream, &answer).await;
        let asked = match paused {
            Ok(()) => wait(&mut stream, pid, &in_force).await,
            Err(error) => Err(error),
        };
        if let Ok(Some(Request::Done)) = asked {
            tracing::info!("a successor serves the node: this agent drains");
            // Before it hears that: its own successor's listeners will have the places of these.
            yield_places();
            // It has taken over, whether it hears that or not.
            let handed = send_with(stream.get_mut(), &Answer::Draining, &ports.hand_over()).await;
            if let Err(error) = handed {
                tracing::warn!(%error, "the successor has gone after it had taken over");
            }
            return Err(pause);
        }
        tracing::warn!("the successor has gone before it served: this agent goes on");
        let lock = lock_again(&bpffs, &node, &in_force).await;
        drop(pause);
        in_force.pass();
        Ok(Self { node, bpffs, generation, lock, duty, workloads, yield_places, ports, in_force })
    }
}

/// The process that asks, if it has the capabilities of an agent. One of another PID namespace has no number
/// here.
fn successor(stream: &BufReader<UnixStream>) -> Option<Pid> {
    let pid = stream.get_ref().peer_cred().ok()?.pid().filter(|pid| *pid > 0)?;
    caps::are_an_agents(pid).unwrap_or(false).then(|| Pid::from_raw(pid))
}

/// Waits until the successor serves, or has gone. One that hangs is ended: as long as it is there, nobody
/// changes what the kernel does.
async fn wait(
    stream: &mut BufReader<UnixStream>,
    pid: Pid,
    in_force: &Gate,
) -> io::Result<Option<Request>> {
    let mut asked = pin!(receive(stream));
    if let Ok(asked) = timeout(LATE, &mut asked).await {
        return asked;
    }
    in_force.close();
    if let Ok(asked) = timeout(HANGS, &mut asked).await {
        return asked;
    }
    tracing::error!(%pid, "the successor hangs: it is ended");
    kill(pid, Signal::SIGKILL)?;
    Ok(None)
}

/// Waits for the lock of a process that ends.
async fn lock_again(bpffs: &std::path::Path, node: &str, in_force: &Gate) -> NodeLock {
    let mut said = false;
    loop {
        match NodeLock::take(bpffs, node) {
            Ok(Some(lock)) => return lock,
            other => {
                if !std::mem::replace(&mut said, true) {
                    in_force.close();
                    let error = other.err().unwrap_or_else(|| io::Error::other("it is held"));
                    tracing::warn!(%error, "the node's lock is not free yet: nothing in the kernel changes");
                }
                sleep(AGAIN).await;
            }
        }
    }
}
