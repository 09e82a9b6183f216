//! One network namespace with the workloads of this node that live in it.
//!
//! A pod's namespace holds one workload; the host's holds all that are recognized by their cgroup.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use mesh_common::record::Record;
use mesh_common::source::SourceKey;
use socket2::Socket;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;

use crate::bounds::Account;
use crate::datapath::Kernel;
use crate::datapath::desired::id_of;
use crate::datapath::kernel::Shown;
use crate::identity::{Identity, tls};
use crate::model::id::ResourceName;
use crate::model::snapshot::Snapshot;
use crate::model::workload::Workload;
use crate::native::quota::{self, ClientQuotas};
use crate::proxy::Context;
use crate::proxy::breaker::Breaker;
use crate::proxy::http;
use crate::proxy::http::plain::wires::Wires;
use crate::proxy::inbound::admission::Admission;
use crate::proxy::inbound::sources::{self, Source, Sources};
use crate::proxy::listening::Listening;
use crate::proxy::spread::Spread;
use crate::sys::netns::Netns;
use crate::sys::route;
use crate::sys::socket::{self, Peer, PeerTimeout};
use crate::task::clock;
use crate::task::scope::Scope;
use crate::tunnels;
use crate::tunnels::pool::{Key, Pool, Quotas};

/// A workload of this node.
pub struct Local {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Its certificate.
    pub identity: Arc<Identity>,
    /// How the kernel recognizes its sockets.
    pub source: SourceKey,
    /// TLS towards peers that it connects to.
    pub clients: Arc<tls::Clients>,
    /// TLS towards peers that connect to it.
    pub server: Arc<tls::Server>,
    /// The sockets that the agent holds for it.
    pub account: Arc<Account>,
    /// The tasks of its connections: they end when it is released, or is somebody else.
    pub scope: Scope,
}

/// A namespace and its workloads.
pub struct Realm {
    /// Its tasks, and within it those of the connections of each workload.
    pub scope: Scope,
    /// Its listeners.
    pub listening: Listening,
    /// The namespace's cookie.
    pub cookie: u64,
    /// Which peers may begin a handshake.
    admission: Mutex<Admission>,
    /// The quotas of peers on the native transport.
    pub quotas: ClientQuotas,
    /// Peers that could not be reached.
    breaker: Mutex<Breaker<Key>>,
    /// Which data thread each of the applications' connections is on.
    pub spread: Spread,
    /// Tunnels to peers, one pool a data thread.
    pub pools: Vec<Pool>,
    /// Connections to endpoints that HTTP requests are sent on, one pool a data thread.
    pub http: Vec<http::pool::Pool>,
    /// The same for plain requests.
    pub wires: Vec<Wires>,
    /// Copies of HTTP requests under way.
    pub copies: Arc<http::mirror::Copies>,
    /// Turns for judging connections again, when the mesh has changed: all of them at once
    /// would hold up others on their data threads.
    pub judging: Semaphore,
    /// The addresses that its applications are connected to from.
    sources: Sources,
    /// `None`: the agent's own namespace.
    netns: Option<Arc<Netns>>,
    locals: ArcSwap<Vec<Arc<Local>>>,
}

/// The workloads of this node that are enrolled, by name, each with its namespace. Cheap to clone;
/// all clones are one. Written by the task that owns the set.
#[derive(Clone, Default)]
pub struct Locals {
    all: Arc<ArcSwap<HashMap<ResourceName, Resident>>>,
    /// The listeners that units have of their own.
    listening: Arc<ArcSwap<Vec<Arc<Listening>>>>,
}

/// A workload of this node, with the namespace that it lives in.
#[derive(Clone)]
pub struct Resident {
    /// The namespace.
    pub realm: Arc<Realm>,
    /// The workload.
    pub local: Arc<Local>,
}

impl Locals {
    /// Replaces all of them, and the listeners of units among them.
    pub fn set(&self, all: HashMap<ResourceName, Resident>, listening: Vec<Arc<Listening>>) {
        self.all.store(Arc::new(all));
        self.listening.store(Arc::new(listening));
    }

    /// Their names, `<namespace>/<name>`.
    pub fn names(&self) -> Vec<String> {
        self.all.load().keys().map(ToString::to_string).collect()
    }

    /// Has the kernel give no more connections to listeners of theirs.
    pub fn take_back(&self, kernel: &Kernel) {
        let (all, units) = (self.all.load(), self.listening.load());
        let of_realms = all.values().map(|resident| &resident.realm.listening);
        for listening in of_realms.chain(units.iter().map(Arc::as_ref)) {
            if let Err(error) = listening.take_back(kernel) {
                tracing::warn!(%error, "the kernel still gives connections to a listener of this agent");
            }
        }
    }

    /// Closes their connections to endpoints that wait for a request.
    pub fn close_idle(&self, context: &Context) {
        for resident in self.all.load().values() {
            resident.realm.http.iter().for_each(http::pool::Pool::close_idle);
            resident.realm.wires.iter().for_each(|wires| wires.close_idle(context));
        }
    }

    /// The one with this name.
    pub fn get(&self, name: &ResourceName) -> Option<Resident> {
        self.all.load().get(name).cloned()
    }
}

impl fmt::Debug for Locals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.all.load().keys()).finish()
    }
}

impl Local {
    /// Puts a workload together with its certificate. `scope` is that of its connections.
    pub fn new(
        workload: Arc<Workload>,
        identity: Arc<Identity>,
        source: SourceKey,
        scope: Scope,
        context: &Context,
    ) -> Self {
        let options = &context.options;
        let (alpn, bounds) = (tunnels::offered(&options.tunnels), options.sessions);
        let clients = tls::Clients::new(Arc::clone(&identity), alpn.clone(), bounds);
        let server = tls::Server::new(Arc::clone(&identity), alpn, bounds);
        let (clients, server) = (Arc::new(clients), Arc::new(server));
        let account = context.sockets.account();
        Self { workload, identity, source, clients, server, account, scope }
    }

    /// The same of which something else has changed than its identity.
    #[must_use]
    pub fn changed(&self, workload: Arc<Workload>) -> Self {
        Self {
            workload,
            identity: Arc::clone(&self.identity),
            source: self.source,
            clients: Arc::clone(&self.clients),
            server: Arc::clone(&self.server),
            account: Arc::clone(&self.account),
            scope: self.scope.clone(),
        }
    }
}

impl Realm {
    /// A namespace without workloads yet; `None` is the agent's own.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered.
    pub fn new(
        netns: Option<Arc<Netns>>,
        context: &Context,
        (scope, listening): (Scope, Scope),
    ) -> io::Result<Self> {
        let cookie = within(netns.as_deref(), socket::current_netns_cookie)?;
        let tunnels = context.options.tunnels;
        let quotas = quota::Quotas::within(Arc::clone(&context.unread));
        let quotas: Quotas = Arc::new(Mutex::new(quotas));
        let counted = context.sockets.keep(descriptors(context.runtimes.all().len()));
        let pool =
            || Pool::new(&tunnels, scope.clone(), context.telemetry.clone(), Arc::clone(&quotas));
        Ok(Self {
            listening: Listening::new(listening, counted),
            cookie,
            admission: Mutex::new(Admission::new(context.options.handshakes)),
            breaker: Mutex::new(Breaker::new(context.options.breaker)),
            quotas: ClientQuotas::within(Arc::clone(&context.unread)),
            pools: context.runtimes.all().iter().map(|_| pool()).collect(),
            http: context.runtimes.all().iter().map(|_| http::pool::Pool::default()).collect(),
            wires: context.runtimes.all().iter().map(|_| Wires::default()).collect(),
            copies: Arc::default(),
            judging: Semaphore::new(1),
            sources: Sources::default(),
            spread: Spread::over(context.runtimes.all().len()),
            scope: scope.clone(),
            netns,
            locals: ArcSwap::default(),
        })
    }

    /// The namespace; `None` is the agent's own.
    pub const fn netns(&self) -> Option<&Arc<Netns>> {
        self.netns.as_ref()
    }

    /// Which peers may begin a handshake. To be held for one call.
    pub fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Peers that could not be reached. To be held for one call.
    pub fn breaker(&self) -> MutexGuard<'_, Breaker<Key>> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the workloads.
    pub fn set_locals(&self, locals: Vec<Arc<Local>>) {
        self.locals.store(Arc::new(locals));
    }

    /// The workload whose socket the kernel recorded.
    pub fn local_of(&self, record: &Record) -> Option<Arc<Local>> {
        let source = SourceKey { id: record.source_id, kind: record.source_kind, pad: 0 };
        self.locals.load().iter().find(|local| local.source == source).cloned()
    }

    /// The workload that has an address. Where several share one, the first by name.
    pub fn local_of_address(&self, address: IpAddr) -> Option<Arc<Local>> {
        let locals = self.locals.load();
        locals.iter().find(|local| local.workload.addresses.contains(&address)).cloned()
    }

    /// The workload with this name.
    pub fn local_named(&self, name: &ResourceName) -> Option<Arc<Local>> {
        self.locals.load().iter().find(|local| local.workload.name == *name).cloned()
    }

    /// The workload whose number the kernel gave.
    pub fn local_by_id(&self, id: u64) -> Option<Arc<Local>> {
        self.locals.load().iter().find(|local| id_of(&local.workload.name) == id).cloned()
    }

    /// The workload that a connection to `to` is for: a pod's is for its one workload, whatever the
    /// port; of several in the agent's own namespace the port says which.
    pub fn local_at(&self, mesh: &Snapshot, to: SocketAddr) -> Option<Arc<Local>> {
        let locals = self.locals.load();
        locals.iter().find(|local| self.takes(mesh, local, to)).cloned()
    }

    /// The workload that a connection to `to` is for, within a tunnel of `tunnel`'s certificate: it
    /// is `tunnel`, or another with the same identity.
    pub fn local_within(
        &self,
        mesh: &Snapshot,
        to: SocketAddr,
        tunnel: &Local,
    ) -> Option<Arc<Local>> {
        let locals = self.locals.load();
        let all = || locals.iter().filter(|local| self.takes(mesh, local, to));
        let same = |local: &&Arc<Local>| local.workload.name == tunnel.workload.name;
        let alike = |local: &&Arc<Local>| local.workload.identity == tunnel.workload.identity;
        all().find(same).or_else(|| all().find(alike)).cloned()
    }

    fn takes(&self, mesh: &Snapshot, local: &Local, to: SocketAddr) -> bool {
        takes(mesh, self.netns.is_some(), &local.workload, to)
    }

    /// A non-blocking socket in this namespace, marked as the agent's own: it is never captured.
    ///
    /// # Errors
    ///
    /// No descriptor or kernel memory is left, or the namespace cannot be entered.
    pub fn socket(&self, context: &Context, to: SocketAddr) -> io::Result<TcpSocket> {
        let timeout = context.options.peer_timeout;
        let socket = self.enter(|| socket::tcp(to.ip(), Peer::Remote, timeout))?;
        context.kernel.mark_agent(&socket, None)?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }

    /// Connects to an application of this namespace, which sees what `shown` says.
    ///
    /// # Errors
    ///
    /// No descriptor, kernel memory or local port is left, the namespace cannot be entered, or the
    /// application does not take the connection.
    pub async fn connect_inside(
        &self,
        context: &Context,
        to: SocketAddr,
        shown: Shown,
    ) -> io::Result<TcpStream> {
        let now = clock::monotonic();
        let mut kind = self.sources.first(to, now);
        loop {
            let socket = self.enter(|| self.bound(to, kind, context.options.peer_timeout))?;
            context.kernel.mark_agent(&socket, Some(shown))?;
            let socket = TcpSocket::from_std_stream(socket.into());
            let error = match socket.connect(to).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            let Some(next) = kind.next(to.ip(), &error) else { return Err(error) };
            self.sources.note_full(kind, to, now);
            kind = next;
        }
    }

    /// A socket for a connection to an application, from an address of `kind`. The calling thread is in this
    /// namespace.
    fn bound(&self, to: SocketAddr, kind: Source, timeout: PeerTimeout) -> io::Result<Socket> {
        let socket = socket::tcp(to.ip(), Peer::Local, timeout)?;
        if kind == Source::Inside {
            // Each time: without the route answers would be sent elsewhere.
            route::add_local(sources::inside(), sources::INSIDE_BITS)?;
            self.sources.note_inside();
            // An address of a network that is local is no address of a device.
            socket.set_freebind_v6(true)?;
        }
        if let Some(from) = kind.address(to.ip()) {
            socket::bind_address(&socket, from)?;
        }
        Ok(socket)
    }

    /// Removes what connections to its applications have left in the namespace.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered, or the kernel refused.
    pub fn tidy(&self) -> io::Result<()> {
        if !self.sources.take_inside() {
            return Ok(());
        }
        self.enter(|| route::remove_local(sources::inside(), sources::INSIDE_BITS))
    }

    /// Runs `f` with the calling thread in this namespace.
    ///
    /// # Errors
    ///
    /// Those of `f`, or the namespace cannot be entered.
    pub fn enter<T>(&self, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        within(self.netns.as_deref(), f)
    }
}

/// The descriptors of a namespace with so many data threads: itself, and for both families a listener for
/// tunnels, and on each thread one for what goes out and one for plaintext.
const fn descriptors(workers: usize) -> usize {
    1 + 2 * (1 + 2 * workers)
}

/// Listeners that a workload has of its own where several share a namespace: for both families one for what
/// goes out and one for plaintext.
pub const UNIT_DESCRIPTORS: usize = 4;

/// Whether a connection to `to` may be for `workload`. `alone`: no other workload is in its
/// namespace.
fn takes(mesh: &Snapshot, alone: bool, workload: &Workload, to: SocketAddr) -> bool {
    let has = workload.addresses.contains(&to.ip());
    if alone {
        return has;
    }
    if to.ip().is_loopback() {
        return mesh.owns(workload, to.port()) && mesh.serves(workload, to.port());
    }
    has && mesh.listens(workload, to)
}

fn within<T>(netns: Option<&Netns>, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match netns {
        None => f(),
        Some(netns) => netns.enter(f)?,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::spiffe::SpiffeId;
    use crate::model::workload::{NamedPort, Place};

    fn unit(name: &str, ports: &[u16]) -> Arc<Workload> {
        let port = |port: &u16| NamedPort { name: format!("p{port}"), port: *port };
        Arc::new(Workload {
            name: ResourceName::new("demo", name),
            identity: SpiffeId::new("cluster.local", "demo", name).unwrap(),
            node: Some("a".into()),
            addresses: vec![[10, 0, 0, 1].into()],
            labels: BTreeMap::new(),
            ports: ports.iter().map(port).collect(),
            probes: Vec::new(),
            ready: true,
            place: Place::Unplaced,
        })
    }

    #[test]
    fn units_of_one_address_are_told_apart_by_port() {
        let (a, b) = (unit("a", &[80]), unit("b", &[81]));
        let address = IpAddr::from([10, 0, 0, 1]);
        let mesh = Snapshot {
            by_address: HashMap::from([(address, vec![Arc::clone(&a), Arc::clone(&b)])]),
            by_port: HashMap::from([
                ((address, 80).into(), vec![Arc::clone(&a)]),
                ((address, 81).into(), vec![Arc::clone(&b)]),
            ]),
            ..Snapshot::default()
        };
        let check = |to: &str, expect: [bool; 2]| {
            let to = to.parse().unwrap();
            assert_eq!([&a, &b].map(|unit| takes(&mesh, false, unit, to)), expect, "{to}");
        };
        check("10.0.0.1:80", [true, false]);
        check("10.0.0.1:81", [false, true]);
        // Nobody's: the first by name, for agents of other nodes too.
        check("10.0.0.1:82", [true, false]);
        check("127.0.0.1:81", [false, true]);
        check("[::1]:80", [true, false]);
        check("127.0.0.1:82", [false, false]);
        check("10.0.0.2:80", [false, false]);
    }

    #[test]
    fn a_pod_takes_every_port_of_its_addresses() {
        let pod = unit("a", &[80]);
        let check = |to: &str, expect| {
            assert_eq!(takes(&Snapshot::default(), true, &pod, to.parse().unwrap()), expect);
        };
        check("10.0.0.1:9", true);
        check("127.0.0.1:80", false);
        check("10.0.0.2:80", false);
    }
}
