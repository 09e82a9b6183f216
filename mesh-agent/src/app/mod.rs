//! Puts it together: start order, and its mirror image, stop order.

mod certificates;
mod coverage;
mod files;
mod handover;
mod logs;
mod memory;
mod notify;
mod parent;
mod ports;
mod reload;
mod shutdown;
mod stopping;
mod watchdog;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::admin::{self, Surface};
use crate::app::handover::{Office, Successor};
use crate::app::ports::Ports;
use crate::app::stopping::{End, Ending};
use crate::bounds;
use crate::datapath::sync::{self, Applied};
use crate::datapath::{self, Kernel};
use crate::flows;
use crate::flows::enforce::Enforcer;
use crate::identity::{Identities, Placement, authority};
use crate::model::condition::Finding;
use crate::model::trust_domain::TrustDomains;
use crate::native::quota::Quota;
use crate::pods::run::Pods;
use crate::proxy::Context;
use crate::proxy::inbound::admission::budget::Node;
use crate::proxy::realm::Locals;
use crate::settings::{Settings, VERSION, defaults};
use crate::source::file::{self, FileSource};
use crate::store::{self, Reader};
use crate::sys::memory::available as available_memory;
use crate::sys::{cgroup, confine, socket};
use crate::task::clock;
use crate::task::duty::Duty;
use crate::task::ready::{Gate, Ready};
use crate::task::scope::Scope;
use crate::task::turns::Turns;
use crate::task::worker::Workers;
use crate::telemetry::{KernelCounters, Source, Target, Telemetry, log};

/// How long the control tasks may take to end once the connections have.
const CONTROL_DRAIN: Duration = Duration::from_secs(2);

/// Runs the agent until it is asked to stop, on a runtime of its own. Returns the status to end with.
///
/// # Errors
///
/// Something that the agent cannot run without could not be had; the chain of causes says what.
pub fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    log::init(settings.log()).context("setting up the log")?;
    // Before there is another thread: capabilities are a thread's.
    confine::drop_capabilities().context("giving up capabilities")?;
    if settings.as_child()
        && let Some(status) = parent::split()?
    {
        return Ok(status);
    }
    // This process is not copied any more.
    log::start(defaults::LOG_QUEUE_BYTES).context("starting the log's thread")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the control runtime")?.block_on(Box::pin(serve(settings)))?;
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::too_many_lines, reason = "one list, in the order in which things start")]
async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let files = files::raise_limit().context("reading the limit of open files")?;
    let mut stop = shutdown::Signals::new().context("listening for signals")?;
    let hangup = reload::Hangup::new().context("listening for SIGHUP")?;
    // From here on, one that runs changes nothing in the kernel, and serves.
    let predecessor = handover::find(settings).await?;
    let lock = handover::lock(settings).await?;
    let (admin, unpublished) = ports::admin_socket(settings, predecessor.is_some())?;
    let ports = Ports::open(settings)?;
    let (office, unpublished_office) = handover::listener(settings, predecessor.is_some())?;
    let telemetry = Telemetry::new(settings.telemetry()).with_context(|| opening_log(settings))?;
    let (publisher, mesh) = store::channel();
    let identities = identities(settings, &mesh)?;
    let domains =
        TrustDomains::new(identities.trust_domain(), settings.identity().trust_domain_aliases);
    let source = FileSource::new(settings.config().to_owned(), domains, settings.allow_empty())
        .context("reading the configuration")?;
    anyhow::ensure!(
        predecessor.is_none() || !source.is_cut(),
        "the configuration directory has more files than are read: the agent that runs goes on, which \
         has policies in force that may be among the others"
    );
    let cgroup_root = cgroup::root().context("finding cgroup v2")?;
    let datapath = settings.datapath(&cgroup_root);
    cgroup::contains_own(&datapath.cgroup, &cgroup_root).context("choosing the cgroup")?;
    let (mut loaded, reports) =
        datapath::load::load(&datapath).context("putting the kernel programs in place")?;
    let workers = Workers::start(settings.threads()).context("starting data threads")?;
    // A large configuration takes seconds to be read, compiled and written to the kernel's maps.
    let config = Workers::start_one("config").context("starting the configuration's thread")?;

    let ready = Ready::new();
    let (control, connections) = (Scope::new("control"), Scope::new("connections"));
    let (listening, duty) = (Scope::new("listeners"), Duty::default());
    let options = settings.proxy();
    let available = available_memory().context("reading how much memory there may be")?;
    let memory = settings.memory(available);
    // Files that the agent itself needs are open by now.
    let sockets = sockets(settings, files, memory)?;
    let context = Arc::new(Context {
        mesh: mesh.clone(),
        kernel: Arc::clone(&loaded.kernel),
        telemetry: telemetry.clone(),
        locals: Locals::default(),
        runtimes: workers.runtimes().clone(),
        handshakes: Node::new(options.node_handshakes),
        sockets: sockets.clone(),
        unread: Arc::new(Quota::new(Settings::unread(memory), None)),
        options,
    });
    let (applied_tx, applied) = watch::channel(Applied::default());
    register(&telemetry, &loaded.kernel, applied.clone(), &identities, &mesh);
    let counted = sockets.clone();
    telemetry.register_source(Source::Sockets(Box::new(move || counted.counts())));
    if settings.kernel_log() {
        logs::forward(&mut loaded.ebpf, &control).context("opening the kernel programs' log")?;
    }

    let (updates, updated) = mpsc::channel(defaults::UPDATE_QUEUE);
    let (again, asked) = file::channel();
    let (enrolled_tx, enrolled) = watch::channel(None);
    let read = ready.gate("all configuration files read");
    control.spawn_on(config.runtimes().next(), source.run(updates, asked, read, control.clone()));
    control.spawn_on(config.runtimes().next(), store::run(publisher, updated));
    let (namespaces_tx, namespaces) = watch::channel(Arc::default());
    let own = socket::current_netns_cookie().context("reading the namespace's cookie")?;
    let kernel = Arc::clone(&loaded.kernel);
    let observed = Arc::clone(&kernel);
    let turns = count_turns(&workers, &config, &control);
    let limit = settings.watchdog_timeout();
    let pulse = notify::Pulse::new();
    let watchdog =
        watchdog::start((Arc::clone(&kernel), pulse.clone()), turns.clone(), &ready, limit)
            .context("starting the watchdog")?;
    telemetry.register_source(Source::Threads(Box::new(move || turns.stalled())));
    let (earlier, pins) = (loaded.earlier(), Arc::clone(&loaded.pins));
    let (findings_tx, findings) = watch::channel(Arc::default());
    let changing = (duty.clone(), control.clone());
    let syncing = sync::run(loaded, own, mesh.clone(), enrolled, applied_tx, changing.clone());
    control.spawn_on(config.runtimes().next(), Box::pin(syncing));
    let node: Arc<str> = settings.node().into();
    control.spawn(Box::pin(flows::summary::run(
        reports.summaries,
        mesh.clone(),
        Arc::clone(&node),
        telemetry.clone(),
        changing.clone(),
    )));
    control.spawn(Box::pin(flows::report::run(
        reports.events,
        mesh.clone(),
        Arc::clone(&node),
        telemetry.clone(),
        changing,
    )));
    let enforcer = Enforcer {
        mesh: mesh.clone(),
        node: Arc::clone(&node),
        kernel,
        namespaces,
        applied: applied.clone(),
        telemetry: telemetry.clone(),
    };
    control.spawn(Box::pin(enforcer.run(control.clone())));
    control.spawn(identities.clone().rotate(control.clone()));
    control.spawn(review_peers(identities.clone(), mesh.clone(), control.clone()));
    let generation = predecessor.as_ref().map_or(0, |it| it.generation.wrapping_add(1));
    let pods = Pods {
        options: settings.pods(&cgroup_root, generation),
        context: Arc::clone(&context),
        identities: identities.clone(),
        enrolled: enrolled_tx,
        namespaces: namespaces_tx,
        applied: applied.clone(),
        earlier,
        findings: findings_tx,
        scope: connections.clone(),
        listening: listening.clone(),
        duty: duty.clone(),
        expected: predecessor.as_ref().map(|it| it.workloads.clone()),
    };
    let tried = ready.gate("workloads enrolled");
    control.spawn(Box::pin(pods.run(tried)));
    let serving = ready.gate("kernel programs in force");
    control.spawn(watch_applied(applied.clone(), telemetry.clone(), serving));
    control.spawn(memory::run(telemetry.clone(), control.clone()));
    let attached = (ready.gate("kernel programs attached"), Arc::clone(&pins));
    let watching = (duty.clone(), control.clone());
    control.spawn(async move { attached.1.watch(attached.0, watching).await });
    let staying = ready.gate("not stopping");
    staying.pass();
    let covered = {
        let (mesh, telemetry) = (mesh.clone(), telemetry.clone());
        let node = settings.node().to_owned();
        move || coverage::shown(&observed, &mesh.load(), &telemetry, &node)
    };
    let applied_now = applied.clone();
    let (asked_at, name) = (ports.clone(), Arc::clone(&node));
    let watched = Watched {
        coverage: Arc::new(covered),
        applied: applied.clone(),
        findings,
        ports: Box::new(move || asked_at.findings(&name)),
    };
    let state = admin_state(&mesh, &identities, &telemetry, &ready, watched);
    let asked = control.child("admin");
    asked.spawn(Box::pin(ports::serve(admin, Surface::All, (state.clone(), asked.clone()))));
    let listening_at = ports.clone();
    telemetry.register_source(Source::Admin(Box::new(move || listening_at.listening())));
    // A service manager hears of no successor before the other one is replaced.
    let replacing = ready.gate("agent that runs replaced");
    let role = role(settings, predecessor.is_some());
    let reported = (settings.node(), role);
    let notifier = notify_manager(reported, pulse, &ready, &telemetry, applied_now)?;
    let reloads = (again, notifier.reloads());
    control.spawn(hangup.run(telemetry.clone(), reloads, control.clone()));
    confine::forbid_system_calls().context("giving up system calls")?;
    tracing::info!(
        node = settings.node(),
        version = VERSION,
        threads = settings.threads(),
        sockets = sockets.counts().most,
        memory_mib = memory >> 20,
        "started"
    );

    let replaces = predecessor.is_some();
    if let Some(predecessor) = predecessor {
        let taking = handover::take_over(predecessor, applied, [unpublished, unpublished_office]);
        tokio::select! {
            taken = taking => ports.inherit(taken?),
            asked = stop.any() => {
                anyhow::bail!("{asked} before this agent had taken over; the other one goes on");
            }
        }
    }
    replacing.pass();
    ports.serve(replaces, &state, &asked);
    let (replaced_tx, mut replaced) = watch::channel(Successor::None);
    let yielding = Arc::clone(&context);
    let (kept, waiting) = (ports.clone(), Arc::clone(&context));
    let office_keeper = Office {
        node,
        bpffs: settings.bpffs().to_owned(),
        generation,
        lock,
        duty,
        workloads: Box::new(move || context.locals.names()),
        yield_places: Box::new(move || yielding.locals.take_back(&yielding.kernel)),
        ports,
        in_force: ready.gate("no successor that is late"),
    };
    office_keeper.in_force.pass();
    control.spawn(Box::pin(handover::serve(office, office_keeper, replaced_tx, control.clone())));

    let end = stopping::reason(&mut stop, &mut replaced, || notifier.leaves()).await;
    let open_connections = telemetry.open_connections();
    match end {
        End::Signal(signal) => {
            staying.close();
            notifier.stops();
            tracing::info!(signal, open_connections, "stopping");
        }
        End::Replaced => {
            notifier.is_replaced();
            pins.release_all();
            // The kernel is to notice if the successor hangs.
            watchdog.stop_beating();
            // Its addresses are the successor's. It is ready for those that it answers still.
            kept.release(&asked).await;
            staying.close();
            tracing::info!(open_connections, "draining");
        }
    }
    let ending = Ending {
        connections: &connections,
        listening: &listening,
        asked: (&kept, &asked),
        telemetry: &telemetry,
        close_idle: &|| waiting.locals.close_idle(&waiting),
        replaced,
        timeout: settings.drain_timeout(),
    };
    ending.end(end, &mut stop).await;
    drop(watchdog);
    // Connections that are still open now were cut; their reports are made as their tasks are dropped.
    let cut = control.drain(CONTROL_DRAIN).await;
    drop((workers, config));
    tracing::info!(tasks_cut = cut, "stopped");
    telemetry.close().await;
    drop(notifier);
    Ok(())
}

/// This process's relation to the one that a service manager started.
fn role(settings: &Settings, takes_over: bool) -> notify::Role {
    match (settings.as_child(), takes_over) {
        (true, _) => notify::Role::Child,
        (false, true) => notify::Role::Successor,
        (false, false) => notify::Role::Main,
    }
}

/// Reports to the service manager, if there is one.
fn notify_manager(
    reported: (&str, notify::Role),
    pulse: notify::Pulse,
    ready: &Ready,
    telemetry: &Telemetry,
    applied: watch::Receiver<Applied>,
) -> anyhow::Result<notify::Notifier> {
    let (ready, telemetry) = (ready.clone(), telemetry.clone());
    let look = move || notify::Now {
        missing: ready.pending(),
        n_workloads: applied.borrow().enrolled.iter().filter(|workload| workload.ready).count(),
        n_connections: telemetry.open_connections(),
    };
    notify::start(reported, pulse, look).context("starting the reports to the service manager")
}

/// Has every thread count its turns until `control` drains: this one, the data threads, and the
/// configuration's, of which long turns are normal.
fn count_turns(workers: &Workers, config: &Workers, control: &Scope) -> Turns {
    let data = workers.runtimes().all();
    let names = (0..data.len()).map(|index| (format!("data-{index}"), true));
    let names = std::iter::once(("control".to_owned(), true)).chain(names);
    let turns = Turns::new(names.chain(std::iter::once(("config".to_owned(), false))));
    control.spawn(turns.clone().count(0, control.clone()));
    for (runtime, thread) in data.iter().chain(config.runtimes().all()).zip(1..) {
        control.spawn_on(runtime, turns.clone().count(thread, control.clone()));
    }
    turns
}

/// The step that opens the access log, with the remedy.
fn opening_log(settings: &Settings) -> String {
    let file = match settings.telemetry().access_log {
        Target::File(file) => file,
        Target::Off | Target::Stdout => return "opening the access log".to_owned(),
    };
    format!(
        "opening the access log {} (--access-log: make its folder, and let the agent write there, or \
         name another file)",
        file.display()
    )
}

/// Opens the authority. Peers' identities are checked against the snapshot of the moment.
fn identities(settings: &Settings, mesh: &Reader) -> anyhow::Result<Identities> {
    let authority = authority::open(settings.authority(), settings.node())
        .with_context(|| format!("opening {}", settings.authority()))?;
    let mesh = mesh.clone();
    let placement: Arc<dyn Placement> =
        Arc::new(move |id: &_, node: &str| mesh.load().runs_on(id, node));
    Identities::new(authority, placement, settings.identity()).context("using the authority")
}

/// Lets the metrics ask the kernel and the certificates.
fn register(
    telemetry: &Telemetry,
    kernel: &Arc<Kernel>,
    applied: watch::Receiver<Applied>,
    identities: &Identities,
    mesh: &Reader,
) {
    let (observed, mesh) = (Arc::clone(kernel), mesh.clone());
    telemetry.register_source(Source::Coverage(Box::new(move || {
        coverage::counts(&observed, &mesh.load())
    })));
    let kernel = Arc::clone(kernel);
    telemetry.register_source(Source::Kernel(Box::new(move || {
        let counters = kernel.counters().unwrap_or_else(|error| {
            tracing::warn!(%error, "the kernel's counters cannot be read");
            KernelCounters::default()
        });
        KernelCounters { refused: applied.borrow().refused.by_map(), ..counters }
    })));
    let identities = identities.clone();
    telemetry.register_source(Source::Certificates(Box::new(move || {
        certificates::counters(&identities, clock::now())
    })));
}

/// Looks whether the peers of open tunnels are still placed where they were, with each change of the
/// mesh, and whether their certificates have expired.
async fn review_peers(identities: Identities, mut mesh: Reader, scope: Scope) {
    loop {
        identities.review_peers(clock::now());
        tokio::select! {
            biased;
            () = scope.draining() => return,
            is_open = mesh.changed() => if !is_open { return },
            () = sleep(defaults::PEER_REVIEW_INTERVAL) => {}
        }
    }
}

/// Says in the metrics what is in force in the kernel; passes `gate` while that is the latest
/// configuration, and closes it while the kernel refuses a part.
async fn watch_applied(mut applied: watch::Receiver<Applied>, telemetry: Telemetry, gate: Gate) {
    while applied.changed().await.is_ok() {
        let applied = applied.borrow_and_update();
        telemetry.set_applied_revision(applied.revision);
        if applied.refused.is_empty() {
            gate.pass();
        } else {
            gate.close();
        }
    }
}

/// Sources of the admin server about this node's workloads.
struct Watched {
    /// The ways of connections.
    coverage: Arc<dyn Fn() -> Vec<admin::Covered> + Send + Sync>,
    /// The configuration that is in force in the kernel.
    applied: watch::Receiver<Applied>,
    /// Conditions of workloads.
    findings: watch::Receiver<Arc<[Finding]>>,
    /// Conditions of the addresses at which this agent is asked.
    ports: Box<dyn Fn() -> Vec<Finding> + Send + Sync>,
}

fn admin_state(
    mesh: &Reader,
    identities: &Identities,
    telemetry: &Telemetry,
    ready: &Ready,
    Watched { coverage, applied, findings, ports }: Watched,
) -> admin::State {
    let (mesh, identities) = (mesh.clone(), identities.clone());
    let in_force = applied.clone();
    admin::State {
        certificates: Arc::new(move || certificates::shown(&identities)),
        coverage,
        ready: ready.clone(),
        snapshot: Arc::new(move || mesh.load()),
        telemetry: telemetry.clone(),
        findings: Arc::new(move || {
            let of_workloads = [&*findings.borrow(), &*in_force.borrow().findings].concat();
            [of_workloads, ports()].concat()
        }),
        no_acceleration: Arc::new(move || applied.borrow().no_acceleration.clone()),
        version: VERSION,
    }
}

/// The sockets that there may be, where there may be so many open files and so much memory.
fn sockets(settings: &Settings, files: u64, memory: usize) -> anyhow::Result<bounds::Node> {
    let open = files::count_open().context("counting open files")?;
    let options = settings.bounds(files, open, memory);
    anyhow::ensure!(
        options.sockets >= defaults::LEAST_SOCKETS,
        "with {files} open files, of which {open} are open already, there is nothing left for \
         connections: raise the limit (LimitNOFILE= of the unit, ulimit -Hn)"
    );
    if options.sockets < settings.max_sockets() {
        tracing::warn!(
            open_files = files,
            memory_mib = memory >> 20,
            sockets = options.sockets,
            "the limit of open files, or the memory, allows fewer sockets than --max-sockets: raise \
             it (LimitNOFILE= or MemoryMax= of the unit, --max-memory), or lower --max-sockets"
        );
    }
    Ok(bounds::Node::new(options))
}
