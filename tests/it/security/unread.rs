//! A malicious client of HTTP/2 that asks for much at once: it reads nothing, so that whoever answers
//! keeps the answers (CVE-2019-9517), or asks for what costs much to judge.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use mesh_tests::http::{self, Ask};
use mesh_tests::pod::Pod;

use super::tunnels::h2;
use super::{Arena, Bounds, Bystander, Trace};
use crate::http::suite::{HTTP, Suite, To, policy};

/// Connections of the attacker, and requests on each.
const CONNECTIONS: usize = 8;
const REQUESTS: u32 = 128;

/// Requests of another identity in the meantime.
const OTHERS: usize = 100;

/// The memory that so many connections are promised: 8 × 24 MiB.
const PROMISED_BYTES: u64 = (CONNECTIONS as u64 * 24) << 20;

/// The most that an agent has of memory: that, and what it has anyway.
const MEMORY_BYTES: u64 = PROMISED_BYTES + (128 << 20);

/// A number of HPACK with a prefix of 7 bits (RFC 7541, section 5.1).
fn number(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if number < 127 {
        return vec![u8::try_from(number).unwrap()];
    }
    bytes.push(127);
    number -= 127;
    while number >= 128 {
        bytes.push(u8::try_from(number % 128).unwrap() | 128);
        number /= 128;
    }
    bytes.push(u8::try_from(number).unwrap());
    bytes
}

/// Asks for `path` so many times, with windows for all of the answers, and reads nothing.
fn ask(from: &Pod, to: SocketAddr, path: &str) -> TcpStream {
    // GET, http, the path and the authority, named by the static table (RFC 7541, appendix A).
    let length = number(path.len());
    let head = [&[0x82, 0x86, 0x04], &*length, path.as_bytes(), b"\x01\x04echo"].concat();
    let window = 0x7fff_0000_u32.to_be_bytes();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(h2(4, 0, 0, &[&[0, 4][..], &window].concat()));
    bytes.extend(h2(8, 0, 0, &window));
    bytes.extend((0..REQUESTS).flat_map(|n| h2(1, 5, 2 * n + 1, &head)));
    let mut stream = from.netns().run(|| TcpStream::connect(to)).unwrap().unwrap();
    // One that is refused may be reset before all is written.
    let _refused = stream.write_all(&bytes);
    stream
}

#[test]
fn answers_that_nobody_reads_are_not_kept() {
    let allowed = "{to: [{operation: {methods: [GET]}}]}";
    let suite = Suite::start(&[policy("readers", "ALLOW", allowed)]);
    let outside = suite.node.pod("outside").unwrap();
    let agent = &suite.b;
    let other = || {
        let answer = &http::ask(&suite.consumer, To::V1.at(80), &[Ask::get("/status/200")]);
        assert_eq!(answer.as_ref().unwrap()[0].status, 200, "{answer:?}");
    };
    let bystander = Bystander::between(&suite.a, &suite.b);
    let arena = Arena { by: "stranger", agent, serves: &other, bystander: &bystander };
    let bounds = Bounds { memory_bytes: PROMISED_BYTES, ..Bounds::default() };
    arena.within(bounds).attack("answers of HTTP/2 that nobody reads", Trace::Told, || {
        let to = suite.versions[0].at(HTTP);
        let _held: Vec<_> =
            (0..CONNECTIONS).map(|_| ask(&outside, to, "/bytes?n=2000000")).collect();
        let most = (0..OTHERS).map(|_| {
            other();
            agent.memory_bytes().unwrap()
        });
        let most = most.max().unwrap_or_default();
        assert!(most <= MEMORY_BYTES, "{most} of {MEMORY_BYTES} bytes");
        format!("the agent has had {most} bytes of memory")
    });
}

#[test]
fn paths_that_cost_much_to_judge_hold_up_nobody() {
    let paths: Vec<_> = (0..20).map(|n| format!("/a/{n}/*")).collect();
    let paths = paths.join("', '");
    let allowed = format!("{{to: [{{operation: {{paths: ['{paths}', '/status/*']}}}}]}}");
    let suite = Suite::start(&[policy("readers", "ALLOW", &allowed)]);
    let outside = suite.node.pod("outside").unwrap();
    let other = || {
        let answer = &http::ask(&suite.consumer, To::V1.at(80), &[Ask::get("/status/200")]);
        assert_eq!(answer.as_ref().unwrap()[0].status, 200, "{answer:?}");
    };
    let bystander = Bystander::between(&suite.a, &suite.b);
    let arena = Arena { by: "stranger", agent: &suite.b, serves: &other, bystander: &bystander };
    let readings = [("reason", "path_readings")];
    let denied = Trace::Count("mesh_policy_verdicts_total", &readings);
    arena.attack("2,560 requests for a path with many readings", denied, || {
        let path = format!("/a{}", "/%2e%2e;a/%252f%5c..//".repeat(170));
        let to = suite.versions[0].at(HTTP);
        let _held: Vec<_> = (0..20).map(|_| ask(&outside, to, &path)).collect();
        (0..20).for_each(|_| other());
    });
}

#[test]
fn connections_without_end_are_promised_no_more_than_there_is() {
    const MEMORY_MIB: &str = "64";
    const MANY: usize = 200;
    let allowed = "{to: [{operation: {methods: [GET]}}]}";
    let args = ["--max-memory", MEMORY_MIB];
    let suite = Suite::start_with(&[policy("readers", "ALLOW", allowed)], &args);
    let outside = suite.node.pod("outside").unwrap();
    // By HTTP/2 too: a client that has little is promised something, whatever others have.
    let other = || {
        for ask in [Ask::get("/status/200"), Ask::get("/status/200").http2()] {
            let answer = &http::ask(&suite.consumer, To::V1.at(80), &[ask]);
            assert_eq!(answer.as_ref().unwrap()[0].status, 200, "{answer:?}");
        }
    };
    let bystander = Bystander::between(&suite.a, &suite.b);
    let arena = Arena { by: "stranger", agent: &suite.b, serves: &other, bystander: &bystander };
    // Half of it is promised. A connection has one socket on each side, and how many are refused before
    // they have both depends on who comes first.
    let descriptors = 2 * MANY;
    let bounds = Bounds { memory_bytes: 64 << 20, descriptors, ..Bounds::default() };
    let refused = Trace::Access(&["limit", "--max-memory"]);
    arena.within(bounds).attack("connections of HTTP/2 without end", refused, || {
        let to = suite.versions[0].at(HTTP);
        let _held: Vec<_> = (0..MANY).map(|_| ask(&outside, to, "/bytes?n=2000000")).collect();
        other();
        let count = suite.b.metrics().unwrap();
        let limit = [("used", "plaintext"), ("limit", "memory")];
        assert!(count.sum("mesh_sockets_refused_total", &limit) > 0.0);
        let promised = count.sum("mesh_memory_promised_bytes", &[]);
        let most = count.sum("mesh_memory_promised_limit_bytes", &[]);
        assert!(promised <= most && (most - f64::from(32 << 20)).abs() < 1.0, "{promised} {most}");
    });
}
