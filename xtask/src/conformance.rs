//! Runs the mesh conformance tests of Gateway API between two agents, and says which pass.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;

use crate::compat::passed;
use crate::{Conformance, Workspace, process, run};

/// The tests: what Gateway API v1.6 calls them (`conformance/tests/mesh`, `ShortName`), and what they
/// are called in `tests/it/http/conformance`.
const CASES: [(&str, &str); 23] = [
    ("MeshBasic", "mesh_basic"),
    ("MeshConsumerRoute", "mesh_consumer_route"),
    ("MeshFrontend", "mesh_frontend"),
    ("MeshFrontendHostname", "mesh_frontend_hostname"),
    ("MeshGRPCRouteRequestHeaderModifier", "mesh_grpc_route_request_header_modifier"),
    ("MeshGRPCRouteWeight", "mesh_grpc_route_weight"),
    ("MeshHTTPRoute303Redirect", "mesh_http_route_303_redirect"),
    ("MeshHTTPRoute307Redirect", "mesh_http_route_307_redirect"),
    ("MeshHTTPRoute308Redirect", "mesh_http_route_308_redirect"),
    (
        "MeshHTTPRouteBackendRequestHeaderModifier",
        "mesh_http_route_backend_request_header_modifier",
    ),
    ("MeshHTTPRouteMatching", "mesh_http_route_matching"),
    ("MeshHTTPRouteNamedRule", "mesh_http_route_named_rule"),
    ("MeshHTTPRouteQueryParamMatching", "mesh_http_route_query_param_matching"),
    ("MeshHTTPRouteRedirectHostAndStatus", "mesh_http_route_redirect_host_and_status"),
    ("MeshHTTPRouteRedirectPath", "mesh_http_route_redirect_path"),
    ("MeshHTTPRouteRedirectPort", "mesh_http_route_redirect_port"),
    ("MeshHTTPRouteRequestHeaderModifier", "mesh_http_route_request_header_modifier"),
    ("MeshHTTPRouteRewritePath", "mesh_http_route_rewrite_path"),
    ("MeshHTTPRouteSchemeRedirect", "mesh_http_route_scheme_redirect"),
    ("MeshHTTPRouteSimpleSameNamespace", "mesh_http_route_simple_same_namespace"),
    ("MeshHTTPRouteWeight", "mesh_http_route_weight"),
    ("MeshPorts", "mesh_ports"),
    ("MeshTrafficSplit", "mesh_traffic_split"),
];

/// One test, and whether it passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcome {
    name: &'static str,
    ok: bool,
}

/// Builds the agent and the tests, and runs those. The exit code says whether all passed.
///
/// # Errors
///
/// We are not root, or something does not build or start.
pub(crate) fn run(workspace: &Workspace, options: &Conformance) -> Result<ExitCode> {
    run::prepare_lab(workspace)?;
    let started = process::now();
    eprintln!("• {} tests of Gateway API between two nodes", CASES.len());
    let tests = CASES.map(|(_, test)| path(test));
    let args = [vec!["--exact".to_owned()], tests.to_vec()].concat();
    let (_all_passed, said) = run::lab_tests(workspace, &args, |_command| {})?;
    let outcomes = CASES.map(|(name, test)| Outcome { name, ok: passed(&said, &path(test)) });
    let ok = outcomes.iter().all(|outcome| outcome.ok);
    if !ok {
        run::quote(&said);
    }
    eprintln!("{} tests ({})", if ok { "✓" } else { "✗" }, process::seconds(started.elapsed()));
    print!("{}", table(&outcomes));
    if options.json {
        println!("{}", json(&outcomes));
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The test program's name for a test.
fn path(test: &str) -> String {
    format!("http::conformance::{test}")
}

/// How many passed, and how many did not.
fn counts(outcomes: &[Outcome]) -> (usize, usize) {
    let passed = outcomes.iter().filter(|outcome| outcome.ok).count();
    (passed, outcomes.len() - passed)
}

/// The outcomes for people.
fn table(outcomes: &[Outcome]) -> String {
    let width = outcomes.iter().map(|outcome| outcome.name.len()).max().unwrap_or_default();
    let mut table = format!("{:width$}  result\n", "test");
    for Outcome { name, ok } in outcomes {
        let result = if *ok { "ok" } else { "FAILED" };
        // Writing to a string does not fail.
        let _infallible = writeln!(table, "{name:width$}  {result}");
    }
    let (passed, failed) = counts(outcomes);
    let _infallible = writeln!(table, "{passed} passed, {failed} failed");
    table
}

/// The outcomes for machines, in one line. Nothing in them needs an escape.
fn json(outcomes: &[Outcome]) -> String {
    let (passed, failed) = counts(outcomes);
    let cases: Vec<_> = outcomes
        .iter()
        .map(|Outcome { name, ok }| format!(r#"{{"name": "{name}", "ok": {ok}}}"#))
        .collect();
    let cases = cases.join(", ");
    format!(r#"{{"passed": {passed}, "failed": {failed}, "cases": [{cases}]}}"#)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use super::*;

    const OUTCOMES: [Outcome; 2] =
        [Outcome { name: "MeshA", ok: true }, Outcome { name: "MeshBcd", ok: false }];

    #[test]
    fn the_table_has_a_line_for_each() {
        let expect = "test     result\nMeshA    ok\nMeshBcd  FAILED\n1 passed, 1 failed\n";
        assert_eq!(table(&OUTCOMES), expect);
    }

    #[test]
    fn the_line_for_machines_has_all_of_it() {
        let cases = r#"[{"name": "MeshA", "ok": true}, {"name": "MeshBcd", "ok": false}]"#;
        let expect = format!(r#"{{"passed": 1, "failed": 1, "cases": {cases}}}"#);
        assert_eq!(json(&OUTCOMES), expect);
    }

    #[test]
    fn every_test_exists_and_is_run() {
        let workspace = Workspace::find().unwrap();
        let file = workspace.root.join("tests/it/http/conformance/mod.rs");
        let text = fs::read_to_string(file).unwrap();
        let written: BTreeSet<_> = text
            .split("#[test]\nfn ")
            .skip(1)
            .filter_map(|rest| rest.split_once("()").map(|(name, _)| name))
            .collect();
        assert_eq!(written, CASES.into_iter().map(|(_, test)| test).collect());
    }
}
