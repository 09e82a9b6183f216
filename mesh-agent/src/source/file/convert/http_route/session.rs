//! Session persistence: a client stays with one endpoint (GEP-1619).

use crate::model::condition::Reason;
use crate::model::fnv::fnv_1a;
use crate::model::http::{Persistence, PersistenceBy};

use super::super::super::schema;
use super::super::Problems;
use super::{Context, value};

/// The most bytes of a session's name (Gateway API, `SessionPersistence.sessionName`).
const MAX_NAME_BYTES: usize = 128;

const KINDS: &[(&str, bool)] = &[("Cookie", false), ("Header", true)];
const LIFETIMES: &[(&str, bool)] = &[("Session", false), ("Permanent", true)];

/// The persistence at `path`.
pub(super) fn convert(
    path: &str,
    written: &schema::SessionPersistence,
    context: Context<'_>,
    problems: &mut Problems,
) -> Option<Persistence> {
    let mut read = |field: &str, written: Option<&String>| {
        value::duration(&format!("{path}.{field}"), written?, problems)
    };
    let absolute = read("absoluteTimeout", written.absolute_timeout.as_ref());
    let idle = read("idleTimeout", written.idle_timeout.as_ref());
    let name = match written.session_name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => self::name(&format!("{path}.sessionName"), name, problems),
        None => Some(default_name(context)),
    };
    let kind = written.kind.as_deref().unwrap_or("Cookie");
    let is_header = value::word(&format!("{path}.type"), KINDS, kind, problems);
    let cookie = written.cookie_config.as_ref();
    let lifetime = cookie.and_then(|cookie| cookie.lifetime_type.as_deref()).unwrap_or("Session");
    let field = format!("{path}.cookieConfig.lifetimeType");
    let permanent = value::word(&field, LIFETIMES, lifetime, problems)?;
    let by = if is_header? {
        if cookie.is_some() {
            let message = "the session is carried by a header, so this has no effect; remove it";
            problems.note(format!("{path}.cookieConfig"), Reason::UnsupportedValue, message);
        }
        PersistenceBy::Header
    } else {
        if permanent && written.absolute_timeout.is_none() {
            let message = "a permanent cookie needs an end; add absoluteTimeout";
            problems.invalid(field, message);
        }
        PersistenceBy::Cookie { permanent }
    };
    Some(Persistence { name: name?, by, absolute, idle })
}

fn name(path: &str, name: &str, problems: &mut Problems) -> Option<String> {
    if name.len() > MAX_NAME_BYTES {
        let message = format!("the name is longer than {MAX_NAME_BYTES} bytes; shorten it");
        problems.invalid(path, message);
    }
    value::token(path, name, problems)
}

/// A name that no other rule has, the same on every node and in every version.
fn default_name(context: Context<'_>) -> String {
    let Context { route, kind, rule } = context;
    format!("mesh-{:016x}", fnv_1a(format!("{kind:?} {route} {rule}").as_bytes()))
}
