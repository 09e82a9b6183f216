//! Hand-over from the agent of a node to its successor (docs/handover.md).
//!
//! The one that runs changes nothing in the kernel while its successor starts, and goes on serving. The
//! successor says when it serves everything; if it ends before that, the other one goes on as if nothing
//! had been.

mod message;
mod running;
mod starting;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::admin::{Listener, Unpublished};
use crate::datapath::sync::Applied;
use crate::settings::Settings;
use crate::task::scope::Scope;

pub(super) use self::running::{Office, Replaced, Successor};
pub(super) use self::starting::{Predecessor, find, lock};

/// The name of the socket, beside the admin socket.
const SOCKET: &str = "handover.sock";

/// How long it may take until everything that a predecessor serves is served by its successor.
const TAKE_OVER: Duration = Duration::from_mins(1);

/// The socket of a hand-over.
pub(super) fn socket(admin_socket: &Path) -> PathBuf {
    admin_socket.with_file_name(SOCKET)
}

/// Takes over from `predecessor` when what it serves is served here, and puts this agent's sockets in
/// the place of its own. Returns the listeners that it hands over.
pub(super) async fn take_over(
    predecessor: Predecessor,
    mut applied: watch::Receiver<Applied>,
    sockets: [Option<Unpublished>; 2],
) -> anyhow::Result<Vec<OwnedFd>> {
    tracing::info!("taking over from the agent that runs");
    let served = applied.wait_for(|applied| applied.revision > 0 && applied.refused.is_empty());
    match timeout(TAKE_OVER, served).await {
        Ok(served) => drop(served.context("the configuration's thread has ended")?),
        Err(_elapsed) => anyhow::bail!(
            "not all workloads of the agent that runs could be enrolled within {TAKE_OVER:?} (the \
             log says why): it goes on"
        ),
    }
    for socket in sockets.iter().flatten() {
        socket.publish().context("replacing a socket of the agent that runs")?;
    }
    Ok(predecessor.replace().await.unwrap_or_else(|error| {
        tracing::warn!(error = &*error, "the agent that was replaced does not answer");
        Vec::new()
    }))
}

/// The socket at which successors ask.
pub(super) fn listener(
    settings: &Settings,
    beside: bool,
) -> anyhow::Result<(Listener, Option<Unpublished>)> {
    let path = socket(settings.admin_socket());
    let opened = if beside {
        Listener::unix_beside(&path).map(|(listener, unpublished)| (listener, Some(unpublished)))
    } else {
        Listener::unix(&path).map(|listener| (listener, None))
    };
    opened.with_context(|| {
        format!(
            "opening the hand-over's socket {} (beside --admin-socket: name one in a folder in which the \
             agent may write)",
            path.display()
        )
    })
}

/// Serves successors at `listener`.
pub(super) async fn serve(
    listener: Listener,
    office: Office,
    replaced: watch::Sender<Successor>,
    scope: Scope,
) {
    // The file goes with it.
    let Listener::Unix(_file, listener) = listener else { return };
    let opened = listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener));
    match opened {
        Ok(listener) => office.serve(listener, replaced, scope).await,
        Err(error) => tracing::error!(%error, "this agent cannot hand over"),
    }
}
