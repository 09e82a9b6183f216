//! Reports of the agent's state to the service manager (`sd_notify(3)`), from a thread that the manager
//! may hold up: a unit of `Type=notify` is active once the agent is ready, its status is one line, and
//! `WatchdogSec=` has it killed when a vital thread hangs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::task::clock;
use crate::task::turns::STALL;

/// The time between two looks at the state.
const LOOK: Duration = Duration::from_millis(200);

/// Events that wait for the thread. More come only while the manager does not take what is sent.
const QUEUE: usize = 16;

/// How long the agent's end waits for the last report.
const FAREWELL: Duration = Duration::from_secs(1);

/// The longest status in bytes: it is a line for people, and names of nodes and gates may be long.
const MAX_STATUS: usize = 400;

/// The variable that names the manager's socket.
const SOCKET: &str = "NOTIFY_SOCKET";

/// The last time at which no vital thread was stuck, on [`clock::monotonic`]. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Beats now for the first time.
    pub(super) fn new() -> Self {
        let pulse = Self(Arc::default());
        pulse.beat(clock::monotonic());
        pulse
    }

    /// No vital thread is stuck.
    pub(super) fn beat(&self, now: Duration) {
        let millis = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.0.store(millis, Ordering::Relaxed);
    }

    /// Whether it beats: the threads work, and so does the one that watches them.
    fn is_there(&self, now: Duration) -> bool {
        now.saturating_sub(Duration::from_millis(self.0.load(Ordering::Relaxed))) <= STALL
    }
}

/// The agent's state, as far as it is reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Now {
    /// Names of gates that are closed; none: it is ready.
    pub missing: Vec<String>,
    /// Workloads whose connections are captured.
    pub n_workloads: usize,
    /// Connections through the agent that are open.
    pub n_connections: u64,
}

/// Something that has begun or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Reloads,
    Reloaded,
    Stops,
}

/// A message for the manager.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Message {
    Ready,
    /// Since this time of the monotonic clock.
    Reloading(Duration),
    Stopping,
    Status(String),
    Watchdog,
}

/// Tells the service manager. Dropping it ends the reports, once the last one has been sent.
#[derive(Debug)]
pub(super) struct Notifier(Option<Running>);

#[derive(Debug)]
struct Running {
    /// `None`: the thread is to end.
    events: Option<SyncSender<Event>>,
    /// Closed at the thread's end.
    ended: Receiver<()>,
}

/// A notifier's end for who reloads. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Reloads(Option<SyncSender<Event>>);

/// Reports until the result is dropped, if there is a manager that wants it. `look` is asked for the
/// state from a thread.
///
/// # Errors
///
/// The thread cannot be started.
pub(super) fn start(
    node: &str,
    pulse: Pulse,
    look: impl Fn() -> Now + Send + 'static,
) -> io::Result<Notifier> {
    if std::env::var_os(SOCKET).is_none() {
        return Ok(Notifier(None));
    }
    let (events, received) = sync_channel(QUEUE);
    let (end, ended) = sync_channel(1);
    // Half of the time after which the manager acts, as sd_watchdog_enabled(3) recommends.
    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 2);
    let mut report = Report::new(node, watchdog);
    let named = thread::Builder::new().name("notify".to_owned());
    // It may be held up for ever by the manager, and is not waited for then.
    drop(named.spawn(move || {
        let mut is_refused = false;
        loop {
            let pause = report.pause(clock::monotonic());
            let event = match received.recv_timeout(pause) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let now = clock::monotonic();
            let sent = send(&report.step(now, event, &look(), pulse.is_there(now)));
            let was_refused = std::mem::replace(&mut is_refused, sent.is_err());
            if let Err(error) = sent
                && !was_refused
            {
                tracing::warn!(%error, "the service manager cannot be told ({SOCKET})");
            }
        }
        drop(end);
    })?);
    Ok(Notifier(Some(Running { events: Some(events), ended })))
}

impl Notifier {
    /// Where reloads are told.
    pub(super) fn reloads(&self) -> Reloads {
        Reloads(self.0.as_ref().and_then(|running| running.events.clone()))
    }

    /// The agent stops: it takes no new connections.
    pub(super) fn stops(&self) {
        self.reloads().tell(Event::Stops);
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if let Some(mut running) = self.0.take() {
            drop(running.events.take());
            // Nothing is ever sent: it is closed, or the manager holds it up.
            let _either: Result<(), _> = running.ended.recv_timeout(FAREWELL);
        }
    }
}

impl Reloads {
    /// A reload begins.
    pub(super) fn begin(&self) {
        self.tell(Event::Reloads);
    }

    /// It is over.
    pub(super) fn end(&self) {
        self.tell(Event::Reloaded);
    }

    fn tell(&self, event: Event) {
        if let Some(events) = &self.0 {
            // Full: the manager takes nothing, and is not waited for.
            let _dropped: Result<(), _> = events.try_send(event);
        }
    }
}

/// State of the reports: which messages are due.
#[derive(Debug)]
struct Report {
    node: String,
    /// Time between two signs of life.
    watchdog: Option<Duration>,
    /// The last sign of life.
    alive: Option<Duration>,
    was_ready: bool,
    is_reloading: bool,
    is_stopping: bool,
    status: String,
}

impl Report {
    fn new(node: &str, watchdog: Option<Duration>) -> Self {
        let node = node.to_owned();
        let (was_ready, is_reloading, is_stopping) = (false, false, false);
        let (alive, status) = (None, String::new());
        Self { node, watchdog, alive, was_ready, is_reloading, is_stopping, status }
    }

    /// How long to wait for an event.
    fn pause(&self, now: Duration) -> Duration {
        let due = self.watchdog.zip(self.alive).map(|(every, last)| last + every);
        due.map_or(LOOK, |due| due.saturating_sub(now).clamp(Duration::from_millis(1), LOOK))
    }

    /// Messages that are due, in order. `works`: no vital thread is stuck.
    fn step(
        &mut self,
        now: Duration,
        event: Option<Event>,
        state: &Now,
        works: bool,
    ) -> Vec<Message> {
        let mut due = vec![];
        match event {
            // Before it was ready once, `READY=1` would end the start and not the reload.
            Some(Event::Reloads) if self.was_ready && !self.is_stopping => {
                self.is_reloading = true;
                due.push(Message::Reloading(now));
            }
            Some(Event::Reloaded) if self.is_reloading => {
                self.is_reloading = false;
                due.push(Message::Ready);
            }
            Some(Event::Stops) => {
                (self.is_stopping, self.is_reloading) = (true, false);
                due.push(Message::Stopping);
            }
            Some(Event::Reloads | Event::Reloaded) | None => {}
        }
        if !self.was_ready && !self.is_stopping && state.missing.is_empty() {
            self.was_ready = true;
            due.push(Message::Ready);
        }
        let status = self.status(state);
        if status != self.status {
            self.status.clone_from(&status);
            due.push(Message::Status(status));
        }
        let is_due = |every| self.alive.is_none_or(|last| now.saturating_sub(last) >= every);
        if works && self.watchdog.is_some_and(is_due) {
            self.alive = Some(now);
            due.push(Message::Watchdog);
        }
        due
    }

    /// One line for people.
    fn status(&self, state: &Now) -> String {
        let Self { node, .. } = self;
        let mut line = if self.is_stopping {
            format!("node {node}: stopping, {} connections open", state.n_connections)
        } else if self.is_reloading {
            format!("node {node}: reloading")
        } else if state.missing.is_empty() {
            let s = if state.n_workloads == 1 { "" } else { "s" };
            format!("node {node}: {} workload{s}", state.n_workloads)
        } else {
            format!("node {node}: not ready: {}", state.missing.join(", "))
        };
        line.truncate(line.floor_char_boundary(MAX_STATUS));
        line.retain(|c| !c.is_control());
        line
    }
}

/// Sends messages as one datagram.
fn send(messages: &[Message]) -> io::Result<()> {
    if messages.is_empty() {
        return Ok(());
    }
    let states = messages.iter().flat_map(|message| match message {
        Message::Ready => [Some(NotifyState::Ready), None],
        Message::Reloading(since) => {
            let micros = i128::try_from(since.as_micros()).unwrap_or(i128::MAX);
            [Some(NotifyState::Reloading), Some(NotifyState::MonotonicUsec(micros))]
        }
        Message::Stopping => [Some(NotifyState::Stopping), None],
        Message::Status(line) => [Some(NotifyState::Status(line)), None],
        Message::Watchdog => [Some(NotifyState::Watchdog), None],
    });
    sd_notify::notify(&states.flatten().collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::defaults;
    use crate::sys::caps;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn state(missing: &[&str]) -> Now {
        let missing = missing.iter().map(|&name| name.to_owned()).collect();
        Now { missing, n_workloads: 3, n_connections: 7 }
    }

    fn status(line: &str) -> Message {
        Message::Status(format!("node a: {line}"))
    }

    #[test]
    fn it_is_told_what_has_changed_and_no_more() {
        let mut report = Report::new("a", None);
        let mut check = |event, missing: &[&str], expect: &[Message]| {
            assert_eq!(report.step(at(5), event, &state(missing), true), expect);
        };
        let waits = ["workloads enrolled", "kernel programs in force"];
        check(None, &waits, &[status("not ready: workloads enrolled, kernel programs in force")]);
        check(None, &waits, &[]);
        // A reload before it is ready must not end the start.
        check(Some(Event::Reloads), &waits, &[]);
        check(Some(Event::Reloaded), &waits, &[]);
        check(None, &[], &[Message::Ready, status("3 workloads")]);
        check(None, &[], &[]);
        check(None, &["thread data-0 running"], &[status("not ready: thread data-0 running")]);
        check(None, &[], &[status("3 workloads")]);
        check(Some(Event::Reloads), &[], &[Message::Reloading(at(5)), status("reloading")]);
        check(Some(Event::Reloaded), &[], &[Message::Ready, status("3 workloads")]);
        let stopping = status("stopping, 7 connections open");
        check(Some(Event::Stops), &["not stopping"], &[Message::Stopping, stopping]);
        check(Some(Event::Reloads), &["not stopping"], &[]);
    }

    #[test]
    fn an_agent_that_stops_before_it_was_ready_never_is() {
        let mut report = Report::new("a", None);
        report.step(at(0), Some(Event::Stops), &state(&["a"]), true);
        assert_eq!(report.step(at(1), None, &state(&[]), true), []);
    }

    #[test]
    fn a_sign_of_life_is_given_at_half_of_the_limit_while_the_threads_work() {
        let mut report = Report::new("a", Some(at(500)));
        let mut alive = |millis, works| {
            report.step(at(millis), None, &state(&[]), works).contains(&Message::Watchdog)
        };
        let seen = [(1000, true), (1499, true), (1500, true), (2000, false), (2200, true)];
        assert_eq!(
            seen.map(|(millis, works)| alive(millis, works)),
            [true, false, true, false, true]
        );
        assert_eq!(report.pause(at(2600)), at(100));
        assert_eq!(report.pause(at(2200)), LOOK);
        assert_eq!(report.pause(at(9000)), at(1), "late, and the threads do not work");
    }

    #[test]
    fn a_status_is_one_short_line() {
        let long = "x\ny".repeat(1000);
        let mut report = Report::new(&long, None);
        let told = report.step(at(0), None, &state(&[]), true);
        let Some(Message::Status(line)) = told.last() else { panic!("{told:?}") };
        assert!(line.len() <= MAX_STATUS && !line.contains('\n'), "{line}");
    }

    /// The unit says of the agent what the agent does.
    #[test]
    fn the_unit_file_fits_the_agent() {
        let unit = include_str!("../../../examples/systemd/mesh-agent.service");
        let of = |name: &str| {
            let line = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.unwrap_or_else(|| panic!("no {name}"))
        };
        let seconds = |name: &str| Duration::from_secs(of(name).parse().unwrap());
        assert_eq!(of("Type"), "notify");
        assert!(seconds("WatchdogSec") > defaults::WATCHDOG_TIMEOUT + Duration::from_secs(10));
        assert!(seconds("TimeoutStopSec") > defaults::DRAIN_TIMEOUT + Duration::from_secs(10));
        let mut named: Vec<_> = of("CapabilityBoundingSet").split(' ').collect();
        let mut needed: Vec<_> = caps::NEEDED.iter().map(|need| need.1).collect();
        named.sort_unstable();
        needed.sort_unstable();
        assert_eq!(named, needed);
        assert!(defaults::RUN_DIRECTORY.ends_with(of("RuntimeDirectory")));
        assert!(defaults::CA_DIRECTORY.contains(of("ConfigurationDirectory")));
        assert_eq!(of("ReadWritePaths"), defaults::BPFFS);
    }

    #[test]
    fn a_pulse_ends_with_who_beats() {
        let pulse = Pulse::new();
        pulse.beat(at(5000));
        assert!(pulse.is_there(at(5000)) && pulse.is_there(at(5000) + STALL));
        assert!(!pulse.is_there(at(5001) + STALL));
    }
}
