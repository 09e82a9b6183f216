//! One YAML document into a typed value, with the place and a sentence for what is wrong.

use serde::de::DeserializeSeed;
use serde_path_to_error::{Deserializer, Track};
use serde_saphyr::{DuplicateKeyPolicy, Error, Options};

use super::wording;

/// The most events, nodes and aliases of one document: four times what a list of 16 MiB with
/// ordinary resources has. Depth is bounded by the parser's default of 64.
const MAX_NODES: usize = 4_000_000;

/// The most events of one document that are kept for aliases, and the most that aliases stand for. An
/// event takes some 110 bytes: 100,000 × 110 B = 11 MB while the document is read.
const MAX_ALIASED_EVENTS: usize = 100_000;

/// The most bytes of scalars among them.
const MAX_ALIASED_BYTES: usize = 8 << 20;

/// The most bytes of a document that a condition repeats in one place: four times the longest name
/// (Kubernetes, "Object Names and IDs": 253). A document has up to a hundred conditions.
const MAX_PRINTED_BYTES: usize = 1024;

/// Why a document, or one field of it, cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// The field's path; empty for the whole document.
    pub(super) path: String,
    /// The line within the document, counted from 1; `None` if it is not known.
    pub(super) line: Option<usize>,
    /// The error and the remedy, without a full stop.
    pub(super) message: String,
}

/// How documents are parsed: duplicate keys are errors, as Kubernetes' strict decoding has it.
pub(super) fn options() -> Options {
    serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_nodes: MAX_NODES,
            max_events: 2 * MAX_NODES,
            max_recorded_anchor_events: MAX_ALIASED_EVENTS,
            max_recorded_anchor_bytes: MAX_ALIASED_BYTES,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_ALIASED_EVENTS,
        },
    }
}

/// Reads the one document in `text`.
pub(super) fn parse<'t, S>(text: &'t str, seed: S) -> Result<S::Value, Unreadable>
where
    S: DeserializeSeed<'t>,
{
    parse_with(text, options(), seed)
}

/// Reads the one document in `text`, of keys that are written twice the first or the last.
pub(super) fn parse_duplicates<'t, S>(
    text: &'t str,
    policy: DuplicateKeyPolicy,
    seed: S,
) -> Result<S::Value, Unreadable>
where
    S: DeserializeSeed<'t>,
{
    let mut options = options();
    options.duplicate_keys = policy;
    parse_with(text, options, seed)
}

fn parse_with<'t, S>(text: &'t str, options: Options, seed: S) -> Result<S::Value, Unreadable>
where
    S: DeserializeSeed<'t>,
{
    let mut track = Track::new();
    serde_saphyr::with_deserializer_from_str_with_options(text, options, |deserializer| {
        seed.deserialize(Deserializer::new(deserializer, &mut track))
    })
    .map_err(|error| unreadable(track.path().to_string(), &error))
}

fn unreadable(path: String, error: &Error) -> Unreadable {
    let line = error.location().and_then(|location| usize::try_from(location.line()).ok());
    let path = if path == "." { String::new() } else { path };
    let message = wording::message(error, path.is_empty());
    Unreadable { path: printable(&path), line, message: printable(&message) }
}

/// `text` with control characters escaped, so that it stays on one line of a log, and cut after
/// [`MAX_PRINTED_BYTES`].
pub(super) fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len().min(MAX_PRINTED_BYTES));
    for c in text.chars() {
        if printed.len() > MAX_PRINTED_BYTES {
            printed.push('…');
            break;
        }
        if c.is_control() { printed.extend(c.escape_debug()) } else { printed.push(c) }
    }
    printed
}

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use serde::de::IgnoredAny;

    use super::*;

    #[test]
    fn texts_of_documents_are_cut() {
        assert_eq!(printable("a\nb"), "a\\nb");
        let cut = printable(&"ä\n".repeat(10_000));
        assert!(cut.len() < MAX_PRINTED_BYTES + 10 && cut.ends_with('…'), "{}", cut.len());
    }

    #[test]
    fn events_that_aliases_stand_for_are_bounded() {
        let check = |values: usize, aliases: usize, expect: bool| {
            let (values, aliases) = (vec!["x"; values].join(","), vec!["*a"; aliases].join(","));
            let text = format!("a: &a [{values}]\nb: [{aliases}]\n");
            assert_eq!(parse(&text, PhantomData::<IgnoredAny>).is_ok(), expect, "{aliases}");
        };
        check(9_000, 10, true);
        check(9_000, 12, false);
        // They are kept for aliases that may come.
        check(99_000, 0, true);
        check(101_000, 0, false);
    }
}
