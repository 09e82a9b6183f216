//! Readings of paths, by cases, by properties, and by the record of what servers have reached.

use std::net::IpAddr;
use std::sync::Arc;
use std::{env, fs};

use http::{HeaderMap, Uri};
use proptest::prelude::*;

use super::*;
use crate::authz::{HttpRequest, Request, Verdict, decide};
use crate::model::id::ResourceName;
use crate::model::policy::request::{HttpOperation, PathText, Template};
use crate::model::policy::{Action, AuthorizationPolicy, Operation, Rule, Text};

/// The committed record, and the name of the variable with another one's path.
const RECORD: &str = include_str!("../../../../tests/paths/record.tsv");
const OTHER_RECORD: &str = "MESH_PATHS";

#[test]
fn a_path_is_read_in_all_ways() {
    let check = |path: &str, expect: &[&str]| {
        let mut all: Vec<_> = Readings::of(path).iter().map(str::to_owned).collect();
        assert_eq!(all[0], path);
        all.sort();
        let mut expect = expect.to_vec();
        expect.sort_unstable();
        assert_eq!(all, expect, "{path}");
    };
    check("/a/b", &["/a/b"]);
    check("/", &["/"]);
    check("/.well-known/x", &["/.well-known/x"]);
    check("/%61dmin", &["/%61dmin", "/admin"]);
    check("/a/../admin", &["/a/../admin", "/admin"]);
    check("/a/%2e%2E/admin", &["/a/%2e%2E/admin", "/a/../admin", "/admin"]);
    check(
        "/%2f%2fa//b",
        &["/%2f%2fa//b", "/%2f%2fa/b", "///a//b", "///a/b", "/a//b", "/a/b", "//b", "/b", "/"],
    );
    check("/a/./b/.", &["/a/./b/.", "/a/b/"]);
    check("//admin", &["//admin", "/admin", "/"]);
    check("//h/admin", &["//h/admin", "/h/admin", "/admin"]);
    check("/a%2Fb", &["/a%2Fb", "/a/b"]);
    check("/admin;a=b", &["/admin;a=b", "/admin"]);
    check("/..;/admin", &["/..;/admin", "/../admin", "/admin"]);
    check("/../..", &["/../..", "/"]);
    check("/%2561dmin", &["/%2561dmin", "/%61dmin", "/admin"]);
    check("/secret%3fx", &["/secret%3fx", "/secret?x", "/secret"]);
    check("/a%", &["/a%"]);
    check("/a%2", &["/a%2"]);
    check("*", &["*"]);
    // Tomcat cuts the parameter with the slash that is encoded in it.
    let all = Readings::of("/public/..;%2Fpublic/admin/x");
    assert!(all.iter().any(|path| path == "/admin/x"), "{all:?}");
    let all = Readings::of("/%u0061dmin");
    assert!(all.iter().any(|path| path == "/admin"), "{all:?}");
}

#[test]
fn a_path_is_ambiguous_if_servers_differ_in_more_than_what_has_to_be_encoded() {
    let check = |path: &str, expect| {
        assert_eq!(Readings::of(path).is_ambiguous, expect, "{path}");
    };
    for path in ["/", "/a/b.c", "/a%20b", "/caf%C3%A9", "/%5Bx%5D/y", "*"] {
        check(path, false);
    }
    for path in [
        "/%61", "/a;b", "/a%3Bb", "/a//b", "/a/./b", "/a%2fb", "/a%5cb", "/a%00", "/a%2520b",
        "/%ff", "/a%3Fb", "/a/..", "/a%20b;c",
    ] {
        check(path, true);
    }
}

#[test]
fn a_path_is_valid_by_its_grammar() {
    let check = |path: &str, expect| assert_eq!(is_valid(path), expect, "{path}");
    for path in ["/", "*", "/a-._~!$&'()*+,;=:@/%20", "//"] {
        check(path, true);
    }
    for path in
        ["", "a", "/a\\b", "/%", "/%2", "/%zz", "/%u0061", "/a b", "/\u{e9}", "/a|b", "/{a}", "**"]
    {
        check(path, false);
    }
}

#[test]
fn a_path_with_more_readings_than_are_judged_is_known_to_have_them() {
    let many = "/%2561;%253b/..;%2f%252e%252e//%255c/./%2e%2e;%2525/%3fx".repeat(4);
    let readings = Readings::of(&many);
    assert!(!readings.is_complete && readings.is_ambiguous);
    let long = format!("/{}", ";/%2e%2e//".repeat(6 << 10));
    assert!(!Readings::of(&long).is_complete);
}

#[test]
fn a_path_with_more_readings_than_are_judged_is_refused_where_policies_ask_for_paths() {
    let many = "/%2561;%253b/..;%2f%252e%252e//./%2e%2e;%2525/%3fx".repeat(4);
    let methods =
        HttpOperation { methods: vec![Text::Exact("GET".to_owned())], ..HttpOperation::default() };
    let to = vec![Operation { http: methods, ..Operation::default() }];
    let [everything] = policy(&(ALL, Action::Allow, &["*"], &[]));
    let readers = Arc::new(AuthorizationPolicy {
        rules: vec![Rule { to, ..Rule::default() }],
        ..(*everything).clone()
    });
    assert!(passes(&[Arc::clone(&everything)], b"/x/%2e%2e"));
    assert!(!passes(&[everything], many.as_bytes()));
    assert!(passes(&[readers], many.as_bytes()));
}

/// Parts of paths that have a meaning to some server.
fn paths() -> impl Strategy<Value = String> {
    let parts = [
        "/", "//", ".", "..", ";", ";x", "%2e", "%2f", "%5c", "%3b", "%25", "%252e", "%252f", "\\",
        "%3f", "%00", "%u002e", "%", "a", "public", "admin",
    ];
    prop::collection::vec(prop::sample::select(parts.to_vec()), 0..24)
        .prop_map(|parts| format!("/{}", parts.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn readings_are_bounded_and_begin_with_the_path(path in paths()) {
        let readings = Readings::of(&path);
        prop_assert_eq!(readings.written(), &path);
        prop_assert!(readings.iter().count() <= MAX_READINGS + 1);
        prop_assert!(readings.iter().map(str::len).sum::<usize>() <= MAX_BYTES + path.len());
        prop_assert!(readings.iter().all(|reading| reading.starts_with('/')));
    }

    /// No order of steps leads out of the set.
    #[test]
    fn readings_are_closed(path in paths(), steps in prop::collection::vec(0..STEPS.len() + 2, 0..8)) {
        let readings = Readings::of(&path);
        if readings.is_complete {
            let (mut now, mut n_decodings) = (path.as_bytes().to_vec(), 0);
            for step in steps {
                let step = STEPS.get(step).copied().unwrap_or_else(|| {
                    n_decodings += 1;
                    if step == STEPS.len() { decoded } else { decoded_with_u }
                });
                if n_decodings <= MAX_DECODINGS && let Some(made) = step(&now) {
                    now = made;
                }
            }
            let now = lossy(&now);
            prop_assert!(readings.iter().any(|reading| reading == now), "{}", now);
        }
    }
}

/// A line of the record: the request's target, the protected handler that it has reached, the path
/// that this was given, and the servers.
struct Line<'a> {
    target: Vec<u8>,
    handler: &'a str,
    read: &'a str,
    servers: &'a str,
}

/// The bytes of a text with `\xNN`.
fn unescape(text: &str) -> Vec<u8> {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at(2);
        bytes.push(u8::from_str_radix(code, 16).unwrap());
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}

fn lines(record: &str) -> Vec<Line<'_>> {
    let parse = |line| {
        let parts: Vec<&str> = str::split(line, '\t').collect();
        let [target, handler, read, servers] = parts[..] else { panic!("{line}") };
        Line { target: unescape(target), handler, read, servers }
    };
    record.lines().skip(1).map(parse).collect()
}

/// Policies that protect handlers: which, the action, `paths` and `notPaths`.
type Protection =
    (&'static [&'static str], Action, &'static [&'static str], &'static [&'static str]);

/// Of `/admin/…`, `/secret` and `/api/…/keys`; all are protected by what allows only `/public/…`.
const ALL: &[&str] = &["admin", "secret", "keys"];

const PROTECTIONS: [Protection; 20] = [
    (ALL, Action::Allow, &["/public/*"], &[]),
    (ALL, Action::Allow, &["/public/{*}"], &[]),
    (ALL, Action::Allow, &["/public/{**}"], &[]),
    (ALL, Action::Allow, &["/public/x", "/public/y"], &[]),
    (ALL, Action::Allow, &["*/open"], &[]),
    (ALL, Action::Allow, &[], &["/admin*", "/secret", "/api/{*}/keys"]),
    (ALL, Action::Allow, &["*"], &["/admin*", "/secret", "/api/*"]),
    (ALL, Action::Deny, &[], &["/public/*"]),
    (ALL, Action::Deny, &[], &["/public/{**}"]),
    (&["admin"], Action::Deny, &["/admin*"], &[]),
    (&["admin"], Action::Deny, &["/admin/*"], &[]),
    (&["admin"], Action::Deny, &["/admin/{**}"], &[]),
    (&["admin"], Action::Allow, &[], &["/admin/{**}"]),
    (&["secret"], Action::Deny, &["/secret"], &[]),
    (&["secret"], Action::Deny, &["*/secret"], &[]),
    (&["secret"], Action::Deny, &["*secret"], &[]),
    (&["secret"], Action::Allow, &[], &["/secret"]),
    (&["keys"], Action::Deny, &["/api/*"], &[]),
    (&["keys"], Action::Deny, &["/api/{*}/keys"], &[]),
    (&["keys"], Action::Deny, &["*/keys"], &[]),
];

fn pattern(text: &&str) -> PathText {
    if let Some(template) = Template::new(text).filter(|_| text.contains('{')) {
        return PathText::Template(template);
    }
    PathText::Text(match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => Text::Present,
        (Some(end), _) => Text::Suffix(end.to_owned()),
        (_, Some(start)) => Text::Prefix(start.to_owned()),
        (None, None) => Text::Exact((*text).to_owned()),
    })
}

fn policy((_, action, paths, not_paths): &Protection) -> [Arc<AuthorizationPolicy>; 1] {
    let http = HttpOperation {
        paths: paths.iter().map(pattern).collect(),
        not_paths: not_paths.iter().map(pattern).collect(),
        ..HttpOperation::default()
    };
    let to = vec![Operation { http, ..Operation::default() }];
    [Arc::new(AuthorizationPolicy {
        name: ResourceName::new("shop", "a"),
        selector: [].into(),
        action: *action,
        dry_run: false,
        rules: vec![Rule { to, ..Rule::default() }],
    })]
}

/// Whether a request with this target is forwarded: it is HTTP, its path is one, and `policies` allow
/// it.
fn passes(policies: &[Arc<AuthorizationPolicy>], target: &[u8]) -> bool {
    let Ok(uri) = Uri::try_from(target) else { return false };
    // A target with a fragment is not forwarded as it was recorded: the fragment is cut.
    if target.contains(&b'#') || !is_valid(uri.path()) {
        return false;
    }
    let (headers, paths) = (HeaderMap::new(), Readings::of(uri.path()));
    let http = HttpRequest { method: "GET", host: None, paths, headers: &headers };
    let address: IpAddr = "10.0.0.1".parse().unwrap();
    let request = Request { principal: None, address, port: 80, http: Some(&http) };
    decide(policies, &request) == Verdict::Allow
}

#[test]
fn no_recorded_path_gets_past_a_policy_to_a_protected_handler() {
    let other = env::var_os(OTHER_RECORD).map(|path| fs::read_to_string(path).unwrap());
    let lines = lines(other.as_deref().unwrap_or(RECORD));
    // Else nothing was asked of anybody.
    assert!(lines.len() > 500, "{}", lines.len());
    let mut passed = Vec::new();
    for protection in &PROTECTIONS {
        let policy = policy(protection);
        let (handlers, action, paths, not_paths) = protection;
        for line in lines.iter().filter(|line| handlers.contains(&line.handler)) {
            if passes(&policy, &line.target) {
                passed.push(format!(
                    "{} reaches {} of {} past {action:?} {paths:?} {not_paths:?}",
                    line.target.escape_ascii(),
                    line.handler,
                    line.servers
                ));
            }
        }
    }
    let n_passed = passed.len();
    passed.truncate(30);
    assert!(passed.is_empty(), "{n_passed}:\n{}", passed.join("\n"));
}

#[test]
fn policies_let_plain_paths_through() {
    let check = |protection: &Protection, target: &str, expect| {
        assert_eq!(
            passes(&policy(protection), target.as_bytes()),
            expect,
            "{target} {protection:?}"
        );
    };
    for protection in &PROTECTIONS[..9] {
        check(protection, "/public/x", protection.2 != ["*/open"]);
        check(protection, "/admin/x", false);
    }
    check(&PROTECTIONS[0], "/public/a%20b/c%C3%A9", true);
    check(&PROTECTIONS[0], "/public/a;v=1/b%2Fc", true);
    check(&PROTECTIONS[0], "/public/a/../b", true);
    check(&PROTECTIONS[9], "/adm", true);
    check(&PROTECTIONS[13], "/secrets", true);
    check(&PROTECTIONS[13], "/secret/x", true);
    check(&PROTECTIONS[13], "/SECRET.json", false);
    check(&PROTECTIONS[18], "/api/1/2/keys", true);
}

/// The readings are what servers do: whatever a handler was given is one of them.
#[test]
fn each_recorded_reading_is_known() {
    let other = env::var_os(OTHER_RECORD).map(|path| fs::read_to_string(path).unwrap());
    let mut unknown = Vec::new();
    for line in lines(other.as_deref().unwrap_or(RECORD)) {
        let Ok(uri) = Uri::try_from(line.target.as_slice()) else { continue };
        // Of the others, what the server says of its reading is not all of it.
        let is_text = !line.read.contains("\\x") && !line.read.is_empty();
        let is_line = !uri.path().contains("%0a") && !uri.path().contains("%0d");
        if line.target.contains(&b'#') || !is_valid(uri.path()) || !is_text || !is_line {
            continue;
        }
        // Tomcat leaves no slash after dots at the end; the value of a field ends in no space.
        let is_end = |end: char| end == '/' || end.is_ascii_whitespace();
        let read = line.read.trim_end_matches(is_end);
        let readings = Readings::of(uri.path());
        let is_read = |reading: &str| reading.trim_end_matches(is_end) == read;
        if readings.is_complete && !readings.iter().any(is_read) {
            let target = line.target.escape_ascii();
            unknown.push(format!("{target} is {} to {}", line.read, line.servers));
        }
    }
    let n_unknown = unknown.len();
    unknown.truncate(30);
    assert!(unknown.is_empty(), "{n_unknown}:\n{}", unknown.join("\n"));
}
