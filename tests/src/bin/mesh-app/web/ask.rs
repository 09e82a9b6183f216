//! Asking as often as it is wanted, and reporting what came.

use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use mesh_tests::http::{Answer, Ask, Check, Seen, Tally, Version};
use mesh_tests::report::Event;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Interval, interval_at, timeout};

use super::{ask_http1, ask_http2};
use crate::args::{Http, Target};
use crate::connect::AGAIN;
use crate::dial::dial;
use crate::{client, control, tell};

/// The state that the workers of an ask share.
#[derive(Debug)]
struct Shared {
    target: Target,
    ask: Ask,
    index: usize,
    continuous: bool,
    start: Instant,
    begun: AtomicU64,
    stopped: AtomicBool,
    sum: Mutex<Sum>,
}

/// Requests that ended since the last mark.
#[derive(Debug, Default)]
struct Sum {
    tally: Tally,
    durations_us: Vec<u64>,
}

/// A connection that may be used again.
#[derive(Debug)]
enum Open {
    Http1(BufReader<TcpStream>),
    Http2(h2::client::SendRequest<bytes::Bytes>),
}

/// Asks as it was told, one ask after the other. Reports each answer, unless it is continuous, and how
/// many there were.
pub(crate) async fn run(http: Http) -> Result<()> {
    let asks: Vec<Ask> = serde_json::from_str(&http.asks).context("reading the asks")?;
    let mut all = Tally::default();
    for (index, ask) in asks.into_iter().enumerate() {
        let workers = ask.concurrency.max(1);
        let shared = Arc::new(Shared {
            target: http.target.clone(),
            ask,
            index,
            continuous: http.continuous,
            start: Instant::now(),
            begun: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            sum: Mutex::default(),
        });
        let mut running = JoinSet::new();
        for worker in 0..workers {
            let times = shared.times(u32::try_from(worker)?, u32::try_from(workers)?);
            running.spawn(work(Arc::clone(&shared), times));
        }
        if http.continuous {
            let mut control = control::lines();
            while control.recv().await.is_some() {
                tell(&Event::Tally(shared.take()))?;
            }
            shared.stopped.store(true, Ordering::Relaxed);
        }
        while let Some(ended) = running.join_next().await {
            ended??;
        }
        all = shared.take();
    }
    tell(&Event::Tally(all))
}

/// Asks again and again, on one connection if it may.
async fn work(shared: Arc<Shared>, mut times: Option<Interval>) -> Result<()> {
    let mut open = None;
    loop {
        let free = Instant::now();
        let due = match &mut times {
            Some(times) => times.tick().await.into_std(),
            None => free,
        };
        if shared.stopped.load(Ordering::Relaxed) {
            return Ok(());
        }
        let n = shared.begun.fetch_add(1, Ordering::Relaxed);
        if !shared.continuous && n >= shared.ask.count {
            return Ok(());
        }
        let ask = &shared.ask.numbered(n);
        let mut answer = Answer { ask: shared.index, ..Answer::default() };
        // One that was due before the last had ended has waited since then. Otherwise what passed
        // is the timer's, whose steps are a millisecond.
        let start = if due < free { due } else { Instant::now() };
        let asking = once(&shared.target, ask, open.take(), &mut answer);
        match timeout(Duration::from_millis(ask.timeout_ms), asking).await {
            Ok(Ok(kept)) => open = kept.filter(|_| !ask.is_fresh),
            Ok(Err(error)) => answer.error = Some(client::name(&error)),
            Err(_late) => answer.error = Some("timeout".to_owned()),
        }
        if ask.check == Check::Echo && answer.error.is_none() && answer.status == 200 {
            let is_echo = |seen: &Seen| seen.body == ask.body && seen.path == ask.path;
            if !answer.seen().is_ok_and(|seen| is_echo(&seen)) {
                answer.error = Some(Ask::ANOTHER_ECHO.to_owned());
            }
        }
        answer.total_us = client::micros(start);
        shared.add(&answer);
        if shared.continuous && answer.error.is_some() {
            tokio::time::sleep(AGAIN).await;
        }
        if !shared.continuous {
            tell(&Event::Answer(answer))?;
        }
    }
}

impl Shared {
    /// When the requests of one of `workers` are due: every so many of all.
    fn times(&self, worker: u32, workers: u32) -> Option<Interval> {
        let rate = self.ask.rate?.max(1);
        let at = |count: u32| Duration::from_secs(1) * count / rate;
        Some(interval_at((self.start + at(worker)).into(), at(workers)))
    }

    fn add(&self, answer: &Answer) {
        let mut sum = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum.tally.count(answer);
        sum.durations_us.push(answer.total_us);
    }

    fn take(&self) -> Tally {
        let mut sum = mem::take(&mut *self.sum.lock().unwrap_or_else(PoisonError::into_inner));
        sum.durations_us.sort_unstable();
        let at = |percent| client::percentile(&sum.durations_us, percent);
        Tally { p50_us: at(50), p99_us: at(99), ..sum.tally }
    }
}

/// Asks once; returns the connection if it may be used again.
async fn once(
    target: &Target,
    ask: &Ask,
    open: Option<Open>,
    answer: &mut Answer,
) -> io::Result<Option<Open>> {
    let open = match open {
        // Nothing has been sent on it since the server announced its end.
        Some(Open::Http2(sender)) if ask_http2::is_ending(&sender).await => None,
        open => open,
    };
    let open = match open {
        Some(open) => open,
        None => connect(target, ask.version).await?,
    };
    match open {
        Open::Http1(mut io) if ask.version == Version::Raw => {
            raw(&mut io, ask, answer).await?;
            Ok(None)
        }
        Open::Http1(mut io) => {
            let is_kept = ask_http1::run(&mut io, ask, answer).await?;
            Ok(is_kept.then_some(Open::Http1(io)))
        }
        Open::Http2(sender) => {
            ask_http2::run(sender.clone(), ask, answer).await?;
            Ok(Some(Open::Http2(sender)))
        }
    }
}

async fn connect(target: &Target, version: Version) -> io::Result<Open> {
    let stream = dial(target).await?;
    stream.set_nodelay(true)?;
    match version {
        Version::Http1 | Version::Raw => Ok(Open::Http1(BufReader::new(stream))),
        Version::Http2 => ask_http2::open(stream).await.map(Open::Http2),
    }
}

/// Sends bytes, and reads all that comes back until the server closes.
async fn raw(io: &mut BufReader<TcpStream>, ask: &Ask, answer: &mut Answer) -> io::Result<()> {
    // A server that does not like the first of them may have closed: what it said is still there.
    let mut sent = io.write_all(ask.body.as_bytes()).await;
    if ask.half_closes && sent.is_ok() {
        sent = io.shutdown().await;
    }
    let mut bytes = Vec::new();
    let read = io.read_to_end(&mut bytes).await;
    answer.set_body(&bytes);
    let status = answer.body.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    answer.status = status.and_then(|status| status.parse().ok()).unwrap_or_default();
    sent.and(read.map(drop))
}
