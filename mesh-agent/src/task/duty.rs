//! Work that one process of a node does at a time: a successor that starts has it paused, and goes on with
//! it, or gives it back.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::task::scope::Scope;

/// Tasks that may work at one time: more than there are.
const MANY: u32 = 1024;

/// The duty to do it. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Duty {
    /// One for each who works, and all for a pause. Those who wait have their turns in order.
    permits: Arc<Semaphore>,
    /// How often it was given back.
    returns: Arc<watch::Sender<u64>>,
}

/// Some work that is being done: as long as this is held, nobody else does it.
#[derive(Debug)]
pub struct Work {
    _held: Option<OwnedSemaphorePermit>,
    /// How often the duty was given back before: what another process may have changed meanwhile has to
    /// be looked at again where this has changed.
    pub returns: u64,
}

/// A duty that is paused until this is dropped.
#[derive(Debug)]
pub struct Pause {
    _held: Option<OwnedSemaphorePermit>,
    returns: Arc<watch::Sender<u64>>,
}

impl Default for Duty {
    fn default() -> Self {
        let permits = Arc::new(Semaphore::new(MANY as usize));
        Self { permits, returns: Arc::new(watch::Sender::new(0)) }
    }
}

impl Duty {
    /// Waits until the work is this process's. To be held for one step of it. `None`: `scope` drains.
    pub async fn work(&self, scope: &Scope) -> Option<Work> {
        tokio::select! {
            biased;
            // It is never closed.
            held = Arc::clone(&self.permits).acquire_owned() => {
                Some(Work { _held: held.ok(), returns: *self.returns.borrow() })
            }
            () = scope.draining() => None,
        }
    }

    /// Waits until nobody of this process works, and has them wait from now on.
    pub async fn pause(&self) -> Pause {
        let held = Arc::clone(&self.permits).acquire_many_owned(MANY).await;
        Pause { _held: held.ok(), returns: Arc::clone(&self.returns) }
    }

    /// Waits until it was given back more than `before` times.
    pub async fn returned(&self, before: u64) {
        // The sender is this one's own.
        drop(self.returns.subscribe().wait_for(|returns| *returns > before).await);
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.returns.send_modify(|returns| *returns += 1);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Waker};

    use super::*;

    fn waits<T>(future: Pin<&mut impl Future<Output = T>>) -> bool {
        future.poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn a_pause_begins_after_the_work_and_ends_with_a_look_at_what_has_changed() {
        let (duty, scope) = (Duty::default(), Scope::new("test"));
        let work = duty.work(&scope).await.unwrap();
        assert_eq!(work.returns, 0);
        let mut pausing = Box::pin(duty.pause());
        assert!(waits(pausing.as_mut()), "somebody works");
        drop(work);
        let pause = pausing.await;
        let mut working = Box::pin(duty.work(&scope));
        assert!(waits(working.as_mut()), "it is paused");
        drop(pause);
        duty.returned(0).await;
        assert_eq!(working.await.unwrap().returns, 1);
        let _paused = duty.pause().await;
        scope.stop();
        assert!(duty.work(&scope).await.is_none());
    }
}
