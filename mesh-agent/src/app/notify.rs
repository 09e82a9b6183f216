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

/// This process's relation to the one that the manager started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It is that one.
    Main,
    /// It has taken over from that one, or from another agent.
    Successor,
    /// The main process is its parent.
    Child,
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
    Replaced,
    Leaves,
}

/// A message for the manager.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Message {
    Ready,
    /// This process is the unit's main one.
    Main,
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
    (node, role): (&str, Role),
    pulse: Pulse,
    look: impl Fn() -> Now + Send + 'static,
) -> io::Result<Notifier> {
    if std::env::var_os(SOCKET).is_none() {
        return Ok(Notifier(None));
    }
    let (events, received) = sync_channel(QUEUE);
    let (end, ended) = sync_channel(1);
    // Half of the time after which the manager acts, as sd_watchdog_enabled(3) recommends.
    let watchdog = watchdog(role).map(|limit| limit / 2);
    let mut report = Report::new(node, watchdog, role == Role::Successor);
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

/// The time after which the manager wants to have had a sign of life, if it watches this process or, of a
/// [child](Role::Child), its parent.
fn watchdog(role: Role) -> Option<Duration> {
    if role != Role::Child {
        return sd_notify::watchdog_enabled();
    }
    let number = |name| std::env::var_os(name)?.to_str()?.parse::<u64>().ok();
    // The parent's pid is in `WATCHDOG_PID`; it may have ended since.
    let _parent = number("WATCHDOG_PID")?;
    number("WATCHDOG_USEC").filter(|usec| *usec > 0).map(Duration::from_micros)
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

    /// A successor serves the node, and reports for itself: if it is of the same unit, the manager would
    /// end it with this agent if that said that it stops.
    pub(super) fn is_replaced(&self) {
        self.reloads().tell(Event::Replaced);
    }

    /// The manager takes the unit's main process for ended: all else it hears is a successor's.
    pub(super) fn leaves(&self) {
        self.reloads().tell(Event::Leaves);
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

/// Phase of the agent, as far as the manager has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Runs,
    Reloads,
    Stops,
    /// A successor reports: nothing but signs of life is sent, for a manager that still watches this
    /// process.
    Replaced,
    /// The manager knows this process no more: nothing is sent.
    Left,
}

/// State of the reports: which messages are due.
#[derive(Debug)]
struct Report {
    node: String,
    /// Time between two signs of life.
    watchdog: Option<Duration>,
    /// The last sign of life.
    alive: Option<Duration>,
    /// Whether this process has another one's place, which the manager is told.
    is_successor: bool,
    was_ready: bool,
    phase: Phase,
    status: String,
}

impl Report {
    fn new(node: &str, watchdog: Option<Duration>, is_successor: bool) -> Self {
        let node = node.to_owned();
        let (was_ready, phase) = (false, Phase::Runs);
        let (alive, status) = (None, String::new());
        Self { node, watchdog, alive, is_successor, was_ready, phase, status }
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
        match (event, self.phase) {
            (Some(Event::Leaves), _) => self.phase = Phase::Left,
            (_, Phase::Left) => {}
            (Some(Event::Replaced), _) => self.phase = Phase::Replaced,
            // Before it was ready once, `READY=1` would end the start and not the reload.
            (Some(Event::Reloads), Phase::Runs) if self.was_ready => {
                self.phase = Phase::Reloads;
                due.push(Message::Reloading(now));
            }
            (Some(Event::Reloaded), Phase::Reloads) => {
                self.phase = Phase::Runs;
                due.push(Message::Ready);
            }
            (Some(Event::Stops), _) => {
                self.phase = Phase::Stops;
                due.push(Message::Stopping);
            }
            _ => {}
        }
        let reports = matches!(self.phase, Phase::Runs | Phase::Reloads);
        if reports && !self.was_ready && state.missing.is_empty() {
            self.was_ready = true;
            due.extend(self.is_successor.then_some(Message::Main));
            due.push(Message::Ready);
        }
        if reports || self.phase == Phase::Stops {
            let status = self.status(state);
            if status != self.status {
                self.status.clone_from(&status);
                due.push(Message::Status(status));
            }
        }
        let is_due = |every| self.alive.is_none_or(|last| now.saturating_sub(last) >= every);
        if works && self.phase != Phase::Left && self.watchdog.is_some_and(is_due) {
            self.alive = Some(now);
            due.push(Message::Watchdog);
        }
        due
    }

    /// One line for people.
    fn status(&self, state: &Now) -> String {
        let Self { node, .. } = self;
        let mut line = if self.phase == Phase::Stops {
            format!("node {node}: stopping, {} connections open", state.n_connections)
        } else if self.phase == Phase::Reloads {
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
        Message::Main => [Some(NotifyState::MainPid(std::process::id())), None],
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
        let mut report = Report::new("a", None, false);
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
        let mut report = Report::new("a", None, false);
        report.step(at(0), Some(Event::Stops), &state(&["a"]), true);
        assert_eq!(report.step(at(1), None, &state(&[]), true), []);
    }

    #[test]
    fn an_agent_that_is_replaced_leaves_the_reports_to_its_successor() {
        let mut report = Report::new("a", Some(at(10)), true);
        let ready = [Message::Main, Message::Ready, status("3 workloads"), Message::Watchdog];
        assert_eq!(report.step(at(10), None, &state(&[]), true), ready);
        // It stops, which would be the end of the unit that both are of.
        let gone = state(&["not stopping"]);
        assert_eq!(report.step(at(11), Some(Event::Replaced), &gone, true), []);
        assert_eq!(report.step(at(21), None, &gone, true), [Message::Watchdog]);
        assert_eq!(report.step(at(41), Some(Event::Leaves), &gone, true), []);
        assert_eq!(report.step(at(61), Some(Event::Stops), &gone, true), []);
    }

    #[test]
    fn a_sign_of_life_is_given_at_half_of_the_limit_while_the_threads_work() {
        let mut report = Report::new("a", Some(at(500)), false);
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
        let mut report = Report::new(&long, None, false);
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
        assert_eq!((of("Type"), of("NotifyAccess"), of("KillMode")), ("notify", "all", "process"));
        assert!(
            of("ExecStart").ends_with(" run --as-child") && of("ExecStop").contains("kill -USR2")
        );
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
