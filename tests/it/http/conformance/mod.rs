//! The mesh conformance tests of Gateway API v1.6 (`conformance/tests/mesh`), one by one, from what
//! they assert and with the routes that they use. `cargo xtask conformance` runs them.
//!
//! Two things are stricter here: nothing may be wrong for a while, as the routes are there before the
//! agents are; and where a rewrite or a redirect is expected, its path is looked at.

mod changes;
mod matching;
mod redirects;
mod reach;
mod weights;

use std::net::SocketAddr;

use mesh_tests::http::{Answer, Ask, joined};

use super::suite::Suite;

/// A request and what is expected of it.
#[derive(Clone, Debug)]
struct Case {
    ask: Ask,
    status: u16,
    backend: Option<&'static str>,
    /// The path that the backend is asked for.
    path: Option<&'static str>,
    /// The fields that the backend gets.
    gets: Vec<(&'static str, &'static str)>,
    /// The fields that the backend does not get.
    misses: Vec<&'static str>,
}

impl Case {
    /// Checks that `backend` answers `ask`.
    fn of(ask: Ask, backend: &'static str) -> Self {
        let (gets, misses) = (Vec::new(), Vec::new());
        Self { ask, status: 200, backend: Some(backend), path: None, gets, misses }
    }

    /// Checks that no backend does.
    fn refused(ask: Ask, status: u16) -> Self {
        Self { status, backend: None, ..Self::of(ask, "") }
    }

    fn gets(self, fields: &[(&'static str, &'static str)]) -> Self {
        Self { gets: fields.to_vec(), ..self }
    }

    fn misses(self, fields: &[&'static str]) -> Self {
        Self { misses: fields.to_vec(), ..self }
    }

    fn path(self, path: &'static str) -> Self {
        Self { path: Some(path), ..self }
    }

    #[track_caller]
    fn check(&self, answer: &Answer) {
        assert_eq!(answer.error, None, "{self:?}");
        assert_eq!(answer.status, self.status, "{self:?}: {answer:?}");
        assert_eq!(answer.server(), self.backend, "{self:?}: {answer:?}");
        if self.backend.is_none() {
            return;
        }
        let seen = answer.seen().unwrap();
        if let Some(path) = self.path {
            assert_eq!(seen.path, path, "{self:?}");
        }
        for (name, value) in &self.gets {
            assert_eq!(joined(&seen.headers, name).as_deref(), Some(*value), "{name}: {self:?}");
        }
        for name in &self.misses {
            assert_eq!(joined(&seen.headers, name), None, "{name}: {self:?}");
        }
    }
}

/// Asks all of it from the client.
#[track_caller]
fn check(suite: &Suite, to: SocketAddr, cases: &[Case]) {
    let asks: Vec<_> = cases.iter().map(|case| case.ask.clone()).collect();
    let answers = suite.all(to, &asks);
    assert_eq!(answers.len(), cases.len());
    for (case, answer) in cases.iter().zip(&answers) {
        case.check(answer);
    }
}

#[test]
fn mesh_basic() {
    reach::mesh_basic();
}

#[test]
fn mesh_traffic_split() {
    reach::mesh_traffic_split();
}

#[test]
fn mesh_http_route_simple_same_namespace() {
    reach::mesh_http_route_simple_same_namespace();
}

#[test]
fn mesh_frontend() {
    reach::mesh_frontend();
}

#[test]
fn mesh_frontend_hostname() {
    reach::mesh_frontend_hostname();
}

#[test]
fn mesh_ports() {
    reach::mesh_ports();
}

#[test]
fn mesh_consumer_route() {
    reach::mesh_consumer_route();
}

#[test]
fn mesh_http_route_matching() {
    matching::mesh_http_route_matching();
}

#[test]
fn mesh_http_route_query_param_matching() {
    matching::mesh_http_route_query_param_matching();
}

#[test]
fn mesh_http_route_named_rule() {
    matching::mesh_http_route_named_rule();
}

#[test]
fn mesh_http_route_weight() {
    weights::mesh_http_route_weight();
}

#[test]
fn mesh_grpc_route_weight() {
    weights::mesh_grpc_route_weight();
}

#[test]
fn mesh_http_route_request_header_modifier() {
    changes::mesh_http_route_request_header_modifier();
}

#[test]
fn mesh_http_route_backend_request_header_modifier() {
    changes::mesh_http_route_backend_request_header_modifier();
}

#[test]
fn mesh_http_route_rewrite_path() {
    changes::mesh_http_route_rewrite_path();
}

#[test]
fn mesh_grpc_route_request_header_modifier() {
    changes::mesh_grpc_route_request_header_modifier();
}

#[test]
fn mesh_http_route_redirect_host_and_status() {
    redirects::mesh_http_route_redirect_host_and_status();
}

#[test]
fn mesh_http_route_redirect_path() {
    redirects::mesh_http_route_redirect_path();
}

#[test]
fn mesh_http_route_redirect_port() {
    redirects::mesh_http_route_redirect_port();
}

#[test]
fn mesh_http_route_scheme_redirect() {
    redirects::mesh_http_route_scheme_redirect();
}

#[test]
fn mesh_http_route_303_redirect() {
    redirects::mesh_http_route_303_redirect();
}

#[test]
fn mesh_http_route_307_redirect() {
    redirects::mesh_http_route_307_redirect();
}

#[test]
fn mesh_http_route_308_redirect() {
    redirects::mesh_http_route_308_redirect();
}
