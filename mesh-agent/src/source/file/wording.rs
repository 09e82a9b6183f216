//! Errors of documents, in an operator's words instead of the YAML library's.

use serde_saphyr::{Error, MessageFormatter as _, UserMessageFormatter};

use crate::model::likely::distance;

/// Says what is wrong and what to do, without a full stop. `is_whole`: with the document, not one field.
pub(super) fn message(error: &Error, is_whole: bool) -> String {
    match error.without_snippet() {
        Error::AliasError { error, .. } => message(error, is_whole),
        Error::SerdeUnknownField { field, expected, .. } => match nearest(field, expected) {
            Some(known) => format!("there is no field `{field}`; did you mean `{known}`?"),
            None => format!("there is no field `{field}`; remove it, or correct its name"),
        },
        Error::SerdeMissingField { field, .. } => format!("the field `{field}` is missing; add it"),
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("`{key}` is written twice; remove one of them")
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("`{variant}` is not allowed here; write one of {}", expected.join(", "))
        }
        Error::Unexpected { expected: "mapping start", .. } if is_whole => NO_DOCUMENT.to_owned(),
        Error::Unexpected { expected, .. } => should_be(expected),
        Error::NullIntoString { .. } => should_be("a string"),
        Error::InvalidScalar { ty, .. } => should_be(ty),
        Error::InvalidBooleanStrict { .. } => should_be("a boolean"),
        Error::SerdeInvalidType { unexpected, expected, .. }
        | Error::SerdeInvalidValue { unexpected, expected, .. } => {
            format!("here is {} and should be {}; correct it", found(unexpected), wanted(expected))
        }
        Error::QuotingRequired { value, .. } => {
            format!("`{value}` would be read as something else than a text; put it in quotes")
        }
        Error::UnknownAnchor { .. } => {
            "an alias (`*name`) stands for an anchor (`&name`) that is not above it; add the anchor, or \
             write the value in its place"
                .to_owned()
        }
        Error::AliasReplayLimitExceeded { max_total_replayed_events: most, .. } => {
            format!("the document's aliases (`*name`) stand for more than {most} values; write fewer")
        }
        Error::Budget { .. } => {
            "the document is larger, or its fields are deeper in each other, than is read; split it"
                .to_owned()
        }
        Error::Eof { .. } => "the document ends in the middle of a value; complete it".to_owned(),
        Error::UnsupportedTag { tag, .. } => {
            format!("the tag `{tag}` has no meaning here; remove it")
        }
        other => {
            let text = UserMessageFormatter.format_message(other);
            if matches!(other, Error::ExternalMessage { .. }) {
                return format!("this is not YAML ({text}); {HINT}");
            }
            format!("{text}; correct the YAML here")
        }
    }
}

/// A document that is a text or a list.
const NO_DOCUMENT: &str = "this is not a document: its lines should be `apiVersion: …`, `kind: …`, \
     `metadata: …` and `spec: …`; write them, or give a file that holds something else a name that \
     does not end in .yaml or .yml";

/// Causes of most errors of syntax.
const HINT: &str = "look here and one line above for another indentation than that of the lines \
     around it, a tab, a `:` without a space after it, and a quote or bracket that is not closed";

fn should_be(expected: &str) -> String {
    format!("here should be {}; correct it", wanted(expected))
}

/// The wanted value, for one who does not know the library's words.
fn wanted(expected: &str) -> &str {
    match expected {
        "mapping start" | "a map" | "empty mapping start" => MAPPING,
        "sequence start" | "a sequence" => "a list (lines `- value`)",
        "scalar" | "string scalar" | "a string" | "string" | "a borrowed string" => "a text",
        "a boolean" | "bool" | "boolean" => "`true` or `false`",
        "i8" | "i16" | "i32" | "i64" => "a whole number",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number that is not negative",
        "f32" | "f64" => "a number",
        other if other.starts_with("struct ") => MAPPING,
        other => other,
    }
}

const MAPPING: &str = "a mapping (lines `field: value`)";

/// The value that is there.
fn found(unexpected: &str) -> String {
    let kinds =
        [("string ", "the text "), ("integer ", ""), ("floating point ", ""), ("boolean ", "")];
    for (kind, word) in kinds {
        if let Some(value) = unexpected.strip_prefix(kind) {
            return format!("{word}{}", value.replace('"', "`"));
        }
    }
    match unexpected {
        "map" => MAPPING.to_owned(),
        "sequence" => "a list".to_owned(),
        "unit value" | "Option value" => "nothing".to_owned(),
        other => other.to_owned(),
    }
}

/// The known field that is at most two letters away from `field`.
fn nearest(field: &str, known: &[&'static str]) -> Option<&'static str> {
    let known = known.iter().filter(|known| known.len().abs_diff(field.len()) <= 2);
    let near = known.map(|known| (distance(field, known), *known));
    near.filter(|(distance, known)| *distance <= 2 && *distance < known.len())
        .min()
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

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
