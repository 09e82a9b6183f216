//! Counts requests by how they were answered, and for how long.

use hyper::StatusCode;
use hyper::header::HeaderMap;
use tokio::time::Instant;

use crate::proxy::http::Site;
use crate::proxy::http::answer::{Reason, Refusal};
use crate::proxy::http::body::{self, Body, Seen};
use crate::proxy::http::upstream::{self, To};
use crate::proxy::outbound::same_node;
use crate::telemetry::{NO_FLAGS, RequestKind, RequestSeries};

/// Envoy's flag for a client that has left.
pub const LEFT: &str = "DC";

/// Its flag for an endpoint's connection that has ended.
pub const CUT: &str = "UC";

/// Counts a request that was answered by the mesh, because of `refusal`.
pub fn refused(site: &Site, refusal: &Refusal, is_grpc: bool, began: Instant) {
    let Refusal { reason, details } = refusal;
    tracing::debug!(client = %site.client, destination = %site.destination, ?reason, %details,
        "a request is refused");
    let kind = kind_of(*reason, is_grpc);
    site.context.telemetry.request_answered(kind.code, reason.as_str());
    unsent(site).answered(kind, began.elapsed());
}

/// How the mesh answers for a reason: gRPC in its own terms.
pub fn kind_of(reason: Reason, is_grpc: bool) -> RequestKind {
    let (code, grpc_status) = if is_grpc {
        (StatusCode::OK, reason.grpc().parse().ok())
    } else {
        (reason.status(), None)
    };
    RequestKind { is_grpc, code: code.as_u16(), grpc_status, flags: reason.flags() }
}

/// Counts a request that a rule has answered.
pub fn answered_by_rule(site: &Site, code: u16, began: Instant) {
    site.context.telemetry.request_answered(code, "route");
    unsent(site).answered(RequestKind::well(code), began.elapsed());
}

/// Where requests are counted that went to nobody.
fn unsent(site: &Site) -> RequestSeries {
    let mesh = site.context.mesh.load();
    let target = mesh.services.get(&site.destination);
    let parties = upstream::parties(site, target.map(|target| &target.service));
    site.context.telemetry.requests(&parties)
}

/// Where requests to `to` are counted.
fn sent(site: &Site, to: &To) -> RequestSeries {
    let mesh = site.context.mesh.load();
    let resident = same_node::destination(&site.context, &mesh, &site.local, &to.endpoint);
    let mut parties = upstream::parties(site, to.service.as_ref());
    parties.go_to(&to.endpoint, resident.is_some());
    site.context.telemetry.requests(&parties)
}

/// A request that is being answered: counted when it is dropped.
struct Answering {
    series: RequestSeries,
    kind: RequestKind,
    began: Instant,
}

impl Answering {
    /// Looks for the status of gRPC, which is a trailer, or a field of an answer that is nothing else
    /// ("Trailers-Only" in gRPC's `PROTOCOL-HTTP2.md`).
    fn look(&mut self, fields: &HeaderMap) {
        if self.kind.is_grpc
            && let Some(status) = fields.get("grpc-status")
        {
            self.kind.grpc_status = status.to_str().ok().and_then(|status| status.parse().ok());
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.series.answered(self.kind, self.began.elapsed());
    }
}

/// The answer of `to` to a request of `site`, which is counted when its body ends.
pub fn counted(
    site: &Site,
    to: &To,
    is_grpc: bool,
    began: Instant,
    answer: hyper::Response<Body>,
) -> hyper::Response<Body> {
    site.context.telemetry.request_answered(answer.status().as_u16(), "backend");
    watched(sent(site, to), is_grpc, began, answer)
}

/// An answer, which is counted when its body ends.
pub fn watched(
    series: RequestSeries,
    is_grpc: bool,
    began: Instant,
    answer: hyper::Response<Body>,
) -> hyper::Response<Body> {
    let kind = RequestKind { is_grpc, ..RequestKind::well(answer.status().as_u16()) };
    let mut answering = Answering { series, kind, began };
    answering.look(answer.headers());
    // Until it has ended.
    answering.kind.flags = LEFT;
    answer.map(|body| {
        body::watched(body, move |seen| match seen {
            Seen::Trailers(trailers) => answering.look(trailers),
            Seen::End => answering.kind.flags = NO_FLAGS,
            Seen::Failed => answering.kind.flags = CUT,
        })
    })
}
