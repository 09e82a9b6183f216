//! How much one policy may say. Each connection, and each request, is compared with all of it, and the
//! kernel's verdicts are compiled of all of it.

use crate::model::policy::{Operation, Rule, Source};

/// The most rules.
const MAX_RULES: usize = 1_024;

/// The most values that are compared with each request: methods, paths, hosts, values of headers.
const MAX_REQUEST_VALUES: usize = 1_024;

/// The most values that are compared with connections: principals, namespaces, blocks, ports.
const MAX_VALUES: usize = 8_192;

/// The limit that rules are beyond; `None`: they are within all.
pub(super) fn exceeded(rules: &[Rule]) -> Option<String> {
    if rules.len() > MAX_RULES {
        return Some(format!("these are {} rules, and at most {MAX_RULES} are taken", rules.len()));
    }
    let operations = || {
        rules.iter().flat_map(|rule| rule.to.iter().chain(rule.when.iter().map(|it| &it.operation)))
    };
    let sources =
        rules.iter().flat_map(|rule| rule.from.iter().chain(rule.when.iter().map(|it| &it.source)));
    let headers = rules.iter().flat_map(|rule| &rule.when).filter_map(|when| when.header.as_ref());
    let of_headers = headers.map(|header| header.values.len() + header.not_values.len());
    let of_requests: usize = operations().map(asked).chain(of_headers).sum();
    if of_requests > MAX_REQUEST_VALUES {
        return Some(format!(
            "these are {of_requests} methods, paths, hosts and values of headers, and at most \
             {MAX_REQUEST_VALUES} are taken"
        ));
    }
    let ports = operations().map(|operation| operation.ports.len() + operation.not_ports.len());
    let of_connections: usize = sources.map(Source::values).chain(ports).sum();
    (of_connections > MAX_VALUES).then(|| {
        format!(
            "these are {of_connections} principals, namespaces, blocks and ports, and at most \
             {MAX_VALUES} are taken"
        )
    })
}

fn asked(Operation { http, .. }: &Operation) -> usize {
    let texts = [&http.methods, &http.not_methods, &http.hosts, &http.not_hosts];
    texts.iter().map(|texts| texts.len()).sum::<usize>() + http.paths.len() + http.not_paths.len()
}
