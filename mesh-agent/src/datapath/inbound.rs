//! The program that sees what arrives in a namespace: one copy a namespace, with its cookie in it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use aya::EbpfLoader;
use aya::programs::SkLookup;
use aya::programs::links::FdLink;
use mesh_common::maps;

use crate::datapath::{links, object};
use crate::sys::bpf;

/// The program's name in the object.
const PROGRAM: &str = "mesh_inbound";
/// The beginning of a link's name in the pin folder; the namespace's cookie follows.
const PREFIX: &str = "link_inbound_";

/// The copies that are attached.
#[derive(Debug)]
pub(super) struct Copies {
    folder: PathBuf,
    attached: BTreeMap<u64, PathBuf>,
}

impl Copies {
    /// None yet; links are pinned in `folder`, beside the maps.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), attached: BTreeMap::new() }
    }

    /// Attaches a copy to the namespace `netns`, or gives the link that is there the new program.
    ///
    /// # Errors
    ///
    /// The kernel refused the program or the link.
    pub(super) fn attach(
        &mut self,
        netns: BorrowedFd<'_>,
        cookie: u64,
        shared: bool,
    ) -> io::Result<()> {
        let path = self.folder.join(format!("{PREFIX}{cookie}"));
        let mut loader = EbpfLoader::new();
        let shared = u8::from(shared);
        loader.override_global("NETNS", &cookie, true).override_global("SHARED", &shared, true);
        for name in maps::ALL {
            loader.map_pin_path(name, self.folder.join(name));
        }
        let bytes = object::bytes().map_err(io::Error::other)?;
        let mut ebpf = loader.load(bytes).map_err(io::Error::other)?;
        let program: &mut SkLookup = ebpf
            .program_mut(PROGRAM)
            .and_then(|program| program.try_into().ok())
            .ok_or_else(|| io::Error::other("the object has no program for arrivals"))?;
        program.load().map_err(io::Error::other)?;
        let fd = program.fd().map_err(io::Error::other)?;
        let taken = bpf::pinned(&path).and_then(|link| bpf::link_update(link.as_fd(), fd.as_fd()));
        if taken.is_err() {
            // There is none, or its namespace is gone.
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let id = program.attach(netns).map_err(io::Error::other)?;
            let link = program.take_link(id).map_err(io::Error::other)?;
            drop(FdLink::from(link).pin(&path).map_err(io::Error::other)?);
        }
        self.attached.insert(cookie, path);
        Ok(())
    }

    /// Detaches the copies of namespaces for which `wanted` is false, also those that a predecessor
    /// left.
    pub(super) fn retain(&mut self, wanted: impl Fn(u64) -> bool) {
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
        self.attached.retain(|cookie, _| wanted(*cookie));
    }
}
