//! Differences that are known, each with its cause; docs/programs.md has the same list.

use crate::programs::REFUSED;
use crate::way::Way;

/// A difference that is no failure.
#[derive(Debug)]
struct Known {
    ways: &'static [Way],
    /// A program; `None`: all.
    program: Option<&'static str>,
    case: &'static str,
    reason: &'static str,
}

/// Paths on which the agent has the connection.
const WITH_AGENT: &[Way] = &[Way::Agent, Way::Mtls, Way::CrossNode, Way::Routed];

const KNOWN: [Known; 3] = [
    Known {
        ways: WITH_AGENT,
        program: None,
        case: REFUSED,
        reason: "connect() has succeeded, to the agent, before it is known whether the server does: \
                 the client sees a reset, or the agent's answer where requests are routed",
    },
    Known {
        ways: &[Way::Routed],
        program: Some("nginx"),
        case: "server_killed",
        reason: "an answer that breaks off is reset by the agent, and ended by the kernel of a killed \
                 server: to the client it is incomplete either way",
    },
    Known {
        ways: &[Way::Routed],
        program: Some("grpc"),
        case: "server_killed",
        reason: "a call that breaks off after its first answer is reset with INTERNAL_ERROR, which is \
                 INTERNAL to gRPC, while the client's connection to the agent, which others may use, \
                 goes on; without the mesh the connection ends, which is UNAVAILABLE",
    },
];

/// The cause of a difference, if it is known.
pub(crate) fn reason(way: Way, program: &str, case: &str) -> Option<&'static str> {
    let fits = |known: &&Known| {
        known.ways.contains(&way)
            && known.program.is_none_or(|name| name == program)
            && known.case == case
    };
    KNOWN.iter().find(fits).map(|known| known.reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programs::PROGRAMS;

    #[test]
    fn what_is_known_is_of_one_case_on_some_paths() {
        assert!(reason(Way::Mtls, "redis", REFUSED).is_some());
        assert!(reason(Way::Direct, "redis", REFUSED).is_none());
        assert!(reason(Way::Routed, "nginx", "server_killed").is_some());
        assert!(reason(Way::CrossNode, "nginx", "server_killed").is_none());
        assert!(reason(Way::Routed, "redis", "server_killed").is_none());
    }

    #[test]
    fn what_is_known_exists_and_is_documented() {
        let page = include_str!("../../../../docs/programs.md");
        for known in &KNOWN {
            let is_its = |program: &&crate::programs::Program| {
                known.program.is_none_or(|name| name == program.name)
            };
            let mut its = PROGRAMS.iter().filter(is_its);
            assert!(its.all(|program| program.cases.contains(&known.case)), "{known:?}");
            let row = format!(
                "| {} | `{}` |",
                known.program.map_or("all".to_owned(), |name| format!("`{name}`")),
                known.case
            );
            assert!(page.contains(&row), "{row}");
        }
    }
}
