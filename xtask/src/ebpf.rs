//! Builds the kernel programs on their own, and prints how large they are.

use std::fs;

use anyhow::{Context as _, Result, bail};

use crate::toolchain::{self, Toolchain};
use crate::{Workspace, process, setup};

/// Bytes of one BPF instruction (RFC 9669, section 3).
const INSTRUCTION_BYTES: u64 = 8;

/// `SHF_EXECINSTR`: the section holds instructions.
const EXECUTABLE: u64 = 4;

/// Builds the object; prints its programs' sizes when asked to.
///
/// # Errors
///
/// The toolchain is missing, or the programs do not build.
pub(crate) fn run(workspace: &Workspace, stats: bool) -> Result<()> {
    setup::run(workspace)?;
    let toolchain = Toolchain::find().map_err(anyhow::Error::msg)?;
    // The folder that mesh-agent/build.rs uses as well: one build serves both.
    let target_dir = workspace.target_dir.join("ebpf");
    process::show(
        "building the kernel programs",
        &mut toolchain.build(&process::cargo_path(), &workspace.root, &target_dir),
    )?;
    let object = toolchain::object(&target_dir);
    println!("{}", object.display());
    if stats {
        let bytes = fs::read(&object).context("reading the object")?;
        println!("{:>12} {:>8}  section", "instructions", "bytes");
        for (section, n_bytes) in programs(&bytes)? {
            println!("{:>12} {n_bytes:>8}  {section}", n_bytes / INSTRUCTION_BYTES);
        }
    }
    Ok(())
}

/// The sections of a little-endian ELF64 file that hold instructions, and their sizes in bytes.
///
/// There is a section for each hook; `.text` holds the functions that hooks call.
fn programs(elf: &[u8]) -> Result<Vec<(String, u64)>> {
    // Offsets: ELF-64 Object File Format, version 1.5, figures 2 and 3.
    if elf.get(..6) != Some(b"\x7fELF\x02\x01") {
        bail!("the object is not a little-endian ELF64 file");
    }
    let headers = number(elf, 0x28, 8)?;
    let header_size = number(elf, 0x3a, 2)?;
    let n_headers = number(elf, 0x3c, 2)?;
    let header = |index: u64| headers + index * header_size;
    let names = number(elf, header(number(elf, 0x3e, 2)?) + 0x18, 8)?;
    let mut programs = Vec::new();
    for index in 0..n_headers {
        let (flags, size) =
            (number(elf, header(index) + 0x08, 8)?, number(elf, header(index) + 0x20, 8)?);
        if flags & EXECUTABLE != 0 && size != 0 {
            let name = usize::try_from(names + number(elf, header(index), 4)?)?;
            let name = elf.get(name..).context("the object is cut short")?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            programs.push((String::from_utf8_lossy(name).into_owned(), size));
        }
    }
    Ok(programs)
}

/// The little-endian number of `n_bytes` (at most 8) at `offset`.
fn number(elf: &[u8], offset: u64, n_bytes: usize) -> Result<u64> {
    let offset = usize::try_from(offset)?;
    let bytes = elf.get(offset..offset + n_bytes).context("the object is cut short")?;
    Ok(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_instructions_of_a_real_file() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let sections = programs(&own).unwrap();
        assert!(sections.iter().any(|(name, size)| name == ".text" && 0 < *size), "{sections:?}");
    }

    #[test]
    fn refuses_what_is_not_an_object() {
        assert!(programs(b"").is_err());
        assert!(programs(b"\x7fELF\x02\x01").is_err());
    }
}
