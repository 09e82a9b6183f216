//! What connections ask of the kernel, from any thread.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _};

use aya::maps::{MapData, MapError, PerCpuArray};
use mesh_common::addr::user::from_ip;
use mesh_common::record::{AGENT, ConnKey, Record};
use mesh_common::stats;

use crate::datapath::Error;
use crate::sys::bpf::SharedMap;
use crate::sys::diag::{self, Diag, Socket};
use crate::telemetry::KernelCounters;

/// The maps that connections use.
pub struct Kernel {
    origins: SharedMap<ConnKey, Record>,
    sockets: SharedMap<i32, Record>,
    counters: PerCpuArray<MapData, u64>,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").finish_non_exhaustive()
    }
}

impl Kernel {
    pub(crate) fn new(
        origins: &MapData,
        sockets: &MapData,
        counters: PerCpuArray<MapData, u64>,
    ) -> Result<Self, Error> {
        Ok(Self {
            origins: share(origins, "ORIGINS")?,
            sockets: share(sockets, "SOCKETS")?,
            counters,
        })
    }

    /// What the kernel recorded of the connection that `client`, in the namespace with the cookie
    /// `netns`, opened to the outbound listener. Each record can be taken once.
    ///
    /// # Errors
    ///
    /// The kernel refused; that there is no record is `Ok(None)`.
    pub fn take_origin(&self, netns: u64, client: SocketAddr) -> io::Result<Option<Record>> {
        self.origins.take(&ConnKey::new(netns, from_ip(client.ip()), client.port().to_be()))
    }

    /// Marks a socket as the agent's own before it connects: it is never captured. If the
    /// connection stays in its namespace, the accepting application sees `client` as its peer.
    ///
    /// # Errors
    ///
    /// The kernel has no memory for the mark.
    pub fn mark_agent(&self, socket: impl AsFd, client: Option<SocketAddr>) -> io::Result<()> {
        let record = Record {
            addr: client.map_or([0; 4], |client| from_ip(client.ip())),
            port_be: client.map_or(0, |client| client.port().to_be()),
            ..Record::new(AGENT)
        };
        self.sockets.put(&socket.as_fd().as_raw_fd(), &record)
    }

    /// Gives `each` every TCP socket of `diag`'s namespace that has a record, with the record.
    ///
    /// # Errors
    ///
    /// The kernel cannot be asked; `each` may have been called before.
    pub fn sockets(
        &self,
        diag: &mut Diag,
        each: impl FnMut(Socket, Record),
    ) -> Result<(), diag::Error> {
        diag.with_storage(self.sockets.fd(), each)
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
        })
    }
}

fn share<K: aya::Pod, V: aya::Pod>(
    map: &MapData,
    name: &'static str,
) -> Result<SharedMap<K, V>, Error> {
    let wrong = |_error| Error::Missing(name);
    let info = map.info().map_err(|_error| Error::Missing(name))?;
    SharedMap::new(map.fd().as_fd(), info.key_size(), info.value_size()).map_err(wrong)
}
