//! Both ways between two sockets, with half-close and resets carried over.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Notify;

use crate::io::chunk::Chunks;
use crate::io::leg::{self, Leg};

/// Bytes that a connection has carried so far. Read when it ends, however it ends.
#[derive(Debug, Default)]
pub struct Carried {
    /// From the client to the upstream.
    pub sent: AtomicU64,
    /// From the upstream to the client.
    pub received: AtomicU64,
}

/// Why copying ended before both sides had closed: which socket failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The client's.
    #[error("the client closed abruptly")]
    Client(#[source] io::Error),
    /// The upstream's.
    #[error("the upstream closed abruptly")]
    Upstream(#[source] io::Error),
}

/// Copies both ways until both sides have closed.
///
/// # Errors
///
/// One side closed abruptly; both sockets are reset when they are dropped.
pub async fn both_ways(
    client: &mut Leg,
    upstream: &mut Leg,
    carried: &Carried,
) -> Result<(), CopyError> {
    let (from_client, from_upstream) = (client.chunks(), upstream.chunks());
    let (client_read, client_write) = client.stream().split();
    let (upstream_read, upstream_write) = upstream.stream().split();
    let ends = Ends::default();
    let up = async {
        let from = (client_read, from_client);
        let end = one_way(from, upstream_write, &carried.sent, &ends).await;
        end.map_err(|end| match end {
            Ended::Read(error) => CopyError::Client(error),
            Ended::Write(error) => CopyError::Upstream(error),
        })
    };
    let down = async {
        let from = (upstream_read, from_upstream);
        let end = one_way(from, client_write, &carried.received, &ends).await;
        end.map_err(|end| match end {
            Ended::Read(error) => CopyError::Upstream(error),
            Ended::Write(error) => CopyError::Client(error),
        })
    };
    tokio::try_join!(up, down)?;
    client.complete();
    upstream.complete();
    Ok(())
}

/// Which side of one direction failed.
enum Ended {
    Read(io::Error),
    Write(io::Error),
}

/// The ends of both directions.
#[derive(Debug, Default)]
struct Ends {
    one: AtomicBool,
    both: Notify,
}

impl Ends {
    /// Notes the end of one direction. If it is the first, waits for the second.
    async fn reach(&self) {
        if self.one.swap(true, Ordering::Relaxed) {
            self.both.notify_one();
        } else {
            self.both.notified().await;
        }
    }
}

/// Copies until `from` has sent its end and the other direction has ended too. From its end on, and
/// while `to` takes nothing, `from` may still fail, which no read would tell.
async fn one_way(
    (mut from, mut chunks): (ReadHalf<'_>, Chunks),
    mut to: WriteHalf<'_>,
    count: &AtomicU64,
    ends: &Ends,
) -> Result<(), Ended> {
    loop {
        let data = chunks.next(&mut from).await.map_err(Ended::Read)?;
        if data.is_empty() {
            end_of(&mut to).await.map_err(Ended::Write)?;
            return leg::unless_failed(from.as_ref(), ends.reach()).await.map_err(Ended::Read);
        }
        let writing = leg::unless_failed(from.as_ref(), to.write_all(&data));
        writing.await.map_err(Ended::Read)?.map_err(Ended::Write)?;
        count.fetch_add(data.len() as u64, Ordering::Relaxed);
    }
}

/// Tells the other side that nothing more comes. One that is already gone knows.
///
/// # Errors
///
/// Those of `shutdown(2)`.
pub async fn end_of(to: &mut WriteHalf<'_>) -> io::Result<()> {
    match to.shutdown().await {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Two connected pairs with a copier between them: what is written at one end comes out at
    /// the other.
    async fn chain() -> (TcpStream, TcpStream, tokio::task::JoinHandle<Result<(), CopyError>>) {
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let back = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(front.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = front.accept().await.unwrap();
        let upstream = TcpStream::connect(back.local_addr().unwrap()).await.unwrap();
        let (server, _) = back.accept().await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test owns its own task")]
        let task = tokio::spawn(async move {
            let (mut client, mut upstream) = (Leg::new(accepted), Leg::new(upstream));
            both_ways(&mut client, &mut upstream, &Carried::default()).await
        });
        (client, server, task)
    }

    #[tokio::test]
    async fn the_answer_to_a_half_close_still_arrives() {
        let (mut client, mut server, task) = chain().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = Vec::new();
        server.read_to_end(&mut question).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!((question.as_slice(), answer.as_slice()), (&b"question"[..], &b"answer"[..]));
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_reset_after_the_half_close_arrives() {
        let (mut client, mut server, task) = chain().await;
        client.shutdown().await.unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        crate::sys::socket::reset_on_close(&client).unwrap();
        drop(client);
        assert!(matches!(task.await.unwrap(), Err(CopyError::Client(_))));
        // The server had nothing to say, and learns it all the same.
        let error = server.write_all(b"late").await.err();
        assert!(error.is_none_or(|error| error.kind() == io::ErrorKind::BrokenPipe));
        let error = server.take_error().unwrap();
        assert!(error.is_none_or(|error| error.kind() == io::ErrorKind::ConnectionReset));
    }

    #[tokio::test]
    async fn a_reset_arrives_while_the_other_side_does_not_read() {
        let (mut client, server, task) = chain().await;
        // As much as all buffers on the way take, or a little less.
        let (block, wait) = (vec![7; 1 << 16], std::time::Duration::from_millis(300));
        while tokio::time::timeout(wait, client.write_all(&block)).await.is_ok() {}
        crate::sys::socket::reset_on_close(&client).unwrap();
        drop(client);
        assert!(matches!(task.await.unwrap(), Err(CopyError::Client(_))));
        drop(server);
    }

    #[tokio::test]
    async fn a_reset_arrives_as_a_reset() {
        let (client, mut server, task) = chain().await;
        crate::sys::socket::reset_on_close(&client).unwrap();
        drop(client);
        let error = server.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(matches!(task.await.unwrap(), Err(CopyError::Client(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_byte_arrives_in_order(cuts in prop::collection::vec(1_usize..100_000, 1..12)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (mut client, mut server, task) = chain().await;
                let total: usize = cuts.iter().sum();
                let data: Vec<u8> = (0..total).map(|i| ((i * 31) >> 3).to_le_bytes()[0]).collect();
                let writer = async {
                    let mut rest = data.as_slice();
                    for cut in &cuts {
                        let (now, later) = rest.split_at(*cut);
                        client.write_all(now).await.unwrap();
                        rest = later;
                    }
                    client.shutdown().await.unwrap();
                };
                let mut got = Vec::new();
                let ((), read) = tokio::join!(writer, server.read_to_end(&mut got));
                read.unwrap();
                assert!(got == data, "{} bytes", data.len());
                drop((client, server));
                let _end: Result<(), CopyError> = task.await.unwrap();
            });
        }
    }
}
