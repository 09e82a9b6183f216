//! Asks a running agent over its admin socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::cli::AskArgs;
use crate::settings::{self, defaults};

/// For the whole answer: the agent makes it from memory.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer: a hundred times what 10,000 identities take.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// The answer of the agent to `GET path`.
///
/// # Errors
///
/// There is no agent, or several and none is chosen; it may not be asked, or does not answer.
pub(super) fn get(args: &AskArgs, path: &str) -> Result<Bytes> {
    let socket = socket(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = async { timeout(ANSWER_TIMEOUT, ask(&socket, path)).await };
    let answer = runtime.block_on(asked).context("it took too long to answer").flatten();
    answer.with_context(|| format!("asking the agent at {}", socket.display()))
}

async fn ask(socket: &Path, path: &str) -> Result<Bytes> {
    let stream = UnixStream::connect(socket).await.context(
        "it cannot be reached: is the agent running, and are you the user that it runs as?",
    )?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header(HOST, "localhost").body(Empty::<Bytes>::new())?;
    let answer = async move {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
        ensure!(status == StatusCode::OK, "it answered {status}: {}", body.escape_ascii());
        Ok(body)
    };
    // The connection is driven beside the answer, and ends with it.
    let (answer, ended) = tokio::join!(answer, connection);
    let answer = answer?;
    ended?;
    Ok(answer)
}

/// The socket of the agent that is meant.
fn socket(args: &AskArgs) -> Result<PathBuf> {
    match (&args.admin_socket, &args.node) {
        (Some(path), _) => Ok(path.clone()),
        (None, Some(node)) => Ok(settings::admin_socket(&settings::node_name(node.clone())?)),
        (None, None) => the_only_one(Path::new(defaults::RUN_DIRECTORY)),
    }
}

/// The socket of the one agent of this machine.
fn the_only_one(run: &Path) -> Result<PathBuf> {
    let folders = fs::read_dir(run).into_iter().flatten().flatten();
    let sockets = folders.map(|folder| folder.path().join(defaults::ADMIN_SOCKET));
    let mut found: Vec<_> = sockets.filter(|socket| socket.exists()).collect();
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!(
            "no agent runs here, as far as {} says: name its socket with --admin-socket",
            run.display()
        ),
        several => {
            let nodes = several.iter().filter_map(|socket| socket.parent()?.file_name()?.to_str());
            let nodes: Vec<_> = nodes.collect();
            bail!("several agents run here: choose one with --node ({})", nodes.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_of_this_machine_is_found_if_it_is_alone() {
        let run = tempfile::tempdir().unwrap();
        let find = || the_only_one(run.path()).map_err(|error| error.to_string());
        assert!(find().unwrap_err().contains("no agent runs here"));
        let add = |node: &str| {
            let folder = run.path().join(node);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("admin.sock"), "").unwrap();
        };
        add("node-b");
        assert_eq!(find().unwrap(), run.path().join("node-b/admin.sock"));
        add("node-a");
        assert!(find().unwrap_err().contains("(node-a, node-b)"));
    }
}
