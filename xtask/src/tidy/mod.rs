//! House rules that clippy cannot express, as a check and as a test.
//!
//! Each rule is a function of paths and text; only this file reads the disk.

mod clauses;
mod files;
mod layers;
mod links;
mod text;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use links::Page;

/// One Rust file.
struct Source<'a> {
    /// Its path from the workspace's root.
    path: &'a Path,
    text: &'a str,
    /// Whether all of it is test code: it may panic, use any layer, and be longer.
    test: bool,
}

impl Source<'_> {
    /// The lines above the test module, numbered from 1, without single lines for tests only.
    fn code(&self) -> Vec<(usize, &str)> {
        let mut code = Vec::new();
        let mut lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        while let Some((number, line)) = lines.next() {
            if line.trim() != TEST_ONLY {
                code.push((number, line));
                continue;
            }
            let item = lines.by_ref().find(|(_, line)| !line.trim_start().starts_with("#["));
            match item {
                None => break,
                Some((_, line)) if line.starts_with("mod ") && line.ends_with('{') => break,
                // `mod tests;` and `use crate::…;` are gone; a function's body is code.
                Some((number, line)) if line.ends_with('{') => code.push((number, line)),
                Some(_) => {}
            }
        }
        code
    }

    /// The modules that this file declares for tests only, as paths without an extension.
    fn test_modules(&self) -> Vec<PathBuf> {
        let folder = self.path.parent().unwrap_or(self.path);
        let mut modules = Vec::new();
        for pair in self.text.lines().collect::<Vec<_>>().windows(2) {
            let &[attribute, item] = pair else { continue };
            let elsewhere = item.trim().strip_prefix("#[path = \"");
            if let Some(path) = elsewhere.and_then(|path| path.strip_suffix(".rs\"]"))
                && attribute.trim() == TEST_ONLY
            {
                modules.push(folder.join(path));
                continue;
            }
            let name = item.trim().strip_suffix(';').and_then(|item| item.split_once("mod "));
            if let Some((_, name)) = name
                && attribute.trim() == TEST_ONLY
            {
                modules.push(folder.join(name));
            }
        }
        modules
    }
}

/// The attribute of an item for tests only.
const TEST_ONLY: &str = "#[cfg(test)]";

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
    let texts = files.iter().map(fs::read_to_string).collect::<Result<Vec<_>, _>>()?;
    let mut sources: Vec<_> =
        names.iter().zip(&texts).map(|(path, text)| Source { path, text, test: false }).collect();
    let mut tests: Vec<_> = sources.iter().flat_map(Source::test_modules).collect();
    tests.extend(["tests/it", "fuzz"].map(PathBuf::from));
    for source in &mut sources {
        let module = source.path.with_extension("");
        source.test = tests.iter().any(|test| module.starts_with(test));
    }
    for source in &sources {
        let path = source.path;
        let mut report = |line: usize, what: String| {
            problems.push(format!("{}:{line}: {what}", path.display()));
        };
        files::check(source, &mut report);
        layers::check(source, &mut report);
        text::check(source, &mut report);
        clauses::check(source, &mut report);
    }
    problems.extend(page_problems(root)?);
    let map = fs::read_to_string(root.join("ARCHITECTURE.md"))?;
    files::check_map(&map, |name| exists(root, &names, name), &mut |line, what| {
        problems.push(format!("ARCHITECTURE.md:{line}: {what}"));
    });
    Ok(problems)
}

/// One line for each problem of the Markdown files.
fn page_problems(root: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let files = files_below(vec![root.to_owned()], "md")?;
    let texts = files.iter().map(fs::read_to_string).collect::<Result<Vec<_>, _>>()?;
    let pages: Vec<_> = files
        .iter()
        .zip(&texts)
        .map(|(file, text)| Page { path: file.strip_prefix(root).unwrap_or(file), text })
        .collect();
    for page in &pages {
        let mut report = |line: usize, what: String| {
            problems.push(format!("{}:{line}: {what}", page.path.display()));
        };
        links::check(page, &pages, |path| root.join(path).exists(), &mut report);
        clauses::check_page(page.text, &mut report);
    }
    Ok(problems)
}

/// Whether a path that a document cites exists, from the root or as the end of the path of a
/// source or of a folder above one.
fn exists(root: &Path, sources: &[PathBuf], name: &str) -> bool {
    let mut paths = sources.iter().flat_map(|source| source.ancestors());
    root.join(name).exists() || paths.any(|path| path.ends_with(name))
}

/// The Rust files of the workspace's members and of the fuzz targets, sorted.
fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let members = ["mesh-common", "mesh-ebpf", "mesh-agent", "tests", "xtask", "fuzz"];
    files_below(members.map(|member| root.join(member)).to_vec(), "rs")
}

/// The files below these folders whose names end so, sorted.
fn files_below(mut folders: Vec<PathBuf>, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                // A member has a `target` only if someone built there by hand.
                let name = path.file_name().unwrap_or_default().as_encoded_bytes();
                if name != b"target" && !name.starts_with(b".") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|it| it == extension) {
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

    #[track_caller]
    fn check(text: &str, code: &[usize], modules: &[&str]) {
        let source = Source { path: Path::new("model/mod.rs"), text, test: false };
        let numbers: Vec<_> = source.code().into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, code);
        let paths: Vec<_> = modules.iter().map(PathBuf::from).collect();
        assert_eq!(source.test_modules(), paths);
    }

    #[test]
    fn the_tree_is_tidy() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(problems(root).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn code_ends_where_tests_begin() {
        check("a\n#[cfg(test)]\nmod tests {\nb\n", &[1], &[]);
        check("a\n#[cfg(test)]\n#[expect(x)]\nmod tests {\nb\n", &[1], &[]);
    }

    #[test]
    fn code_goes_on_after_a_line_for_tests() {
        check("a\n#[cfg(test)]\npub(crate) mod fixture;\nb\n", &[1, 4], &["model/fixture"]);
        check("#[cfg(test)]\nuse crate::cli;\nb\n", &[3], &[]);
        check("#[cfg(test)]\nfn new() {\n}\n", &[2, 3], &[]);
    }
}
