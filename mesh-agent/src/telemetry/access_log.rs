//! One line of the access log: JSON under Envoy's and Istio's names, every field always there.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write as _;

use crate::failure::Side;
use crate::telemetry::cut::Cut;
use crate::telemetry::event::{ConnectionEnd, Peer};
use crate::telemetry::labels::NO_FLAGS;
use crate::telemetry::time::rfc3339;

/// A usual line has 970 bytes: one allocation.
const LINE_BYTES: usize = 1024;

/// The most bytes of a field's text before JSON escapes it. Names have at most 253; an error in the words of
/// a peer has any length (GOAWAY of HTTP/2 carries 16 KiB of them), of which the first part tells enough.
const MAX_FIELD_BYTES: usize = 1024;

/// The line of `end`, with its line feed, for so many connections.
pub(super) fn line(end: &ConnectionEnd, connections: u64) -> Vec<u8> {
    let mut line = Line { out: Vec::with_capacity(LINE_BYTES) };
    line.word("start_time", Some(&rfc3339(end.start)));
    line.number("duration", u64::try_from(end.lasted.as_millis()).unwrap_or(u64::MAX));
    line.word("reporter", Some(end.parties.reporter.as_str()));
    line.number("bytes_received", end.received_bytes);
    line.number("bytes_sent", end.sent_bytes);
    line.plain("downstream_remote_address", Some(end.downstream_remote));
    line.plain("downstream_local_address", Some(end.downstream_local));
    line.plain("upstream_host", end.upstream_host);
    line.plain("upstream_local_address", end.upstream_local);
    let service = end.parties.service.as_deref();
    line.text("upstream_cluster", service.map(|service| &*service.hostname));
    line.text("route_name", end.route.as_ref().map(ToString::to_string).as_deref());
    line.peer(
        ["source_workload", "source_workload_namespace", "source_principal"],
        &end.parties.source,
    );
    line.peer(
        ["destination_workload", "destination_workload_namespace", "destination_principal"],
        &end.parties.destination,
    );
    line.text("destination_service", service.map(|service| &*service.hostname));
    line.word("connection_security_policy", Some(end.parties.security_policy()));
    line.failure(end);
    line.kernel(end);
    line.number("connections", connections);
    line.finish()
}

fn cut(text: &str) -> Cow<'_, str> {
    match text.len() {
        ..=MAX_FIELD_BYTES => text.into(),
        _ => Cut::new(text, MAX_FIELD_BYTES).to_string().into(),
    }
}

struct Line {
    out: Vec<u8>,
}

impl Line {
    fn key(&mut self, key: &str) {
        self.out.push(if self.out.is_empty() { b'{' } else { b',' });
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn number(&mut self, key: &str, value: u64) {
        self.key(key);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// A text without a character that JSON would escape.
    fn word(&mut self, key: &str, value: Option<&str>) {
        self.key(key);
        match value {
            Some(value) => {
                self.out.push(b'"');
                self.out.extend_from_slice(value.as_bytes());
                self.out.push(b'"');
            }
            None => self.null(),
        }
    }

    /// A value that prints no character that JSON would escape.
    fn plain(&mut self, key: &str, value: Option<impl Display>) {
        self.key(key);
        match value {
            Some(value) => {
                write!(self.out, "\"{value}\"").expect("invariant: a Vec takes all bytes");
            }
            None => self.null(),
        }
    }

    /// Any text, cut to [`MAX_FIELD_BYTES`].
    fn text(&mut self, key: &str, value: Option<&str>) {
        self.key(key);
        match value {
            Some(value) => serde_json::to_writer(&mut self.out, &cut(value))
                .expect("invariant: a Vec takes all bytes, and a text is valid JSON"),
            None => self.null(),
        }
    }

    fn null(&mut self) {
        self.out.extend_from_slice(b"null");
    }

    fn peer(&mut self, [name, namespace, principal]: [&str; 3], peer: &Peer) {
        let workload = peer.workload.as_deref().map(|workload| &workload.name);
        self.text(name, workload.map(|workload| &*workload.name));
        self.text(namespace, workload.map(|workload| &*workload.namespace));
        self.text(principal, peer.principal.as_ref().map(ToString::to_string).as_deref());
    }

    /// The cause goes where Envoy's users look for it: with what was connected to, or with what
    /// ended the connection. There it says what has ended it if that is no failure.
    fn failure(&mut self, end: &ConnectionEnd) {
        let cause = end.failure.as_ref().map(|why| match (why.kind.is_failure(), why.cause()) {
            (true, cause) => cause,
            (false, cause) if cause.is_empty() => why.kind.code().to_owned(),
            (false, cause) => format!("{}: {cause}", why.kind.code()),
        });
        let cause = cause.filter(|cause| !cause.is_empty());
        let upstream = end.failure.as_ref().is_some_and(|failure| failure.side == Side::Upstream);
        let (transport, termination) =
            if upstream { (cause.as_deref(), None) } else { (None, cause.as_deref()) };
        let flags = end.failure.as_ref().map_or(NO_FLAGS, |why| why.kind.response_flags());
        let failure = end.failed();
        self.word("response_flags", Some(flags));
        self.word("failure", failure.map(|failure| failure.kind.code()));
        self.word("failure_side", failure.map(|failure| failure.side.code()));
        self.word("retry", failure.map(|failure| failure.retry.code()));
        self.text("upstream_transport_failure_reason", transport);
        self.text("connection_termination_details", termination);
    }

    /// How it was carried, and what was decided of it.
    fn kernel(&mut self, end: &ConnectionEnd) {
        self.word("path", Some(end.path.as_str()));
        let judged = end.judged.as_ref();
        let verdict = judged.map(|judged| if judged.allowed { "allow" } else { "deny" });
        self.word("verdict", verdict);
        let policy = judged.and_then(|judged| judged.policy.as_ref());
        self.text("policy", policy.map(ToString::to_string).as_deref());
        if let Some(srtt) = end.srtt {
            self.number("srtt_us", u64::try_from(srtt.as_micros()).unwrap_or(u64::MAX));
        } else {
            self.key("srtt_us");
            self.null();
        }
        self.plain("trace_id", end.trace.map(|trace| trace.hex_id()).as_ref());
    }

    fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(b"}\n");
        self.out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Error;
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::failure::{Failure, Kind, Retry};
    use crate::model::id::ResourceName;
    use crate::model::trace::Trace;
    use crate::telemetry::event::{Judged, Path};
    use crate::telemetry::testing::{documented, end};

    fn parse(end: &ConnectionEnd) -> Value {
        let line = line(end, 1);
        assert_eq!(line.iter().filter(|byte| byte.is_ascii_control()).count(), 1);
        assert_eq!(line.last(), Some(&b'\n'));
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn the_line_is_what_operators_parse() {
        let expect = concat!(
            r#"{"start_time":"2026-02-28T23:59:59.250Z","duration":1500,"reporter":"source","#,
            r#""bytes_received":10,"bytes_sent":2000,"#,
            r#""downstream_remote_address":"10.0.1.5:40000","#,
            r#""downstream_local_address":"10.96.0.10:80","#,
            r#""upstream_host":"10.0.2.10:8080","upstream_local_address":"[fd00::1]:50000","#,
            r#""upstream_cluster":"echo.demo.svc.cluster.local","route_name":"demo/echo-split","#,
            r#""source_workload":"client","source_workload_namespace":"demo","#,
            r#""source_principal":"spiffe://cluster.local/ns/demo/sa/client","#,
            r#""destination_workload":"echo","destination_workload_namespace":"demo","#,
            r#""destination_principal":"spiffe://cluster.local/ns/demo/sa/echo","#,
            r#""destination_service":"echo.demo.svc.cluster.local","#,
            r#""connection_security_policy":"mutual_tls","response_flags":"-","failure":null,"#,
            r#""failure_side":null,"retry":null,"upstream_transport_failure_reason":null,"#,
            r#""connection_termination_details":null,"path":"agent","verdict":null,"#,
            r#""policy":null,"srtt_us":null,"trace_id":null,"connections":1}"#,
            "\n",
        );
        assert_eq!(String::from_utf8(line(&end(), 1)).unwrap(), expect);
    }

    #[test]
    fn a_reset_by_the_client_is_told_and_is_no_failure() {
        let mut end = end();
        for (cause, details) in [(None, "client_reset"), (Some("why"), "client_reset: why")] {
            let (kind, side, retry) = (Kind::ClientReset, Side::Client, Retry::IfIdempotent);
            end.failure = Some(match cause {
                None => Failure::new(kind, side, retry),
                Some(cause) => Failure::because(kind, side, retry, cause),
            });
            let line = parse(&end);
            assert_eq!((&line["connection_termination_details"]), &Value::from(details));
            assert_eq!(line["response_flags"], "DC");
            for field in ["failure", "failure_side", "retry", "upstream_transport_failure_reason"] {
                assert_eq!(line[field], Value::Null, "{field}");
            }
        }
    }

    #[test]
    fn every_failure_says_what_whose_and_whether_to_retry() {
        for kind in Kind::ALL.iter().filter(|kind| kind.is_failure()) {
            for side in [Side::Client, Side::Mesh, Side::Upstream] {
                let mut end = end();
                let cause = Error::other("broken");
                end.failure = Some(Failure::because(*kind, side, Retry::IfIdempotent, cause));
                let line = parse(&end);
                assert_eq!(line["failure"], kind.code());
                assert_eq!(line["failure_side"], side.code());
                assert_eq!(line["retry"], "if_idempotent");
                assert_eq!(line["response_flags"], kind.response_flags());
                let (cause, other) = match side {
                    Side::Upstream => {
                        ("upstream_transport_failure_reason", "connection_termination_details")
                    }
                    Side::Client | Side::Mesh => {
                        ("connection_termination_details", "upstream_transport_failure_reason")
                    }
                };
                assert_eq!((&line[cause], &line[other]), (&Value::from("broken"), &Value::Null));
            }
        }
    }

    #[test]
    fn what_peers_say_cannot_forge_a_line() {
        let mut end = end();
        let evil = "x\"}\n{\"failure\":\0\u{1b}[31m\\\u{e9}";
        let cause = Error::other(evil);
        end.failure = Some(Failure::because(Kind::Tls, Side::Upstream, Retry::Safe, cause));
        end.route = Some(ResourceName::new("demo", evil));
        let line = parse(&end);
        assert_eq!(line["upstream_transport_failure_reason"], evil);
        assert_eq!(line["route_name"], format!("demo/{evil}"));
    }

    /// An `:authority` of 60,000 bytes, or what GOAWAY carries.
    #[test]
    fn a_text_of_any_length_is_cut() {
        for (said, most) in [("x".repeat(60_000), 4096), ("\0".repeat(16_000), 8192)] {
            let cut = format!("{}…", said.get(..MAX_FIELD_BYTES).unwrap());
            for (side, field) in [
                (Side::Client, "connection_termination_details"),
                (Side::Upstream, "upstream_transport_failure_reason"),
            ] {
                let cause = Error::other(said.clone());
                let mut end = end();
                end.failure = Some(Failure::because(Kind::Protocol, side, Retry::Never, cause));
                assert!(line(&end, 1).len() < most);
                assert_eq!(parse(&end)[field], cut);
            }
        }
    }

    #[test]
    fn what_the_kernel_did_is_said() {
        let mut end = end();
        end.path = Path::Direct;
        end.judged =
            Some(Judged { allowed: false, policy: Some(ResourceName::new("demo", "only-web")) });
        end.srtt = Some(Duration::from_micros(37));
        end.trace = Trace::begin([0xab; 16], [1; 8]);
        let line = parse(&end);
        assert_eq!((&line["path"], &line["verdict"]), (&"direct".into(), &"deny".into()));
        assert_eq!((&line["policy"], &line["srtt_us"]), (&"demo/only-web".into(), &37.into()));
        assert_eq!(line["trace_id"], "ab".repeat(16));
    }

    #[test]
    fn the_documentation_names_these_fields() {
        let line = parse(&end());
        let fields: BTreeSet<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
        let text = include_str!("../../../docs/access-log.md");
        assert_eq!(documented(text).into_keys().collect::<BTreeSet<_>>(), fields);
    }
}
