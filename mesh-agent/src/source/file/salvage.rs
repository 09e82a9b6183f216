//! The header of a document with an error, from as much of its text as can be read.

use serde_saphyr::DuplicateKeyPolicy;

use super::header::{Fill, Header};
use super::yaml;

/// The headers that a document may have which cannot be read as a whole: one, or two where a key is
/// written twice.
pub(super) fn headers(text: &str) -> Vec<Header> {
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
                            if line.starts_with("name:") || line.starts_with("namespace:") {
                                let line = format!("metadata:\n  {line}\n");
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
    }
}
