//! How files are named, how they begin and how long they are; and that cited ones exist.

use super::{Report, Source};

/// Lines of a file above its tests.
const MAX_LINES: usize = 500;

/// Lines of a file that is all tests.
const MAX_TEST_LINES: usize = 800;

/// Names that say nothing about what a module holds.
const BANNED: &[&str] = &["base", "common", "helpers", "manager", "misc", "types", "util", "utils"];

/// Checks one file.
pub(super) fn check(source: &Source<'_>, report: Report<'_>) {
    if !source.text.starts_with("//! ") {
        report(1, "the file does not say what it is for (`//! …` on its first line)".to_owned());
    }
    // The first component is the crate; `mesh-common` is what kernel and user have in common.
    for name in source.path.iter().skip(1) {
        let name = name.to_string_lossy();
        let name = name.trim_end_matches(".rs");
        if BANNED.contains(&name) {
            report(1, format!("`{name}` says nothing: name the module for what it holds"));
        }
    }
    let (n_lines, limit) = if source.test {
        (source.text.lines().count(), MAX_TEST_LINES)
    } else {
        (source.code().last().map_or(0, |(number, _)| *number), MAX_LINES)
    };
    if limit < n_lines {
        report(n_lines, format!("{n_lines} lines; split at {limit}"));
    }
}

/// Checks that the paths a document cites exist: what is in backticks and ends in a known
/// extension or in `/`.
pub(super) fn check_map(text: &str, exists: impl Fn(&str) -> bool, report: Report<'_>) {
    for (index, line) in text.lines().enumerate() {
        for cited in line.split('`').skip(1).step_by(2) {
            if is_path(cited) && !exists(cited.trim_end_matches('/')) {
                report(index + 1, format!("`{cited}` does not exist"));
            }
        }
    }
}

/// Whether a piece of code is a path of the tree: relative, without placeholders.
fn is_path(cited: &str) -> bool {
    let plain = cited.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
    let ends = [".rs", ".md", ".toml", ".yaml", "/"].iter().any(|end| cited.ends_with(end));
    plain && ends && !cited.starts_with(['/', '.']) && cited.len() > 3
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expect: &[&str]) {
        let mut got = Vec::new();
        let test = path.starts_with("tests/it") || path.ends_with("tests.rs");
        let source = Source { path: Path::new(path), text, test };
        super::check(&source, &mut |line, what| got.push(format!("{line}: {what}")));
        assert_eq!(got, expect);
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        let expect = ["1: the file does not say what it is for (`//! …` on its first line)"];
        check("tests/it/main.rs", "mod x;\n", &expect);
        check("tests/it/main.rs", "//! x\n", &[]);
    }

    #[test]
    fn names_mean_something() {
        let expect = ["1: `util` says nothing: name the module for what it holds"];
        check("mesh-agent/src/util/mod.rs", "//! x\n", &expect);
        check("mesh-agent/src/util.rs", "//! x\n", &expect);
        check("mesh-common/src/lib.rs", "//! x\n", &[]);
    }

    #[test]
    fn lines_above_the_tests_count() {
        let long = |above: usize, tests: usize| {
            format!(
                "//! x\n{}#[cfg(test)]\nmod tests {{\n{}",
                "\n".repeat(above - 1),
                "\n".repeat(tests)
            )
        };
        check("xtask/src/x.rs", &long(500, 900), &[]);
        check("xtask/src/x.rs", &long(501, 0), &["501: 501 lines; split at 500"]);
        check("tests/it/x.rs", &long(501, 0), &[]);
        check("tests/it/x.rs", &long(501, 300), &["803: 803 lines; split at 800"]);
    }

    #[test]
    fn cited_paths_exist() {
        let mut got = Vec::new();
        let text = "`a/b.rs` `Kind::code` `gone.rs`\n`/etc/x.yaml` `*.yaml` `a/`\n";
        let exists = |name: &str| matches!(name, "a" | "a/b.rs");
        check_map(text, exists, &mut |line, what| got.push(format!("{line}: {what}")));
        assert_eq!(got, ["1: `gone.rs` does not exist"]);
    }
}
