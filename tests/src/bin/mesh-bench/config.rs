//! How long an agent takes to start with a configuration of some size, and to put a change of one
//! service and a thousand more services in force; and whether it answers and beats meanwhile.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use mesh_tests::agent::{self, Agent};
use mesh_tests::apps::Server;
use mesh_tests::mesh::{ConfigDir, Mesh, Workload};
use mesh_tests::pair::{ECHO, PORT, Pair};
use mesh_tests::pod::Pod;
use mesh_tests::script::Script;
use mesh_tests::sweep::BPFFS;

use crate::LabIds;
use crate::machine::Machine;
use crate::result::median;
use crate::screen::Screen;

/// Which sizes, and how often.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Config {
    /// Workloads; a tenth as many services select ten of them each, and have two routes each
    #[arg(long, value_name = "WORKLOADS", default_values_t = [10, 1_000, 10_000])]
    pub size: Vec<usize>,
    /// Services with one port and one endpoint each, and no workloads of other nodes: one more size
    #[arg(long, value_name = "SERVICES", default_values_t = [65_536])]
    pub services: Vec<usize>,
    /// Changes of one service that are measured of each size
    #[arg(long, default_value_t = 11)]
    pub changes: u16,
}

/// How long an agent may take to start.
const LIMIT: Duration = Duration::from_mins(2);

/// How long after a change the next one is made: an agent gathers those that follow each other within
/// 50 ms.
const APART: Duration = Duration::from_millis(200);

/// The first port that a change adds to the service.
const FIRST_PORT: u16 = 1_000;

/// Services that are added at once.
const MORE: u16 = 1_000;

/// How long a connection is waited for before the next is tried, in seconds: a captured one is
/// answered on the node.
const PATIENCE: &str = "0.005";

/// Tries to connect to the address and port of each line that it is told until it can, and says when that
/// was, in seconds of the clock that `Instant` has.
const PROBE: &str = "
import socket, sys, time
print('ready', flush=True)
for line in sys.stdin:
    address, port = line.split()
    while True:
        conn = socket.socket()
        conn.settimeout(PATIENCE)
        try:
            conn.connect((address, int(port)))
            print(time.monotonic(), flush=True)
            break
        except OSError: pass
        finally: conn.close()
";

/// Looks at the heartbeat of the agent whose pins are in `FOLDER`, as the kernel's programs see it: a map
/// of one entry, in nanoseconds of the monotonic clock. From the first beat of an agent on it notes the
/// oldest that one was, and says it in seconds at each line that it is told, from when on it notes anew.
///
/// The system call is `bpf` (321), its commands are `BPF_OBJ_GET` (7) and `BPF_MAP_LOOKUP_ELEM` (1).
const HEARTBEAT: &str = "
import ctypes, glob, select, struct, sys, time
call = ctypes.CDLL(None, use_errno=True).syscall
def bpf(command, attr):
    attr = ctypes.create_string_buffer(attr, 128)
    done = call(321, command, attr, 128)
    if done < 0: raise OSError(ctypes.get_errno())
    return done
key, value = ctypes.create_string_buffer(4), ctypes.create_string_buffer(8)
print('ready', flush=True)
while not (paths := glob.glob('FOLDER/v*/HEARTBEAT')): time.sleep(.001)
name = ctypes.create_string_buffer(paths[0].encode())
map = bpf(7, struct.pack('=QII', ctypes.addressof(name), 0, 0))
look = struct.pack('=IIQQQ', map, 0, ctypes.addressof(key), ctypes.addressof(value), 0)
oldest = 0
while True:
    bpf(1, look)
    beat = int.from_bytes(value.raw, 'little')
    if beat: oldest = max(oldest, time.monotonic_ns() - beat)
    if select.select([sys.stdin], [], [], .002)[0]:
        if not sys.stdin.readline(): break
        print(oldest / 1e9, flush=True)
        oldest = 0
";

/// The size of the documents.
#[derive(Clone, Copy, Debug)]
enum Size {
    /// So many workloads of other nodes, a tenth as many services, and two routes of each.
    Workloads(usize),
    /// So many services of one port and one endpoint.
    Services(usize),
}

/// Figures of one size.
#[derive(Debug)]
struct Row {
    size: Size,
    bytes: usize,
    /// From the start of the process to ready.
    start: Duration,
    /// From when the new file had its name to the first connection, of each change.
    changes: Vec<Duration>,
    /// The same of a thousand services that were added.
    more: Duration,
    /// The longest that the admin server took to answer, while it started and while it changed.
    slowest: Duration,
    /// The oldest that the heartbeat was meanwhile.
    beat: Duration,
    memory_bytes: u64,
}

/// Measures all sizes, and prints a table in Markdown.
///
/// # Errors
///
/// An agent does not start, or a change does not come into force.
pub(crate) fn run(config: &Config, ids: &LabIds) -> Result<()> {
    let mut screen = Screen::new(false);
    let mut rows = Vec::new();
    let sizes = config.size.iter().copied().map(Size::Workloads);
    for size in sizes.chain(config.services.iter().copied().map(Size::Services)) {
        screen.live(&format!("{size:?}"));
        rows.push(measure(size, config.changes, ids)?);
    }
    screen.live("");
    screen.line(&format!("{}\n\n{}", Machine::read()?, table(&rows)));
    Ok(())
}

fn measure(size: Size, changes: u16, ids: &LabIds) -> Result<Row> {
    let pair = Pair::new()?;
    ids.add(pair.lab.id())?;
    let _server = Server::echo(&pair.echo, PORT, "v1")?;
    // The last of the documents is the one that will change.
    let text = documents(size);
    let echo = Workload::of(&pair.echo).account("echo").label("app", "echo").port(PORT);
    let client = Workload::of(&pair.client).account("client");
    let both = Mesh::new("demo").workload(&client).workload(&echo);
    // A node has one agent: that of the other node does not work beside it.
    let aside = ConfigDir::create(pair.lab.state().join("aside"))?;
    aside.write(&both)?;
    pair.config.write(&both)?;
    pair.config.write_file("many.yaml", &format!("{text}{}", service(80)))?;
    let ca = pair.lab.state().join("ca").join(pair.b.name());
    let _peer =
        Agent::start(&pair.b, &agent::Options { ca: &ca, config: aside.path(), args: &[] })?;
    let mut beats = beats(&pair)?;
    let (agent, start, mut slowest) = start(&pair)?;
    let mut probe = probe(&pair.client)?;
    let (mut all, mut more) = (Vec::new(), Duration::ZERO);
    let done = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let asking = scope.spawn(|| slowest_answer(&agent, &done));
        let changed = (0..changes).try_for_each(|n| {
            all.push(change(&pair, &text, &mut probe, FIRST_PORT + n)?);
            anyhow::Ok(())
        });
        let changed = changed.and_then(|()| {
            more = add_services(&pair, &mut probe)?;
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        let asked = asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        slowest = slowest.max(asked?);
        changed
    })?;
    beats.say("")?;
    let beat = Duration::from_secs_f64(beats.line()?.parse().context("no age of the heartbeat")?);
    let (bytes, memory_bytes) = (text.len(), agent.memory_bytes()?);
    Ok(Row { size, bytes, start, changes: all, more, slowest, beat, memory_bytes })
}

/// Starts an agent; with how long it took to be ready, and the slowest answer of its admin server.
fn start(pair: &Pair) -> Result<(Agent, Duration, Duration)> {
    let ca = pair.lab.state().join("ca").join(pair.a.name());
    let options = agent::Options { ca: &ca, config: pair.config.path(), args: &[] };
    let began = Instant::now();
    let agent = Agent::spawn(&pair.a, &options)?;
    let mut slowest = Duration::ZERO;
    loop {
        let asked = Instant::now();
        // Until it listens nobody answers.
        if let Ok((status, _)) = agent.get("/readyz") {
            slowest = slowest.max(asked.elapsed());
            if status == 200 {
                return Ok((agent, began.elapsed(), slowest));
            }
        }
        ensure!(began.elapsed() < LIMIT, "the agent is not ready:\n{}", agent.log());
    }
}

/// Asks the admin server again and again until it is `done`; with how long the slowest answer took.
fn slowest_answer(agent: &Agent, done: &AtomicBool) -> Result<Duration> {
    let mut slowest = Duration::ZERO;
    while !done.load(Ordering::Relaxed) {
        let asked = Instant::now();
        ensure!(agent.get("/readyz")?.0 == 200, "the agent is not ready");
        slowest = slowest.max(asked.elapsed());
        // The agent is measured, not how much this takes from it.
        pause(Duration::from_millis(5));
    }
    Ok(slowest)
}

#[expect(clippy::disallowed_methods, reason = "the pause between two steps of a measurement")]
fn pause(length: Duration) {
    thread::sleep(length);
}

/// The service that changes, with this port.
fn service(port: u16) -> String {
    one_service("echo", SocketAddr::new(ECHO.ip(), port))
}

/// Gives the service another port; with how long it took until it could be connected to.
fn change(pair: &Pair, text: &str, probe: &mut Script, port: u16) -> Result<Duration> {
    // It is in the file with all others, which is read as a whole.
    let text = format!("{text}{}", service(port));
    until_served(pair, ("many.yaml", &text), probe, SocketAddr::new(ECHO.ip(), port))
}

/// Adds a thousand services in a file of their own; with how long it took until the last one could be
/// connected to.
fn add_services(pair: &Pair, probe: &mut Script) -> Result<Duration> {
    let mut text = String::new();
    let mut last = None;
    for n in 0..MORE {
        let [a, b] = n.to_be_bytes();
        let at = SocketAddr::from(([10, 98, a, b], 80));
        text.push_str(&one_service(&format!("more-{n}"), at));
        last = Some(at);
    }
    let last = last.context("there are no services to add")?;
    until_served(pair, ("more.yaml", &text), probe, last)
}

/// Writes a file; with how long it took until `to` could be connected to.
fn until_served(
    pair: &Pair,
    (file, text): (&str, &str),
    probe: &mut Script,
    to: SocketAddr,
) -> Result<Duration> {
    pause(APART);
    probe.say(&format!("{} {}", to.ip(), to.port()))?;
    pair.config.write_file(file, text)?;
    let began = monotonic()?;
    let seen: f64 = probe.line()?.parse().context("the probe tells no time")?;
    Ok(Duration::from_secs_f64((seen - began).max(0.0)))
}

/// The clock of Python's `time.monotonic()` and of `Instant`.
fn monotonic() -> Result<f64> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::from(now).as_secs_f64())
}

fn probe(pod: &Pod) -> Result<Script> {
    Ok(Script::start(pod, &PROBE.replace("PATIENCE", PATIENCE))?.0)
}

/// Begins to look at the heartbeat of the agent that will start.
fn beats(pair: &Pair) -> Result<Script> {
    let program = HEARTBEAT.replace("FOLDER", &format!("{BPFFS}/mesh/{}", pair.a.name()));
    Ok(Script::start(&pair.client, &program)?.0)
}

/// The documents of a size.
fn documents(size: Size) -> String {
    match size {
        Size::Workloads(count) => workloads(count),
        Size::Services(count) => {
            let one = |n: usize| {
                let [.., a, b] = n.to_be_bytes();
                one_service(&format!("one-{n}"), SocketAddr::from(([10, 100, a, b], 80)))
            };
            (0..count).map(one).collect()
        }
    }
}

/// A service of this address and port, which the echo server is behind.
fn one_service(name: &str, at: SocketAddr) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: demo}}\nspec: \
         {{clusterIP: {}, selector: {{app: echo}}, ports: [{{port: {}, targetPort: {PORT}}}]}}\n",
        at.ip(),
        at.port()
    )
}

/// So many workloads of other nodes, and what belongs to them.
fn workloads(size: usize) -> String {
    let mut text = String::new();
    let mut add = |document: std::fmt::Arguments<'_>| {
        text.write_fmt(document).expect("invariant: a String takes all text");
    };
    for n in 0..size {
        let [.., a, b] = u32::try_from(n).unwrap_or_default().to_be_bytes();
        add(format_args!(
            "---\napiVersion: nodemesh.dev/v1alpha1\nkind: Workload\nmetadata: {{name: w{n}, \
             namespace: many, labels: {{app: s{}}}}}\nspec: {{node: node-{}, addresses: \
             [10.200.{a}.{b}], serviceAccount: a{}, ports: [{{name: main, port: 8080}}]}}\n",
            n / 10,
            n % 100,
            n / 10
        ));
    }
    for n in 0..size / 10 {
        let [.., a, b] = u32::try_from(n).unwrap_or_default().to_be_bytes();
        add(format_args!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: many}}\nspec: \
             {{clusterIP: 10.97.{a}.{b}, selector: {{app: s{n}}}, ports: [{{port: 80, targetPort: \
             8080, appProtocol: http}}]}}\n"
        ));
        for (route, path) in [("all", "/"), ("api", "/api/v1")] {
            add(format_args!(
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: \
                 s{n}-{route}, namespace: many}}\nspec:\n  parentRefs: [{{group: '', kind: Service, \
                 name: s{n}, port: 80}}]\n  rules:\n  - matches: [{{path: {{type: PathPrefix, value: \
                 {path}}}}}]\n    backendRefs: [{{name: s{n}, port: 80}}]\n"
            ));
        }
    }
    text
}

fn table(rows: &[Row]) -> String {
    let mut text = "| Workloads | Services | Routes | Documents | Start | Change | The slowest | \
        1,000 more services | Slowest answer of the admin server | Oldest heartbeat | Memory |\n\
        |--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n"
        .to_owned();
    for row in rows {
        let millis = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1e3);
        let times: Vec<_> = row.changes.iter().map(Duration::as_secs_f64).collect();
        let slowest = row.changes.iter().max().copied().unwrap_or_default();
        let (workloads, services, routes) = match row.size {
            Size::Workloads(count) => (count, count / 10, count / 5),
            Size::Services(count) => (0, count, 0),
        };
        writeln!(
            text,
            "| {workloads} | {services} | {routes} | {} kB | {} | {} | {} | {} | {} | {} | {} MiB |",
            row.bytes / 1000,
            millis(row.start),
            millis(Duration::from_secs_f64(median(times).unwrap_or_default())),
            millis(slowest),
            millis(row.more),
            millis(row.slowest),
            millis(row.beat),
            row.memory_bytes >> 20,
        )
        .expect("invariant: a String takes all text");
    }
    text
}
