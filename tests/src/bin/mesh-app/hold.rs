//! Connections that stay open.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use mesh_tests::report::{Connection, Event, Totals};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::args::Connect;
use crate::client::{self, Stream};
use crate::{control, tell};

/// Opens `count` connections, exchanges on each and keeps them. Each line of input is another
/// exchange on each; the end of input closes them.
pub(crate) async fn run(plan: Connect) -> Result<()> {
    let payload = Arc::new(plan.payload());
    let turns = Arc::new(Semaphore::new(usize::try_from(plan.concurrency.max(1))?));
    let mut opening = JoinSet::new();
    for _ in 0..plan.count {
        let (plan, payload, turns) = (plan.clone(), Arc::clone(&payload), Arc::clone(&turns));
        opening.spawn(async move {
            let _turn = turns.acquire_owned().await;
            attempt(&plan, None, &payload).await
        });
    }
    let mut held = collect(opening).await?;
    let mut control = control::lines();
    while control.recv().await.is_some() {
        let mut again = JoinSet::new();
        for stream in held {
            let (plan, payload) = (plan.clone(), Arc::clone(&payload));
            again.spawn(async move { attempt(&plan, Some(stream), &payload).await });
        }
        held = collect(again).await?;
    }
    let totals = Totals { connections: u64::try_from(held.len())?, ..Totals::default() };
    tell(&Event::Totals(totals))
}

/// Reports what became of the attempts, and keeps the connections that are still good.
async fn collect(mut attempts: JoinSet<(Connection, Option<Stream>)>) -> Result<Vec<Stream>> {
    let mut totals = Totals::default();
    let mut held = Vec::new();
    while let Some(ended) = attempts.join_next().await {
        let (connection, stream) = ended?;
        totals.count(&connection);
        held.extend(stream);
    }
    tell(&Event::Totals(totals))?;
    Ok(held)
}

/// Opens a connection, unless there is one, and exchanges on it.
async fn attempt(
    plan: &Connect,
    stream: Option<Stream>,
    payload: &[u8],
) -> (Connection, Option<Stream>) {
    let mut seen = Connection::default();
    let start = Instant::now();
    let steps = async {
        let mut stream = match stream {
            Some(stream) => stream,
            None => client::open(plan, &mut seen).await?,
        };
        client::exchange(&mut stream, payload, &mut seen).await?;
        Ok(stream)
    };
    let result = match timeout(plan.target.timeout(), steps).await {
        Ok(result) => result,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    };
    seen.total_us = client::micros(start);
    match result {
        Ok(stream) => (seen, Some(stream)),
        Err(error) => {
            seen.error = Some(client::name(&error));
            (seen, None)
        }
    }
}
