//! One network namespace with the workloads of this node that live in it.
//!
//! A pod's namespace holds one workload; the host's holds all that are recognized by their cgroup.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use mesh_common::record::Record;
use mesh_common::source::SourceKey;
use rustls::ServerConfig;
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;

use crate::hbone::pool::Pool;
use crate::identity::{Identity, tls};
use crate::model::workload::Workload;
use crate::proxy::Context;
use crate::sys::netns::Netns;
use crate::sys::socket;
use crate::task::scope::Scope;

/// A workload of this node.
pub struct Local {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Its certificate.
    pub identity: Arc<Identity>,
    /// How the kernel recognizes its sockets.
    pub source: SourceKey,
    /// TLS towards peers that connect to it.
    pub server: Arc<ServerConfig>,
}

/// A namespace and its workloads.
pub struct Realm {
    /// Tasks of its connections.
    pub scope: Scope,
    /// The namespace's cookie.
    pub cookie: u64,
    /// Places for tunnels of peers.
    pub tunnels: Arc<Semaphore>,
    /// Tunnels to peers, one pool a data thread.
    pub pools: Vec<Pool>,
    /// `None`: the agent's own namespace.
    netns: Option<Netns>,
    locals: ArcSwap<Vec<Arc<Local>>>,
}

impl Local {
    /// Puts a workload together with its certificate.
    pub fn new(workload: Arc<Workload>, identity: Arc<Identity>, source: SourceKey) -> Self {
        let server = tls::server_config(&identity);
        Self { workload, identity, source, server }
    }
}

impl Realm {
    /// A namespace without workloads yet; `None` is the agent's own.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered.
    pub fn new(netns: Option<Netns>, context: &Context, scope: Scope) -> io::Result<Self> {
        let cookie = within(netns.as_ref(), socket::current_netns_cookie)?;
        let pool = || Pool::new(context.options.hbone, scope.clone(), context.telemetry.clone());
        Ok(Self {
            cookie,
            tunnels: Arc::new(Semaphore::new(context.options.max_tunnels)),
            pools: context.runtimes.all().iter().map(|_| pool()).collect(),
            scope: scope.clone(),
            netns,
            locals: ArcSwap::default(),
        })
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
    pub fn local_at(&self, address: IpAddr) -> Option<Arc<Local>> {
        let locals = self.locals.load();
        locals.iter().find(|local| local.workload.addresses.contains(&address)).cloned()
    }

    /// A non-blocking socket in this namespace, marked as the agent's own: it is never captured.
    /// An application of this namespace that accepts its connection sees `client` as its peer.
    ///
    /// # Errors
    ///
    /// No descriptor or kernel memory is left, or the namespace cannot be entered.
    pub fn socket(
        &self,
        context: &Context,
        to: SocketAddr,
        client: Option<SocketAddr>,
    ) -> io::Result<TcpSocket> {
        let socket = self.enter(|| socket::tcp(to.ip()))?;
        context.kernel.mark_agent(&socket, client)?;
        Ok(TcpSocket::from_std_stream(socket.into()))
    }

    /// Runs `f` with the calling thread in this namespace.
    ///
    /// # Errors
    ///
    /// Those of `f`, or the namespace cannot be entered.
    pub fn enter<T>(&self, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        within(self.netns.as_ref(), f)
    }
}

fn within<T>(netns: Option<&Netns>, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    match netns {
        None => f(),
        Some(netns) => netns.enter(f)?,
    }
}
