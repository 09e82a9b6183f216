//! Places for requests on a connection of HTTP/2 to a server.
//!
//! h2 takes any number of requests, and keeps those for which the server has no stream. So a request has a
//! place before h2 gets it; without one it waits where its client can take it back, or has another
//! connection.
//!
//! Nor has a request a place while the server reads nothing: what h2 has begun to send waits in its
//! memory for the socket, also when nobody waits for the answer.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::io::frames::Paced;
use crate::proxy::http::gate::{Gate, Gated};

/// The places of one connection. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Places {
    permits: Arc<Semaphore>,
    gate: Arc<Gate>,
}

/// One place. It is free again when it is dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// So many places.
    pub fn new(most: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(most)), gate: Arc::default() }
    }

    /// The connection, which says whether its server reads, and whose frames come in turns.
    pub fn gated<Io>(&self, io: Io) -> Gated<Paced<Io>> {
        Gated::new(Paced::of_server(io), Arc::clone(&self.gate))
    }

    /// Whether they are those of the same connection.
    pub fn are(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.permits, &other.permits)
    }

    /// A place, if there is one.
    pub fn take(&self) -> Option<Place> {
        let permit = Arc::clone(&self.permits).try_acquire_owned().ok()?;
        self.gate.is_open().then(|| Place { _permit: permit })
    }

    /// Waits for a place. `None`: there are none any more.
    pub async fn wait(&self) -> Option<Place> {
        loop {
            self.gate.opened().await;
            let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
            if self.gate.is_open() {
                return Some(Place { _permit: permit });
            }
        }
    }
}

/// The number of places of a connection: one until its server has said how many streams it allows, then
/// as many, within a bound.
#[derive(Debug)]
pub struct Size {
    places: Places,
    most: usize,
    now: usize,
}

impl Size {
    /// So many places at the most.
    pub fn new(most: usize) -> Self {
        Self { places: Places::new(1), most, now: 1 }
    }

    /// The places.
    pub const fn places(&self) -> &Places {
        &self.places
    }

    /// The server allows so many streams. One place there is always: a server that allows none for a
    /// while does so later.
    pub fn fit(&mut self, streams: usize) {
        let (next, permits) = (streams.clamp(1, self.most), &self.places.permits);
        if next > self.now {
            permits.add_permits(next - self.now);
            self.now = next;
        } else {
            // Those that are taken go when they are free, and this is asked again.
            self.now -= permits.forget_permits(self.now - next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_places_as_streams() {
        let mut size = Size::new(32);
        let places = size.places().clone();
        let free = || places.permits.available_permits();
        assert_eq!(free(), 1, "nothing is known yet");
        size.fit(100);
        let taken: Vec<_> = (0..20).map(|_| places.take().unwrap()).collect();
        size.fit(10);
        assert!(places.take().is_none());
        drop(taken);
        size.fit(10);
        assert_eq!(free(), 10);
        size.fit(usize::MAX);
        assert_eq!(free(), 32);
        size.fit(0);
        assert_eq!(free(), 1);
    }
}
