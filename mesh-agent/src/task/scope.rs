//! The only place a task is spawned.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

use crate::task::fair::Seat;
use crate::task::turns;

/// The most memory one task may hold before it allocates anything, with all that a scope adds.
const MAX_TASK_BYTES: usize = 4096;

/// How long tasks that are stopped may take to end.
const STOPPING: Duration = Duration::from_secs(5);

/// Tasks that panicked since the process started. The agent goes on; its metrics say so.
static PANICS: AtomicU64 = AtomicU64::new(0);

/// Owns a group of tasks. A task that is not in a scope cannot exist.
#[derive(Clone, Debug)]
pub struct Scope {
    name: &'static str,
    tasks: TaskTracker,
    draining: Arc<Signal>,
    stopping: Arc<Signal>,
}

/// Something that happens to tasks once. The token wakes them; whether it has is read from the
/// flag, which costs a task's every turn a load and not a lock.
#[derive(Debug)]
struct Signal {
    is_set: AtomicBool,
    token: CancellationToken,
    parent: Option<Arc<Self>>,
}

/// How many tasks have panicked since the process started.
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

impl Scope {
    /// Opens an empty scope.
    pub fn new(name: &'static str) -> Self {
        Self { name, tasks: TaskTracker::new(), draining: Signal::new(), stopping: Signal::new() }
    }

    /// Opens a scope within this one: it drains and stops when this one does, or before. This one
    /// is not done before it is. Needs a runtime, for the task that waits.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Self {
        let child = Self {
            name,
            tasks: TaskTracker::new(),
            draining: Signal::below(&self.draining),
            stopping: Signal::below(&self.stopping),
        };
        let kept = child.clone();
        drop(Handle::current().spawn(self.tasks.track_future(async move {
            kept.draining().await;
            kept.tasks.close();
            kept.tasks.wait().await;
        })));
        child
    }

    /// Runs `task` on the current runtime until it returns or the scope stops.
    pub fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.spawn_on(&Handle::current(), task);
    }

    /// Runs `task` on `runtime` until it returns or the scope stops.
    pub fn spawn_on<F>(&self, runtime: &Handle, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // A task's memory is that of its longest branch. Box the rare branches.
        const {
            let bytes = size_of::<Owned<F>>();
            assert!(bytes <= MAX_TASK_BYTES, "task too large: Box::pin a branch");
        }
        let (stopped, seat) = (Signal::wait(&self.stopping), Seat::inherited());
        let task = Owned { stopped, scope: self.name, seat, task };
        drop(runtime.spawn(self.tasks.track_future(task)));
    }

    /// Resolves when the scope stops accepting new work.
    pub fn draining(&self) -> Signaled {
        Signal::wait(&self.draining)
    }

    /// Whether the scope has stopped accepting new work.
    pub fn is_draining(&self) -> bool {
        self.draining.is_set()
    }

    /// How many tasks it has.
    pub fn count(&self) -> usize {
        self.tasks.len()
    }

    /// Stops every task at once, without waiting for it: for a scope that is not needed after all.
    pub fn stop(&self) {
        self.draining.set();
        self.stopping.set();
    }

    /// Asks every task to finish, waits up to `deadline`, then stops those that have not.
    ///
    /// Returns the number of tasks that had to be stopped.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.draining.set();
        self.tasks.close();
        if timeout(deadline, self.tasks.wait()).await.is_ok() {
            return 0;
        }
        let cut = self.tasks.len();
        self.stopping.set();
        // Each of them ends with its next turn. Should one have none, nobody waits for it for ever.
        if timeout(STOPPING, self.tasks.wait()).await.is_err() {
            let tasks = self.tasks.len();
            tracing::error!(scope = self.name, tasks, "tasks that were stopped have not ended");
        }
        cut
    }
}

impl Signal {
    fn new() -> Arc<Self> {
        let (is_set, token) = (AtomicBool::new(false), CancellationToken::new());
        Arc::new(Self { is_set, token, parent: None })
    }

    /// One that happens with `parent`, or before.
    fn below(parent: &Arc<Self>) -> Arc<Self> {
        let (is_set, token) = (AtomicBool::new(false), parent.token.child_token());
        Arc::new(Self { is_set, token, parent: Some(Arc::clone(parent)) })
    }

    fn set(&self) {
        self.is_set.store(true, Ordering::Release);
        self.token.cancel();
    }

    fn is_set(&self) -> bool {
        let parent = self.parent.as_ref();
        self.is_set.load(Ordering::Acquire) || parent.is_some_and(|parent| parent.is_set())
    }

    fn wait(signal: &Arc<Self>) -> Signaled {
        let woken = signal.token.clone().cancelled_owned();
        Signaled { woken, is_registered: false, signal: Arc::clone(signal) }
    }
}

pin_project! {
    /// Resolves when what a scope's tasks wait for has happened. Polled by one task all its life.
    pub struct Signaled {
        #[pin]
        woken: WaitForCancellationFutureOwned,
        is_registered: bool,
        signal: Arc<Signal>,
    }
}

impl Future for Signaled {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.signal.is_set() {
            return Poll::Ready(());
        }
        // Once is enough: a task has one waker all its life.
        if std::mem::replace(this.is_registered, true) {
            return Poll::Pending;
        }
        this.woken.poll(cx)
    }
}

pin_project! {
    /// A task of a scope: runs to its end, or until the scope stops. A panic ends it alone, and is
    /// counted and logged.
    ///
    /// Not an `async` function: that would hold what it is given twice, as argument and pinned,
    /// which is most of the memory of a connection that waits.
    struct Owned<F> {
        #[pin]
        stopped: Signaled,
        scope: &'static str,
        seat: Seat,
        #[pin]
        task: F,
    }
}

impl<F: Future<Output = ()>> Future for Owned<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let address = std::ptr::from_ref(&*self).addr();
        let this = self.project();
        turns::polled();
        // Also one that is to stop waits for the turn that it has asked for.
        let Some(turn) = this.seat.enter(address, cx) else { return Poll::Pending };
        if this.stopped.poll(cx).is_ready() {
            return this.seat.have(&turn, || Poll::Ready(()));
        }
        // After a panic the task is never polled again, and what it shares with others is behind
        // mutexes that recover from poison, channels and atomics: nothing broken is seen.
        let poll = || catch_unwind(AssertUnwindSafe(|| this.task.poll(cx)));
        this.seat.have(&turn, poll).unwrap_or_else(|_payload| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            tracing::error!(scope = *this.scope, "a task panicked; the others go on");
            Poll::Ready(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn drain_waits_for_a_task_that_finishes() {
        let scope = Scope::new("test");
        scope.spawn(tokio::time::sleep(Duration::from_secs(1)));
        assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn drain_cuts_a_task_that_hangs() {
        let scope = Scope::new("test");
        scope.spawn(std::future::pending());
        assert_eq!(scope.drain(Duration::from_secs(5)).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_parent_that_drains_drains_its_children() {
        let parent = Scope::new("parent");
        let child = parent.child("child");
        child.spawn(tokio::time::sleep(Duration::from_secs(1)));
        assert_eq!(parent.drain(Duration::from_secs(5)).await, 0);
        assert!(child.is_draining());
        assert_eq!(child.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_that_is_not_needed_leaves_nothing_in_its_parent() {
        let parent = Scope::new("parent");
        let child = parent.child("child");
        child.spawn(std::future::pending());
        child.stop();
        child.tasks.close();
        child.tasks.wait().await;
        tokio::task::yield_now().await;
        assert_eq!(parent.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_parent_that_stops_stops_its_children() {
        let parent = Scope::new("parent");
        let child = parent.child("child");
        child.spawn(std::future::pending());
        assert_eq!(parent.drain(Duration::from_secs(5)).await, 1);
        assert_eq!(child.count(), 0);
    }

    #[tokio::test]
    async fn a_panic_ends_one_task_and_is_counted() {
        let scope = Scope::new("test");
        let before = panics();
        scope.spawn(async { panic!("on purpose") });
        let (tx, rx) = tokio::sync::oneshot::channel();
        scope.spawn(async move { tx.send(()).unwrap() });
        rx.await.unwrap();
        assert_eq!(scope.drain(Duration::from_secs(5)).await, 0);
        assert_eq!(panics() - before, 1);
    }
}
