//! House rules that clippy cannot express, as a check and as a test.
//!
//! Each rule is a function of paths and text; only this file reads the disk.

mod files;
mod layers;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// One Rust file.
struct Source<'a> {
    /// Its path from the workspace's root.
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    /// Whether all of the file is test code: it may panic, use any layer, and be longer.
    fn is_test(&self) -> bool {
        self.path.starts_with("tests/it") || self.path.file_name().is_some_and(|n| n == "tests.rs")
    }

    /// The lines above the test module, numbered from 1, with string literals left in.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.take_while(|(_, line)| line.trim() != "#[cfg(test)]")
    }
}

/// Takes a problem: the line, and what is wrong with it.
type Report<'a> = &'a mut dyn FnMut(usize, String);

/// Prints every problem.
///
/// # Errors
///
/// There is one.
pub(crate) fn check(root: &Path) -> Result<()> {
    let started = crate::process::now();
    let problems = problems(root)?;
    for problem in &problems {
        eprintln!("tidy: {problem}");
    }
    if !problems.is_empty() {
        bail!("the tree is not tidy: {} problems", problems.len());
    }
    eprintln!("✓ tidy ({})", crate::process::seconds(started.elapsed()));
    Ok(())
}

/// One line for each problem of the tree.
fn problems(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let files = rust_files(root)?;
    let names: Vec<_> =
        files.iter().map(|file| file.strip_prefix(root).unwrap_or(file).to_owned()).collect();
    for (file, path) in files.iter().zip(&names) {
        let text = fs::read_to_string(file)?;
        let source = Source { path, text: &text };
        let mut report = |line: usize, what: String| {
            problems.push(format!("{}:{line}: {what}", path.display()));
        };
        files::check(&source, &mut report);
        layers::check(&source, &mut report);
        text::check(&source, &mut report);
    }
    let map = fs::read_to_string(root.join("ARCHITECTURE.md"))?;
    files::check_map(&map, |name| exists(root, &names, name), &mut |line, what| {
        problems.push(format!("ARCHITECTURE.md:{line}: {what}"));
    });
    Ok(problems)
}

/// Whether a path that a document cites exists, from the root or as the end of the path of a
/// source or of a folder above one.
fn exists(root: &Path, sources: &[PathBuf], name: &str) -> bool {
    let mut paths = sources.iter().flat_map(|source| source.ancestors());
    root.join(name).exists() || paths.any(|path| path.ends_with(name))
}

/// The Rust files of the workspace's members, sorted.
fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders: Vec<_> = ["mesh-common", "mesh-ebpf", "mesh-agent", "tests", "xtask"]
        .map(|member| root.join(member))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                // A member has a `target` only if someone built there by hand.
                if path.file_name().is_none_or(|name| name != "target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(problems(root).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn code_ends_where_tests_begin() {
        let text = "//! x\nfn f() {}\n#[cfg(test)]\nmod tests {}\n";
        let source = Source { path: Path::new("xtask/src/x.rs"), text };
        assert_eq!(source.code().count(), 2);
    }
}
