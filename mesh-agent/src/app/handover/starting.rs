//! The side of the agent that starts.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

use crate::app::handover::message::{Answer, Request, VERSION, receive, receive_last, send};
use crate::app::handover::socket;
use crate::datapath::lock::{NodeLock, REMEDY};
use crate::model::id::ResourceName;
use crate::settings::{self, Settings};

/// How long the agent that runs may take to pause: an authority that does not answer has it wait for
/// 15 s.
const PAUSE: Duration = Duration::from_secs(30);

/// How long it may take to say that it drains.
const DRAIN: Duration = Duration::from_secs(5);

/// How long the lock of a process that has just ended, or paused, may still be held.
const LOCK: Duration = Duration::from_secs(2);

/// The time between two tries to lock.
const AGAIN: Duration = Duration::from_millis(20);

/// The agent that serves the node until its successor does.
#[derive(Debug)]
pub(in crate::app) struct Predecessor {
    stream: BufReader<UnixStream>,
    /// Its number among the agents that have handed over.
    pub(in crate::app) generation: u8,
    /// The workloads that it serves.
    pub(in crate::app) workloads: BTreeSet<ResourceName>,
}

/// Looks for an agent of the same node that runs, and has it pause.
///
/// # Errors
///
/// There is one, and it does not hand over.
pub(in crate::app) async fn find(settings: &Settings) -> anyhow::Result<Option<Predecessor>> {
    let path = socket(settings.admin_socket());
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("opening {}", path.display())),
    };
    let pausing = pause(BufReader::new(stream), settings.node());
    match timeout(PAUSE, pausing).await {
        Ok(predecessor) => predecessor.with_context(|| asking(&path)).map(Some),
        Err(_elapsed) => bail!("{}: it does not answer within {PAUSE:?}", asking(&path)),
    }
}

fn asking(path: &Path) -> String {
    format!("asking the agent that runs to hand over ({})", path.display())
}

/// Whether nobody listens there.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

async fn pause(mut stream: BufReader<UnixStream>, node: &str) -> anyhow::Result<Predecessor> {
    let (node, agent) = (node.to_owned(), settings::VERSION.to_owned());
    let ask = Request::TakeOver { version: VERSION, node, agent, descriptors: true };
    send(&mut stream, &ask).await?;
    let answer = receive(&mut stream).await.context(
        "its answer is of another version of the hand-over; stop it, then start this agent",
    )?;
    match answer {
        Some(Answer::Paused { generation, workloads }) => {
            let workloads = workloads.iter().filter_map(|name| name.split_once('/'));
            let workloads = workloads.map(|(namespace, name)| ResourceName::new(namespace, name));
            Ok(Predecessor { stream, generation, workloads: workloads.collect() })
        }
        Some(Answer::Refused { reason }) => {
            bail!("it refuses: {reason}; stop it, then start this agent")
        }
        Some(Answer::Draining) => bail!("it answers out of order"),
        None => bail!("it has gone"),
    }
}

impl Predecessor {
    /// Has it drain: everything is served by this process. Returns the listeners that it hands over.
    ///
    /// # Errors
    ///
    /// It does not answer. It may have ended.
    pub(in crate::app) async fn replace(self) -> anyhow::Result<Vec<OwnedFd>> {
        // It has said nothing that was not read.
        let mut stream = self.stream.into_inner();
        send(&mut stream, &Request::Done).await?;
        match timeout(DRAIN, receive_last::<Answer>(&stream)).await?? {
            (Answer::Draining, listeners) => Ok(listeners),
            (other, _) => bail!("the answer is {other:?}"),
        }
    }
}

/// Takes the lock of the node.
///
/// # Errors
///
/// Another agent has it, which does not hand over at this one's socket.
pub(in crate::app) async fn lock(settings: &Settings) -> anyhow::Result<NodeLock> {
    let (bpffs, node) = (settings.bpffs(), settings.node());
    let late = Instant::now() + LOCK;
    loop {
        let lock = NodeLock::take(bpffs, node).with_context(|| {
            format!("locking the node's folder in {} ({})", bpffs.display(), REMEDY)
        })?;
        match lock {
            Some(lock) => return Ok(lock),
            None if Instant::now() < late => sleep(AGAIN).await,
            None => bail!(
                "another agent of the node {node} runs, or its pins are being removed; its admin \
                 socket is not {}: stop it, or start this one with its --admin-socket",
                settings.admin_socket().display()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Asks a predecessor that answers with `answer`; returns why it is none.
    async fn refused(answer: &str) -> String {
        let (own, mut other) = UnixStream::pair().unwrap();
        other.write_all(answer.as_bytes()).await.unwrap();
        other.shutdown().await.unwrap();
        let error = pause(BufReader::new(own), "a").await.unwrap_err();
        let mut asked = String::new();
        BufReader::new(other).read_line(&mut asked).await.unwrap();
        assert!(asked.starts_with(r#"{"request":"take-over","version":1,"node":"a""#), "{asked}");
        format!("{error:#}")
    }

    #[tokio::test]
    async fn a_predecessor_of_another_version_is_named_with_the_remedy() {
        let reason = "this agent (0.9) speaks version 2 of the hand-over";
        let told = refused(&format!("{{\"answer\":\"refused\",\"reason\":\"{reason}\"}}\n")).await;
        assert_eq!(told, format!("it refuses: {reason}; stop it, then start this agent"));
        let told = refused("{\"answer\":\"frozen\",\"descriptors\":7}\n").await;
        assert!(
            told.starts_with("its answer is of another version of the hand-over; stop it"),
            "{told}"
        );
        assert_eq!(refused("").await, "it has gone");
    }
}
