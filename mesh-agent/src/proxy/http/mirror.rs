//! Copies of requests, whose answers nobody gets.
//!
//! A copy can neither delay nor fail the request: it has a task of its own, and there are so many at
//! once at most. A body that is too long to be kept is not copied.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::http::request;
use tokio::time::timeout;

use crate::balance;
use crate::model::snapshot::{Backend, Endpoints};
use crate::proxy::http::Site;
use crate::proxy::http::attempt::{self, Sent};
use crate::proxy::http::detect::Version;
use crate::proxy::http::fields::strip;
use crate::proxy::http::replay::Replay;
use crate::proxy::http::upstream::To;
use crate::telemetry::Unkept;

/// Copies under way in one namespace, at most: further ones are not made.
const MAX_COPIES: usize = 256;

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Copies under way.
#[derive(Debug, Default)]
pub struct Copies(AtomicUsize);

/// Where a copy goes.
#[derive(Clone, Debug)]
pub struct Copy(To);

/// One of the copies under way.
struct Place(Arc<Copies>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Copy {
    /// To one endpoint of a backend (Gateway API: `HTTPRequestMirrorFilter.backendRef`); none if it
    /// has none.
    pub fn of(backend: &Backend, version: Version) -> Option<Self> {
        let Endpoints::Resolved { service, endpoints } = &backend.endpoints else { return None };
        let endpoint = balance::pick(endpoints, rand::random())?.clone();
        Some(Self(To { service: Some(Arc::clone(service)), route: None, endpoint, version }))
    }
}

/// Sends a copy, if the body was kept.
pub fn send(site: &Arc<Site>, copy: &Copy, head: &request::Parts, replay: &Replay) {
    let copies = &site.realm.copies;
    let Replay::Whole(bytes, trailers) = replay else { return };
    if copies.0.fetch_add(1, Ordering::Relaxed) >= MAX_COPIES {
        copies.0.fetch_sub(1, Ordering::Relaxed);
        site.context.telemetry.unkept(Unkept::Copies);
        return;
    }
    let place = Place(Arc::clone(copies));
    let mut replay = Replay::Whole(bytes.clone(), trailers.clone());
    let (site, to, mut head) = (Arc::clone(site), copy.0.clone(), head.clone());
    // Nobody could speak another protocol with a copy's server.
    strip(&mut head.headers);
    let scope = site.local.scope.clone();
    scope.spawn(Box::pin(async move {
        let copying = async {
            if let Sent::Answered(response) = attempt::send(&site, &to, &head, &mut replay).await {
                let mut body = response.into_body();
                while let Some(Ok(_)) = body.frame().await {}
            }
        };
        // Nobody waits for it.
        let _late: Result<(), _> = timeout(PATIENCE, copying).await;
        drop(place);
    }));
}
