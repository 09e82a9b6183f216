//! Asking the source to read its files now, and its answer once it has.

use tokio::sync::{mpsc, oneshot};

/// Requests that wait. Further ones wait for their turn.
const QUEUE: usize = 1;

/// Asks a source to read its files now, though they may not have settled. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Again(mpsc::Sender<oneshot::Sender<()>>);

/// The source's end of it.
#[derive(Debug)]
pub struct Asked {
    requests: mpsc::Receiver<oneshot::Sender<()>>,
    /// Of the request that is being answered.
    done: Option<oneshot::Sender<()>>,
}

/// Both ends.
pub fn channel() -> (Again, Asked) {
    let (tx, requests) = mpsc::channel(QUEUE);
    (Again(tx), Asked { requests, done: None })
}

impl Again {
    /// Returns once the files have been read and what they say was given on. `false`: the source
    /// has ended.
    pub async fn read(&self) -> bool {
        let (done, is_done) = oneshot::channel();
        self.0.send(done).await.is_ok() && is_done.await.is_ok()
    }
}

impl Asked {
    /// Waits for a request; for ever, if nobody can ask any more.
    pub(super) async fn wait(&mut self) {
        match self.requests.recv().await {
            Some(done) => self.done = Some(done),
            None => std::future::pending().await,
        }
    }

    /// Says that the files have been read since the request.
    pub(super) fn answer(&mut self) {
        if let Some(done) = self.done.take() {
            // It may not wait any more.
            let _given_up: Result<(), ()> = done.send(());
        }
    }
}
