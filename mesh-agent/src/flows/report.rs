//! From the kernel's events to metrics and the access log.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mesh_common::addr::user::to_socket;
use mesh_common::event::{self, Event};
use nix::libc;
use tokio::time::Instant;

use crate::authz::{self, Denial, Request, Verdict};
use crate::datapath::events::Events;
use crate::failure::{Failure, Kind, Retry, Side};
use crate::flows::names::Names;
use crate::model::id::ResourceName;
use crate::model::policy::AuthorizationPolicy;
use crate::model::service::Service;
use crate::model::snapshot::{Endpoints, Snapshot, Split};
use crate::model::workload::Workload;
use crate::route;
use crate::store::Reader;
use crate::task::clock;
use crate::task::duty::Duty;
use crate::task::scope::Scope;
use crate::telemetry::{
    ConnectionEnd, Judged, Mention, Parties, Path, Peer, Reporter, Said, Security, Telemetry,
};

/// Reporters of a direct connection.
const BOTH: [Reporter; 2] = [Reporter::Destination, Reporter::Source];

/// The meaning of an event, by name. The ends are those of the destination and the source.
#[derive(Debug)]
pub enum Report {
    /// A direct connection is established.
    Opened(Box<[Parties; 2]>),
    /// One that was is over.
    Closed(Box<[ConnectionEnd; 2]>),
    /// All that is known of one: it came to nothing, or went past the agent.
    Only(Box<ConnectionEnd>),
}

/// Reports what the kernel of `node` does, until `scope` drains.
///
/// Nothing is read before the first snapshot: what a predecessor has left in the ring buffer has
/// no names before.
pub async fn run(
    events: Events,
    mut mesh: Reader,
    node: Arc<str>,
    telemetry: Telemetry,
    (duty, scope): (Duty, Scope),
) {
    while mesh.load().revision == 0 {
        tokio::select! {
            biased;
            () = scope.draining() => return,
            more = mesh.changed() => if !more { return },
        }
    }
    let mut names = Names::default();
    let mut revision = 0;
    let done = events.run(duty, scope, move |batch| {
        let snapshot = mesh.load();
        if snapshot.revision != revision {
            names.refresh(&snapshot, &node, Instant::now());
            revision = snapshot.revision;
        }
        telemetry.events_malformed(batch.malformed);
        let now = clock::now();
        for event in batch.events {
            tell(&telemetry, Alike { event, connections: 1 }, &snapshot, &names, now);
        }
    });
    if let Err(error) = done.await {
        tracing::error!(%error, "the kernel's reports cannot be read; direct connections go on");
    }
}

/// Connections that are alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alike<'a> {
    /// One of them.
    pub(super) event: &'a Event,
    /// Their number.
    pub(super) connections: u64,
}

/// Reports connections, as they are named at `now`.
pub(super) fn tell(
    telemetry: &Telemetry,
    alike: Alike<'_>,
    mesh: &Snapshot,
    names: &Names,
    now: SystemTime,
) {
    let Alike { event, connections } = alike;
    match report(event, mesh, names, now) {
        Some(Report::Opened(parties)) => {
            parties.iter().for_each(|end| telemetry.kernel_opened(end, connections));
        }
        Some(Report::Closed(ends)) => {
            ends.iter().for_each(|end| telemetry.kernel_closed(end, connections));
        }
        Some(Report::Only(end)) => telemetry.kernel_only(&end, connections),
        None => return telemetry.events_malformed(1),
    }
    for said in Known::of(event, mesh, names).said(event, mesh, telemetry) {
        telemetry.policy_said(said, connections);
    }
}

/// The report of `event`, at `now`. `None`: it is of a kind that is not known.
pub fn report(event: &Event, mesh: &Snapshot, names: &Names, now: SystemTime) -> Option<Report> {
    let known = Known::of(event, mesh, names);
    let end = |reporter| known.end(event, reporter, now);
    Some(match event.kind {
        event::OPENED => Report::Opened(Box::new(BOTH.map(|reporter| known.parties(reporter)))),
        event::CLOSED if event.errno == 0 => Report::Closed(Box::new(BOTH.map(end))),
        event::CLOSED
        | event::DENIED
        | event::NOBODY
        | event::FAILED_CLOSED
        | event::FAILED_OPEN
        | event::DEVICE
        | event::OUTSIDE
        | event::OUTSIDE_DENIED => Report::Only(Box::new(end(Reporter::Source))),
        _ => return None,
    })
}

/// The mesh's facts about an event's connection.
struct Known<'a> {
    security: Security,
    source: Option<&'a Arc<Workload>>,
    destination: Option<&'a Arc<Workload>>,
    service: Option<&'a Arc<Service>>,
    split: Option<&'a Split>,
    policy: Option<&'a ResourceName>,
    /// Why the kernel has denied it, by the policies as they are now.
    denial: Option<Denial>,
}

impl<'a> Known<'a> {
    fn of(event: &Event, mesh: &'a Snapshot, names: &'a Names) -> Self {
        let source = names.workload(event.source);
        let server = to_socket(event.server, event.server_port_be);
        let origin = to_socket(event.origin, event.origin_port_be);
        // A sum of connections to several endpoints has none of its own.
        let at = if server.port() == 0 { origin } else { server };
        let at_server = || mesh.workload_at(at.ip());
        let target = mesh.services.get(&origin);
        let namespace = source.map_or("", |source| &source.name.namespace);
        let judged = matches!(event.kind, event::OPENED | event::CLOSED | event::DENIED);
        let mut known = Self {
            security: if judged { Security::Kernel } else { Security::None },
            source,
            destination: names.workload(event.destination).or_else(at_server),
            service: target.map(|target| &target.service),
            split: target.map(|target| route::select(target, namespace)),
            policy: names.policy(event.policy),
            denial: None,
        };
        if event.kind == event::DENIED {
            known.denial = known.asked(event, mesh).and_then(|(policies, request)| {
                match authz::decide(policies, &request) {
                    Verdict::Deny(denial) => Some(denial),
                    Verdict::Allow | Verdict::ByRequest(_) => None,
                }
            });
        }
        known
    }

    /// The policies of the destination, and what they are asked.
    fn asked<'s>(
        &'s self,
        event: &Event,
        mesh: &'s Snapshot,
    ) -> Option<(&'s [Arc<AuthorizationPolicy>], Request<'s>)> {
        let destination = self.destination?;
        let policies = &mesh.policies.get(&destination.name)?.authorization;
        let server = to_socket(event.server, event.server_port_be);
        let origin = to_socket(event.origin, event.origin_port_be);
        let request = Request {
            principal: self.source.map(|source| &source.identity),
            address: self.client(event, origin).ip(),
            port: server.port(),
            http: None,
        };
        Some((policies, request))
    }

    /// The policies' verdicts on it, for the metrics. Verdicts that are only told are logged as well.
    fn said(&self, event: &Event, mesh: &Snapshot, telemetry: &Telemetry) -> Vec<Said> {
        match (event.kind, &self.denial) {
            (event::DENIED, Some(denial)) => vec![denial.into()],
            (event::DENIED, None) => {
                vec![Said { policy: self.policy.cloned(), rule: None, reason: "kernel" }]
            }
            (event::OPENED, _) => {
                let asked = self.asked(event, mesh);
                let told = asked.map(|(policies, request)| authz::told(policies, &request));
                let told = told.unwrap_or_default().into_iter();
                told.map(|told| {
                    let name = |workload: Option<&Arc<Workload>>| {
                        workload.map(|workload| workload.name.to_string())
                    };
                    let subject = (&told.policy, event.destination);
                    if let Some(mentioned) = telemetry.mention(Mention::DryRun, subject) {
                        tracing::info!(
                            source = name(self.source), destination = name(self.destination),
                            policy = %told.policy, rule = told.rule, outcome = told.outcome.reason(),
                            left_out = mentioned.left_out,
                            "a policy that is not enforced has its say"
                        );
                    }
                    told.into()
                })
                .collect()
            }
            _ => Vec::new(),
        }
    }

    fn parties(&self, reporter: Reporter) -> Parties {
        // The kernel knows whose sockets these are. Connections that it did not judge, it did not look at.
        let peer = |workload: Option<&Arc<Workload>>, proved: bool| Peer {
            principal: workload.filter(|_| proved).map(|workload| workload.identity.clone()),
            workload: workload.cloned(),
        };
        Parties {
            reporter,
            source: peer(self.source, true),
            destination: peer(self.destination, self.security == Security::Kernel),
            service: self.service.cloned(),
            security: self.security,
        }
    }

    fn end(&self, event: &Event, reporter: Reporter, now: SystemTime) -> ConnectionEnd {
        let lasted = Duration::from_nanos(event.lasted_ns);
        let origin = to_socket(event.origin, event.origin_port_be);
        let server = to_socket(event.server, event.server_port_be);
        let at_source = reporter == Reporter::Source;
        let direct = matches!(event.kind, event::OPENED | event::CLOSED);
        let judged = direct || event.kind == event::DENIED;
        let allowed = event.kind != event::DENIED;
        let judged = judged.then(|| Judged { allowed, policy: self.policy.cloned() });
        ConnectionEnd {
            parties: self.parties(reporter),
            start: now.checked_sub(lasted).unwrap_or(now),
            lasted,
            received_bytes: event.sent,
            sent_bytes: event.received,
            downstream_remote: self.client(event, origin),
            downstream_local: if at_source { origin } else { server },
            upstream_host: (server.port() != 0).then_some(server),
            upstream_local: None,
            route: self.split.filter(|_| at_source).and_then(|split| split.route.clone()),
            failure: self.failure(event),
            path: match event.kind {
                event::FAILED_OPEN => Path::Bypass,
                event::OUTSIDE | event::OUTSIDE_DENIED => Path::Outside,
                _ => Path::Direct,
            },
            judged,
            srtt: (event.srtt_us != 0).then(|| Duration::from_micros(event.srtt_us.into())),
            trace: None,
        }
    }

    /// The client's address; before the kernel has chosen it, the workload's, without a port.
    fn client(&self, event: &Event, origin: SocketAddr) -> SocketAddr {
        if event.client_port_be != 0 {
            return to_socket(event.client, event.client_port_be);
        }
        let addresses = self.source.map_or(&[][..], |source| &source.addresses);
        let same_family = addresses.iter().find(|ip| ip.is_ipv4() == origin.is_ipv4());
        let ip = same_family.or(addresses.first()).copied();
        SocketAddr::new(ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), 0)
    }

    fn failure(&self, event: &Event) -> Option<Failure> {
        let cause = || io::Error::from_raw_os_error(event.errno.cast_signed());
        let timed_out = event.errno.cast_signed() == libc::ETIMEDOUT;
        match event.kind {
            event::CLOSED if timed_out => {
                Some(Failure::because(Kind::Timeout, Side::Upstream, Retry::Safe, cause()))
            }
            event::CLOSED if event.errno != 0 => {
                Some(Failure::because(Kind::Connect, Side::Upstream, Retry::Safe, cause()))
            }
            event::CLOSED if event.flags & event::RESET_BY_SERVER != 0 => {
                let cause = io::Error::from_raw_os_error(libc::ECONNRESET);
                Some(Failure::because(Kind::Reset, Side::Upstream, Retry::IfIdempotent, cause))
            }
            event::CLOSED if event.flags & event::RESET_BY_CLIENT != 0 => {
                Some(Failure::new(Kind::ClientReset, Side::Client, Retry::IfIdempotent))
            }
            event::DENIED => Some(match &self.denial {
                Some(denial) => {
                    let cause = denial.to_string();
                    Failure::because(Kind::Denied, Side::Mesh, Retry::Never, cause)
                }
                None => Failure::new(Kind::Denied, Side::Mesh, Retry::Never),
            }),
            event::OUTSIDE_DENIED => {
                let cause = "its namespace may connect to what the mesh knows only \
                             (`spec.egress: registry-only`), and no ServiceEntry has the address";
                Some(Failure::because(Kind::Egress, Side::Mesh, Retry::Never, cause))
            }
            event::NOBODY => Some(self.split.map_or_else(no_endpoint, nobody)),
            event::DEVICE => {
                let cause = "its socket is bound to a network device (`SO_BINDTODEVICE`) that does not \
                             have the workload's addresses, so that it does not reach the agent: \
                             bind it to the one that has, or to none";
                Some(Failure::because(Kind::NoAgent, Side::Mesh, Retry::Never, cause))
            }
            event::FAILED_CLOSED => Some(Failure::new(Kind::NoAgent, Side::Mesh, Retry::Safe)),
            _ => None,
        }
    }
}

/// Why nobody serves a share of a split. The kernel does not say which share it has picked: it is
/// one without endpoints if there is such a one.
fn nobody(split: &Split) -> Failure {
    let mut shares = split.backends.iter().filter(|backend| backend.weight > 0);
    let empty = |endpoints: &Endpoints| match endpoints {
        Endpoints::Invalid => false,
        Endpoints::Resolved { endpoints, .. } => endpoints.is_empty(),
    };
    if shares.any(|backend| empty(&backend.endpoints)) {
        return no_endpoint();
    }
    Failure::new(Kind::NoRoute, Side::Mesh, Retry::Never)
}

fn no_endpoint() -> Failure {
    Failure::new(Kind::NoEndpoint, Side::Mesh, Retry::Safe)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use mesh_common::addr::user::from_ip;

    use super::*;
    use crate::datapath::desired::id_of;
    use crate::flows::testing::{NODE, mesh, policy, target};
    use crate::model::policy::{Action, WorkloadPolicy};

    /// `web` to the service `echo`, which is served by the workload `echo`.
    fn event(kind: u32) -> Event {
        let ip = |text: &str| from_ip(text.parse().unwrap());
        Event {
            kind,
            errno: 0,
            source: id_of(&"demo/web"),
            destination: id_of(&"demo/echo"),
            policy: id_of(&"demo/only-web"),
            client: ip("10.0.0.1"),
            origin: ip("10.96.0.10"),
            server: ip("10.0.0.2"),
            client_port_be: 40_000_u16.to_be(),
            origin_port_be: 80_u16.to_be(),
            server_port_be: 8080_u16.to_be(),
            pad: 0,
            backend: 0,
            srtt_us: 37,
            sent: 10,
            received: 2000,
            lasted_ns: 1_500_000_000,
            flags: 0,
            pad_end: 0,
        }
    }

    /// The facts of the connect hook: no client, and of these kinds no endpoint.
    fn refused(kind: u32) -> Event {
        Event {
            destination: 0,
            policy: 0,
            client: [0; 4],
            server: [0; 4],
            client_port_be: 0,
            server_port_be: 0,
            srtt_us: 0,
            sent: 0,
            received: 0,
            lasted_ns: 0,
            ..event(kind)
        }
    }

    fn with_policy() -> Snapshot {
        let mut mesh = mesh();
        let only = Arc::new(policy("only-web", Action::Allow, "web"));
        let of = WorkloadPolicy { authorization: vec![only], ..WorkloadPolicy::default() };
        mesh.policies.insert(ResourceName::new("demo", "echo"), Arc::new(of));
        mesh
    }

    fn told(event: &Event, mesh: &Snapshot) -> Option<Report> {
        let mut names = Names::default();
        names.refresh(mesh, NODE, Instant::now());
        report(event, mesh, &names, UNIX_EPOCH + Duration::from_secs(100))
    }

    #[track_caller]
    fn only(event: &Event, mesh: &Snapshot) -> ConnectionEnd {
        match told(event, mesh) {
            Some(Report::Only(end)) => *end,
            other => panic!("{other:?}"),
        }
    }

    fn name(peer: &Peer) -> (Option<String>, Option<String>) {
        let workload = peer.workload.as_ref().map(|workload| workload.name.to_string());
        (workload, peer.principal.as_ref().map(ToString::to_string))
    }

    #[test]
    fn both_ends_are_told_of_a_direct_connection() {
        let mesh = with_policy();
        let Some(Report::Closed(ends)) = told(&event(event::CLOSED), &mesh) else { panic!() };
        let [destination, source] = *ends;
        let id = |name| format!("spiffe://cluster.local/ns/demo/sa/{name}");
        for end in [&destination, &source] {
            assert_eq!(name(&end.parties.source), (Some("demo/web".into()), Some(id("web"))));
            assert_eq!(
                name(&end.parties.destination),
                (Some("demo/echo".into()), Some(id("echo")))
            );
            assert_eq!(end.parties.security, Security::Kernel);
            assert_eq!((end.received_bytes, end.sent_bytes), (10, 2000));
            assert_eq!(end.start, UNIX_EPOCH + Duration::from_millis(98_500));
            assert_eq!(end.srtt, Some(Duration::from_micros(37)));
            assert_eq!(end.downstream_remote.to_string(), "10.0.0.1:40000");
            assert_eq!(end.upstream_host.unwrap().to_string(), "10.0.0.2:8080");
            let policy = Some(ResourceName::new("demo", "only-web"));
            assert_eq!(end.judged, Some(Judged { allowed: true, policy }));
            assert_eq!((end.path, end.failure.is_none()), (Path::Direct, true));
        }
        assert_eq!(source.downstream_local.to_string(), "10.96.0.10:80");
        assert_eq!(destination.downstream_local.to_string(), "10.0.0.2:8080");
        assert_eq!(source.route, Some(ResourceName::new("demo", "split")));
        let reporters = [destination.parties.reporter, source.parties.reporter];
        assert_eq!(reporters, [Reporter::Destination, Reporter::Source]);

        let Some(Report::Opened(opened)) = told(&event(event::OPENED), &mesh) else { panic!() };
        for (opened, end) in opened.iter().zip([&destination, &source]) {
            assert_eq!(format!("{opened:?}"), format!("{:?}", end.parties), "one series");
        }
    }

    #[test]
    fn who_has_reset_a_connection_is_told_at_both_ends() {
        for (flags, expect) in [
            (event::RESET_BY_CLIENT, (Kind::ClientReset, Side::Client)),
            (event::RESET_BY_SERVER | event::ACCELERATED, (Kind::Reset, Side::Upstream)),
        ] {
            let closed = Event { flags, ..event(event::CLOSED) };
            let Some(Report::Closed(ends)) = told(&closed, &mesh()) else { panic!() };
            for end in &*ends {
                let failure = end.failure.as_ref().unwrap();
                assert_eq!((failure.kind, failure.side), expect);
            }
        }
    }

    #[test]
    fn a_connection_that_was_never_made_is_told_by_its_source() {
        for (errno, expect) in [(111, Kind::Connect), (110, Kind::Timeout), (113, Kind::Connect)] {
            let end = only(&Event { errno, ..event(event::CLOSED) }, &mesh());
            let failure = end.failure.unwrap();
            assert_eq!((failure.kind, failure.side), (expect, Side::Upstream));
            assert!(failure.cause().contains(&format!("os error {errno}")));
            assert_eq!(end.parties.reporter, Reporter::Source);
        }
    }

    #[test]
    fn a_denied_connection_names_the_policy() {
        let denied = Event {
            destination: id_of(&"demo/echo"),
            policy: id_of(&"demo/only-web"),
            ..refused(event::DENIED)
        };
        let end = only(&denied, &with_policy());
        assert_eq!(end.failure.unwrap().kind, Kind::Denied);
        let policy = Some(ResourceName::new("demo", "only-web"));
        assert_eq!(end.judged, Some(Judged { allowed: false, policy }));
        assert_eq!(end.downstream_remote.to_string(), "10.0.0.1:0");
        assert_eq!(end.upstream_host, None);
    }

    #[test]
    fn what_nobody_serves_says_whether_to_retry() {
        let kind = |mesh: &Snapshot| {
            let end = only(&refused(event::NOBODY), mesh);
            assert_eq!((end.judged, end.parties.security), (None, Security::None));
            let failure = end.failure.unwrap();
            (failure.kind, failure.retry)
        };
        let mut mesh = mesh();
        let address = "10.96.0.10:80".parse().unwrap();
        assert_eq!(kind(&mesh), (Kind::NoRoute, Retry::Never));
        mesh.services.insert(address, Arc::new(target(vec![])));
        assert_eq!(kind(&mesh), (Kind::NoEndpoint, Retry::Safe));
        let mut invalid = target(vec![]);
        invalid.default.backends[0].endpoints = Endpoints::Invalid;
        mesh.services.insert(address, Arc::new(invalid));
        assert_eq!(kind(&mesh), (Kind::NoRoute, Retry::Never));
        mesh.services.clear();
        assert_eq!(kind(&mesh), (Kind::NoEndpoint, Retry::Safe));
    }

    #[test]
    fn an_agent_that_does_not_answer_is_told_of() {
        let mesh = mesh();
        let closed = only(&refused(event::FAILED_CLOSED), &mesh);
        assert_eq!((closed.failure.unwrap().kind, closed.path), (Kind::NoAgent, Path::Direct));
        let unreached = only(&refused(event::DEVICE), &mesh).failure.unwrap();
        assert_eq!((unreached.kind, unreached.retry), (Kind::NoAgent, Retry::Never));
        let to_echo = event(event::FAILED_OPEN);
        let past = Event {
            server: to_echo.server,
            server_port_be: to_echo.server_port_be,
            ..refused(event::FAILED_OPEN)
        };
        let open = only(&past, &mesh);
        assert!(open.failure.is_none());
        assert_eq!((open.path, open.parties.security), (Path::Bypass, Security::None));
        let echo = Some("demo/echo".to_owned());
        assert_eq!(name(&open.parties.destination), (echo, None), "found by its address");
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let mut stranger = event(event::CLOSED);
        stranger.source = 1;
        stranger.destination = 2;
        stranger.policy = 3;
        stranger.server = from_ip("192.0.2.1".parse().unwrap());
        let Some(Report::Closed(ends)) = told(&stranger, &mesh()) else { panic!() };
        for end in &*ends {
            assert_eq!(name(&end.parties.source), (None, None));
            assert_eq!(name(&end.parties.destination), (None, None));
            assert_eq!(end.judged, Some(Judged { allowed: true, policy: None }));
        }
        for kind in [0, 10, u32::MAX] {
            assert!(told(&event(kind), &mesh()).is_none());
        }
    }
}
