//! Certificates that are renewed while connections come and go.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use mesh_tests::agent::Agent;
use mesh_tests::apps::{Client, Server};
use mesh_tests::cgroup;
use mesh_tests::expect::eventually;
use mesh_tests::mesh::Workload;
use mesh_tests::pair::{ECHO, PORT, Pair, hello, spiffe};
use mesh_tests::process::{DEADLINE, Killed, inside};
use serde_json::Value;

/// The shortest life that an agent gives, in seconds: it renews after two thirds of it.
const TTL: &str = "10";

/// Within this every certificate has been renewed, on a machine that is busy.
const RENEWED: Duration = Duration::from_secs(20);

/// The serial number of the certificate that an agent uses for `account`.
fn serial(agent: &Agent, account: &str) -> Option<String> {
    let (_status, body) = agent.get("/config_dump").ok()?;
    let dump: Value = serde_json::from_str(&body).ok()?;
    let held = dump["certificates"].as_array()?.iter();
    let held = held.filter(|held| held["identity"] == spiffe(account).as_str());
    let serials: Vec<_> =
        held.filter_map(|held| held["certChain"][0]["serialNumber"].as_str()).collect();
    (serials.len() == 1).then(|| serials[0].to_owned())
}

#[test]
fn certificates_are_renewed_under_traffic() {
    let pair = Pair::new().unwrap();
    let late = pair.a.pod("late").unwrap();
    let mesh = pair.mesh().workload(&Workload::of(&late).account("late"));
    pair.config.write(&mesh).unwrap();
    let args = ["--leaf-ttl", TTL];
    let (a, b) = (pair.agent(&pair.a, &args).unwrap(), pair.agent(&pair.b, &args).unwrap());
    let _server = Server::echo(&pair.echo, PORT, "v1").unwrap();
    let first = [(&a, "client"), (&a, "late"), (&b, "echo")]
        .map(|(agent, account)| (agent, account, serial(agent, account).unwrap()));

    let traffic = hello().traffic(&pair.client).unwrap();
    for (agent, account, before) in &first {
        eventually("another certificate", RENEWED, || {
            serial(agent, account).filter(|now| now != before)
        })
        .unwrap();
    }
    // It has no tunnel yet: this handshake is between two renewed certificates.
    let seen = Client::to(ECHO).echo("hello").run(&late).unwrap().totals;
    assert_eq!((seen.connections, seen.failed), (1, 0), "{:?}", seen.errors);
    let all = traffic.stop().unwrap();
    assert!(all.connections > 0);
    assert_eq!(all.failed, 0, "{:?}", all.errors);
    assert!(a.terminate().unwrap().success());
    assert!(b.terminate().unwrap().success());
}

/// How many identities a node has that is full: ten times what Kubernetes has pods on it.
const MANY: u16 = 1_000;

/// The life of their certificates, in seconds: a debug build on a busy machine renews so many in this
/// time, and each is renewed while the test runs.
const TTL_OF_MANY: &str = "30";

/// Seconds that a connection may take. Whether it is served is asked here, and not how soon: an agent
/// that has just started makes all certificates first.
const PATIENCE: &str = "50";

/// The port of the first of the many.
const FIRST: u16 = 20_000;

/// Units of the server's node, each with an identity and a port of its own.
fn units(pair: &Pair) -> String {
    let root = cgroup::mount().unwrap();
    let [v4, v6] = pair.b.addresses();
    let one = |n: u16| {
        let folder = pair.b.cgroup().join(format!("unit-{n}.service"));
        fs::create_dir(&folder).unwrap();
        let below = folder.strip_prefix(&root).unwrap().display();
        format!(
            "---\napiVersion: nodemesh.dev/v1alpha1\nkind: Workload\n\
             metadata: {{name: unit-{n}, namespace: demo}}\nspec: {{node: {}, addresses: [\"{v4}\", \
             \"{v6}\"], serviceAccount: unit-{n}, ports: [{{name: main, port: {}}}], cgroup: \
             {below}}}\n",
            pair.b.name(),
            FIRST + n
        )
    };
    (0..MANY).map(one).collect()
}

/// Sends back what it gets, on the port of each unit.
const SERVER: &str = "
import selectors, socket, sys
all = selectors.DefaultSelector()
first, count = int(sys.argv[1]), int(sys.argv[2])
for port in range(first, first + count):
    listener = socket.create_server(('', port), backlog=16)
    all.register(listener, selectors.EVENT_READ, True)
print('ready', flush=True)
while True:
    for key, _ in all.select():
        if key.data:
            all.register(key.fileobj.accept()[0], selectors.EVENT_READ, False)
            continue
        data = key.fileobj.recv(4096)
        if data:
            key.fileobj.sendall(data)
        else:
            all.unregister(key.fileobj)
            key.fileobj.close()
";

/// The agents' reports of connections that failed.
fn failures(a: &Agent, b: &Agent) -> String {
    let of = |agent: &Agent| {
        let lines = agent.access_log().unwrap().into_iter();
        let failed: Vec<_> = lines.filter(|line| !line["failure"].is_null()).collect();
        format!("{failed:?}")
    };
    format!("{}\n{}", of(a), of(b))
}

/// One process of the first unit serves them all: arrivals are told apart by their ports.
fn serve_all(pair: &Pair) -> Killed {
    let group = pair.b.cgroup().join("unit-0.service");
    let mut command = inside(pair.b.netns(), &group).unwrap();
    command.args(["exec", "--", "/usr/bin/python3", "-c", SERVER]);
    command.args([FIRST.to_string(), MANY.to_string()]).stdout(Stdio::piped());
    let mut server = Killed(command.spawn().unwrap());
    let mut said = String::new();
    let out = server.0.stdout.take().unwrap();
    BufReader::new(out).read_line(&mut said).unwrap();
    assert_eq!(said, "ready\n");
    server
}

#[test]
fn a_thousand_identities_are_renewed_and_no_connection_fails() {
    let pair = Pair::new().unwrap();
    pair.config.write_file("units.yaml", &units(&pair)).unwrap();
    let args = ["--leaf-ttl", TTL_OF_MANY];
    let (a, b) = (pair.agent(&pair.a, &args).unwrap(), pair.agent(&pair.b, &args).unwrap());
    let _server = serve_all(&pair);
    let renewals = |result: &str| {
        b.metrics().unwrap().sum("mesh_certificate_renewals_total", &[("result", result)])
    };
    let before = renewals("renewed");
    let [v4, _v6] = pair.b.addresses();
    let connect = |round: &str, count: u16| {
        for n in 0..count {
            let to = SocketAddr::new(v4, FIRST + n);
            let client = Client::to(to).arg("--send").arg("hello").arg("--timeout").arg(PATIENCE);
            let seen = client.run(&pair.client).unwrap().totals;
            let ended = (seen.connections, seen.failed);
            assert_eq!(ended, (1, 0), "{round} {n}: {}", failures(&a, &b));
        }
    };
    // Each meets a certificate that has just been made or replaced.
    connect("first", MANY);
    eventually("all to be renewed", DEADLINE, || {
        (renewals("renewed") - before >= f64::from(MANY)).then_some(())
    })
    .unwrap();
    // These go by tunnels whose certificates have been replaced since.
    connect("second", MANY / 5);
    assert_eq!(renewals("failed").to_string(), "0");
    let failed = |agent: &Agent| agent.metrics().unwrap().sum("mesh_handshakes_failed_total", &[]);
    assert_eq!([failed(&a).to_string(), failed(&b).to_string()], ["0", "0"]);
}
