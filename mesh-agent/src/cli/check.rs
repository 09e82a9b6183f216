//! `check`: is this machine fit, and is the configuration right? Changes nothing.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use crate::cli::CheckArgs;
use crate::cli::check_report::{Finding, Outcome, Report};
use crate::datapath::object;
use crate::failure::chain;
use crate::identity::authority;
use crate::model::condition;
use crate::model::snapshot::Snapshot;
use crate::model::trust_domain::TrustDomains;
use crate::model::workload::{Place, Workload};
use crate::pods::claims::{self, Claims};
use crate::pods::{place, unprotected};
use crate::settings::defaults;
use crate::source::file::FileSource;
use crate::store::build;
use crate::sys::socket::PeerTimeout;
use crate::sys::{bpffs, caps, cgroup};

/// The trust domain that names are made with when no authority says another.
const NO_TRUST_DOMAIN: &str = "cluster.local";

/// Looks at everything that `args` asks for.
pub fn report(args: &CheckArgs) -> Report {
    let mut report = Report::default();
    let aliases = || args.authority.trust_domain_aliases.iter().cloned();
    let mut domains = match &args.authority.trust_domain {
        Some(named) => TrustDomains::new(named, aliases()),
        None => TrustDomains::guess(NO_TRUST_DOMAIN),
    };
    if !args.offline {
        machine(args, &mut report.machine);
        // Without a node the authority's files are read all the same, under a name of no node.
        let options = args.authority.options(PeerTimeout::from_secs(defaults::PEER_TIMEOUT_SECS));
        match authority::open(&options, args.node.as_deref().unwrap_or("check")) {
            Ok(authority) => {
                let trust_domain = authority.trust_domain();
                domains = TrustDomains::new(trust_domain, aliases());
                let kind = authority.kind();
                let message = format!("{kind}, trust domain {trust_domain}");
                report.machine.push(finding("authority", Outcome::Pass, message));
            }
            Err(error) => {
                let message = format!("{options}: {}", chain(&error));
                report.machine.push(finding("authority", Outcome::Fail, message));
            }
        }
    }
    match FileSource::new(args.config.clone(), domains, true) {
        Ok(mut source) => {
            let update = source.load();
            let mesh = build::build(&Snapshot::default(), &[(update.source, update)].into());
            if let Some(node) = args.node.as_deref().filter(|_| !args.offline) {
                places(&mesh, node, &mut report.machine);
            }
            report.documents = source.n_documents();
            let (dir, n_documents) = (args.config.display(), report.documents);
            report.machine.push(match (n_documents, args.allow_empty) {
                (0, false) => {
                    let message = format!(
                        "{dir} holds no document in a file *.yaml or *.yml; name the folder of the \
                         mesh's documents with --config, or allow none with --allow-empty"
                    );
                    finding("configuration", Outcome::Fail, message)
                }
                (0, true) => finding("configuration", Outcome::Pass, format!("{dir} is empty")),
                (1, _) => finding("configuration", Outcome::Pass, format!("{dir}: 1 document")),
                _ => {
                    let message = format!("{dir}: {n_documents} documents");
                    finding("configuration", Outcome::Pass, message)
                }
            });
            report.workloads = mesh.workloads.len();
            report.services = mesh.services.len();
            report.conditions = mesh.conditions;
        }
        Err(error) => {
            report.is_unread = true;
            report.machine.push(finding("configuration", Outcome::Fail, chain(&error)));
        }
    }
    report
}

fn machine(args: &CheckArgs, findings: &mut Vec<Finding>) {
    let mut ask = |subject, answer: Result<String, String>| {
        findings.push(match answer {
            Ok(message) => finding(subject, Outcome::Pass, message),
            Err(message) => finding(subject, Outcome::Fail, message),
        });
    };
    ask("kernel", kernel());
    ask("privileges", privileges());
    ask("kernel programs", programs());
    ask("cgroup v2", cgroups(args.cgroup.as_deref()));
    let bpffs = args.bpffs.display();
    findings.push(if bpffs::is_mounted(&args.bpffs) {
        finding("BPF filesystem", Outcome::Pass, format!("{bpffs} is mounted"))
    } else {
        let message = format!("{bpffs} is not mounted; `mesh-agent run` will mount it");
        finding("BPF filesystem", Outcome::Warn, message)
    });
}

fn kernel() -> Result<String, String> {
    let (major, minor) = caps::kernel_version().map_err(|error| error.to_string())?;
    let (least_major, least_minor) = caps::OLDEST_KERNEL;
    if (major, minor) >= caps::OLDEST_KERNEL {
        return Ok(format!("Linux {major}.{minor}"));
    }
    Err(format!("Linux {major}.{minor} is too old; {least_major}.{least_minor} or later is needed"))
}

fn privileges() -> Result<String, String> {
    let missing = caps::missing().map_err(|error| error.to_string())?;
    if missing.is_empty() {
        return Ok("all that are needed".to_owned());
    }
    let missing: Vec<_> = missing.iter().map(|(name, why)| format!("{name} {why}")).collect();
    Err(format!("missing: {}; run as root, or grant them", missing.join(", ")))
}

fn programs() -> Result<String, String> {
    object::bytes().map(|bytes| format!("{} bytes", bytes.len())).map_err(|error| chain(&error))
}

fn cgroups(chosen: Option<&Path>) -> Result<String, String> {
    let root = cgroup::root().map_err(|error| error.to_string())?;
    let folder = chosen.unwrap_or(&root);
    cgroup::contains_own(folder, &root).map_err(|error| error.to_string())?;
    Ok(folder.display().to_string())
}

/// Looks for the workloads of `node`.
fn places(mesh: &Snapshot, node: &str, findings: &mut Vec<Finding>) {
    let Ok(root) = cgroup::root() else { return };
    let mut here: Vec<_> = mesh.on_node(node).filter(|it| it.place != Place::Unplaced).collect();
    here.sort_by(|a, b| a.name.cmp(&b.name));
    if here.is_empty() {
        let message = format!("no workload has `spec.node: {node}` and a place");
        findings.push(finding("workloads", Outcome::Warn, message));
    }
    let found: Vec<_> = here.into_iter().map(|it| (it, place::find(&it.place, &root))).collect();
    let spots =
        || found.iter().filter_map(|(it, spot)| Some((it.name.clone(), spot.as_ref().ok()?)));
    let units: HashSet<u64> = spots().filter_map(|(_, spot)| spot.cgroup()).collect();
    let ids = spots().map(|(name, spot)| (name, spot.id())).collect();
    let wanted = found.iter().map(|(workload, _)| (&workload.name, *workload)).collect();
    let conflicts = Claims::default().settle(mesh.revision, &wanted, &ids, |_| None);
    for (workload, spot) in &found {
        let subject = format!("workload {}", workload.name);
        let told = |outcome, told: condition::Finding| {
            let message = format!("{}: {}", told.reason.as_str(), told.message);
            finding(&subject, outcome, message)
        };
        findings.push(match spot {
            Ok(_found) if let Some(holder) = conflicts.get(&workload.name) => {
                told(Outcome::Fail, claims::finding(workload, holder))
            }
            Ok(_found) => match stray(workload, &root, &units) {
                Ok(None) => finding(&subject, Outcome::Pass, "found".to_owned()),
                Ok(Some(found)) => told(Outcome::Fail, found),
                Err(error) => {
                    let message = format!("found; its processes cannot be looked at: {error}");
                    finding(&subject, Outcome::Warn, message)
                }
            },
            Err(error) => match unprotected::by_error(workload, error) {
                Some(found) if found.reason.is_unprotected() => told(Outcome::Fail, found),
                Some(found) => told(Outcome::Warn, found),
                None => finding(&subject, Outcome::Warn, format!("cannot be looked for: {error}")),
            },
        });
    }
}

/// Why a workload that is there is not protected as a whole. `units` are the cgroups of all workloads.
fn stray(
    workload: &Workload,
    root: &Path,
    units: &HashSet<u64>,
) -> io::Result<Option<condition::Finding>> {
    let folder = match &workload.place {
        Place::Cgroup(path) => place::folder(root, path),
        Place::SystemdUnit(unit) => cgroup::of_unit(root, unit)?,
        Place::Netns(_) | Place::Unplaced => return Ok(None),
    };
    let own = cgroup::id(&folder)?;
    unprotected::in_cgroup(workload, &folder, |id| id != own && units.contains(&id))
}

fn finding(subject: &str, outcome: Outcome, message: String) -> Finding {
    Finding { subject: subject.to_owned(), outcome, message }
}

/// Prints the report.
///
/// # Errors
///
/// `out` cannot be written.
pub fn print(report: &Report, json: bool, out: &mut dyn io::Write) -> io::Result<()> {
    if json { writeln!(out, "{}", report.json()) } else { out.write_all(report.text().as_bytes()) }
}
