//! Loads the programs, adopts what is pinned, and replaces what another version has pinned.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap, Map, MapData};
use aya::{Ebpf, EbpfLoader};
use mesh_common::backend::{Chunk, ChunkKey};
use mesh_common::destination::{ConsumerKey, Destination, DestinationKey};
use mesh_common::external::ExternalKey;
use mesh_common::source::{PathKey, Source, SourceKey};
use mesh_common::verdict::{Verdict, VerdictKey};
use mesh_common::workload::{Inbound, PortKey, Workload};
use mesh_common::{ABI_VERSION, maps};

use crate::datapath::accel::Acceleration;
use crate::datapath::events::Events;
use crate::datapath::kernel::Kernel;
use crate::datapath::observe::Coverage;
use crate::datapath::pins::Pins;
use crate::datapath::places::Offsets;
use crate::datapath::summaries::Summaries;
use crate::datapath::{Error, Options, accel, inbound, links, lock, object, places, resets};
use crate::failure::chain;
use crate::sys::{bpffs, caps, cgroup, socket};

/// The loaded kernel side, for the one task that writes its maps. The maps by their names.
#[derive(Debug)]
pub struct Loaded {
    /// `SOURCES`.
    pub sources: HashMap<MapData, SourceKey, Source>,
    /// `PLACES`.
    pub places: HashMap<MapData, PathKey, Source>,
    /// `WORKLOADS`.
    pub workloads: HashMap<MapData, u64, Workload>,
    /// `DESTINATIONS`.
    pub destinations: HashMap<MapData, DestinationKey, Destination>,
    /// `CONSUMERS`.
    pub consumers: HashMap<MapData, ConsumerKey, u32>,
    /// `BACKENDS`.
    pub sets: HashMap<MapData, ChunkKey, Chunk>,
    /// `VERDICTS`.
    pub verdicts: HashMap<MapData, VerdictKey, Verdict>,
    /// `PORTS`.
    pub ports: HashMap<MapData, PortKey, u32>,
    /// `INBOUND`.
    pub inbound: HashMap<MapData, PortKey, Inbound>,
    /// `PROBES`.
    pub probes: HashMap<MapData, DestinationKey, u64>,
    /// `EXTERNALS`.
    pub externals: LpmTrie<MapData, ExternalKey, u32>,
    /// The switch of acceleration.
    pub acceleration: Acceleration,
    /// Everything that is pinned.
    pub pins: Arc<Pins>,
    /// The maps that connections ask.
    pub kernel: Arc<Kernel>,
    /// Pins that agents of other versions have left.
    pub predecessors: Predecessors,
    /// Keeps the programs' log open.
    pub ebpf: Ebpf,
}

/// Reports of the kernel programs about connections.
#[derive(Debug)]
pub struct Reports {
    /// Single connections.
    pub events: Events,
    /// Connections beyond a workload's budget of events.
    pub summaries: Summaries,
}

/// Pins of agents of other versions, whose programs still run.
#[derive(Debug)]
pub struct Predecessors {
    /// The folder of all that the node's agents pin.
    node: PathBuf,
    /// Ours in it.
    keep: PathBuf,
}

/// The end of the name of a version's folder that is being removed. A BPF file system takes no dots.
const REMOVED: &str = "-removed";

/// The folder of everything that a node's agents pin.
pub fn node_folder(bpffs: &Path, node: &str) -> PathBuf {
    bpffs.join("mesh").join(node)
}

/// Puts programs, maps and links in place. The second has one reader.
///
/// Pins that an earlier agent with the same [`ABI_VERSION`] left are adopted: its maps are used on, and
/// its links get the new programs with no moment in which none is attached. Anything that one with another
/// version left stays until the maps are filled (see [`Predecessors`]).
///
/// # Errors
///
/// The kernel or the file system refused something; the error says what.
pub fn load(options: &Options) -> Result<(Loaded, Reports), Error> {
    let bytes = object::bytes()?;
    let node = node_folder(&options.bpffs, &options.node);
    let folder = node.join(format!("v{ABI_VERSION}"));
    let is_new = !folder.exists();
    let loaded = put(options, bytes, (node, folder.clone()));
    if loaded.is_err()
        && is_new
        && folder.exists()
        && let Err(error) = remove_version(&folder)
    {
        let folder = folder.display();
        tracing::warn!(%error, %folder, "pins of an agent that has not started cannot be removed");
    }
    loaded
}

/// Puts programs, maps and links in place, pinned in `folder`, the version's in the folder `node`.
fn put(
    options: &Options,
    bytes: &[u8],
    (node, folder): (PathBuf, PathBuf),
) -> Result<(Loaded, Reports), Error> {
    let pin = |path: &Path, source: io::Error| Error::Pin {
        path: path.to_owned(),
        source: source.into(),
    };
    bpffs::ensure_mounted(&options.bpffs).map_err(|e| pin(&options.bpffs, e))?;
    bpffs::make_folders(&options.bpffs, &folder).map_err(|e| pin(&folder, e))?;

    let offsets = Offsets::of_kernel();
    let mut ebpf = open(options, bytes, (&folder, offsets.as_ref()), true)?;
    if let Err(error) = resets::watch(&mut ebpf, &folder) {
        tracing::warn!(
            error = %chain(&error), "it is not said who has reset a direct connection"
        );
        ebpf = open(options, bytes, (&folder, offsets.as_ref()), false)?;
    }
    links::attach_all(&mut ebpf, &options.cgroup, &folder)?;
    if offsets.is_some() {
        places::attach(&mut ebpf, &folder);
    }

    let reports = Reports {
        events: Events::new(take(&mut ebpf, maps::EVENTS)?, folder.join(maps::EVENTS)),
        summaries: Summaries::new(take(&mut ebpf, maps::SUMS)?, take(&mut ebpf, maps::INTERVAL)?),
    };
    let pins = Arc::new(Pins::new(&folder, &options.cgroup, &options.cgroup_root));
    pins.hold_all().map_err(|error| pin(&folder, error))?;
    let places = (options.cgroup.as_path(), folder.as_path());
    let acceleration = Acceleration::new(&ebpf, places, Arc::clone(&pins))?;
    let coverage = Coverage::start(&mut ebpf, &options.cgroup_root)?;
    let kernel = Arc::new(Kernel::new(&mut ebpf, (&folder, Arc::clone(&pins)), coverage)?);
    Ok((
        Loaded {
            sources: take(&mut ebpf, maps::SOURCES)?,
            places: take(&mut ebpf, maps::PLACES)?,
            workloads: take(&mut ebpf, maps::WORKLOADS)?,
            destinations: take(&mut ebpf, maps::DESTINATIONS)?,
            consumers: take(&mut ebpf, maps::CONSUMERS)?,
            sets: take(&mut ebpf, maps::BACKENDS)?,
            verdicts: take(&mut ebpf, maps::VERDICTS)?,
            ports: take(&mut ebpf, maps::PORTS)?,
            inbound: take(&mut ebpf, maps::INBOUND)?,
            probes: take(&mut ebpf, maps::PROBES)?,
            externals: take(&mut ebpf, maps::EXTERNALS)?,
            acceleration,
            pins,
            predecessors: Predecessors { node, keep: folder },
            kernel,
            ebpf,
        },
        reports,
    ))
}

/// Reads the object, with its maps. `sees_resets`: resets that come are noted.
fn open(
    options: &Options,
    bytes: &[u8],
    (folder, offsets): (&Path, Option<&Offsets>),
    sees_resets: bool,
) -> Result<Ebpf, Error> {
    let mut loader = loader(folder);
    loader.override_global("AYA_LOG_LEVEL", &options.log_level, true);
    // A helper that older kernels would refuse; without it nothing is accelerated, either.
    let knows_mptcp = u8::from(caps::kernel_version().is_ok_and(|version| version >= (5, 19)));
    loader.override_global("KNOWS_MPTCP", &knows_mptcp, true);
    // Its connections are not a workload's.
    let own = cgroup::own(&options.cgroup_root).and_then(|own| cgroup::id(&own)).unwrap_or(0);
    loader.override_global("AGENT_CGROUP", &own, true);
    let node = socket::current_netns_cookie().unwrap_or(0);
    loader.override_global("NODE_NETNS", &node, true);
    let sees_resets = u8::from(sees_resets);
    loader.override_global("SEES_RESETS", &sees_resets, true);
    if let Some(offsets) = offsets {
        offsets.tell(&mut loader);
    }
    Ok(loader.load(bytes).map_err(Box::new)?)
}

impl Loaded {
    /// The ids of the workloads that the kernel knows already, by where their sockets are: an earlier
    /// agent's.
    pub fn earlier(&self) -> BTreeMap<SourceKey, u64> {
        let all = self.sources.iter().filter_map(Result::ok);
        all.map(|(key, source)| (key, source.workload)).filter(|(_, id)| *id != 0).collect()
    }
}

/// A loader of the object whose maps are those that are pinned in `folder`, or will be.
pub(super) fn loader<'a>(folder: &Path) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    for name in maps::ALL {
        loader.map_pin_path(name, folder.join(name));
    }
    loader
}

/// Removes everything that agents of `node` have pinned, which detaches the programs. Returns
/// whether there was anything.
///
/// # Errors
///
/// A pin could not be removed.
pub fn uninstall(bpffs: &Path, node: &str) -> io::Result<bool> {
    let folder = node_folder(bpffs, node);
    if !folder.exists() {
        return Ok(false);
    }
    for version in versions(&folder)? {
        remove_version(&version)?;
    }
    lock::remove_empty(&folder)?;
    Ok(true)
}

impl Predecessors {
    /// Removes it. Until then connections that their programs capture find an agent that does not
    /// know them, and are refused; without them, and before our maps are filled, they would go out
    /// as if there were no mesh.
    pub(super) fn remove(self) {
        if let Err(error) = self.remove_all() {
            let node = self.node.display();
            tracing::warn!(%error, folder = %node, "what another version pinned cannot be removed");
        }
    }

    fn remove_all(&self) -> io::Result<()> {
        for path in versions(&self.node)? {
            if path != self.keep {
                tracing::info!(path = %path.display(), "removing what another version pinned");
                remove_version(&path)?;
            }
        }
        Ok(())
    }
}

/// The folders of all versions, listed before one is removed.
fn versions(node: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(node)?.map(|entry| entry.map(|entry| entry.path())).collect()
}

/// Removes the links of a folder before its maps, so that no program runs on maps that are gone; and
/// those that redirect before those that give what was redirected to the agent alone. An agent that runs
/// sees at once that its folder is gone, and pins nothing again.
fn remove_version(folder: &Path) -> io::Result<()> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let removed = if name.ends_with(REMOVED) {
        // A removal that has failed before.
        folder.to_owned()
    } else {
        let removed = folder.with_file_name(format!("{name}{REMOVED}"));
        fs::rename(folder, &removed)?;
        removed
    };
    let folder = removed.as_path();
    accel::turn_off(folder);
    let mut paths = fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.sort_by_key(|path| (!links::is_link(path), inbound::is_link(path)));
    for path in paths {
        if links::is_link(&path) {
            links::detach(&path);
        }
        fs::remove_file(path)?;
    }
    fs::remove_dir(folder)
}

/// Takes a map out of the object, as the type that it must have.
pub(super) fn take<M: TryFrom<Map>>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Missing(name))?;
    M::try_from(map).map_err(|_other_type| Error::Missing(name))
}

/// The raw map, whatever its type.
pub(super) fn data<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a MapData, Error> {
    match ebpf.map(name) {
        Some(
            Map::LruHashMap(data) | Map::SkStorage(data) | Map::SockHash(data) | Map::Array(data),
        ) => Ok(data),
        _ => Err(Error::Missing(name)),
    }
}
