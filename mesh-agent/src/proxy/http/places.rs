//! Places for requests on a connection of HTTP/2 to a server.
//!
//! hyper takes any number of requests, and keeps those for which the server has no stream: also those
//! that their clients have taken back long since. So a request has a place before hyper gets it, for as
//! long as hyper keeps it; without one it waits where its client can take it back, or has another
//! connection.
//!
//! Nor has a request a place while the server reads nothing: what hyper has begun to send waits in its
//! memory for the socket, also when nobody waits for the answer.

use std::sync::Arc;
use std::task::Context;

use hyper::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::io::frames::Paced;
use crate::proxy::http::gate::{Gate, Gated};

/// The places of one connection. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Places {
    permits: Arc<Semaphore>,
    gate: Arc<Gate>,
}

/// One place. It is free again when the last clone of it is gone.
#[derive(Clone, Debug)]
pub struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
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
        self.gate.is_open().then(|| Place { _permit: Arc::new(permit) })
    }

    /// Waits for a place. `None`: there are none any more.
    pub async fn wait(&self) -> Option<Place> {
        loop {
            self.gate.opened().await;
            let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
            if self.gate.is_open() {
                return Some(Place { _permit: Arc::new(permit) });
            }
        }
    }
}

impl Place {
    /// Leaves it to a request too, until it is sent: hyper keeps the extensions of one that waits.
    pub fn hold<B>(self, request: &mut Request<B>) {
        request.extensions_mut().insert(self);
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

    /// Wakes the task of the connection when its server may have said so.
    pub fn register(&self, cx: &Context<'_>) {
        self.places.gate.register(cx.waker());
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
    fn a_request_keeps_its_place_until_it_is_gone() {
        let places = Places::new(1);
        let place = places.take().unwrap();
        let mut request = Request::new(());
        place.clone().hold(&mut request);
        drop(place);
        assert!(places.take().is_none());
        drop(request);
        assert!(places.take().is_some());
    }

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
