//! Outcome of a case, and where two of them differ.

use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::Path;

use anyhow::{Context as _, Result};

/// The output, files and status of a client, without what differs by nature.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// How it ended.
    pub(crate) status: String,
    /// Whether it had to be ended.
    pub(crate) is_late: bool,
    /// Its output.
    pub(crate) stdout: String,
    /// Its complaints.
    pub(crate) stderr: String,
    /// The files that it wrote, one a line.
    pub(crate) files: String,
}

impl Outcome {
    /// Where `got` differs from this: the lines of both from the first that differs to the last.
    pub(crate) fn difference(&self, got: &Self) -> Option<(String, String)> {
        let (expected, got) = (self.text(), got.text());
        let (expected, got): (Vec<_>, Vec<_>) = (expected.lines().collect(), got.lines().collect());
        if expected == got {
            return None;
        }
        let start = expected.iter().zip(&got).take_while(|(one, other)| one == other).count();
        let (expected, got) = (&expected[start..], &got[start..]);
        let ends = expected.iter().rev().zip(got.iter().rev());
        let same = ends.take_while(|(one, other)| one == other).count();
        let middle = |lines: &[&str]| lines[..lines.len() - same].join("\n");
        Some((middle(expected), middle(got)))
    }

    /// All of it, one line for each of its lines.
    pub(crate) fn text(&self) -> String {
        let parts = [("stdout", &self.stdout), ("stderr", &self.stderr), ("file", &self.files)];
        let mut text = format!("{}\n", self.status);
        for (name, part) in parts {
            for line in part.lines() {
                // Writing to a string does not fail.
                let _infallible = writeln!(text, "{name}: {line}");
            }
        }
        text
    }
}

/// The files below a folder: their names, sizes and a hash of what they have, sorted.
///
/// # Errors
///
/// One cannot be read.
pub(crate) fn files(folder: &Path) -> Result<String> {
    let mut lines = Vec::new();
    list(folder, folder, &mut lines)?;
    lines.sort();
    Ok(lines.join("\n"))
}

fn list(root: &Path, folder: &Path, lines: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(folder).context("reading a client's folder")? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            list(root, &path, lines)?;
            continue;
        }
        let content = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let mut hasher = DefaultHasher::new();
        hasher.write(&content);
        let name = path.strip_prefix(root).unwrap_or(&path).display();
        lines.push(format!("{name} {} bytes {:016x}", content.len(), hasher.finish()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expected: &str, got: &str, expect: Option<(&str, &str)>) {
        let of = |stdout: &str| Outcome { stdout: stdout.to_owned(), ..Outcome::default() };
        let difference = of(expected).difference(&of(got));
        let expect = expect.map(|(one, other)| (one.to_owned(), other.to_owned()));
        assert_eq!(difference, expect);
    }

    #[test]
    fn a_difference_is_the_lines_between_what_is_the_same() {
        check("a\nb\nc", "a\nb\nc", None);
        check("a\nb\nc", "a\nx\nc", Some(("stdout: b", "stdout: x")));
        check("a\nb", "a\nb\nb", Some(("", "stdout: b")));
        check("a", "", Some(("stdout: a", "")));
    }

    #[test]
    fn a_status_a_word_and_a_file_are_differences() {
        let one = Outcome { status: "exit status: 0".to_owned(), ..Outcome::default() };
        for other in [
            Outcome { status: "exit status: 1".to_owned(), ..one.clone() },
            Outcome { stderr: "oh".to_owned(), ..one.clone() },
            Outcome { files: "a 0 bytes 00".to_owned(), ..one.clone() },
        ] {
            assert!(one.difference(&other).is_some(), "{other:?}");
        }
    }

    #[test]
    fn files_are_named_with_their_folders_and_compared_by_what_they_have() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        fs::write(folder.path().join("b/c"), "one").unwrap();
        fs::write(folder.path().join("a"), "").unwrap();
        let before = files(folder.path()).unwrap();
        assert!(before.starts_with("a 0 bytes "), "{before}");
        assert!(before.contains("\nb/c 3 bytes "), "{before}");
        fs::write(folder.path().join("b/c"), "two").unwrap();
        assert_ne!(files(folder.path()).unwrap(), before);
    }
}
