//! A systemd that manages a node's agent by the unit file that the project ships.
//!
//! It is the first process of namespaces of its own (processes, mounts, cgroups, names), in the network
//! namespace and the cgroup of a node. Of the host it sees the file systems; what it writes to is its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent;
use crate::expect::eventually;
use crate::node::Node;
use crate::process::{self, DEADLINE, Killed, inside};

/// The unit of the agent.
pub const UNIT: &str = "mesh-agent.service";

/// The manager.
const SYSTEMD: &str = "/lib/systemd/systemd";

/// Targets that the unit, or every unit, names: those of the host would start the host's services.
const TARGETS: [&str; 6] = ["sysinit", "basic", "shutdown", "multi-user", "network", "local-fs"];

/// Makes the mounts of the manager, with its folder and the agent as arguments, and becomes it.
const BOOT: &str = r#"
set -e
folder=$1 agent=$2
mount --make-rprivate /
umount --recursive /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
mount -t proc proc /proc
# /tmp last: the agent may be below it.
for path in /etc /var/log /usr/local/bin /var/tmp /tmp; do
  mount -t tmpfs tmpfs /mnt
  case $path in
    /etc) cp -a /etc/. /mnt; mkdir -p /mnt/mesh/config; cp "$folder/agent.env" /mnt/mesh/ ;;
    /usr/local/bin) touch /mnt/mesh-agent; mount --bind "$agent" /mnt/mesh-agent ;;
  esac
  mount --move /mnt $path
done
mount -t tmpfs tmpfs /mnt
mkdir /mnt/netns /mnt/mesh-lab
mount --rbind /run/netns /mnt/netns
mount --rbind /run/mesh-lab /mnt/mesh-lab
# The table of mounts is below /run.
mount --no-mtab --move /mnt /run
export container=lab SYSTEMD_UNIT_PATH="$folder/units"
exec "$3" --system --unit=multi-user.target --log-target=console --show-status=0
"#;

/// A running manager. Dropping it kills it, with all that it has started.
#[derive(Debug)]
pub struct Systemd {
    child: Killed,
    /// The manager, as the host sees it.
    init: Pid,
    folder: PathBuf,
}

impl Systemd {
    /// Starts a manager on `node` that knows the project's unit, with more lines for its section
    /// `[Service]`, and variables of the agent's environment. The unit is not started. Pods that are made
    /// later are not seen by it.
    ///
    /// # Errors
    ///
    /// There is no systemd, or it does not answer within [`DEADLINE`].
    pub fn start(node: &Node, lines: &str, variables: &[(&str, &str)]) -> Result<Self> {
        ensure!(Path::new(SYSTEMD).exists(), "no {SYSTEMD}: apt-get install systemd");
        let folder = node.lab().state().join(format!("{}.systemd", node.name()));
        write_units(&folder.join("units"), &folder.join("agent.log"), lines)?;
        let all = variables.iter().map(|(name, value)| format!("{name}={value}\n"));
        let own =
            [format!("MESH_NODE={}\n", node.name()), format!("MESH_ADMIN={}\n", agent::admin())];
        fs::write(folder.join("agent.env"), own.into_iter().chain(all).collect::<String>())?;
        let log = fs::File::create(folder.join("systemd.log"))?;
        let mut command = inside(node.netns(), node.cgroup())?;
        command.args(["exec", "--", "unshare", "--mount", "--pid", "--cgroup", "--uts", "--ipc"]);
        command.args(["--fork", "--kill-child", "sh", "-c", BOOT, "boot"]);
        command.arg(&folder).arg(agent::binary()?).arg(SYSTEMD);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = Killed(command.spawn().context("cannot start systemd")?);
        let parent = child.pid();
        let init = eventually("the manager's process", DEADLINE, || only_child(parent))?;
        let manager = Self { child, init, folder };
        let answers = || manager.systemctl(&["is-active", "multi-user.target"]).ok();
        eventually("the manager to answer", DEADLINE, answers).with_context(|| manager.log())?;
        Ok(manager)
    }

    /// Runs `systemctl` beside the manager, and returns what it printed.
    ///
    /// # Errors
    ///
    /// It failed: what it said is in the error.
    pub fn systemctl(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string(), "--mount", "--pid", "--cgroup"]);
        process::run(command.args(["systemctl", "--no-pager"]).args(args))
    }

    /// A property of the unit.
    ///
    /// # Errors
    ///
    /// As [`Self::systemctl`].
    pub fn property(&self, name: &str) -> Result<String> {
        let value = self.systemctl(&["show", "--value", "--property", name, UNIT])?;
        Ok(value.trim().to_owned())
    }

    /// The log of the unit's processes.
    pub fn agents_log(&self) -> String {
        fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default()
    }

    /// The manager's own log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("systemd.log")).unwrap_or_default()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // The kernel ends all processes of its namespace with it. An error says that it has ended.
        let _ended_before = kill(self.init, Signal::SIGKILL);
        drop(self.child.wait(DEADLINE));
    }
}

/// Writes the project's unit with `lines` in its service, and the targets.
fn write_units(units: &Path, log: &Path, lines: &str) -> Result<()> {
    let more = units.join(format!("{UNIT}.d"));
    fs::create_dir_all(&more).context("cannot make the folder of units")?;
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/systemd").join(UNIT);
    fs::copy(&shipped, units.join(UNIT)).with_context(|| shipped.display().to_string())?;
    let log = log.display();
    fs::write(more.join("lab.conf"), format!("[Service]\nStandardError=append:{log}\n{lines}\n"))?;
    for target in TARGETS {
        let text = format!("[Unit]\nDescription={target}\nDefaultDependencies=no\n");
        fs::write(units.join(format!("{target}.target")), text)?;
    }
    Ok(())
}

/// The child of a process, if it has one.
fn only_child(parent: Pid) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
}
