//! Any session that a client makes up: what is read of it is told as what is read as the same.
//!
//! The input is what the client sends; before it, a number: by what, and for how long it counts.
#![no_main]

use std::time::{Duration, SystemTime};

use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use mesh_agent::model::http::{Persistence, PersistenceBy};
use mesh_agent::proxy::http::session::Session;
use mesh_fuzz::Script;

const NAME: &str = "session";

const HOUR: Duration = Duration::from_hours(1);

fuzz_target!(|input: &[u8]| {
    let mut script = Script::new(input);
    let Some(kind) = script.byte() else { return };
    let limit = |bit: u8| (kind & bit != 0).then_some(HOUR);
    let by = match kind & 3 {
        0 => PersistenceBy::Header,
        1 => PersistenceBy::Cookie { permanent: false },
        _ => PersistenceBy::Cookie { permanent: true },
    };
    let by = Persistence { name: NAME.to_owned(), by, absolute: limit(4), idle: limit(8) };
    let Ok(written) = HeaderValue::from_bytes(script.bytes(u8::MAX)) else { return };
    let now = SystemTime::UNIX_EPOCH + HOUR * 1_000;
    let Some(session) = Session::of(&by, &sent(&by, &written), now) else { return };

    let mut told = HeaderMap::new();
    session.tell(&by, &mut told);
    assert_eq!(told.len(), 1);
    let told = match by.by {
        PersistenceBy::Header => told[NAME].clone(),
        PersistenceBy::Cookie { .. } => {
            let text = told[SET_COOKIE].to_str().unwrap();
            let pair = text.split("; ").next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            assert_eq!(name, NAME);
            HeaderValue::from_str(value).unwrap()
        }
    };
    assert_eq!(Session::of(&by, &sent(&by, &told), now), Some(session));
    // One that counts still is used, and then counts for as long as it may be idle.
    let used = session.used(now);
    let idle = Persistence { absolute: None, ..by };
    let mut told = HeaderMap::new();
    used.tell(&Persistence { by: PersistenceBy::Header, ..idle.clone() }, &mut told);
    let told = sent(&idle, &told[NAME]);
    assert_eq!(Session::of(&idle, &told, now + HOUR / 2), Some(used));
    assert_eq!(Session::of(&idle, &told, now + HOUR).is_none(), idle.idle.is_some());
});

/// The fields of a request that brings this.
fn sent(by: &Persistence, value: &HeaderValue) -> HeaderMap {
    let (name, value) = match by.by {
        PersistenceBy::Header => (HeaderName::from_static(NAME), value.clone()),
        PersistenceBy::Cookie { .. } => {
            let cookies = [b"a=b; session=", value.as_bytes(), b"; c=d"].concat();
            (COOKIE, HeaderValue::from_bytes(&cookies).unwrap())
        }
    };
    HeaderMap::from_iter([(name, value)])
}
