//! The shorter way between sockets of this node: its programs, and the switch for all of it.
//!
//! Nothing is loaded before a workload asks for it. Features that the kernel lacks are said once, and the
//! rest of the agent works.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aya::Ebpf;
use aya::programs::{CgroupSockopt, Program, ProgramError, SkMsg};
use mesh_common::maps;

use crate::datapath::load::data;
use crate::datapath::pins::Pins;
use crate::datapath::{Error, links};
use crate::failure::chain;
use crate::sys::bpf::{self, SharedMap};
use crate::sys::cgroup;

/// The tracepoint that tells what was read; there since Linux 6.3.
const TRACEPOINT: &str = "sock_recv_length";
/// `BPF_SK_MSG_VERDICT` (`enum bpf_attach_type`).
const SK_MSG_VERDICT: u32 = 7;
/// `BPF_CGROUP_SETSOCKOPT`.
const CGROUP_SETSOCKOPT: u32 = 22;

/// The kernel's acceleration, for the one task that writes the maps.
#[derive(Debug)]
pub struct Acceleration {
    switch: SharedMap<u32, u32>,
    cgroup: PathBuf,
    folder: PathBuf,
    pins: Arc<Pins>,
    state: State,
    lacks: Option<Arc<str>>,
}

/// The state of acceleration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not asked for since the agent started.
    Unused,
    /// Its programs are in place.
    Ready,
    /// The kernel cannot, which has been said.
    Refused,
}

impl Acceleration {
    /// Of the programs and maps in `ebpf`, whose pins are in `folder`. `cgroup` is the folder below
    /// which sockets are watched.
    ///
    /// # Errors
    ///
    /// The object has no switch of the expected type.
    pub(super) fn new(
        ebpf: &Ebpf,
        (cgroup, folder): (&Path, &Path),
        pins: Arc<Pins>,
    ) -> Result<Self, Error> {
        let map = data(ebpf, maps::SWITCH)?;
        let switch = shared(map.fd().as_fd()).map_err(|_error| Error::Missing(maps::SWITCH))?;
        Ok(Self {
            switch,
            cgroup: cgroup.to_owned(),
            folder: folder.to_owned(),
            pins,
            state: State::Unused,
            lacks: None,
        })
    }

    /// Attaches all programs that are not, after another process had them, or has detached them. Links of
    /// that process do the same, and stay.
    pub(super) fn attach_again(&mut self, ebpf: &mut Ebpf) {
        match links::attach_all(ebpf, &self.cgroup, &self.folder) {
            Ok(made) => self.hold(&made),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "not all programs can be attached again");
            }
        }
        if self.state == State::Ready {
            // Those of acceleration are put in place when it is turned next.
            self.state = State::Unused;
        }
    }

    fn hold(&self, paths: &[PathBuf]) {
        for path in paths {
            if let Err(error) = self.pins.hold(path) {
                tracing::warn!(%error, path = %path.display(), "a link that was made is not held");
            }
        }
    }

    /// Turns acceleration on if `wanted`, and otherwise off: connections that use it go on by TCP,
    /// in order, and new ones are not given it. Returns why it cannot be turned on, if so.
    pub(super) fn turn(&mut self, ebpf: &mut Ebpf, wanted: bool) -> Option<Arc<str>> {
        if wanted && self.state == State::Unused {
            self.state = match attach(ebpf, &self.cgroup, &self.folder) {
                Ok(made) => {
                    self.hold(&made);
                    State::Ready
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "this kernel cannot accelerate connections, which needs Linux 6.10; they \
                         go by TCP"
                    );
                    self.lacks = Some(chain(&error).into());
                    State::Refused
                }
            };
        }
        let on = wanted && self.state == State::Ready;
        if let Err(error) = self.switch.put(&0, &u32::from(on)) {
            tracing::warn!(%error, on, "acceleration cannot be switched");
        }
        self.lacks.clone().filter(|_| wanted)
    }
}

/// Turns off what is pinned in `folder`, before its links are removed: a socket keeps its program as
/// long as it lives.
pub(super) fn turn_off(folder: &Path) {
    let off = bpf::pinned(&folder.join(maps::SWITCH))
        .and_then(|switch| shared(switch.as_fd())?.put(&0, &0));
    match off {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, folder = %folder.display(), "acceleration cannot be switched off");
        }
        _ => {}
    }
}

fn shared(map: std::os::fd::BorrowedFd<'_>) -> io::Result<SharedMap<u32, u32>> {
    let size = u32::try_from(size_of::<u32>()).map_err(io::Error::other)?;
    SharedMap::new(map, size, size)
}

/// Puts the programs in place: first what counts, then what is counted.
/// Returns the pins of their links.
fn attach(ebpf: &mut Ebpf, cgroup: &Path, folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |program: &'static str| {
        move |error: io::Error| Error::Attach {
            program,
            cgroup: cgroup.to_owned(),
            source: error.into(),
        }
    };
    let pins = ["link_recv", "link_setsockopt", "link_skmsg"].map(|name| folder.join(name));
    let [recv, setsockopt, skmsg] = &pins;
    links::trace(ebpf, "mesh_recv", TRACEPOINT, recv)?;

    let name = "mesh_setsockopt";
    let program: &mut CgroupSockopt = program(ebpf, name)?;
    links::loaded(program.load()).map_err(refused(name))?;
    let fd = program.fd().map_err(refused(name))?;
    let hook =
        links::Hook { program: name, link: "link_setsockopt", attach_type: CGROUP_SETSOCKOPT };
    let id = cgroup::id(cgroup).map_err(failed(name))?;
    if !links::take_over(setsockopt, fd, id, &hook) {
        let target = fs::File::open(cgroup).map_err(failed(name))?;
        links::create(setsockopt, fd, target, CGROUP_SETSOCKOPT).map_err(failed(name))?;
    }

    let name = "mesh_skmsg";
    let target = data(ebpf, maps::ACCELERATED)?.fd().as_fd().try_clone_to_owned();
    let target = target.map_err(failed(name))?;
    let program: &mut SkMsg = self::program(ebpf, name)?;
    links::loaded(program.load()).map_err(refused(name))?;
    let fd = program.fd().map_err(refused(name))?;
    links::put(skmsg, fd, target, SK_MSG_VERDICT).map_err(failed(name))?;
    Ok(pins.into())
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, Error>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    let program = ebpf.program_mut(name).ok_or(Error::Missing(name))?;
    program.try_into().map_err(|_other_type| Error::Missing(name))
}

fn refused(name: &'static str) -> impl Fn(ProgramError) -> Error {
    move |source| Error::Program { name, source: Box::new(source) }
}
