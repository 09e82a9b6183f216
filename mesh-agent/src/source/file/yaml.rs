//! One YAML document into a typed value, with the place and a sentence for what is wrong.

use serde::de::DeserializeSeed;
use serde_path_to_error::{Deserializer, Track};
use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter as _, Options};

/// The most events, nodes and aliases of one document: four times what a list of 16 MiB with
/// ordinary resources has. Depth is bounded by the parser's default of 64.
const MAX_NODES: usize = 4_000_000;

/// The most events of one document that are kept for aliases, and the most that aliases stand for. An
/// event takes some 110 bytes: 100,000 × 110 B = 11 MB while the document is read.
const MAX_ALIASED_EVENTS: usize = 100_000;

/// The most bytes of scalars among them.
const MAX_ALIASED_BYTES: usize = 8 << 20;

/// Why a document, or one field of it, cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// The field's path; empty for the whole document.
    pub(super) path: String,
    /// The line within the document, counted from 1; `None` if it is not known.
    pub(super) line: Option<usize>,
    /// What is wrong and what to do, without a full stop.
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
    let mut track = Track::new();
    serde_saphyr::with_deserializer_from_str_with_options(text, options(), |deserializer| {
        seed.deserialize(Deserializer::new(deserializer, &mut track))
    })
    .map_err(|error| unreadable(track.path().to_string(), &error))
}

fn unreadable(path: String, error: &Error) -> Unreadable {
    let line = error.location().and_then(|location| usize::try_from(location.line()).ok());
    let message = match error.without_snippet() {
        Error::SerdeUnknownField { field, expected, .. } => match nearest(field, expected) {
            Some(known) => format!("there is no field `{field}`; did you mean `{known}`?"),
            None => format!("there is no field `{field}`; remove it, or correct its name"),
        },
        Error::SerdeMissingField { field, .. } => format!("the field `{field}` is missing; add it"),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("`{key}` is written twice; remove one of them")
        }
        other => {
            let text = DefaultMessageFormatter.format_message(other);
            format!("{text}; correct the YAML here")
        }
    };
    let path = if path == "." { String::new() } else { path };
    Unreadable { path: printable(&path), line, message: printable(&message) }
}

/// `text` with control characters escaped, so that it stays on one line of a log.
pub(super) fn printable(text: &str) -> String {
    let mut printed = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { printed.extend(c.escape_debug()) } else { printed.push(c) }
    }
    printed
}

/// The known field that is at most two letters away from `field`.
fn nearest(field: &str, known: &[&'static str]) -> Option<&'static str> {
    let near = known.iter().map(|known| (distance(field, known), *known));
    near.filter(|(distance, known)| *distance <= 2 && *distance < known.len())
        .min()
        .map(|(_, known)| known)
}

/// The Levenshtein distance in bytes, or a large number if the lengths are far apart.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            let replace = diagonal + usize::from(from != to);
            left = replace.min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use serde::de::IgnoredAny;

    use super::*;

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

    #[test]
    fn the_nearest_field_is_suggested() {
        let check = |field: &str, expect: Option<&str>| {
            assert_eq!(nearest(field, &["weight", "port", "name", "kind"]), expect, "{field}");
        };
        check("wieght", Some("weight"));
        check("prot", Some("port"));
        check("names", Some("name"));
        check("colour", None);
        check("", None);
    }
}
