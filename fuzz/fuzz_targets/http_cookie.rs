//! Any cookies of a client's: the one with a name is found as an expression finds it in all of them.
//!
//! The input is lines: a name, then the values of fields.
#![no_main]

use std::sync::Arc;

use http::header::COOKIE;
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use mesh_agent::model::http::{Match, SplitBy};
use mesh_agent::route::http::fields::Fields;
use mesh_agent::route::http::{cookie, place};
use regex::bytes::Regex;

fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|byte| *byte == b'\n');
    let Some(Ok(name)) = lines.next().map(str::from_utf8) else { return };
    // The configuration takes no other names.
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        return;
    }
    let values: Vec<_> = lines.filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let headers: HeaderMap = values.iter().map(|value| (COOKIE, value.clone())).collect();
    let all = values.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b';');
    let source = format!(r"(?s-u)(?:\A|;)[ \t]*{}=([^;]*)", regex::escape(name));
    let expected = Regex::new(&source).unwrap().captures(&all).map(|found| {
        let value = found.get(1).unwrap().as_bytes();
        value.trim_ascii_end().to_vec()
    });
    let joined = headers.joined(&COOKIE);
    let found = joined.as_deref().and_then(|all| cookie::find(all, name));
    assert_eq!(found, expected.as_deref());

    // A user stays wherever the dice fall; who is nobody goes with them.
    let mut rules = mesh_fuzz::rules(vec![Match::all()]);
    let rule = &mut rules.rules[0];
    Arc::make_mut(&mut rule.rule).split_by = Some(SplitBy::Cookie(name.to_owned()));
    let places = [7, u64::MAX].map(|random| place(rule, &headers, random));
    match expected {
        Some(_) => assert_eq!(places[0], places[1]),
        None => assert_eq!(places, [7, u64::MAX]),
    }
});
