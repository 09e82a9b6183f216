//! The messages of a hand-over: one JSON object a line (docs/handover.md).

use std::io;

use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
};

/// The version of the messages. One who does not know it refuses.
pub(super) const VERSION: u32 = 1;

/// The longest line: the names of all workloads that a node may have.
const MAX_BYTES: u64 = 2 << 20;

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
    /// It drains.
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
        let ask = Request::TakeOver { version: 1, node: "a".into(), agent: "0.1".into() };
        send(&mut sent, &ask).await.unwrap();
        send(&mut sent, &Request::Done).await.unwrap();
        let text = r#"{"request":"take-over","version":1,"node":"a","agent":"0.1"}
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
    }
}
