//! Sticky splits: a user stays with one backend while weights move, by an annotation, since Gateway
//! API has no field for it.

use crate::model::condition::Reason;
use crate::model::http::SplitBy;

use super::super::Problems;

/// The annotation, of routes.
pub(super) const NAME: &str = "nodemesh.dev/split-by";

/// The meaning of the annotation: `header:NAME` or `cookie:NAME`. If it says something else, that is
/// reported, and backends are drawn for each request.
pub(super) fn convert(written: &str, problems: &mut Problems) -> Option<SplitBy> {
    let found = match written.split_once(':') {
        Some(("header", name)) => name.trim().parse().ok().map(SplitBy::Header),
        // The name of a cookie is a token, as that of a header is (RFC 6265, section 4.1.1).
        Some(("cookie", name)) => {
            let name = name.trim();
            let is_token = name.parse::<http::HeaderName>().is_ok();
            is_token.then(|| SplitBy::Cookie(name.to_owned()))
        }
        _ => None,
    };
    if found.is_none() {
        let message = format!(
            "`{NAME}` is neither header:NAME nor cookie:NAME, so each request is split by itself"
        );
        problems.note("metadata.annotations", Reason::UnsupportedValue, message);
    }
    found
}
