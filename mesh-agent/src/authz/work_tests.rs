//! Bound of the comparisons of one judgement, whatever is asked and written.

use std::borrow::Cow;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use super::path::Readings;
use super::tests::{policy, text};
use super::*;
use crate::model::policy::Action;

/// A rule about the header `x-role`, with so many values.
fn about_header(values: usize) -> Rule {
    let values = (0..values).map(|i| text(&format!("v{i}"))).collect();
    let name = HeaderName::from_static("x-role");
    let header = Some(HeaderCondition { name, values, not_values: Vec::new() });
    Rule { when: vec![When { header, ..When::default() }], ..Rule::default() }
}

/// The verdict on a request for `path` with the header `x-role`, which is told whole.
fn of(policies: &[Arc<AuthorizationPolicy>], path: &str, role: &str) -> Verdict {
    let mut headers = HeaderMap::new();
    headers.insert("x-role", role.parse().unwrap());
    let host = Some(Cow::Borrowed("a"));
    let http = HttpRequest { method: "GET", host, paths: Readings::of(path), headers: &headers };
    let address = "10.0.0.1".parse().unwrap();
    decide(policies, &Request { principal: None, address, port: 80, http: Some(&http) })
}

#[test]
fn a_request_is_compared_with_so_much_and_refused_beyond_it() {
    let costly = Verdict::Deny(Denial::Costly(ResourceName::new("shop", "a")));
    let deny = |values| [policy("a", Action::Deny, vec![about_header(values)])];
    let commas = ",".repeat(60_000);
    assert_eq!(of(&deny(1), "/", &commas), Verdict::Allow);
    assert_eq!(of(&deny(1_024), "/", "user, guest"), Verdict::Allow);
    assert_eq!(of(&deny(1_024), "/", &commas), costly);
    // Each reading of the path is judged with the header.
    assert_eq!(of(&deny(10), "//a;x//./%61", &commas), costly);
    let matched = Verdict::Deny(Denial::Matched(ResourceName::new("shop", "a"), 0));
    assert_eq!(of(&deny(1_024), "//a;x//./%61", "user, v1023"), matched);
    // Nor is it allowed by what could not be compared.
    let allow = [policy("a", Action::Allow, vec![about_header(1_024)])];
    assert_eq!(of(&allow, "/", "v1023"), Verdict::Allow);
    let many: Vec<_> = (0..600).map(|_| Arc::clone(&allow[0])).collect();
    assert_eq!(of(&many, "/", "guest"), costly);
}

#[test]
fn a_connection_is_compared_with_so_much_and_refused_beyond_it() {
    let source = || Source {
        namespaces: (0..8_192).map(|i| text(&format!("ns{i}"))).collect(),
        ..Source::default()
    };
    let rule = || Rule { from: vec![source()], ..Rule::default() };
    let policies = |count| (0..count).map(|_| policy("a", Action::Deny, vec![rule()]));
    let judged = |count| {
        let principal = SpiffeId::new("cluster.local", "shop", "web").unwrap();
        let address = "10.0.0.1".parse().unwrap();
        let request = Request { principal: Some(&principal), address, port: 80, http: None };
        decide(&policies(count).collect::<Vec<_>>(), &request)
    };
    assert_eq!(judged(20), Verdict::Allow);
    assert_eq!(judged(100), Verdict::Deny(Denial::Costly(ResourceName::new("shop", "a"))));
}
