//! The header of a document with an error, from as much of its text as can be read.

use serde_saphyr::DuplicateKeyPolicy;

use super::header::{Fill, Header};
use super::yaml;

/// The keys that a document begins with.
const HEAD: [&str; 2] = ["apiVersion:", "kind:"];

/// The most documents that one which cannot be read is taken for.
const MAX_PARTS: usize = 64;

/// The headers that a document may have which cannot be read as a whole: one, or several where a key is
/// written twice, or documents follow each other without a line `---`.
pub(super) fn headers(text: &str) -> Vec<Header> {
    let mut headers = Vec::with_capacity(2);
    for part in parts(text) {
        for header in alternatives(part) {
            if !headers.contains(&header) {
                headers.push(header);
            }
        }
    }
    headers
}

/// A text, cut where documents seem to follow each other: where the key that its first head begins with
/// stands again. Of more than [`MAX_PARTS`], the last is the rest.
fn parts(text: &str) -> Vec<&str> {
    let is_head = |line: &str| HEAD.into_iter().find(|key| line.starts_with(key));
    let mut parts = Vec::new();
    let (mut first, mut rest, mut at) = (None, text, 0);
    for line in text.split_inclusive(['\n', '\r']) {
        let head = is_head(line);
        let is_again = head.is_some() && head == first;
        first = first.or(head);
        if is_again && parts.len() < MAX_PARTS {
            let (part, next) = rest.split_at(at);
            parts.push(part);
            (rest, at) = (next, 0);
        }
        at += line.len();
    }
    parts.push(rest);
    parts
}

fn alternatives(text: &str) -> Vec<Header> {
    let mut headers = Vec::with_capacity(2);
    for policy in [DuplicateKeyPolicy::FirstWins, DuplicateKeyPolicy::LastWins] {
        let mut header = Header::alone();
        if fill(text, policy, &mut header, true).is_err() {
            // Past an error of syntax: field by field.
            for key in ["apiVersion:", "kind:", "metadata:"] {
                for block in blocks(text, key) {
                    let mut found = Header::alone();
                    let read = fill(&block, policy, &mut found, false);
                    if read.is_err() && key == "metadata:" {
                        for line in block.lines().skip(1).map(str::trim) {
                            // A space is missing after the colon now and then.
                            if let Some((key @ ("name" | "namespace"), value)) =
                                line.split_once(':')
                            {
                                let line = format!("metadata:\n  {key}: {value}\n");
                                // One that cannot be read has no more to say.
                                let _read: Result<(), _> = fill(&line, policy, &mut found, false);
                            }
                        }
                    }
                    header.complete(found);
                }
            }
        }
        if !headers.contains(&header) {
            headers.push(header);
        }
    }
    headers
}

fn fill(
    text: &str,
    policy: DuplicateKeyPolicy,
    header: &mut Header,
    with_items: bool,
) -> Result<(), yaml::Unreadable> {
    yaml::parse_duplicates(text, policy, Fill { header, with_items })
}

/// The lines that begin with `key`, each with those that are indented below it.
fn blocks(text: &str, key: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        if line.starts_with(key) {
            is_inside = true;
            blocks.push(String::new());
        } else if !line.starts_with([' ', '\t']) {
            is_inside = false;
        }
        if let Some(block) = blocks.last_mut().filter(|_| is_inside) {
            block.push_str(line);
            block.push('\n');
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_past_errors() {
        let check = |text: &str, expect: &[&str]| {
            let one = |header: &Header| {
                let name =
                    header.name().map_or_else(|| header.namespace() + "/?", |it| it.to_string());
                format!("{} {} {name}", header.api_version, header.kind)
            };
            assert_eq!(headers(text).iter().map(one).collect::<Vec<_>>(), expect, "{text}");
        };
        check(
            "apiVersion: v1\nkind: A\nkind: B\nmetadata: {name: a}\n",
            &["v1 A default/a", "v1 B default/a"],
        );
        check("kind: A\nmetadata: {name: a, name: b, namespace: c}\n", &[" A c/a", " A c/b"]);
        check("kind: A\nspec: {a: 1, a: 1}\nmetadata: {name: a, namespace: b}\n", &[" A b/a"]);
        check("kind: A\nspec: {a: [}\nmetadata:\n  name: a\n  namespace: b\n", &[" A b/a"]);
        check("spec: }\nkind: A\nmetadata:\n  labels: ]\n  namespace: b\n", &[" A b/?"]);
        check(
            "{\"kind\": \"A\", \"metadata\": {\"name\": \"a\"}, \"a\": 1, \"a\": 1}",
            &[" A default/a"],
        );
        check("]", &["  default/?"]);
        let three = "apiVersion: v1\nkind: A\nmetadata: {name: a}\napiVersion: v1\nkind: B\n\
                     metadata: {name: b}\napiVersion: v2\nkind: C\nmetadata: {name: c}\n";
        check(three, &["v1 A default/a", "v1 B default/b", "v2 C default/c"]);
        check("kind: A\nmetadata:\n  name: a\n  namespace:b\n", &[" A b/a"]);
        // Keys that are misspelled, or at another place.
        for metadata in [
            "metdata: {name: a, namespace: b}",
            "metadata: {name: a, namspace: b}",
            "metadata: {name: a, Namespace: b}",
            "metadata: {nmae: a, namespace: b}",
            "metadata: {name: a}\nnamespace: b",
            "namespace: b\nname: a",
        ] {
            check(&format!("kind: A\n{metadata}\n"), &[" A b/a"]);
            check(&format!("knid: A\n{metadata}\napiversion: v1\n"), &["v1 A b/a"]);
        }
    }
}
