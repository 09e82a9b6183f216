//! The end of an agent: with a successor that serves the node, or without.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::app::handover::{Replaced, Successor};
use crate::app::ports::Ports;
use crate::app::shutdown::{Asked, Signals};
use crate::task::scope::Scope;
use crate::telemetry::Telemetry;

/// How long a successor's predecessor takes connections that were on their way to it: round trips of
/// handshakes.
const LINGER: Duration = Duration::from_secs(3);

/// The part of the time to drain that is kept for connections that came in it.
const LAST_PART: u32 = 6;

/// How long an agent whose parent has ended serves until a successor starts.
const LEFT: Duration = Duration::from_mins(1);

/// How often it is looked whether connections are open.
const LOOK: Duration = Duration::from_millis(20);

/// After so many looks connections that wait for a request are closed: each second.
const LOOKS: u32 = 50;

/// Why an agent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// A signal.
    Signal(&'static str),
    /// A successor serves the node.
    Replaced,
}

/// All that has to end.
pub(super) struct Ending<'a> {
    /// The connections.
    pub(super) connections: &'a Scope,
    /// The listeners.
    pub(super) listening: &'a Scope,
    /// The addresses at which this agent is asked, and their scope.
    pub(super) asked: (&'a Ports, &'a Scope),
    /// Counts what is open.
    pub(super) telemetry: &'a Telemetry,
    /// Closes connections to applications that wait for a request: an agent that stops waits for none of
    /// its own.
    pub(super) close_idle: &'a dyn Fn(),
    /// Whether a successor serves the node.
    pub(super) replaced: Replaced,
    /// How long open connections may take to end.
    pub(super) timeout: Duration,
}

/// Waits for the reason to end. `leaves` is called when the parent has ended: from then on a successor is
/// awaited, for [`LEFT`].
pub(super) async fn reason(stop: &mut Signals, replaced: &mut Replaced, leaves: impl Fn()) -> End {
    tokio::select! {
        asked = stop.any() => if let Asked::Stop(signal) = asked { return End::Signal(signal) },
        true = is_replaced(replaced) => return End::Replaced,
    }
    leaves();
    tracing::info!("the parent has ended: this agent serves until a successor does");
    tokio::select! {
        signal = stop.received() => End::Signal(signal),
        true = is_replaced(replaced) => End::Replaced,
        () = sleep(LEFT) => {
            tracing::warn!(seconds = LEFT.as_secs(), "no successor has come: start the agent again");
            End::Signal("SIGUSR2")
        }
    }
}

/// Whether it was; never ready where nobody can.
async fn is_replaced(replaced: &mut Replaced) -> bool {
    if replaced.wait_for(|it| *it == Successor::Serves).await.is_err() {
        std::future::pending::<()>().await;
    }
    true
}

impl Ending<'_> {
    /// Ends all connections, in time. Without a successor, connections are taken as ever until those
    /// that are open have ended, or most of the time is over: nothing is left to its failure mode before
    /// that. Another signal cuts this short.
    pub(super) async fn end(self, end: End, stop: &mut Signals) {
        let late = Instant::now() + self.timeout;
        let mut replaced = self.replaced.clone();
        if end != End::Replaced {
            let most = late - self.timeout / LAST_PART;
            tokio::select! {
                () = self.idle() => {}
                () = sleep_until(most) => {}
                signal = stop.received() => {
                    tracing::info!(signal, "stopping: connections are not waited for any longer");
                }
                true = is_replaced(&mut replaced) => return self.hand_over(late).await,
            }
        }
        if end == End::Replaced || *self.replaced.borrow() == Successor::Serves {
            return self.hand_over(late).await;
        }
        let _listeners = self.listening.drain(Duration::ZERO).await;
        let _scopes = self.connections.drain(late.saturating_duration_since(Instant::now())).await;
    }

    /// Waits until no connection is open, and no successor starts.
    async fn idle(&self) {
        let starts = || *self.replaced.borrow() == Successor::Starts;
        let mut looks = 0;
        while self.telemetry.open_connections() > 0 || starts() {
            if looks % LOOKS == 0 {
                (self.close_idle)();
            }
            looks += 1;
            sleep(LOOK).await;
        }
    }

    /// Drains what is open while a successor takes what is new.
    async fn hand_over(&self, late: Instant) {
        let (ports, scope) = self.asked;
        ports.release(scope).await;
        let linger = sleep(LINGER.min(self.timeout));
        let draining = self.connections.drain(late.saturating_duration_since(Instant::now()));
        let both = async { tokio::join!(linger, draining) };
        drop(timeout_at(late + LINGER, both).await);
        let _listeners = self.listening.drain(Duration::ZERO).await;
    }
}
