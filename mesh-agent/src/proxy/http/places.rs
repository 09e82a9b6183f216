//! Places for requests on a connection of HTTP/2 to a server.
//!
//! hyper takes any number of requests, and keeps those for which the server has no stream: also those
//! that their clients have taken back long since. So a request has a place before hyper gets it, for as
//! long as hyper keeps it; without one it waits where its client can take it back, or has another
//! connection.

use std::sync::Arc;

use hyper::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One place. It is free again when the last clone of it is gone.
#[derive(Clone, Debug)]
pub struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Place {
    /// A place, if there is one.
    pub fn of(places: &Arc<Semaphore>) -> Option<Self> {
        let permit = Arc::clone(places).try_acquire_owned().ok()?;
        Some(Self { _permit: Arc::new(permit) })
    }

    /// Waits for a place. `None`: the connection is over.
    pub async fn wait(places: &Arc<Semaphore>) -> Option<Self> {
        let permit = Arc::clone(places).acquire_owned().await.ok()?;
        Some(Self { _permit: Arc::new(permit) })
    }

    /// Leaves it to a request too, until it is sent: hyper keeps the extensions of one that waits.
    pub fn hold<B>(self, request: &mut Request<B>) {
        request.extensions_mut().insert(self);
    }
}

/// The number of places of a connection: as many as its server allows, and no more than it was made
/// with.
#[derive(Debug)]
pub struct Size {
    places: Arc<Semaphore>,
    most: usize,
    now: usize,
}

impl Size {
    /// So many places at the most, which there are until the server says something else.
    pub fn new(most: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(most)), most, now: most }
    }

    /// The places.
    pub fn places(&self) -> Arc<Semaphore> {
        Arc::clone(&self.places)
    }

    /// The server allows so many streams. One place there is always: a server that allows none for a
    /// while does so later.
    pub fn fit(&mut self, streams: usize) {
        let next = streams.clamp(1, self.most);
        if next > self.now {
            self.places.add_permits(next - self.now);
            self.now = next;
        } else {
            // Those that are taken go when they are free, and this is asked again.
            self.now -= self.places.forget_permits(self.now - next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_place_until_it_is_gone() {
        let size = Size::new(1);
        let places = size.places();
        let place = Place::of(&places).unwrap();
        let mut request = Request::new(());
        place.clone().hold(&mut request);
        drop(place);
        assert!(Place::of(&places).is_none());
        drop(request);
        assert!(Place::of(&places).is_some());
    }

    #[test]
    fn there_are_as_many_places_as_streams() {
        let mut size = Size::new(32);
        let places = size.places();
        let taken: Vec<_> = (0..20).map(|_| Place::of(&places).unwrap()).collect();
        size.fit(10);
        assert!(Place::of(&places).is_none());
        drop(taken);
        size.fit(10);
        assert_eq!(places.available_permits(), 10);
        size.fit(usize::MAX);
        assert_eq!(places.available_permits(), 32);
        size.fit(0);
        assert_eq!(places.available_permits(), 1);
    }
}
