//! Looks for the places of workloads, on a thread that nobody waits for.
//!
//! Documents name the paths of network namespaces, and a path may lead through a file system that does
//! not answer, as one of FUSE or NFS: whoever looks there is stuck for as long as it likes.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mesh_common::source::PathKey;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::model::id::ResourceName;
use crate::model::workload::Place;
use crate::pods::changes;
use crate::pods::place::{self, Spot};
use crate::sys::cgroup::{self, Units};
use crate::sys::netns::Netns;

/// How long a path is waited for. One in memory takes microseconds.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long the documents of one namespace may have others wait each time that all are looked for.
const SHARE: Duration = Duration::from_secs(1);

/// Threads that are stuck at the paths of documents of one namespace, at most: further paths of it are
/// not looked for meanwhile.
const MAX_STUCK: usize = 4;

/// The same, of all namespaces.
const MAX_ALL_STUCK: usize = 64;

/// The slice of services that name no other (`systemd.slice(5)`).
const SYSTEM_SLICE: &str = "system.slice";

/// The place that a path has led to.
type Opened = io::Result<(Spot, Netns)>;

/// Looks for places.
#[derive(Default)]
pub struct Finder {
    thread: Option<Looking>,
    stuck: Vec<Stuck>,
    /// How long each namespace's documents have taken since [`Finder::begin`].
    taken: HashMap<Arc<str>, Duration>,
    /// The units that there are, looked for once since then.
    units: Option<Units>,
    /// Why the places of workloads could not be opened that were looked for last.
    errors: HashMap<ResourceName, io::Error>,
}

/// The thread that looks.
struct Looking {
    asks: mpsc::Sender<(PathBuf, oneshot::Sender<Opened>)>,
    thread: JoinHandle<()>,
}

/// One that has not come back.
struct Stuck {
    path: PathBuf,
    namespace: Arc<str>,
    thread: JoinHandle<()>,
}

impl Finder {
    /// All are going to be looked for: each namespace has its share of time again.
    pub fn begin(&mut self) {
        self.taken.clear();
        self.units = None;
    }

    /// The folders in which the places of `workloads` are made: those of cgroups below `cgroup_root`.
    pub fn folders(&self, places: &[&Place], cgroup_root: &Path) -> BTreeSet<PathBuf> {
        let mut folders = BTreeSet::new();
        for place in places {
            match place {
                Place::Cgroup(path) => {
                    folders.insert(changes::parent(&place::folder(cgroup_root, path)));
                }
                Place::SystemdUnit(unit) => {
                    let units = self.units.as_ref();
                    let found = units.and_then(|units| units.get(OsStr::new(unit)));
                    folders.extend(found.map(|folder| changes::parent(folder)));
                    // Where one is made that does not run.
                    folders.extend([cgroup_root.to_owned(), cgroup_root.join(SYSTEM_SLICE)]);
                }
                Place::Netns(_) | Place::Unplaced => {}
            }
        }
        folders
    }

    /// The paths at which the cgroup of a workload may be made; those that are too long for the kernel
    /// are left out. None of a namespace.
    pub fn paths(&self, place: &Place, cgroup_root: &Path) -> Vec<PathKey> {
        let of = |path: &Path| {
            let below = path.strip_prefix(cgroup_root).ok()?;
            PathKey::new(Path::new("/").join(below).as_os_str().as_bytes())
        };
        match place {
            Place::Cgroup(path) => of(&place::folder(cgroup_root, path)).into_iter().collect(),
            Place::SystemdUnit(unit) => {
                let units = self.units.as_ref();
                let found = units.and_then(|units| units.get(OsStr::new(unit)));
                let usual = cgroup_root.join(SYSTEM_SLICE).join(unit);
                let mut paths: Vec<_> = found.and_then(|path| of(path)).into_iter().collect();
                paths.extend(of(&usual).filter(|usual| !paths.contains(usual)));
                paths
            }
            Place::Netns(_) | Place::Unplaced => Vec::new(),
        }
    }

    /// Finds the place of the workload `name`; cgroups are named below `cgroup_root`.
    ///
    /// # Errors
    ///
    /// It is not there, or cannot be looked for.
    pub async fn find(
        &mut self,
        name: &ResourceName,
        place: &Place,
        cgroup_root: &Path,
    ) -> io::Result<(Spot, Option<Netns>)> {
        let path = match place {
            Place::Netns(path) => path,
            Place::SystemdUnit(unit) => {
                let units = match self.units.take() {
                    Some(units) => units,
                    None => cgroup::units(cgroup_root)?,
                };
                let units = self.units.insert(units);
                let folder = cgroup::named(units, cgroup_root, unit)?;
                return Ok((Spot::Cgroup(cgroup::id(&folder)?), None));
            }
            _ => return place::find(place, cgroup_root).map(|spot| (spot, None)),
        };
        let opened = self.open(&name.namespace, path).await;
        let (spot, netns) = opened.map_err(|error| place::named(path, &error))?;
        Ok((spot, Some(netns)))
    }

    /// The same, where it was at `former` the last time; `None`: it is not there.
    pub async fn spot(
        &mut self,
        name: &ResourceName,
        place: &Place,
        cgroup_root: &Path,
        former: Option<Spot>,
    ) -> Option<Spot> {
        self.errors.remove(name);
        match self.find(name, place, cgroup_root).await {
            Ok((spot, _)) => Some(spot),
            // Nobody knows. One that is slow is not gone: its workload is not let go for that.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => former,
            Err(error) => {
                self.errors.insert(name.clone(), error);
                None
            }
        }
    }

    /// Why the place of a workload could not be opened the last time.
    pub fn error(&self, name: &ResourceName) -> Option<&io::Error> {
        self.errors.get(name)
    }

    /// Forgets workloads that are not looked for any more.
    pub fn retain(&mut self, is_wanted: impl Fn(&ResourceName) -> bool) {
        self.errors.retain(|name, _| is_wanted(name));
    }

    /// The folder of a cgroup that was found since [`Self::begin`].
    pub fn folder(&self, place: &Place, cgroup_root: &Path) -> Option<PathBuf> {
        match place {
            Place::Cgroup(path) => Some(place::folder(cgroup_root, path)),
            Place::SystemdUnit(unit) => cgroup::named(self.units.as_ref()?, cgroup_root, unit).ok(),
            Place::Netns(_) | Place::Unplaced => None,
        }
    }

    async fn open(&mut self, namespace: &Arc<str>, path: &Path) -> Opened {
        self.stuck.retain(|stuck| !stuck.thread.is_finished());
        if self.stuck.iter().any(|stuck| stuck.path == path) {
            return Err(silent("its file system does not answer"));
        }
        let of_it = self.stuck.iter().filter(|stuck| stuck.namespace == *namespace).count();
        let taken = self.taken.get(namespace).copied().unwrap_or_default();
        if of_it >= MAX_STUCK || self.stuck.len() >= MAX_ALL_STUCK || taken >= SHARE {
            return Err(silent("the file systems of other paths of its namespace do not answer"));
        }
        let (answer, answered) = oneshot::channel();
        let mut ask = (path.to_owned(), answer);
        if let Some(looking) = &self.thread {
            match looking.asks.send(ask) {
                Ok(()) => return self.wait(namespace, path, answered).await,
                // It has panicked.
                Err(unsent) => ask = unsent.0,
            }
        }
        let looking = Looking::start()?;
        drop(looking.asks.send(ask));
        self.thread = Some(looking);
        self.wait(namespace, path, answered).await
    }

    async fn wait(
        &mut self,
        namespace: &Arc<str>,
        path: &Path,
        answered: oneshot::Receiver<Opened>,
    ) -> Opened {
        let began = Instant::now();
        let answer = timeout(PATIENCE, answered).await;
        *self.taken.entry(Arc::clone(namespace)).or_default() += began.elapsed();
        if let Ok(answer) = answer {
            return answer.unwrap_or_else(|_panicked| Err(silent("it could not be looked for")));
        }
        // It ends when it comes back: nobody asks it any more.
        if let Some(Looking { thread, .. }) = self.thread.take() {
            let (path, namespace) = (path.to_owned(), Arc::clone(namespace));
            self.stuck.push(Stuck { path, namespace, thread });
        }
        Err(silent("its file system does not answer"))
    }
}

impl Looking {
    fn start() -> io::Result<Self> {
        let (asks, asked) = mpsc::channel::<(PathBuf, oneshot::Sender<Opened>)>();
        let thread = thread::Builder::new().name("places".to_owned()).spawn(move || {
            for (path, answer) in asked {
                // Nobody waits any more, if it has taken too long.
                let _unheard: Result<(), _> = answer.send(place::open(&path));
            }
        })?;
        Ok(Self { asks, thread })
    }
}

fn silent(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_namespace_is_the_same_by_every_path_and_what_is_missing_is_named() {
        let mut finder = Finder::default();
        let name = ResourceName::new("demo", "web");
        let find = async |finder: &mut Finder, path: &str| {
            finder.find(&name, &Place::Netns(path.into()), Path::new("/")).await
        };
        // A process without privileges may not enter even its own.
        let own = format!("/proc/{}/ns/net", std::process::id());
        let (a, b) = (find(&mut finder, "/proc/self/ns/net").await, find(&mut finder, &own).await);
        assert_eq!(a.ok().map(|it| it.0), b.ok().map(|it| it.0));
        let error = find(&mut finder, "/nowhere/web").await.err().unwrap();
        assert!(error.to_string().starts_with("/nowhere/web: "), "{error}");
    }
}
