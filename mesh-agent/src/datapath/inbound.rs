//! The program that sees what arrives in a namespace: one copy a namespace, with its cookie in it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::programs::SkLookup;

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

/// What the program is told of a namespace.
#[derive(Clone, Copy, Debug)]
pub struct Arrivals {
    /// The namespace's cookie.
    pub cookie: u64,
    /// It is the node's own.
    pub shared: bool,
    /// Data threads, each with listeners of its own.
    pub threads: u32,
}

/// The copies that are attached: their links are in the folder, and nowhere else.
#[derive(Debug)]
pub(super) struct Copies {
    folder: PathBuf,
    /// The cookies of namespaces that this process has attached one to. Workloads share namespaces,
    /// units of one host all do, and a copy takes the verifier a tenth of a second.
    done: Mutex<BTreeSet<u64>>,
}

impl Copies {
    /// Links are pinned in `folder`, beside the maps.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), done: Mutex::default() }
    }

    /// Attaches a copy to the namespace `netns`, or gives the link that is there the new program.
    ///
    /// # Errors
    ///
    /// The kernel refused the program or the link.
    pub(super) fn attach(&self, netns: BorrowedFd<'_>, arrivals: Arrivals) -> io::Result<()> {
        let Arrivals { cookie, shared, threads } = arrivals;
        let path = self.folder.join(format!("{PREFIX}{cookie}"));
        // Held until it is attached: nobody is told that it is before. Taken by one task.
        let mut done = self.done();
        if done.contains(&cookie) && path.exists() {
            return Ok(());
        }
        let mut loader = load::loader(&self.folder);
        let (shared, seed) = (u8::from(shared), rand::random::<u32>());
        loader.override_global("NETNS", &cookie, true).override_global("SHARED", &shared, true);
        loader.override_global("THREADS", &threads, true).override_global("SEED", &seed, true);
        let bytes = object::bytes().map_err(io::Error::other)?;
        let mut ebpf = loader.load(bytes).map_err(io::Error::other)?;
        let program: &mut SkLookup = ebpf
            .program_mut(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| io::Error::other("the object has no program for arrivals"))?;
        program.load().map_err(io::Error::other)?;
        let fd = program.fd().map_err(io::Error::other)?;
        links::put(&path, fd, netns, SK_LOOKUP)?;
        done.insert(cookie);
        Ok(())
    }

    /// No code panics while it holds the lock.
    fn done(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Detaches the copies of namespaces for which `wanted` is false, also those that a predecessor
    /// left.
    pub(super) fn retain(&self, wanted: impl Fn(u64) -> bool) {
        self.done().retain(|cookie| wanted(*cookie));
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
            let cookie = name.and_then(|name| name.strip_prefix(PREFIX)?.parse().ok());
            if cookie.is_some_and(|cookie| !wanted(cookie)) {
                links::detach(&path);
                if let Err(error) = fs::remove_file(&path) {
                    tracing::warn!(%error, path = %path.display(), "a pin cannot be removed");
                }
            }
        }
    }
}
