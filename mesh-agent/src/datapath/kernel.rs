//! Questions of connections to the kernel, from any thread.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use aya::Ebpf;
use aya::maps::{MapData, MapError, PerCpuArray};
use mesh_common::addr::user::from_ip;
use mesh_common::maps::{self, ListenerKey};
use mesh_common::record::{AGENT, CAN_ACCELERATE, ConnKey, Record};
use mesh_common::source::SourceKey;
use mesh_common::stats;
use tokio::sync::watch;

use crate::datapath::Error;
use crate::datapath::desired::id_of;
use crate::datapath::inbound::{Arrivals, Copies};
use crate::datapath::load::{data, take};
use crate::datapath::observe::{self, Coverage};
use crate::datapath::pins::Pins;
use crate::model::id::ResourceName;
use crate::sys::bpf::SharedMap;
use crate::telemetry::KernelCounters;

/// The maps that connections use, and the namespaces where arrivals are seen.
pub struct Kernel {
    origins: SharedMap<ConnKey, Record>,
    sockets: SharedMap<i32, Record>,
    listeners: SharedMap<ListenerKey, u32>,
    heartbeat: SharedMap<u32, u64>,
    counters: PerCpuArray<MapData, u64>,
    copies: Copies,
    coverage: Coverage,
}

/// How the agent's connection to an application of the same namespace looks from there.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// The application sees it as its peer.
    pub client: SocketAddr,
    /// Its bytes may take the shorter way.
    pub accelerate: bool,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").finish_non_exhaustive()
    }
}

impl Kernel {
    pub(crate) fn new(
        ebpf: &mut Ebpf,
        (folder, pins): (&Path, Arc<Pins>),
        coverage: Coverage,
    ) -> Result<Self, Error> {
        Ok(Self {
            coverage,
            counters: take(ebpf, maps::COUNTERS)?,
            origins: share(ebpf, maps::ORIGINS)?,
            sockets: share(ebpf, maps::SOCKETS)?,
            listeners: share(ebpf, maps::LISTENERS)?,
            heartbeat: share(ebpf, maps::HEARTBEAT)?,
            copies: Copies::new(folder, pins),
        })
    }

    /// How connections of workloads went, as the observer has seen them.
    pub const fn coverage(&self) -> &Coverage {
        &self.coverage
    }

    /// Counts the connections of a workload that are open before it is enrolled: they stay as they
    /// are. `source`: whose they are, in the calling thread's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel cannot be asked for sockets, or its map is full.
    pub fn count_earlier(&self, workload: &ResourceName, source: SourceKey) -> io::Result<()> {
        let found = observe::undecided(self.sockets().as_fd(), source).map_err(io::Error::other)?;
        if found == 0 {
            return Ok(());
        }
        tracing::info!(%workload, connections = found, "open before it was enrolled: they stay as they are");
        self.coverage.earlier(id_of(workload), found)
    }

    /// Says that the agent worked at `now_ns` of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn beat(&self, now_ns: u64) -> io::Result<()> {
        self.heartbeat.put(&0, &now_ns)
    }

    /// Told each time that a program is found detached.
    pub fn lost(&self) -> watch::Receiver<u64> {
        self.copies.lost()
    }

    /// Lets the kernel see what arrives in the namespace `netns`.
    ///
    /// # Errors
    ///
    /// The kernel refused the program or its link.
    pub fn watch_arrivals(&self, netns: BorrowedFd<'_>, arrivals: Arrivals) -> io::Result<()> {
        self.copies.attach(netns, arrivals)
    }

    /// Whether programs are ready for what arrives in namespaces that come later.
    pub fn has_spare_arrivals(&self) -> bool {
        self.copies.has_spare()
    }

    /// Makes them ready. Takes the verifier's time.
    ///
    /// # Errors
    ///
    /// The kernel refused the program.
    pub fn prepare_arrivals(&self) -> io::Result<()> {
        self.copies.prepare()
    }

    /// Notes that the program of a namespace may go: its workload has gone.
    pub fn let_arrivals_go(&self, cookie: u64) {
        self.copies.let_go(cookie);
    }

    /// Stops to look at what arrives in the namespaces for whose cookies `wanted` is false.
    pub fn retain_arrivals(&self, wanted: impl Fn(u64) -> bool) {
        self.copies.retain(wanted);
    }

    /// Has connections given to `listener`. The kernel forgets a listener that is closed by itself.
    ///
    /// # Errors
    ///
    /// The map is full, or the socket does not listen.
    pub fn give_to(&self, key: ListenerKey, listener: impl AsFd) -> io::Result<()> {
        self.listeners.put(&key, &listener.as_fd().as_raw_fd().cast_unsigned())
    }

    /// Has no more connections given to the listener of `key`. Those that have begun are its own.
    ///
    /// # Errors
    ///
    /// The map cannot be written.
    pub fn take_from(&self, key: ListenerKey) -> io::Result<()> {
        self.listeners.remove(&key)
    }

    /// The map of what is remembered of sockets, by its descriptor.
    pub const fn sockets(&self) -> &impl AsFd {
        self.sockets.fd()
    }

    /// The kernel's record of the connection that `client`, in the namespace with the cookie
    /// `netns`, opened to the outbound listener, which it reached at `to`. Each record can be taken
    /// once.
    ///
    /// With `unit`, the record of another workload is left, and `Ok(None)`: a connection that was reset while
    /// it waited to be accepted has no record any more, and its port may be another workload's by then.
    ///
    /// # Errors
    ///
    /// The kernel refused; that there is no record is `Ok(None)`.
    pub fn take_origin(
        &self,
        netns: u64,
        (client, to): (SocketAddr, SocketAddr),
        unit: Option<u64>,
    ) -> io::Result<Option<Record>> {
        let client = (from_ip(client.ip()), client.port().to_be());
        let to = (from_ip(to.ip()), to.port().to_be());
        let key = ConnKey::new(netns, client, to);
        let is_its = |record: &Record| unit.is_none_or(|unit| record.source == unit);
        if unit.is_some() && !self.origins.get(&key)?.as_ref().is_some_and(is_its) {
            return Ok(None);
        }
        Ok(self.origins.take(&key)?.filter(is_its))
    }

    /// Marks a socket as the agent's own before it connects: it is never captured. If the
    /// connection stays in its namespace, the accepting application sees what `shown` says.
    ///
    /// # Errors
    ///
    /// The kernel has no memory for the mark.
    pub fn mark_agent(&self, socket: impl AsFd, shown: Option<Shown>) -> io::Result<()> {
        let mut record = Record::new(AGENT);
        if let Some(Shown { client, accelerate }) = shown {
            record.addr = from_ip(client.ip());
            record.port_be = client.port().to_be();
            record.flags = if accelerate { CAN_ACCELERATE } else { 0 };
        }
        self.sockets.put(&socket.as_fd().as_raw_fd(), &record)
    }

    /// The kernel's counters, summed over the CPUs, with the words of [`stats`].
    ///
    /// # Errors
    ///
    /// The map cannot be read.
    pub fn counters(&self) -> Result<KernelCounters, MapError> {
        let sum = |index: u32| self.counters.get(&index, 0).map(|by_cpu| by_cpu.iter().sum());
        let sums = |table: &[(u32, &'static str)]| -> Result<Vec<_>, MapError> {
            table.iter().map(|(index, word)| sum(*index).map(|sum| (*word, sum))).collect()
        };
        Ok(KernelCounters {
            connects: sums(&stats::VERDICTS)?,
            arrivals: sums(&stats::ARRIVALS)?,
            events_lost: sum(stats::EVENTS_LOST)?,
            refused: Vec::new(),
        })
    }
}

fn share<K: aya::Pod, V: aya::Pod>(
    ebpf: &Ebpf,
    name: &'static str,
) -> Result<SharedMap<K, V>, Error> {
    let map = data(ebpf, name)?;
    let wrong = |_error| Error::Missing(name);
    let info = map.info().map_err(|_error| Error::Missing(name))?;
    SharedMap::new(map.fd().as_fd(), info.key_size(), info.value_size()).map_err(wrong)
}
