//! The messages of a hand-over: one JSON object a line (docs/handover.md).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Interest,
};
use tokio::net::UnixStream;

use crate::sys::descriptors;

/// The version of the messages. One who does not know it refuses.
pub(super) const VERSION: u32 = 1;

/// The longest line: the names of all workloads that a node may have.
const MAX_BYTES: u64 = 2 << 20;

/// The longest line of the last message, which names nothing.
const MAX_LAST_BYTES: usize = 64 << 10;

/// The messages of a successor.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub(super) enum Request {
    /// It has started, and asks the other one to change nothing in the kernel from now on.
    TakeOver {
        /// [`VERSION`].
        version: u32,
        /// The node's name.
        node: String,
        /// The successor's own version, for the log.
        agent: String,
        /// Whether it takes listeners with [`Answer::Draining`]; one that does not would have to share
        /// their addresses.
        #[serde(default)]
        descriptors: bool,
    },
    /// It serves everything: the other one may drain.
    Done,
}

/// The messages of the agent that runs.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(super) enum Answer {
    /// It changes nothing any more, and serves until [`Request::Done`].
    Paused {
        /// Its number among the agents of the node that have handed over, modulo 256.
        generation: u8,
        /// The workloads that it serves, `<namespace>/<name>`.
        workloads: Vec<String>,
    },
    /// It drains. Listeners of the admin server come with it.
    Draining,
    /// It does not hand over.
    Refused {
        /// For the operator.
        reason: String,
    },
}

/// Sends a message.
pub(super) async fn send(
    to: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line).await
}

/// Sends a message, and descriptors with its first byte.
pub(super) async fn send_with<D: AsFd>(
    to: &mut UnixStream,
    message: &impl Serialize,
    handed: &[D],
) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    let send = || descriptors::send(&*to, &line, handed);
    let sent = to.async_io(Interest::WRITABLE, send).await?;
    to.write_all(line.get(sent..).unwrap_or_default()).await
}

/// Waits for a message that is the last one, and for the descriptors that come with it.
pub(super) async fn receive_last<T: for<'de> Deserialize<'de>>(
    from: &UnixStream,
) -> io::Result<(T, Vec<OwnedFd>)> {
    let (mut line, mut taken) = (Vec::new(), Vec::new());
    let mut buffer = [0; 1024];
    while line.last() != Some(&b'\n') && line.len() < MAX_LAST_BYTES {
        let receive = || descriptors::receive(from, &mut buffer);
        let (received, mut came) = from.async_io(Interest::READABLE, receive).await?;
        if received == 0 {
            break;
        }
        line.extend_from_slice(buffer.get(..received).unwrap_or_default());
        taken.append(&mut came);
    }
    Ok((serde_json::from_slice(&line)?, taken))
}

/// Waits for one. `None`: the other one has gone.
pub(super) async fn receive<T: for<'de> Deserialize<'de>>(
    from: &mut (impl AsyncBufRead + Unpin),
) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    from.take(MAX_BYTES).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&line)?))
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;

    #[tokio::test]
    async fn messages_are_lines_whose_unknown_fields_are_left_for_later_versions() {
        let mut sent = Vec::new();
        let (node, agent) = ("a".to_owned(), "0.1".to_owned());
        let ask = Request::TakeOver { version: 1, node, agent, descriptors: true };
        send(&mut sent, &ask).await.unwrap();
        send(&mut sent, &Request::Done).await.unwrap();
        let text = r#"{"request":"take-over","version":1,"node":"a","agent":"0.1","descriptors":true}
{"request":"done"}
"#;
        assert_eq!(String::from_utf8(sent).unwrap(), text);
        let later = r#"{"answer":"paused","generation":7,"workloads":["demo/a"],"descriptors":3}"#;
        let mut reader = BufReader::new(later.as_bytes());
        let answer = receive::<Answer>(&mut reader).await.unwrap();
        let workloads = vec!["demo/a".to_owned()];
        assert_eq!(answer, Some(Answer::Paused { generation: 7, workloads }));
        assert_eq!(receive::<Answer>(&mut reader).await.unwrap(), None);
        assert!(receive::<Answer>(&mut BufReader::new(&b"x\n"[..])).await.is_err());
        let long = vec![b' '; 3 << 20];
        assert!(receive::<Answer>(&mut BufReader::new(&long[..])).await.is_err());
        let earlier = br#"{"request":"take-over","version":1,"node":"a","agent":"0.1"}"#;
        let asked = receive::<Request>(&mut BufReader::new(&earlier[..])).await.unwrap();
        assert!(matches!(asked, Some(Request::TakeOver { descriptors: false, .. })), "{asked:?}");
    }

    #[tokio::test]
    async fn descriptors_come_with_the_last_message() {
        let (mut one, other) = UnixStream::pair().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        send_with(&mut one, &Answer::Draining, &[listener]).await.unwrap();
        let (answer, mut taken) = receive_last::<Answer>(&other).await.unwrap();
        assert_eq!((answer, taken.len()), (Answer::Draining, 1));
        let taken = std::net::TcpListener::from(taken.remove(0));
        assert_eq!(taken.local_addr().unwrap(), address);
        // As an agent of an earlier version does.
        send(&mut one, &Answer::Draining).await.unwrap();
        assert!(receive_last::<Answer>(&other).await.unwrap().1.is_empty());
        drop(one);
        assert!(receive_last::<Answer>(&other).await.is_err());
    }
}
