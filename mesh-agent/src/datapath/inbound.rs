//! The program that sees what arrives in a namespace: one copy a namespace, with its cookie in it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{Array, MapData};
use aya::programs::{ProgramFd, SkLookup};
use mesh_common::arrival::Own;
use mesh_common::maps;
use tokio::sync::watch;

use crate::datapath::pins::Pins;
use crate::datapath::{links, load, object};

/// The program's name in the object.
const PROGRAM: &str = "mesh_inbound";
/// The beginning of a link's name in the pin folder; the namespace's cookie follows.
const PREFIX: &str = "link_inbound_";
/// `BPF_SK_LOOKUP` (`enum bpf_attach_type`).
const SK_LOOKUP: u32 = 36;

/// Whether a path in the pin folder is the link of a copy.
pub(super) fn is_link(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(PREFIX.as_bytes()))
}

/// The part of a listener's kind that tells an agent from the one before it.
pub fn odd(generation: u8) -> u16 {
    if generation % 2 == 1 { maps::ODD } else { 0 }
}

/// Facts of a namespace for the program.
#[derive(Clone, Copy, Debug)]
pub struct Arrivals {
    /// The namespace's cookie.
    pub cookie: u64,
    /// It is the node's own.
    pub shared: bool,
    /// Data threads, each with listeners of its own.
    pub threads: u32,
    /// The agent's generation.
    pub generation: u8,
}

/// The copies that are attached: their links are in the folder.
#[derive(Debug)]
pub(super) struct Copies {
    folder: PathBuf,
    pins: Arc<Pins>,
    /// Copies that this process has attached, by their namespaces' cookies. Workloads share namespaces,
    /// and units of one host all do.
    done: Mutex<BTreeMap<u64, Copy>>,
    /// Copies that are loaded and not attached: a copy takes the verifier a tenth of a second, in which a
    /// namespace that is made anew would be open.
    spare: Mutex<Vec<Copy>>,
    /// Held by the one who loads them.
    loading: Mutex<()>,
}

/// A copy of the program that is loaded.
struct Copy {
    program: ProgramFd,
    own: Array<MapData, Own>,
}

impl fmt::Debug for Copy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copy").field("program", &self.program).finish_non_exhaustive()
    }
}

/// Copies that are kept ready.
const SPARE: usize = 4;

impl Copies {
    /// Links are pinned in `folder`, beside the maps.
    pub(super) fn new(folder: &Path, pins: Arc<Pins>) -> Self {
        Self {
            folder: folder.to_owned(),
            pins,
            done: Mutex::default(),
            spare: Mutex::default(),
            loading: Mutex::default(),
        }
    }

    /// Told each time that a link is found detached.
    pub(super) fn lost(&self) -> watch::Receiver<u64> {
        self.pins.lost()
    }

    /// Whether there are copies for namespaces that come later.
    pub(super) fn has_spare(&self) -> bool {
        lock(&self.spare).len() >= SPARE
    }

    /// Loads them, unless somebody does already.
    ///
    /// # Errors
    ///
    /// The kernel refused the program.
    pub(super) fn prepare(&self) -> io::Result<()> {
        let Ok(_loading) = self.loading.try_lock() else { return Ok(()) };
        while !self.has_spare() {
            let copy = self.load()?;
            lock(&self.spare).push(copy);
        }
        Ok(())
    }

    /// Attaches a copy to the namespace `netns`, or gives the link that is there the new program.
    ///
    /// # Errors
    ///
    /// The kernel refused the program or the link.
    pub(super) fn attach(&self, netns: BorrowedFd<'_>, arrivals: Arrivals) -> io::Result<()> {
        let Arrivals { cookie, shared, threads, generation } = arrivals;
        let path = self.folder.join(format!("{PREFIX}{cookie}"));
        // Held until it is attached: nobody is told that it is before. Taken by one task.
        let mut done = lock(&self.done);
        if done.contains_key(&cookie) && self.pins.is_good(&path) {
            return Ok(());
        }
        let spare = lock(&self.spare).pop();
        let mut copy = match spare {
            Some(spare) => spare,
            None => self.load()?,
        };
        let (is_shared, seed) = (u32::from(shared), rand::random());
        let own = Own { netns: cookie, is_shared, threads, seed, odd: odd(generation), pad: 0 };
        copy.own.set(0, own, 0).map_err(io::Error::other)?;
        links::put(&path, &copy.program, netns, SK_LOOKUP)?;
        self.pins.hold(&path)?;
        done.insert(cookie, copy);
        Ok(())
    }

    /// Loads a copy.
    fn load(&self) -> io::Result<Copy> {
        let mut loader = load::loader(&self.folder);
        let bytes = object::bytes().map_err(io::Error::other)?;
        let mut ebpf = loader.load(bytes).map_err(io::Error::other)?;
        let program: &mut SkLookup = ebpf
            .program_mut(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| io::Error::other("the object has no program for arrivals"))?;
        program.load().map_err(io::Error::other)?;
        let program = program.fd().map_err(io::Error::other)?.try_clone()?;
        let own = load::take(&mut ebpf, maps::OWN).map_err(io::Error::other)?;
        Ok(Copy { program, own })
    }

    /// Watches the link of a namespace no more: it goes with the namespace, or by [`Self::retain`].
    pub(super) fn let_go(&self, cookie: u64) {
        self.pins.release(&self.folder.join(format!("{PREFIX}{cookie}")));
    }

    /// Detaches the copies of namespaces for which `wanted` is false, also those that a predecessor
    /// left.
    pub(super) fn retain(&self, wanted: impl Fn(u64) -> bool) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let cookie = name.and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
            if cookie.is_some_and(|cookie| !wanted(cookie)) {
                self.pins.release(&path);
                links::detach(&path);
                if let Err(error) = fs::remove_file(&path) {
                    tracing::warn!(%error, path = %path.display(), "a pin cannot be removed");
                }
            }
        }
        let gone: Vec<_> = lock(&self.done).extract_if(.., |cookie, _| !wanted(*cookie)).collect();
        // A workload that restarts is guarded by what it was before.
        let mut spare = lock(&self.spare);
        let room = SPARE.saturating_sub(spare.len());
        spare.extend(gone.into_iter().map(|(_, copy)| copy).take(room));
    }
}

/// No code panics while it holds one of the locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
