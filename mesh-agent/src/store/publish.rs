//! The one writer of the mesh state, and its many readers.

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::model::snapshot::Snapshot;

/// Publishes snapshots. There is exactly one, owned by the store task.
#[derive(Debug)]
pub struct Publisher {
    current: Arc<ArcSwap<Snapshot>>,
    revision: watch::Sender<u64>,
}

/// Reads the latest snapshot. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct Reader {
    current: Arc<ArcSwap<Snapshot>>,
    revision: watch::Receiver<u64>,
}

/// Starts from an empty mesh.
pub fn channel() -> (Publisher, Reader) {
    let current = Arc::new(ArcSwap::from_pointee(Snapshot::default()));
    let (tx, rx) = watch::channel(0);
    let publisher = Publisher { current: Arc::clone(&current), revision: tx };
    (publisher, Reader { current, revision: rx })
}

impl Publisher {
    /// Makes `next` what every reader sees from now on.
    pub fn publish(&mut self, next: Snapshot) {
        let revision = next.revision;
        let former = self.current.swap(Arc::new(next));
        self.revision.send_replace(revision);
        // Of a large mesh that takes milliseconds, in which others begin with the next one.
        drop(former);
    }

    /// The latest snapshot.
    pub fn latest(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }
}

impl Reader {
    /// The latest snapshot. Hold it for one connection or request, not longer.
    pub fn load(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Waits for a revision newer than the last one this reader waited for.
    ///
    /// Returns `false` once the publisher is gone.
    pub async fn changed(&mut self) -> bool {
        self.revision.changed().await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_sees_what_was_published_and_the_end() {
        let (mut publisher, mut reader) = channel();
        assert_eq!(reader.load().revision, 0);
        publisher.publish(Snapshot { revision: 1, ..Snapshot::default() });
        assert!(reader.changed().await);
        assert_eq!(reader.load().revision, 1);
        drop(publisher);
        assert!(!reader.changed().await);
    }
}
