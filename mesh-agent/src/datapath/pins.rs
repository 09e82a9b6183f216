//! Everything that is pinned, held open: who removes a pin detaches nothing, and the pin comes
//! back. A program that detaches a link is noticed, and the link made anew by the one who made it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::datapath::links;
use crate::sys::bpf::{self, Attached};
use crate::sys::cgroup;
use crate::task::duty::Duty;
use crate::task::ready::Gate;
use crate::task::scope::Scope;

/// The time between two looks: one listing of a folder, and one system call for each link.
const LOOK: Duration = Duration::from_millis(250);

/// The same while the cgroup is not there: what runs in the next one of its name is not captured before the
/// programs are attached.
const LOOK_FOR_CGROUP: Duration = Duration::from_millis(20);

/// Links and maps of this node's agent. One for a process.
#[derive(Debug)]
pub struct Pins {
    folder: PathBuf,
    /// The cgroup that programs are attached to.
    cgroup: PathBuf,
    cgroup_root: PathBuf,
    held: Mutex<Held>,
    /// How often links were found detached.
    lost: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Held {
    /// Entries by their names in the folder.
    open: BTreeMap<OsString, OwnedFd>,
    /// Links to a cgroup that is gone: the agent's sockets of that time keep its programs.
    former: Vec<OwnedFd>,
}

/// The state of what is pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    /// Why the programs are not all in force, for operators.
    trouble: Option<Trouble>,
    /// Pins that were gone, and are there again.
    restored: usize,
}

/// Why programs are not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    /// The folder of pins is gone: it is removed with all that was in it by one who means it.
    Removed,
    /// The cgroup is not there.
    NoCgroup,
    /// Links are detached, or attached to a cgroup that is gone.
    Detached(usize),
    /// The agent is not in the cgroup.
    Outside,
}

/// Whether links were found detached since this was asked last.
pub fn are_lost(lost: &mut watch::Receiver<u64>) -> bool {
    let are_lost = lost.has_changed().unwrap_or(false);
    lost.mark_unchanged();
    are_lost
}

impl Pins {
    /// Nothing yet, of what is or will be pinned in `folder`. `cgroup`: the one that programs are
    /// attached to.
    pub(super) fn new(folder: &Path, cgroup: &Path, cgroup_root: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            cgroup: cgroup.to_owned(),
            cgroup_root: cgroup_root.to_owned(),
            held: Mutex::default(),
            lost: watch::Sender::new(0),
        }
    }

    /// Holds what is pinned now, and lets go what was held before.
    ///
    /// # Errors
    ///
    /// A pin cannot be opened.
    pub(super) fn hold_all(&self) -> io::Result<()> {
        let mut open = BTreeMap::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_owned();
            open.insert(name, bpf::pinned(&path)?);
        }
        self.held().open = open;
        Ok(())
    }

    /// Holds what is pinned at `path`, in the folder, unless it is held and in its place.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    pub(super) fn hold(&self, path: &Path) -> io::Result<()> {
        if self.is_good(path) {
            return Ok(());
        }
        let pinned = bpf::pinned(path)?;
        let name = path.file_name().unwrap_or_default().to_owned();
        let mut held = self.held();
        if let Some(former) = held.open.insert(name, pinned) {
            held.former.push(former);
        }
        let is_somewhere = |link: &mut OwnedFd| {
            bpf::attached(link.as_fd()).ok().flatten().is_some_and(|it| !it.is_nowhere())
        };
        held.former.retain_mut(is_somewhere);
        drop(held);
        Ok(())
    }

    /// Lets go what is pinned at `path`: it is about to be removed.
    pub(super) fn release(&self, path: &Path) {
        drop(self.held().open.remove(path.file_name().unwrap_or_default()));
    }

    /// Lets go everything: a successor has it.
    pub fn release_all(&self) {
        *self.held() = Held::default();
    }

    /// Whether the link that is pinned at `path` is held, and attached where it should be.
    pub(super) fn is_good(&self, path: &Path) -> bool {
        let place = cgroup::id(&self.cgroup).ok();
        let held = self.held();
        let link = held.open.get(path.file_name().unwrap_or_default());
        link.is_some_and(|link| !is_lost(link, place))
    }

    /// Told each time that a link is found detached.
    pub fn lost(&self) -> watch::Receiver<u64> {
        self.lost.subscribe()
    }

    /// Watches until `scope` drains. `gate` is closed while not all programs are in force, which is logged
    /// with its remedy.
    pub async fn watch(&self, gate: Gate, (duty, scope): (Duty, Scope)) {
        let (mut returns, mut before) = (0, None);
        loop {
            {
                let Some(work) = duty.work(&scope).await else { return };
                if std::mem::replace(&mut returns, work.returns) != work.returns
                    && let Err(error) = self.hold_all()
                {
                    tracing::warn!(%error, "what is pinned cannot be opened again");
                }
                let State { trouble, restored } = self.look();
                if restored > 0 {
                    tracing::warn!(
                        pins = restored, folder = %self.folder.display(),
                        "pins were removed while this agent runs, and are there again; to remove \
                         them, stop the agent and run `mesh-agent uninstall`"
                    );
                }
                if trouble.is_some() {
                    gate.close();
                } else {
                    gate.pass();
                }
                self.report(trouble.as_ref(), before.as_ref());
                if matches!(trouble, Some(Trouble::Detached(_))) {
                    self.lost.send_modify(|times| *times += 1);
                }
                before = trouble;
            }
            let pause = if before == Some(Trouble::NoCgroup) { LOOK_FOR_CGROUP } else { LOOK };
            tokio::select! {
                biased;
                () = scope.draining() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// Logs what has changed.
    fn report(&self, now: Option<&Trouble>, before: Option<&Trouble>) {
        let (cgroup, folder) = (self.cgroup.display(), self.folder.display());
        match now {
            _ if now == before => {}
            None => tracing::info!("all kernel programs are attached again"),
            Some(Trouble::Removed) => tracing::error!(
                %folder,
                "all that this agent had pinned was removed (`mesh-agent uninstall --force`): its \
                 workloads are not protected; start the agent again, or stop it"
            ),
            Some(Trouble::NoCgroup) => tracing::error!(
                %cgroup,
                "the cgroup of the mesh is gone (--cgroup): nothing is captured until it is made \
                 again"
            ),
            Some(Trouble::Detached(links)) => tracing::error!(
                links, %cgroup,
                "kernel programs are detached, by another program or with their cgroup: attaching \
                 them again"
            ),
            Some(Trouble::Outside) => tracing::error!(
                %cgroup,
                "this agent is not in the cgroup of the mesh (--cgroup): servers see its address in \
                 place of their clients'; move it there, or start it again"
            ),
        }
    }

    /// Looks at everything, and pins again what is not.
    fn look(&self) -> State {
        let there: Vec<OsString> = match fs::read_dir(&self.folder) {
            Ok(entries) => entries.filter_map(Result::ok).map(|it| it.file_name()).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return State { trouble: Some(Trouble::Removed), restored: 0 };
            }
            // Looked at again.
            Err(_busy) => return State::default(),
        };
        let place = cgroup::id(&self.cgroup).ok();
        let held = self.held();
        let (mut restored, mut detached) = (0, 0);
        for (name, object) in &held.open {
            let is_lost = links::is_link(Path::new(name)) && is_lost(object, place);
            detached += usize::from(is_lost);
            if !is_lost && !there.contains(name) && self.pin(name, object) {
                restored += 1;
            }
        }
        drop(held);
        let is_outside = || {
            let inside = cgroup::contains_own(&self.cgroup, &self.cgroup_root);
            inside.is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput)
        };
        let trouble = match (place, detached) {
            (None, _) => Some(Trouble::NoCgroup),
            (Some(_), 1..) => Some(Trouble::Detached(detached)),
            (Some(_), 0) => is_outside().then_some(Trouble::Outside),
        };
        State { trouble, restored }
    }

    fn pin(&self, name: &OsStr, object: &OwnedFd) -> bool {
        let pinned = bpf::pin(object.as_fd(), &self.folder.join(name));
        if let Err(error) = &pinned {
            tracing::debug!(%error, name = %name.display(), "a pin cannot be made again");
        }
        pinned.is_ok()
    }

    /// No code panics while it holds the lock.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a link is not where it should be, the cgroup of programs being `place`.
fn is_lost(link: &OwnedFd, place: Option<u64>) -> bool {
    match bpf::attached(link.as_fd()) {
        Ok(Some(Attached::Cgroup { id, .. })) => Some(id) != place,
        Ok(Some(Attached::Netns(inode))) => inode == 0,
        Ok(None) | Err(_) => false,
    }
}
