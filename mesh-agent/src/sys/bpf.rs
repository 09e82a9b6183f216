//! The few commands of `bpf(2)` that aya does not offer, or offers only with exclusive access.

use std::ffi::CString;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use aya::Pod;
use nix::libc;

/// `enum bpf_cmd` (include/uapi/linux/bpf.h).
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
/// `enum bpf_cmd`.
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
/// `enum bpf_cmd`.
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
/// `enum bpf_cmd`.
const BPF_OBJ_PIN: libc::c_long = 6;
/// `enum bpf_cmd`.
const BPF_OBJ_GET: libc::c_long = 7;
/// `enum bpf_cmd`.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// `enum bpf_cmd`; for hash and LRU hash maps since Linux 5.14.
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
/// `enum bpf_cmd`; for cgroups since Linux 5.9.
const BPF_LINK_DETACH: libc::c_long = 34;
/// `enum bpf_cmd`; since Linux 5.7, for maps of sockets since 6.10.
const BPF_LINK_CREATE: libc::c_long = 28;
/// `enum bpf_cmd`; since Linux 5.7.
const BPF_LINK_UPDATE: libc::c_long = 29;

/// `enum bpf_link_type`.
const LINK_CGROUP: u32 = 3;
/// `enum bpf_link_type`.
const LINK_NETNS: u32 = 5;

/// Of `membarrier(2)`: waits for a grace period of RCU, in which every program that ran has ended.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// How long is waited instead where the kernel has no such command: where processors are kept free of
/// ticks (`nohz_full`). Programs of sockets run for microseconds.
const PROGRAM_TIME: Duration = Duration::from_millis(100);

/// Waits until every kernel program that runs now has ended, as libbpf does (`kern_sync_rcu`). Blocks for
/// some 10 ms.
pub fn wait_for_programs() {
    // SAFETY: the call takes numbers only.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done != 0 {
        #[expect(clippy::disallowed_methods, reason = "its thread serves nobody, as for the call")]
        thread::sleep(PROGRAM_TIME);
    }
}

/// A map that many threads use at once, as the kernel allows.
///
/// Its types are those of the object that was loaded: the sizes are compared when it is made.
#[derive(Debug)]
pub struct SharedMap<K: Pod, V: Pod> {
    fd: OwnedFd,
    types: PhantomData<fn(K) -> V>,
}

/// The part of `union bpf_attr` for commands on one element.
#[repr(C, align(8))]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The part of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C, align(8))]
#[derive(Default)]
struct LinkCreateAttr {
    program_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// The part of `union bpf_attr` for `BPF_LINK_UPDATE`.
#[repr(C, align(8))]
#[derive(Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_program_fd: u32,
    flags: u32,
    old_program_fd: u32,
}

/// The part of `union bpf_attr` for `BPF_LINK_DETACH`.
#[repr(C, align(8))]
struct LinkDetachAttr {
    link_fd: u32,
    pad: u32,
}

/// The part of `union bpf_attr` for `BPF_OBJ_PIN` and `BPF_OBJ_GET`.
#[repr(C, align(8))]
#[derive(Default)]
struct ObjAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// The part of `union bpf_attr` for `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C, align(8))]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// The start of `struct bpf_link_info`, with the part for cgroups. For network namespaces `target` has the
/// inode, and after it the attach type, of 32 bits each.
#[repr(C, align(8))]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    pad: u32,
    target: u64,
    attach_type: u32,
    pad_end: u32,
}

impl<K: Pod, V: Pod> SharedMap<K, V> {
    /// Shares a map whose kernel-side sizes are `key_size` and `value_size` bytes.
    ///
    /// # Errors
    ///
    /// The sizes are not those of `K` and `V`, or no descriptor is left.
    pub fn new(fd: BorrowedFd<'_>, key_size: u32, value_size: u32) -> io::Result<Self> {
        if key_size as usize != size_of::<K>() || value_size as usize != size_of::<V>() {
            return Err(io::Error::other(format!(
                "the map holds {key_size} and {value_size} bytes, not {} and {}",
                size_of::<K>(),
                size_of::<V>()
            )));
        }
        Ok(Self { fd: fd.try_clone_to_owned()?, types: PhantomData })
    }

    /// The map's descriptor.
    pub const fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Takes an entry out. `None` if there is none.
    ///
    /// # Errors
    ///
    /// The kernel refused for another reason than an absent key.
    pub fn take(&self, key: &K) -> io::Result<Option<V>> {
        self.read(BPF_MAP_LOOKUP_AND_DELETE_ELEM, key)
    }

    /// Reads a value and leaves it. `Ok(None)`: there is none.
    ///
    /// # Errors
    ///
    /// The kernel refused.
    pub fn get(&self, key: &K) -> io::Result<Option<V>> {
        self.read(BPF_MAP_LOOKUP_ELEM, key)
    }

    /// Writes an entry, whether there was one or not.
    ///
    /// # Errors
    ///
    /// The map is full, or the key is not one that the map takes.
    pub fn put(&self, key: &K, value: &V) -> io::Result<()> {
        let mut attr = self.element(key);
        attr.value = std::ptr::from_ref(value) as u64;
        // JUSTIFICATION: aya's maps want exclusive access; the kernel does not.
        // SAFETY: as in `take`.
        unsafe { command(BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
    }

    /// Removes an entry. A missing entry is no error.
    ///
    /// # Errors
    ///
    /// The kernel refused for another reason.
    pub fn remove(&self, key: &K) -> io::Result<()> {
        let mut attr = self.element(key);
        // JUSTIFICATION: aya's maps want exclusive access; the kernel does not.
        // SAFETY: `attr` is of the command's layout; the key is of the size that `new` compared with the
        // kernel's, alive until the call returns.
        match unsafe { command(BPF_MAP_DELETE_ELEM, &mut attr) } {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Has the command `read` write a value.
    fn read(&self, read: libc::c_long, key: &K) -> io::Result<Option<V>> {
        let mut value = std::mem::MaybeUninit::<V>::zeroed();
        let mut attr = self.element(key);
        attr.value = value.as_mut_ptr() as u64;
        // JUSTIFICATION: aya has no such command, and its maps want exclusive access.
        // SAFETY: `attr` is of the command's layout; key and value point to memory of the sizes
        // that `new` compared with the kernel's, alive until the call returns.
        let result = unsafe { command(read, &mut attr) };
        match result {
            // JUSTIFICATION: the kernel filled it.
            // SAFETY: `V: Pod`, so that every pattern of its bytes is a value, zeroes included.
            Ok(_zero) => Ok(Some(unsafe { value.assume_init() })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn element(&self, key: &K) -> ElementAttr {
        ElementAttr {
            map_fd: self.fd.as_raw_fd().cast_unsigned(),
            key: std::ptr::from_ref(key) as u64,
            ..ElementAttr::default()
        }
    }
}

/// A map's value, or a ring buffer's record, from its bytes. `None`: there are more or fewer than
/// `V` has.
pub fn value<V: Pod>(bytes: &[u8]) -> Option<V> {
    if bytes.len() != size_of::<V>() {
        return None;
    }
    // JUSTIFICATION: no safe conversion from bytes to a type of the contract exists.
    // SAFETY: as many bytes as `V` has, wherever they are; `V: Pod`, so that every pattern of them
    // is a value.
    Some(unsafe { bytes.as_ptr().cast::<V>().read_unaligned() })
}

/// Attaches a program to `target`, a cgroup's folder or a map of sockets. `attach_type` is one of
/// `enum bpf_attach_type`. The program stays for as long as the link is open or pinned.
///
/// # Errors
///
/// The kernel has no such links, or the program is of another type.
pub fn link_create(program: impl AsFd, target: impl AsFd, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr {
        program_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        target_fd: target.as_fd().as_raw_fd().cast_unsigned(),
        attach_type,
        ..LinkCreateAttr::default()
    };
    // JUSTIFICATION: aya attaches to maps without a link, and cannot pin those of `setsockopt`.
    // SAFETY: `attr` is of the command's layout and holds two open descriptors.
    let fd = unsafe { command(BPF_LINK_CREATE, &mut attr) }?;
    // JUSTIFICATION: a descriptor arrives as a number.
    // SAFETY: the kernel has just installed it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Pins a link at `path`, on a BPF file system.
///
/// # Errors
///
/// There is something at `path`, or it is on another file system.
pub fn pin(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let fd = link.as_raw_fd().cast_unsigned();
    let mut attr = ObjAttr { path: path.as_ptr() as u64, fd, ..ObjAttr::default() };
    // JUSTIFICATION: aya pins only links that it has made.
    // SAFETY: `attr` is of the command's layout; the path is alive until the call returns.
    unsafe { command(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Replaces the program of a link, with no moment in which none is attached.
///
/// The kernel does not compare the attach types of cgroup programs: the caller must.
///
/// # Errors
///
/// The link is not one that can be updated, or the program is of another type.
pub fn link_update(link: BorrowedFd<'_>, program: impl AsFd) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link_fd: link.as_raw_fd().cast_unsigned(),
        new_program_fd: program.as_fd().as_raw_fd().cast_unsigned(),
        ..LinkUpdateAttr::default()
    };
    // JUSTIFICATION: aya keeps it to itself for links of cgroups.
    // SAFETY: `attr` is of the command's layout and holds two open descriptors.
    unsafe { command(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Detaches the program of a link at once. Removing the link's pin alone does so some time later.
///
/// # Errors
///
/// The link is not one that can be detached.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkDetachAttr { link_fd: link.as_raw_fd().cast_unsigned(), pad: 0 };
    // JUSTIFICATION: aya detaches by dropping the last descriptor, which the kernel defers.
    // SAFETY: `attr` is of the command's layout and holds an open descriptor.
    unsafe { command(BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// Calls `bpf(2)`.
///
/// # Safety
///
/// `A` is the layout of `number`'s part of `union bpf_attr`, and every pointer in it is valid for
/// what the command does with it.
unsafe fn command<A>(number: libc::c_long, attr: &mut A) -> io::Result<RawFd> {
    // JUSTIFICATION: no safe wrapper exists.
    // SAFETY: what the caller promised; the size is that of `attr`.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, number, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(result).map_err(io::Error::other)
}

/// Opens what is pinned at `path`.
///
/// # Errors
///
/// Nothing is pinned there, or it may not be opened.
pub fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut attr = ObjAttr { path: path.as_ptr() as u64, ..ObjAttr::default() };
    // JUSTIFICATION: aya opens pinned links but does not hand their descriptors out.
    // SAFETY: `attr` is of the command's layout; the path is alive until the call returns.
    let fd = unsafe { command(BPF_OBJ_GET, &mut attr) }?;
    // JUSTIFICATION: a descriptor arrives as a number.
    // SAFETY: the kernel has just installed it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The place that a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// A cgroup.
    Cgroup {
        /// 0: it is gone, or the link was detached.
        id: u64,
        /// `enum bpf_attach_type`.
        attach_type: u32,
    },
    /// A network namespace, by its inode; 0: it is gone, or the link was detached.
    Netns(u32),
}

impl Attached {
    /// Whether the link is detached.
    pub const fn is_nowhere(self) -> bool {
        matches!(self, Self::Cgroup { id: 0, .. } | Self::Netns(0))
    }
}

/// The place of a link to a cgroup or a network namespace. `None`: it is another kind of link.
///
/// # Errors
///
/// The descriptor is not that of a link.
pub fn attached(link: BorrowedFd<'_>) -> io::Result<Option<Attached>> {
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        fd: link.as_raw_fd().cast_unsigned(),
        length: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // JUSTIFICATION: aya does not read this part of a link's information.
    // SAFETY: `attr` is of the command's layout; `info` is of the length stated.
    unsafe { command(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(match info.kind {
        LINK_CGROUP => Some(Attached::Cgroup { id: info.target, attach_type: info.attach_type }),
        LINK_NETNS => {
            let [a, b, c, d, ..] = info.target.to_ne_bytes();
            Some(Attached::Netns(u32::from_ne_bytes([a, b, c, d])))
        }
        _ => None,
    })
}
