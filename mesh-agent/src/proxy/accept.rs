//! The one accept loop.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nix::libc;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::bounds;
use crate::task::scope::Scope;

/// How long to wait when the process is out of descriptors or memory: the connections that wait
/// stay in the kernel's queue.
const PAUSE: Duration = Duration::from_millis(20);

/// How long connections are taken before others on the thread have their turn. Each is a task at once
/// and dials: whoever connects in a loop must not have all of the thread. A shorter turn takes so few that
/// the queue overflows whose other connections are somebody else's: tasks of others run for
/// up to a millisecond between two turns ([`fair`](crate::task::fair)).
const TURN: Duration = Duration::from_micros(500);

/// How many are taken between two looks at the clock; a turn that is no longer has none.
const LOOK_ACCEPTS: u32 = 4;

/// Gives each connection to `each` until the scope drains; the listener is closed then.
pub async fn run(
    listener: TcpListener,
    scope: &Scope,
    sockets: &bounds::Node,
    each: impl Fn(TcpStream, SocketAddr),
) {
    let mut turn = Turn::default();
    loop {
        if turn.is_over() {
            tokio::task::yield_now().await;
            turn = Turn::default();
        }
        let accept = poll_fn(|cx| {
            let accepted = listener.poll_accept(cx);
            if accepted.is_pending() {
                turn = Turn::default();
            }
            accepted
        });
        let accepted = tokio::select! {
            biased;
            () = scope.draining() => return,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, client)) => each(stream, client),
            Err(error) if is_of_the_process(&error) => {
                if let Some(count) = sockets.accept_failed(Instant::now().into_std()) {
                    tracing::warn!(%error, count,
                        "cannot accept: something else than connections takes the descriptors or \
                         the memory; look at /proc/PID/fd, fs.file-max and the memory limit");
                }
                tokio::time::sleep(PAUSE).await;
            }
            // The client went away before it was accepted.
            Err(error) => tracing::debug!(%error, "a connection ended before it was accepted"),
        }
    }
}

/// Connections that are taken without a break.
#[derive(Debug, Default)]
struct Turn {
    taken: u32,
    /// The first look at the clock.
    began: Option<Instant>,
}

impl Turn {
    /// Counts one more connection; whether others have their turn before it.
    fn is_over(&mut self) -> bool {
        self.taken += 1;
        if self.taken <= LOOK_ACCEPTS {
            return false;
        }
        self.taken = 1;
        let now = Instant::now();
        now.saturating_duration_since(*self.began.get_or_insert(now)) >= TURN
    }
}

/// Whether every `accept(2)` will fail until something is freed.
fn is_of_the_process(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_a_time() {
        let mut turn = Turn::default();
        for _ in 0..10 * LOOK_ACCEPTS {
            assert!(!turn.is_over());
        }
        tokio::time::advance(TURN).await;
        let more = (0..LOOK_ACCEPTS).position(|_| turn.is_over());
        assert!(more.is_some());
    }

    #[tokio::test]
    async fn a_panic_in_one_connection_leaves_the_others_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let scope = Scope::new("test");
        let connections = scope.clone();
        scope.spawn(async move {
            let none = bounds::Options { sockets: 0, tunnels: 0, few: 0, promised: 0, bodies: 0 };
            let sockets = bounds::Node::new(none);
            run(listener, &connections.clone(), &sockets, |mut stream, _client| {
                connections.spawn(async move {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).await.unwrap();
                    assert_ne!(byte, [b'x'], "on purpose");
                    stream.write_all(&byte).await.unwrap();
                });
            })
            .await;
        });
        let mut bad = TcpStream::connect(addr).await.unwrap();
        bad.write_all(b"x").await.unwrap();
        assert_eq!(bad.read(&mut [0]).await.unwrap(), 0);
        let mut good = TcpStream::connect(addr).await.unwrap();
        good.write_all(b"y").await.unwrap();
        let mut byte = [0];
        good.read_exact(&mut byte).await.unwrap();
        assert_eq!(byte, [b'y']);
        assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
    }
}
