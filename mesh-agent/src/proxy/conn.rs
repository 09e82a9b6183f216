//! One connection as it is reported, however it ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::time::Instant;

use crate::failure::{Failure, Kind, Retry, Side};
use crate::io::copy::Carried;
use crate::model::id::ResourceName;
use crate::model::snapshot::Endpoint;
use crate::model::trace::Trace;
use crate::task::clock;
use crate::telemetry::{
    ConnectionEnd, Judged, Parties, Path, Reporter, RequestSeries, Series, Telemetry,
};

/// A connection from accept to its end. Dropped unfinished, it is reported as cut: nothing ends
/// unseen.
#[derive(Debug)]
pub struct Conn {
    /// The parties at the ends, as far as they are known.
    pub parties: Parties,
    /// The endpoint that was chosen.
    pub upstream_host: Option<SocketAddr>,
    /// Our own address on the connection to it.
    pub upstream_local: Option<SocketAddr>,
    /// The route that chose the backend.
    pub route: Option<ResourceName>,
    /// The bytes that it has carried.
    pub carried: Arc<Carried>,
    /// The verdict of the destination's policies, if this end asks them.
    pub judged: Option<Judged>,
    /// The trace that it belongs to.
    pub trace: Option<Trace>,
    client: SocketAddr,
    destination: SocketAddr,
    start: SystemTime,
    opened: Instant,
    telemetry: Telemetry,
    series: Option<Series>,
    finished: bool,
}

impl Conn {
    /// Where it is reported.
    pub const fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    /// A connection that `client` opened to `destination`.
    pub fn new(
        telemetry: &Telemetry,
        reporter: Reporter,
        client: SocketAddr,
        destination: SocketAddr,
    ) -> Self {
        Self {
            parties: Parties::unknown(reporter),
            upstream_host: None,
            upstream_local: None,
            route: None,
            carried: Arc::default(),
            judged: None,
            trace: None,
            client,
            destination,
            start: clock::now(),
            opened: Instant::now(),
            telemetry: telemetry.clone(),
            series: None,
            finished: false,
        }
    }

    /// The client's address for others, and the destination, are known only now.
    pub const fn set_addresses(&mut self, client: SocketAddr, destination: SocketAddr) {
        self.client = client;
        self.destination = destination;
    }

    /// The parties are known: counts the connection as opened.
    pub fn established(&mut self) {
        self.series = Some(self.telemetry.opened(&self.parties));
    }

    /// It goes to `endpoint`; `on_node`: without leaving the node.
    pub fn towards(&mut self, endpoint: &Endpoint, on_node: bool) {
        self.upstream_host = Some(endpoint.address);
        self.parties.go_to(endpoint, on_node);
    }

    /// Where requests that it carries are counted; `None`: nobody knows yet who they are between.
    pub fn requests(&self) -> Option<RequestSeries> {
        self.series.as_ref().map(Series::requests)
    }

    /// Its traffic is reported request by request, and by the connections to endpoints.
    pub const fn reported_otherwise(&mut self) {
        self.finished = true;
    }

    /// Reports the end.
    pub fn finish(mut self, result: Result<(), Failure>) {
        if !self.finished {
            self.report(result.err());
        }
    }

    fn report(&mut self, failure: Option<Failure>) {
        self.finished = true;
        let series = match self.series.take() {
            Some(series) => series,
            None => self.telemetry.opened(&self.parties),
        };
        let end = ConnectionEnd {
            parties: self.parties.clone(),
            start: self.start,
            lasted: self.opened.elapsed(),
            received_bytes: self.carried.sent.load(Ordering::Relaxed),
            sent_bytes: self.carried.received.load(Ordering::Relaxed),
            downstream_remote: self.client,
            downstream_local: self.destination,
            upstream_host: self.upstream_host,
            upstream_local: self.upstream_local,
            route: self.route.take(),
            failure,
            path: Path::Agent,
            judged: self.judged.take(),
            srtt: None,
            trace: self.trace,
        };
        self.telemetry.connection(series, &end);
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if !self.finished {
            let kind = if std::thread::panicking() { Kind::Internal } else { Kind::Shutdown };
            self.report(Some(Failure::new(kind, Side::Mesh, Retry::IfIdempotent)));
        }
    }
}
