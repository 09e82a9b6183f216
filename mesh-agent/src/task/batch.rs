//! Many short waits, a bounded number of them at one time.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Poll;

/// Runs `work` on each of `items`, at most `at_once` at a time and all on the caller's task: they
/// end with it. Returns what they return, in the order in which they end.
pub async fn run<I, F>(items: Vec<I>, at_once: usize, work: impl Fn(I) -> F) -> Vec<F::Output>
where
    F: Future,
{
    let mut waiting = VecDeque::from(items);
    let mut running: Vec<Pin<Box<F>>> = Vec::new();
    let mut done = Vec::with_capacity(waiting.len());
    while !(waiting.is_empty() && running.is_empty()) {
        while running.len() < at_once.max(1) {
            let Some(item) = waiting.pop_front() else { break };
            running.push(Box::pin(work(item)));
        }
        // At most `at_once` are polled for each that wakes.
        let output = std::future::poll_fn(|cx| {
            let ready = running.iter_mut().enumerate().find_map(|(index, future)| {
                match future.as_mut().poll(cx) {
                    Poll::Ready(output) => Some((index, output)),
                    Poll::Pending => None,
                }
            });
            ready.map_or(Poll::Pending, Poll::Ready)
        });
        let (index, output) = output.await;
        drop(running.swap_remove(index));
        done.push(output);
        // Work that never waits must not keep the other tasks of this thread from theirs.
        tokio::task::yield_now().await;
    }
    done
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_are_done_and_only_so_many_at_once() {
        let (running, most) = (Cell::new(0), Cell::new(0));
        let (running, most) = (&running, &most);
        let mut done = run((0..50_u64).collect(), 7, |n| async move {
            running.set(running.get() + 1);
            most.set(most.get().max(running.get()));
            tokio::time::sleep(Duration::from_millis(50 - n)).await;
            running.set(running.get() - 1);
            n
        })
        .await;
        done.sort_unstable();
        assert_eq!(done, (0..50).collect::<Vec<_>>());
        assert_eq!((most.get(), running.get()), (7, 0));
    }

    #[tokio::test]
    async fn nothing_is_done_at_once() {
        assert!(run(Vec::<u8>::new(), 3, |n| async move { n }).await.is_empty());
    }
}
