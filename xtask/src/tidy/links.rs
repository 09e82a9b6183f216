//! Links of Markdown files: each relative one leads to a file, and to a heading if it names one.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use super::Report;

/// A Markdown file.
pub(super) struct Page<'a> {
    /// Its path from the workspace's root.
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

/// Checks the links of one page. `pages` are all pages, and `exists` says whether a path from the root is a file
/// or folder.
pub(super) fn check(
    page: &Page<'_>,
    pages: &[Page<'_>],
    exists: impl Fn(&Path) -> bool,
    report: Report<'_>,
) {
    for (number, target) in links(page.text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let path =
            if file.is_empty() { Some(page.path.to_owned()) } else { resolve(page.path, file) };
        let Some(path) = path.filter(|path| exists(path)) else {
            report(number, format!("the link leads nowhere: `{target}`"));
            continue;
        };
        let linked = pages.iter().find(|other| other.path == path);
        if !anchor.is_empty()
            && linked.is_some_and(|page| !anchors(page.text).contains(&anchor.to_owned()))
        {
            report(number, format!("there is no heading `#{anchor}` in {}", path.display()));
        }
    }
}

/// Lines of a page that are no code, numbered from 1.
pub(super) fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    (1..).zip(text.lines()).filter(move |(_, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_fence && !is_code
    })
}

/// Targets of links, `[text](target)`, with their lines.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("](") {
            let Some((target, end)) = after.split_once(')') else { break };
            // An odd number of backticks before it: it is in code.
            let is_code =
                line.len().checked_sub(rest.len()).and_then(|at| line.get(..at + before.len()));
            if is_code.is_some_and(|before| before.matches('`').count() % 2 == 0) {
                found.push((number, target.split(' ').next().unwrap_or(target)));
            }
            rest = end;
        }
    }
    found
}

/// Where `file` is, seen from `page`; `None`: outside of the workspace.
fn resolve(page: &Path, file: &str) -> Option<PathBuf> {
    let mut path = page.parent()?.to_owned();
    for part in Path::new(file).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => path.push(name),
            Component::ParentDir if path.pop() => {}
            _ => return None,
        }
    }
    Some(path)
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let mut seen = HashMap::<String, usize>::new();
    let headings = prose(text).filter_map(|(_, line)| {
        let title = line.trim_start_matches('#');
        (line.starts_with('#') && title.starts_with(' ')).then_some(title.trim())
    });
    headings
        .map(|title| {
            let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            let anchor = kept.collect::<String>().to_lowercase().replace(' ', "-");
            let count = seen.entry(anchor.clone()).or_default();
            *count += 1;
            if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &[&str]) {
        let page = |path, text| Page { path: Path::new(path), text };
        let other = "# Other\n\n## `v1` `Service`, and what else\n\n```\n# no heading\n```\n## Two\n## Two\n";
        let pages = [page("docs/a.md", text), page("docs/other.md", other)];
        let exists =
            |path: &Path| ["docs/a.md", "docs/other.md", "src"].map(Path::new).contains(&path);
        let mut got = Vec::new();
        super::check(&pages[0], &pages, exists, &mut |line, what| {
            got.push(format!("{line}: {what}"));
        });
        assert_eq!(got, expect, "{text}");
    }

    #[test]
    fn a_link_leads_to_a_file_and_a_heading() {
        check("[a](other.md), [b](../src) and [c](https://example.com/x)\n", &[]);
        check("[a](other.md#v1-service-and-what-else) [b](other.md#two-1)\n", &[]);
        check("# Own\n[a](#own)\n", &[]);
        check("x\n[a](gone.md)\n", &["2: the link leads nowhere: `gone.md`"]);
        check("[a](../../up.md)\n", &["1: the link leads nowhere: `../../up.md`"]);
        check("[a](other.md#three)", &["1: there is no heading `#three` in docs/other.md"]);
        check(
            "[a](other.md#no-heading)",
            &["1: there is no heading `#no-heading` in docs/other.md"],
        );
        check("[a](#gone)", &["1: there is no heading `#gone` in docs/a.md"]);
    }

    #[test]
    fn code_has_no_links() {
        check("```\n[a](gone.md)\n```\n`b[0](gone.md)` x\n", &[]);
        check("`b` [a](gone.md)\n", &["1: the link leads nowhere: `gone.md`"]);
    }
}
