//! Turns of a data thread, shared fairly between those on whose behalf its tasks run.
//!
//! Tokio polls tasks in the order in which they woke, so that a client with a thousand connections has
//! a thousand turns for each one of a client with one. Here each [`Party`] has a queue of its own once it
//! has used a [`QUANTUM`]: one of its tasks at a time is in Tokio's queue, and the next one follows when
//! that has had its turn (the round robin of Nagle, "On packet switches with infinite storage",
//! RFC 970, with turns of tasks for packets). Others then wait for one turn of it and not for all.
//!
//! Within a group the members take turns: the clients of one identity at different addresses, and
//! the addresses of one network.
//!
//! A task keeps its place while it waits, so that work that others of its group wait for is done in the
//! order in which it came. Tasks of nobody, as those that accept connections, run at once.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, BuildHasherDefault, Hash, Hasher, RandomState};
use std::num::NonZeroU64;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

/// The time that the tasks of a group may use before they wait for one another.
const QUANTUM: Duration = Duration::from_millis(1);

/// So many groups may be known before those that wait for nothing are forgotten.
const FEW_GROUPS: usize = 64;

/// Secret, so that nobody chooses whose turns they share.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// Numbers of parties that are nobody else's.
static OWN: AtomicU64 = AtomicU64::new(0);

/// On whose behalf a task runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party {
    group: NonZeroU64,
    member: u64,
}

impl Party {
    /// One of a group. Equal parts are the same party, on every thread.
    pub fn of(group: &impl Hash, member: &impl Hash) -> Self {
        let group = NonZeroU64::new(HASHER.hash_one(group)).unwrap_or(NonZeroU64::MIN);
        Self { group, member: HASHER.hash_one(member) }
    }

    /// Nobody else, for a connection that several clients share.
    pub fn own() -> Self {
        Self::of(&("own", OWN.fetch_add(1, Ordering::Relaxed)), &())
    }
}

/// Has the task that calls it run on behalf of `party` from now on, with all that it spawns.
pub fn run_for(party: Party) {
    CURRENT.set(Some(party));
}

thread_local! {
    /// The party of the task that is being polled.
    static CURRENT: Cell<Option<Party>> = const { Cell::new(None) };
    /// The groups of this thread; `None` where turns are not shared.
    static GROUPS: RefCell<Option<Groups>> = const { RefCell::new(None) };
    /// When the last turn ended, if nothing else was done since: the next one begins then. A look at the
    /// clock costs as much as the rest of what a turn does here.
    static ENDED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Has the tasks of this thread share its turns. All of them are polled by it alone.
pub(super) fn share_this_thread() {
    GROUPS.set(Some(Groups::default()));
}

/// Says that this thread has nothing to do, or does something else than turns.
pub(super) fn rest() {
    ENDED.set(None);
}

/// A task's part in it. Asked before each poll, and told after it.
#[derive(Debug)]
pub(super) struct Seat {
    party: Option<Party>,
    waits: bool,
}

/// A turn that a task may have.
#[derive(Debug)]
pub(super) struct Turn {
    /// `None`: it is nobody's, or turns are not shared.
    began: Option<Instant>,
    /// It was waited for.
    is_next: bool,
}

impl Turn {
    const FREE: Self = Self { began: None, is_next: false };
}

impl Seat {
    /// For a task that the one that is being polled spawns.
    pub(super) fn inherited() -> Self {
        Self { party: CURRENT.get(), waits: false }
    }

    /// Asks for a turn. `None`: the task waits, and is woken when it has one. `task` is its address,
    /// which it keeps until it ends; it may not end before it has had the turn that it waits for.
    pub(super) fn enter(&mut self, task: usize, cx: &Context<'_>) -> Option<Turn> {
        let Some(party) = self.party else { return Some(Turn::FREE) };
        GROUPS.with_borrow_mut(|groups| {
            let Some(groups) = groups else { return Some(Turn::FREE) };
            let group = groups.of(party.group);
            let may = if self.waits { group.next == Some(task) } else { group.is_free() };
            if may {
                let is_next = std::mem::take(&mut self.waits);
                if is_next {
                    group.next = None;
                }
                let began = ENDED.get().unwrap_or_else(Instant::now);
                return Some(Turn { began: Some(began), is_next });
            }
            if !std::mem::replace(&mut self.waits, true) {
                group.wait(party.member, Waiting { task, waker: cx.waker().clone() });
            }
            None
        })
    }

    /// Has the task polled in its turn, and gives the next one of its group theirs: of the group whose turn it
    /// was, also if the task belongs to another one from now on.
    pub(super) fn have<T>(&mut self, turn: &Turn, poll: impl FnOnce() -> T) -> T {
        let entered = self.party;
        let before = CURRENT.replace(entered);
        let polled = poll();
        self.party = CURRENT.replace(before);
        let (Some(party), Some(began)) = (entered, turn.began) else {
            rest();
            return polled;
        };
        let ended = Instant::now();
        ENDED.set(Some(ended));
        GROUPS.with_borrow_mut(|groups| {
            if let Some(groups) = groups {
                groups.of(party.group).had(ended.saturating_duration_since(began), turn.is_next);
            }
        });
        polled
    }
}

/// The groups whose tasks run, or wait.
#[derive(Debug)]
struct Groups {
    all: HashMap<NonZeroU64, Group, BuildHasherDefault<Hashed>>,
    /// How many there may be before those that are not needed are forgotten.
    most: usize,
}

impl Default for Groups {
    fn default() -> Self {
        Self { all: HashMap::default(), most: FEW_GROUPS }
    }
}

impl Groups {
    fn of(&mut self, group: NonZeroU64) -> &mut Group {
        if self.all.len() >= self.most {
            self.all.retain(|_, group| group.is_waited_for());
            self.most = FEW_GROUPS.max(self.all.len() * 2);
        }
        self.all.entry(group).or_default()
    }
}

/// The tasks of one group.
#[derive(Debug, Default)]
struct Group {
    /// How long they ran since none of them waited.
    used: Duration,
    /// The one that was woken and has the next turn.
    next: Option<usize>,
    /// Those that wait, by member; no member has none.
    waiting: HashMap<u64, VecDeque<Waiting>, BuildHasherDefault<Hashed>>,
    /// The members that have tasks that wait, in the order of their turns.
    order: VecDeque<u64>,
}

/// A task that waits for a turn.
#[derive(Debug)]
struct Waiting {
    task: usize,
    waker: Waker,
}

impl Group {
    fn is_waited_for(&self) -> bool {
        self.next.is_some() || !self.order.is_empty()
    }

    /// Whether a task may run that has not waited.
    fn is_free(&self) -> bool {
        self.used < QUANTUM && !self.is_waited_for()
    }

    fn wait(&mut self, member: u64, waiting: Waiting) {
        let queue = self.waiting.entry(member).or_insert_with(|| {
            self.order.push_back(member);
            VecDeque::new()
        });
        queue.push_back(waiting);
        if self.next.is_none() {
            self.wake_next();
        }
    }

    /// Wakes the next one. There is none: all may run again.
    fn wake_next(&mut self) {
        let Some(member) = self.order.pop_front() else { return };
        let Some(queue) = self.waiting.get_mut(&member) else { return };
        let first = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&member);
        } else {
            self.order.push_back(member);
        }
        let Some(Waiting { task, waker }) = first else { return };
        self.next = Some(task);
        // Behind all that are ready now.
        waker.wake();
    }

    /// A task has run for so long.
    fn had(&mut self, used: Duration, is_next: bool) {
        self.used = self.used.saturating_add(used);
        if self.next.is_some() {
            return;
        }
        if is_next && self.order.is_empty() {
            self.used = Duration::ZERO;
        }
        self.wake_next();
    }
}

/// Takes a number that is a hash already for one.
#[derive(Debug, Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::Mutex;
    use std::task::Poll;

    use tokio::task::yield_now;

    use super::*;
    use crate::task::scope::Scope;

    /// Ends a turn; the next one comes behind all that are ready now.
    async fn turn() {
        let mut is_over = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut is_over, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Keeps the thread busy.
    fn work(time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {}
    }

    /// Runs `test` on a thread that shares its turns.
    fn shared<T: Future<Output = ()>>(test: impl FnOnce(Scope) -> T) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        share_this_thread();
        runtime.block_on(async {
            let scope = Scope::new("test");
            test(scope.clone()).await;
        });
        GROUPS.set(None);
    }

    type Log = Arc<Mutex<Vec<&'static str>>>;

    /// Tasks of `party`, each of so many turns.
    fn tasks(scope: &Scope, party: Party, count: usize, name: &'static str, log: &Log) {
        for _ in 0..count {
            let log = Arc::clone(log);
            scope.spawn(async move {
                run_for(party);
                for _ in 0..10 {
                    turn().await;
                    work(Duration::from_micros(200));
                    log.lock().unwrap().push(name);
                }
            });
        }
    }

    async fn ended(scope: &Scope) {
        while scope.count() > 0 {
            yield_now().await;
        }
    }

    #[test]
    fn one_of_many_tasks_has_as_many_turns_as_the_only_one_of_another() {
        shared(async |scope| {
            let log = Log::default();
            tasks(&scope, Party::of(&1, &1), 100, "many", &log);
            tasks(&scope, Party::of(&2, &1), 1, "one", &log);
            ended(&scope).await;
            let log = log.lock().unwrap();
            assert_eq!(log.len(), 1_010);
            let last = log.iter().rposition(|name| *name == "one").unwrap();
            // The quantum of the many, and then one turn of theirs for each of the other's.
            assert!(last < 40, "{last}");
        });
    }

    #[test]
    fn members_of_a_group_take_turns() {
        shared(async |scope| {
            let log = Log::default();
            tasks(&scope, Party::of(&1, &1), 100, "many", &log);
            tasks(&scope, Party::of(&1, &2), 1, "one", &log);
            ended(&scope).await;
            let log = log.lock().unwrap();
            let last = log.iter().rposition(|name| *name == "one").unwrap();
            assert!((20..50).contains(&last), "{last}");
        });
    }

    #[test]
    fn all_of_a_group_have_their_turns_in_order() {
        shared(async |scope| {
            let log = Arc::new(Mutex::new(Vec::new()));
            for n in 0..200 {
                let log = Arc::clone(&log);
                scope.spawn(async move {
                    run_for(Party::of(&1, &1));
                    for round in 0..5 {
                        turn().await;
                        work(Duration::from_micros(50));
                        log.lock().unwrap().push((round, n));
                    }
                });
            }
            ended(&scope).await;
            let log = log.lock().unwrap();
            assert!(log.is_sorted(), "{log:?}");
            assert_eq!(log.len(), 1_000);
        });
    }

    #[test]
    fn tasks_that_are_spawned_belong_to_the_same_party() {
        shared(async |scope| {
            let seen = Arc::new(Mutex::new(None));
            let (own, inner) = (Party::own(), scope.clone());
            let found = Arc::clone(&seen);
            scope.spawn(async move {
                run_for(own);
                inner.clone().spawn(async move {
                    *found.lock().unwrap() = CURRENT.get();
                });
            });
            ended(&scope).await;
            assert_eq!(*seen.lock().unwrap(), Some(own));
            assert_eq!(CURRENT.get(), None);
        });
    }

    #[test]
    fn those_that_wait_end_with_their_scope() {
        shared(async |scope| {
            tasks(&scope, Party::of(&1, &1), 100, "many", &Log::default());
            for _ in 0..20 {
                yield_now().await;
            }
            assert_eq!(scope.drain(Duration::ZERO).await, 100);
        });
    }

    #[test]
    fn tasks_that_change_their_party_leave_nobody_waiting() {
        shared(async |scope| {
            for n in 0..200_u64 {
                scope.spawn(async move {
                    // As a handshake does, whose client is known by its address first.
                    run_for(Party::of(&1, &(n % 3)));
                    turn().await;
                    work(Duration::from_micros(100));
                    turn().await;
                    run_for(Party::of(&(2 + n % 2), &n));
                    work(Duration::from_micros(100));
                    turn().await;
                    if n % 5 == 0 {
                        run_for(Party::of(&1, &n));
                    }
                    turn().await;
                });
            }
            // They wait for nothing but their turns.
            for _ in 0..10_000 {
                yield_now().await;
            }
            assert_eq!(scope.count(), 0);
            GROUPS.with_borrow(|groups| {
                let all = &groups.as_ref().unwrap().all;
                assert!(all.values().all(|group| !group.is_waited_for()));
            });
        });
    }

    #[test]
    fn groups_that_have_nothing_to_do_are_forgotten() {
        let mut groups = Groups::default();
        for _ in 0..10_000 {
            groups.of(Party::own().group).had(QUANTUM, false);
        }
        assert!(groups.all.len() <= FEW_GROUPS);
    }
}
