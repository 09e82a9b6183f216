//! Another user of the machine, or a neighbor on its network, who asks the agent itself.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use mesh_tests::agent;
use mesh_tests::apps::Server;
use mesh_tests::pair::{PORT, Pair, hello};

use super::{Arena, Bystander, Trace};

/// Where scrapers are served.
const METRICS: u16 = 15_020;

/// The answer to a request, over TCP in the node's namespace.
fn ask(pair: &Pair, request: &str) -> String {
    let asked = pair.a.netns().run(|| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, METRICS)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    asked.unwrap()
}

#[test]
fn the_agent_is_not_asked_by_others() {
    let pair = Pair::new().unwrap();
    let metrics = format!("0.0.0.0:{METRICS}");
    let a = pair.agent(&pair.a, &["--metrics", &metrics]).unwrap();
    let b = pair.agent(&pair.b, &[]).unwrap();
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let good = || assert_eq!(hello().run(&pair.client).unwrap().totals.failed, 0);
    let bystander = Bystander::between(&a, &b);
    let arena = Arena { by: "user", agent: &a, serves: &good, bystander: &bystander };
    for path in ["/config_dump", "/certs", "/conditions"] {
        arena.attack(&format!("{path} where scrapers are served"), Trace::Told, || {
            let said = ask(&pair, &format!("GET {path} HTTP/1.0\r\n\r\n"));
            assert!(said.starts_with("HTTP/1.0 404") && !said.contains("spiffe://"), "{said}");
            said
        });
    }
    arena.attack("to write where one may only read", Trace::Told, || {
        let said = ask(&pair, "POST /metrics HTTP/1.0\r\n\r\n");
        assert!(said.starts_with("HTTP/1.0 405"), "{said}");
        said
    });
    arena.attack("a head without an end where scrapers are served", Trace::Told, || {
        let said = ask(&pair, &format!("GET /metrics HTTP/1.1\r\nx: {}", "y".repeat(1 << 20)));
        assert!(said.starts_with("HTTP/1.1 4") && !said.contains("mesh_build_info"), "{said}");
        said
    });
    arena.attack("the admin socket, by another user", Trace::Told, || {
        let mode = std::fs::metadata(a.admin_socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        "its mode is 0600, and it is root's".to_owned()
    });
    arena.attack("the admin server on an address of the network", Trace::Told, || {
        let mut command = Command::new(agent::binary().unwrap());
        command.args(["run", "--node", "x", "--config", "/", "--admin", "0.0.0.0:15000"]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("is not of loopback"), "{said}");
        said.into_owned()
    });
}
