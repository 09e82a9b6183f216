//! The running kernel's types (BTF): where members of its structures are, which differs between kernels.

use std::io;
use std::path::Path;

/// The types of the running kernel.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// The first bytes of BTF, and the length of its header in bytes (`struct btf_header`).
const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;

/// Kinds of types (`BTF_KIND_…`, `linux/btf.h`) that have more than their head of 12 bytes.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const ENUM64: u32 = 19;
}

/// Types, as the kernel lays them out.
#[derive(Debug)]
pub struct Types {
    types: Vec<u8>,
    names: Vec<u8>,
}

impl Types {
    /// Reads the running kernel's.
    ///
    /// # Errors
    ///
    /// The kernel has none (`CONFIG_DEBUG_INFO_BTF`), or they are of another form.
    pub fn of_kernel() -> io::Result<Self> {
        Self::read(Path::new(KERNEL))
    }

    fn read(path: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(path)?;
        Self::parse(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no BTF"))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(bytes.first_chunk().copied()?);
        let header = usize::try_from(word(bytes, 4)?).ok()?;
        if magic != MAGIC || header < HEADER_BYTES {
            return None;
        }
        let part = |at: usize| {
            let begin = header.checked_add(usize::try_from(word(bytes, at)?).ok()?)?;
            let end = begin.checked_add(usize::try_from(word(bytes, at + 4)?).ok()?)?;
            bytes.get(begin..end).map(<[u8]>::to_vec)
        };
        Some(Self { types: part(8)?, names: part(16)? })
    }

    /// How many bytes into the structure `of` its member `name` begins. `None`: there is no such
    /// member, or it is a part of a byte.
    pub fn offset(&self, of: &str, name: &str) -> Option<u32> {
        let mut rest = self.types.as_slice();
        while !rest.is_empty() {
            let (its_name, info, _size) = (word(rest, 0)?, word(rest, 4)?, word(rest, 8)?);
            let (kind, count) = (info >> 24 & 0x1f, usize::try_from(info & 0xffff).ok()?);
            let more = match kind {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * count,
                kind::ENUM | kind::FUNC_PROTO => 8 * count,
                _ => 0,
            };
            let members = rest.get(12..12 + more)?;
            if kind == kind::STRUCT && self.name(its_name) == Some(of.as_bytes()) {
                let mut members = members.chunks_exact(12);
                let found = members.find(|member| {
                    word(member, 0).and_then(|at| self.name(at)) == Some(name.as_bytes())
                })?;
                // With bit fields (`kind_flag`) the upper byte is a size in bits.
                let bits = word(found, 8)?;
                let bits = if info >> 31 == 0 { bits } else { bits & 0x00ff_ffff };
                return (bits % 8 == 0).then_some(bits / 8);
            }
            rest = rest.get(12 + more..)?;
        }
        None
    }

    fn name(&self, at: u32) -> Option<&[u8]> {
        let rest = self.names.get(usize::try_from(at).ok()?..)?;
        rest.split(|byte| *byte == 0).next()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..)?.first_chunk().copied()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_the_kernels_structures_are_found() {
        let types = Types::of_kernel().unwrap();
        assert_eq!(types.offset("list_head", "next"), Some(0));
        assert_eq!(types.offset("list_head", "prev"), Some(8));
        for (of, name) in [("cgroup", "kn"), ("cgroup", "root"), ("kernfs_node", "id")] {
            assert!(types.offset(of, name).is_some(), "{of}.{name}");
        }
        assert_eq!(types.offset("cgroup", "no_such"), None);
        assert_eq!(types.offset("no_such", "kn"), None);
    }

    #[test]
    fn what_is_no_btf_is_none() {
        for bytes in [&b""[..], b"x", &[0x9f, 0xeb, 1, 0], &[0xff; 64]] {
            assert!(Types::parse(bytes).is_none());
        }
        let cut = Types { types: vec![1; 13], names: vec![0] };
        assert_eq!(cut.offset("a", "b"), None);
    }
}
