//! Runs a program's server and its cases in their pods.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mesh_tests::cgroup;
use mesh_tests::expect::eventually;
use mesh_tests::pod::Pod;
use mesh_tests::process::{Killed, inside};
use tempfile::TempDir;

use crate::outcome::{Outcome, files};
use crate::programs::{Program, REFUSED};
use crate::way::World;

/// How long a server may take until it listens.
const START_DEADLINE: Duration = Duration::from_mins(1);

/// How long a case may take. The longest takes some seconds on an idle machine.
const CASE_DEADLINE: Duration = Duration::from_secs(30);

/// The state of a listening socket in `/proc/net/tcp` (`TCP_LISTEN`, `include/net/tcp_states.h`).
const LISTEN: &str = "0A";

/// Where everything is that programs read and write.
#[derive(Debug)]
pub(crate) struct Folders {
    scripts: PathBuf,
    venv: PathBuf,
    root: TempDir,
}

/// The place of a program on one path.
#[derive(Debug)]
struct Place<'a> {
    program: &'a Program,
    host: Ipv4Addr,
    client: Ipv4Addr,
    /// Its pod's address, where `host` may be a service's.
    pod: Ipv4Addr,
    /// The server's folder.
    server: PathBuf,
    /// The output of the server.
    log: PathBuf,
    /// How cases ask for something, and what they write that is not compared.
    control: PathBuf,
}

impl Folders {
    /// Makes them, in a folder that goes away with this.
    ///
    /// # Errors
    ///
    /// The file system refuses, or there are no scripts.
    pub(crate) fn new(scripts: &Path, venv: &Path) -> Result<Self> {
        let scripts = scripts.canonicalize().context("there are no scripts of programs")?;
        let root = tempfile::Builder::new().prefix("mesh-programs-").tempdir()?;
        // Servers may run as other users.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self { scripts, venv: venv.to_owned(), root })
    }

    /// Makes what is made once of a program.
    ///
    /// # Errors
    ///
    /// The script fails.
    pub(crate) fn prepare(&self, program: &Program) -> Result<()> {
        let cache = self.cache(program);
        fs::create_dir_all(&cache)?;
        let nowhere = Ipv4Addr::UNSPECIFIED;
        let place = Place {
            program,
            host: nowhere,
            client: nowhere,
            pod: nowhere,
            server: cache.clone(),
            log: cache.join("log"),
            control: cache.clone(),
        };
        let mut command = Command::new("bash");
        self.script(&mut command, &place, "prepare").current_dir(&cache).stdin(Stdio::null());
        let output = command.output().context("starting bash")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "preparing {}: {}", program.name, said.trim());
        Ok(())
    }

    /// Runs all cases of a program.
    ///
    /// # Errors
    ///
    /// The server does not start: its words are in the error.
    pub(crate) fn run(
        &self,
        world: &World,
        program: &Program,
    ) -> Result<Vec<(&'static str, Outcome)>> {
        let folder = self.root.path().join(world.way.name()).join(program.name);
        let place = Place {
            program,
            host: world.host,
            client: world.client.v4(),
            pod: world.server.v4(),
            server: folder.join("server"),
            log: folder.join("log"),
            control: folder.join("control"),
        };
        for path in [&place.server, &place.control] {
            fs::create_dir_all(path)?;
        }
        File::create(&place.log)?;
        let mut server = None;
        let mut outcomes = Vec::new();
        for case in program.cases {
            if server.is_none() && *case != REFUSED {
                server = Some(self.start(world, &place)?);
            }
            let started = Instant::now();
            let outcome = self.case(world, &place, case)?;
            eprintln!("    {case}: {} ms, {}", started.elapsed().as_millis(), outcome.status);
            outcomes.push((*case, outcome));
            if place.control.join("killed").exists() {
                server = None;
            }
        }
        cgroup::kill(world.server.cgroup())?;
        fs::remove_dir_all(&folder).context("removing what a program has written")?;
        Ok(outcomes)
    }

    /// Starts the server of a program, and waits until it is ready.
    fn start(&self, world: &World, place: &Place<'_>) -> Result<Killed> {
        let log = File::create(&place.log)?;
        let mut command = self.inside(&world.server, place, "serve")?;
        command.current_dir(&place.server).stdout(log.try_clone()?).stderr(log);
        let mut server = Killed(command.spawn().context("starting a server")?);
        let ports = place.program.ports;
        let ready = eventually("a server to listen", START_DEADLINE, || {
            if !matches!(server.0.try_wait(), Ok(None)) {
                return Some(false);
            }
            let listening = world.server.netns().run(listening).ok()?;
            ports.iter().all(|(port, _)| listening.contains(port)).then_some(true)
        });
        if !ready.is_ok_and(|ready| ready) {
            let said = fs::read_to_string(&place.log).unwrap_or_default();
            bail!("the server of {} is not ready: {said}", place.program.name);
        }
        let mut command = Command::new("bash");
        self.script(&mut command, place, "ready").current_dir(&place.server).stdin(Stdio::null());
        let mut child = Killed(command.spawn().context("starting bash")?);
        child.wait(START_DEADLINE).context("waiting for a server")?;
        Ok(server)
    }

    /// Runs a case to its end, and kills the server when it says so.
    fn case(&self, world: &World, place: &Place<'_>, case: &str) -> Result<Outcome> {
        let folder = place.control.with_file_name(format!("case-{case}"));
        fs::create_dir_all(&folder)?;
        let said = ["stdout", "stderr"].map(|name| place.control.join(format!("{case}.{name}")));
        let mut command = self.inside(&world.client, place, case)?;
        command.current_dir(&folder);
        command.stdout(File::create(&said[0])?).stderr(File::create(&said[1])?);
        let mut child = Killed(command.spawn().context("starting a client")?);
        let (asked, done) = (place.control.join("kill"), place.control.join("killed"));
        let ended = eventually("a case to end", CASE_DEADLINE, || {
            if asked.exists() && !done.exists() {
                // An error shows: the case waits for the file until its deadline.
                drop(cgroup::kill(world.server.cgroup()).and_then(|()| Ok(File::create(&done)?)));
            }
            child.0.try_wait().transpose()
        });
        cgroup::kill(world.client.cgroup())?;
        let is_late = ended.is_err();
        let status = match ended {
            Ok(status) => status?.to_string(),
            Err(_late) => format!("still running after {} s", CASE_DEADLINE.as_secs()),
        };
        let [stdout, stderr] = said.map(|path| self.normal(place, &folder, &path));
        Ok(Outcome { status, is_late, stdout: stdout?, stderr: stderr?, files: files(&folder)? })
    }

    /// The output of a case, without what differs by nature.
    fn normal(&self, place: &Place<'_>, folder: &Path, said: &Path) -> Result<String> {
        let text = String::from_utf8_lossy(&fs::read(said)?).into_owned();
        let paths = [(folder, "DIR"), (&place.server, "SERVER_DIR"), (&place.control, "CONTROL")];
        let text = paths
            .iter()
            .fold(text, |text, (path, name)| text.replace(&path.display().to_string(), name));
        let cache = self.cache(place.program).display().to_string();
        let text = text.replace(&cache, "CACHE").replace(&place.client.to_string(), "CLIENT");
        let text = text.replace(&place.host.to_string(), "SERVER");
        fs::write(said, text.replace(&place.pod.to_string(), "SERVER"))?;
        let mut command = Command::new("bash");
        self.script(&mut command, place, "normalize").current_dir(folder);
        let output = command.stdin(File::open(said)?).output().context("starting bash")?;
        ensure!(output.status.success(), "normalizing what {} says", place.program.name);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A function of a program's script, as a process of a pod.
    fn inside(&self, pod: &Pod, place: &Place<'_>, function: &str) -> Result<Command> {
        let mut command = inside(pod.netns(), pod.cgroup())?;
        command.args(["exec", "--", "bash"]).stdin(Stdio::null());
        self.script(&mut command, place, function);
        Ok(command)
    }

    /// Adds a function of a program's script to a command that runs bash.
    fn script<'c>(
        &self,
        command: &'c mut Command,
        place: &Place<'_>,
        function: &str,
    ) -> &'c mut Command {
        command.arg(self.scripts.join("lib.sh")).args([place.program.name, function]);
        command.env("HOST", place.host.to_string()).env("CLIENT", place.client.to_string());
        command.env("SERVER", &place.server).env("LOG", &place.log).env("VENV", &self.venv);
        command.env("CONTROL", &place.control).env("CACHE", self.cache(place.program))
    }

    fn cache(&self, program: &Program) -> PathBuf {
        self.root.path().join("cache").join(program.name)
    }
}

/// The ports that somebody listens on in the calling thread's network namespace.
fn listening() -> Vec<u16> {
    let tables =
        ["tcp", "tcp6"].map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")));
    let lines = tables.iter().flatten().flat_map(|table| table.lines().skip(1));
    lines.filter_map(listener).collect()
}

/// The port of a line of `/proc/net/tcp`, if it is a listener's.
fn listener(line: &str) -> Option<u16> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let port = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    (state == LISTEN).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listeners_count() {
        let line =
            |state| format!("   0: 00000000:18EB 00000000:0000 {state} 00000000:00000000 00:0");
        assert_eq!(listener(&line("0A")), Some(6379));
        assert_eq!(listener(&line("01")), None);
        assert_eq!(listener("nonsense"), None);
    }
}
