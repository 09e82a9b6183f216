//! Whether the peer of a tunnel is heard. [`Silence`] is pure: time is an argument.
//!
//! A peer that is asked for a stream answers when its application does, which may take long. So what
//! counts is whether anything is heard from it: if not, it is asked whether it is there, by a ping,
//! which it answers at once; and if that is not answered either, the tunnel is silent. It takes no
//! more streams then, until it is heard again.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::model::spiffe::SpiffeId;

/// How long a peer may say nothing after it was asked for a stream, and after it was asked whether it
/// is there, at the least. Twice that and a handshake are within a second; one lost packet is not
/// enough for it: Linux sends it again after 200 ms (`TCP_RTO_MIN`).
const LEAST: Duration = Duration::from_millis(400);

/// Longest such time, and the one while it is not known how long a peer takes to answer a ping.
const MOST: Duration = Duration::from_secs(5);

/// It may take so many times as long as its slowest answer of late.
const TIMES: u32 = 3;

/// State of one peer on one tunnel: the answers that it owes.
#[derive(Debug, Default)]
pub struct Silence {
    /// Since when the peer owes an answer. It has said nothing since.
    asked: Option<Instant>,
    /// Since when it owes the answer to a ping that it was sent after that.
    probed: Option<Instant>,
    is_silent: bool,
    /// How long it took to answer a ping, of late; `None`: it has answered none.
    slowest: Option<Duration>,
}

/// Action about a peer that says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, unless it owes an answer later than now.
    Wait,
    /// It is asked whether it is there.
    Probe,
    /// The tunnel has become silent.
    Silent,
}

impl Silence {
    /// The peer was asked for something, and should be heard.
    pub fn ask(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
    }

    /// The peer was sent a ping, for whatever reason.
    pub fn ping(&mut self, now: Instant) {
        self.ask(now);
        self.probed.get_or_insert(now);
    }

    /// The peer has answered a ping after so long.
    pub fn answered(&mut self, lasted: Duration) {
        let before = self.slowest.unwrap_or_default();
        self.slowest = Some(lasted.max(before * 7 / 8));
    }

    /// The peer was heard. True: the tunnel was silent, and is not any more.
    pub const fn hear(&mut self) -> bool {
        self.asked = None;
        self.probed = None;
        std::mem::replace(&mut self.is_silent, false)
    }

    /// Whether the peer did not answer, and has not been heard since.
    pub const fn is_silent(&self) -> bool {
        self.is_silent
    }

    /// When [`Self::step`] has something to do, if the peer is not heard until then.
    pub fn due(&self) -> Option<Instant> {
        let since = self.probed.or(self.asked).filter(|_| !self.is_silent);
        since.map(|since| since + self.patience())
    }

    /// Action that is due at `now`. It is taken for done: a peer that was asked whether it
    /// is there has as long again.
    pub fn step(&mut self, now: Instant) -> Step {
        if self.due().is_none_or(|due| now < due) {
            return Step::Wait;
        }
        if self.probed.is_none() {
            self.probed = Some(now);
            return Step::Probe;
        }
        self.is_silent = true;
        Step::Silent
    }

    fn patience(&self) -> Duration {
        self.slowest.map_or(MOST, |slowest| (slowest * TIMES).clamp(LEAST, MOST))
    }
}

/// News of the tunnels to one peer, for connections that wait for one.
#[derive(Debug)]
pub struct News {
    peer: SocketAddr,
    destination: SpiffeId,
    changed: Notify,
}

impl News {
    /// News of the tunnels to the agent at `peer`, which serves `destination`.
    pub fn new(peer: SocketAddr, destination: SpiffeId) -> Self {
        Self { peer, destination, changed: Notify::new() }
    }

    /// A tunnel has become silent.
    pub fn silent(&self) {
        let Self { peer, destination, .. } = self;
        tracing::debug!(%peer, %destination, "a tunnel is silent: the peer's agent does not answer");
    }

    /// A silent one was heard again.
    pub fn heard(&self) {
        let Self { peer, destination, .. } = self;
        tracing::debug!(%peer, %destination, "a silent tunnel was heard again");
        self.changed.notify_waiters();
    }

    /// Resolves when one is heard again, from the call on.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }
}

/// A timer that is set for each question and seldom rings: most are answered long before, and setting
/// it anew for each costs more than letting it ring in vain.
#[derive(Debug, Default)]
pub struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready when `due` is past.
    pub fn poll(&mut self, cx: &mut Context<'_>, due: Option<Instant>) -> Poll<()> {
        let Some(due) = due else { return Poll::Pending };
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.is_elapsed() || due < sleep.deadline() {
            sleep.as_mut().reset(due);
        }
        ready!(sleep.as_mut().poll(cx));
        while Instant::now() < due {
            sleep.as_mut().reset(due);
            ready!(sleep.as_mut().poll(cx));
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the life of a tunnel whose peer answers pings after so many milliseconds, of late: `o` it
    /// is asked for a stream, `p` it is sent a ping, `h` it is heard, a digit so many tenths of a
    /// second pass. The actions: `-` nothing at a digit, `?` a probe, `!` it is silent, `+` it is
    /// heard again.
    #[track_caller]
    fn check(answers_ms: u64, script: &str, expect: &str) {
        let (mut now, mut silence, mut done) = (Instant::now(), Silence::default(), String::new());
        silence.answered(Duration::from_millis(answers_ms));
        for word in script.chars() {
            match word {
                'o' => silence.ask(now),
                'p' => silence.ping(now),
                'h' => done.push_str(if silence.hear() { "+" } else { "" }),
                digit => {
                    now += Duration::from_millis(100) * digit.to_digit(10).unwrap();
                    done.push(match silence.step(now) {
                        Step::Wait => '-',
                        Step::Probe => '?',
                        Step::Silent => '!',
                    });
                }
            }
        }
        assert_eq!(done, expect, "{script}");
    }

    #[test]
    fn a_peer_that_says_nothing_is_probed_and_then_silent() {
        check(1, "o3131", "-?-!");
        check(1, "o44449", "?!---");
    }

    #[test]
    fn a_slow_application_is_not_a_silent_peer() {
        // Its peer answers the ping, and nothing else.
        check(1, "o4h9999", "?----");
        // The next question is one of its own.
        check(1, "o4h9o44", "?-?!");
    }

    #[test]
    fn a_question_after_another_changes_nothing() {
        check(1, "o3o1o3o1", "-?-!");
    }

    #[test]
    fn a_ping_that_is_under_way_is_the_probe() {
        check(1, "p31", "-!");
        check(1, "o2p31", "--!");
    }

    #[test]
    fn one_that_is_heard_again_is_as_before() {
        check(1, "o44h9o44", "?!+-?!");
    }

    #[test]
    fn nobody_is_silent_who_owes_nothing() {
        check(1, "99h9", "---");
    }

    #[test]
    fn who_answers_slowly_has_more_time() {
        check(500, "o951951", "--?--!");
        check(60_000, "o999995", "-----?");
    }

    #[test]
    fn a_slow_answer_is_forgotten_after_quick_ones() {
        let mut silence = Silence::default();
        assert_eq!(silence.patience(), MOST, "nothing is known");
        silence.answered(Duration::from_secs(1));
        assert_eq!(silence.patience(), Duration::from_secs(3));
        (0..32).for_each(|_| silence.answered(Duration::from_millis(1)));
        assert_eq!(silence.patience(), LEAST);
    }

    #[tokio::test(start_paused = true)]
    async fn the_alarm_rings_at_the_time_that_was_said_last() {
        let (mut alarm, start) = (Alarm::default(), Instant::now());
        let mut ring = async |after: Option<u64>| {
            let due = after.map(|millis| start + Duration::from_millis(millis));
            let ringing = std::future::poll_fn(|cx| alarm.poll(cx, due));
            let rang = tokio::time::timeout_at(start + Duration::from_secs(9), ringing).await;
            rang.is_ok().then(|| start.elapsed().as_millis())
        };
        assert_eq!(ring(Some(500)).await, Some(500));
        assert_eq!(ring(Some(700)).await, Some(700));
        assert_eq!(ring(Some(600)).await, Some(700));
        assert_eq!(ring(None).await, None);
    }
}
