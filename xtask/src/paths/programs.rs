//! The programs that serve: their packages, their versions, and how they start.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::{Workspace, process, setup, toolchain};

/// Versions of what `PyPI` has.
const PYTHON_PACKAGES: [&str; 3] = ["flask==3.1.3", "fastapi==0.165.0", "uvicorn==0.54.0"];

/// Versions of what npm has; Express 4 beside Express 5, as both are in use.
const NODE_PACKAGES: [&str; 2] = ["express@5.3.0", "express4@npm:express@4.22.3"];

/// Changes with the two lists above: it names the folder of what was installed.
const PACKAGES_VERSION: &str = "1";

/// Debian's folder of Java libraries.
const JARS: &str = "/usr/share/java";

/// How long a server may take until it listens. Java compiles its source first.
const START_LIMIT: Duration = Duration::from_mins(2);

/// Lines of a server's log that are shown when it does not start.
const MAX_LOG_LINES: usize = 20;

/// A program, and the servers that it is.
#[derive(Debug)]
pub(super) struct Program {
    /// The name for `--without`.
    pub(super) name: &'static str,
    /// One for each of its ports.
    pub(super) servers: &'static [&'static str],
    /// Debian's packages, each with a file that it has.
    packages: &'static [(&'static str, &'static str)],
    start: fn(&Place<'_>, &[u16]) -> Result<Command>,
}

/// All programs. nginx needs Go, which is behind one of its servers.
pub(super) static PROGRAMS: [Program; 8] = [
    Program { name: "go", servers: &["go"], packages: &[("golang-go", "/usr/bin/go")], start: go },
    Program {
        name: "nginx",
        servers: &["nginx", "nginx-unmerged", "nginx-proxy"],
        packages: &[("nginx-light", "/usr/sbin/nginx")],
        start: nginx,
    },
    Program {
        name: "httpd",
        servers: &["httpd", "httpd-slashes"],
        packages: &[("apache2-bin", "/usr/sbin/apache2")],
        start: httpd,
    },
    Program {
        name: "tomcat",
        servers: &["tomcat", "tomcat-lenient"],
        packages: &[
            ("default-jdk-headless", "/usr/bin/javac"),
            ("libtomcat10-embed-java", "/usr/share/java/tomcat10-embed-core.jar"),
        ],
        start: |place, ports| Ok(tomcat(place, ports)),
    },
    Program {
        name: "jetty",
        servers: &["jetty", "spring"],
        packages: &[
            ("default-jdk-headless", "/usr/bin/javac"),
            ("libjetty9-java", "/usr/share/java/jetty9-server.jar"),
            ("libspring-web-servlet-java", "/usr/share/java/spring3-web.servlet.jar"),
        ],
        start: |place, ports| Ok(jetty(place, ports)),
    },
    Program {
        name: "node",
        servers: &["express", "express-4", "node-url"],
        packages: &[],
        start: node,
    },
    Program {
        name: "flask",
        servers: &["flask"],
        packages: &[("python3-venv", "/usr/share/doc/python3-venv")],
        start: |place, ports| Ok(python(place, "flask", ports)),
    },
    Program {
        name: "fastapi",
        servers: &["fastapi"],
        packages: &[("python3-venv", "/usr/share/doc/python3-venv")],
        start: |place, ports| Ok(python(place, "fastapi", ports)),
    },
];

/// Where the sources of servers are, and where a program may write.
struct Place<'a> {
    sources: PathBuf,
    folder: &'a Path,
    /// The port of the server in Go, if that was started.
    go: Option<u16>,
}

/// A program that runs, and ends when this is dropped.
pub(super) struct Running {
    child: Child,
    /// The names and ports of its servers.
    pub(super) servers: Vec<(&'static str, u16)>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended if it cannot be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Installs what the programs need and this machine lacks.
///
/// # Errors
///
/// Something cannot be had: the error names it, and how to go on without.
pub(super) fn install(workspace: &Workspace, programs: &[&Program]) -> Result<()> {
    for program in programs {
        let missing = program.packages.iter().filter(|(_, file)| !Path::new(file).exists());
        let mut missing: Vec<_> = missing.map(|(package, _)| *package).collect();
        if program.name == "node" {
            let tools = [("node", "nodejs"), ("npm", "npm")];
            missing.extend(
                tools.iter().filter(|(tool, _)| process::which(tool).is_none()).map(|it| it.1),
            );
        }
        let installed = setup::packages(&missing, "servers whose reading of paths is observed");
        let installed = installed.and_then(|()| match program.name {
            "node" => install_node(),
            "flask" | "fastapi" => install_python(),
            _ => Ok(()),
        });
        installed.with_context(|| {
            let name = program.name;
            format!("{name} cannot be had; `--without {name}` leaves its servers out")
        })?;
    }
    fs::create_dir_all(folder(workspace)).context("making a folder for the servers")
}

/// The folder of what servers write.
fn folder(workspace: &Workspace) -> PathBuf {
    workspace.target_dir.join("paths")
}

fn node_folder() -> Result<PathBuf> {
    toolchain::tool_dir("paths-node", PACKAGES_VERSION).context("there is no home folder")
}

fn python_folder() -> Result<PathBuf> {
    toolchain::tool_dir("paths-python", PACKAGES_VERSION).context("there is no home folder")
}

fn install_node() -> Result<()> {
    let folder = node_folder()?;
    if folder.join("node_modules/express4").exists() {
        return Ok(());
    }
    fs::create_dir_all(&folder).context("making a folder for Express")?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--prefix"]).arg(&folder).args(NODE_PACKAGES);
    process::step("installing Express with npm (10 s)", &mut npm)
}

fn install_python() -> Result<()> {
    let folder = python_folder()?;
    let pip = folder.join("bin/pip");
    if folder.join("bin/uvicorn").exists() {
        return Ok(());
    }
    let mut venv = Command::new("/usr/bin/python3");
    process::step("making a Python environment (10 s)", venv.args(["-m", "venv"]).arg(&folder))?;
    let mut install = Command::new(pip);
    install.arg("install").args(PYTHON_PACKAGES);
    process::step("installing Flask and FastAPI with pip (20 s)", &mut install)
}

/// Starts a program, and waits until all its servers listen. `others` run already.
///
/// # Errors
///
/// It does not start, or ends at once; the error has its log.
pub(super) fn start(
    workspace: &Workspace,
    program: &'static Program,
    others: &[Running],
) -> Result<Running> {
    let folder = folder(workspace).join(program.name);
    if folder.exists() {
        fs::remove_dir_all(&folder).context("removing what a server has left")?;
    }
    fs::create_dir_all(&folder).context("making a server's folder")?;
    let servers = others.iter().flat_map(|other| &other.servers);
    let go = servers.clone().find(|(name, _)| *name == "go").map(|(_, port)| *port);
    let place = Place { sources: workspace.root.join("tests/paths/servers"), folder: &folder, go };
    let ports = free_ports(program.servers.len())?;
    let log = folder.join("log");
    let out = fs::File::create(&log).context("making a server's log")?;
    let mut command = (program.start)(&place, &ports)?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).current_dir(&folder);
    let child = command.spawn().with_context(|| format!("starting {}", program.name))?;
    let servers = program.servers.iter().copied().zip(ports.iter().copied()).collect();
    let mut running = Running { child, servers };
    let started = process::now();
    while !running.servers.iter().all(|(_, port)| is_listening(*port)) {
        let ended = running.child.try_wait().context("looking at a server")?;
        if ended.is_some() || START_LIMIT < started.elapsed() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let first: Vec<_> = said.lines().take(MAX_LOG_LINES).collect();
            bail!("{} does not listen; {}: {}", program.name, log.display(), first.join("\n"));
        }
        pause();
    }
    Ok(running)
}

#[expect(clippy::disallowed_methods, reason = "a server tells nobody that it listens")]
fn pause() {
    thread::sleep(Duration::from_millis(50));
}

fn is_listening(port: u16) -> bool {
    std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Ports that nobody has. They are held until all are chosen, so that each differs.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held: Vec<_> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()
        .context("finding free ports")?;
    held.iter().map(|one| Ok(one.local_addr()?.port())).collect()
}

/// The versions of a program's servers: of each, or one for all.
///
/// # Errors
///
/// The program does not run.
pub(super) fn version(workspace: &Workspace, program: &'static Program) -> Result<Vec<String>> {
    let sources = workspace.root.join("tests/paths/servers");
    let place = Place { sources, folder: &folder(workspace), go: None };
    let mut command = match program.name {
        "nginx" => Command::new("/usr/sbin/nginx"),
        "httpd" => Command::new("/usr/sbin/apache2"),
        "go" => Command::new("/usr/bin/go"),
        _ => (program.start)(&place, &[])?,
    };
    match program.name {
        "nginx" | "httpd" => drop(command.arg("-v")),
        "go" => drop(command.arg("version")),
        _ => {}
    }
    let output =
        command.output().with_context(|| format!("asking {} its version", program.name))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let words = said.lines().next().unwrap_or_default().split([' ', '/']);
    let is_version =
        |word: &str| word.trim_start_matches("go").starts_with(|it: char| it.is_ascii_digit());
    let versions: Vec<_> = words
        .filter(|word| is_version(word) && word.contains('.'))
        .map(|word| word.trim_start_matches("go").to_owned())
        .collect();
    if versions.is_empty() {
        bail!("{} tells no version: {said}", program.name);
    }
    Ok(versions)
}

fn go(place: &Place<'_>, ports: &[u16]) -> Result<Command> {
    let program = place.folder.join("server");
    let mut build = Command::new("/usr/bin/go");
    build.arg("build").arg("-o").arg(&program).arg(place.sources.join("main.go"));
    build.env("GOCACHE", place.folder.join("cache")).env("GOFLAGS", "-mod=mod");
    process::step("compiling the server in Go (20 s)", build.current_dir(place.folder))?;
    let mut command = Command::new(program);
    command.args(texts(ports));
    Ok(command)
}

fn nginx(place: &Place<'_>, ports: &[u16]) -> Result<Command> {
    // Without Go, nobody is behind it: nothing is reached there.
    let upstream = place.go.unwrap_or(1);
    let file = configure(place, "nginx.conf", &[ports, &[upstream]].concat())?;
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-c").arg(file);
    Ok(command)
}

fn httpd(place: &Place<'_>, ports: &[u16]) -> Result<Command> {
    fs::write(place.folder.join("empty"), "").context("writing a file to serve")?;
    let file = configure(place, "httpd.conf", ports)?;
    let mut command = Command::new("/usr/sbin/apache2");
    command.arg("-X").arg("-f").arg(file);
    Ok(command)
}

/// Fills a configuration in: `DIR`, and `PORT0`, `PORT1` and so on.
fn configure(place: &Place<'_>, name: &str, ports: &[u16]) -> Result<PathBuf> {
    let source = place.sources.join(name);
    let mut text =
        fs::read_to_string(&source).with_context(|| format!("reading {}", source.display()))?;
    text = text.replace("DIR", &place.folder.display().to_string());
    text = text.replace("MODULES", "/usr/lib/apache2/modules");
    for (index, port) in ports.iter().enumerate() {
        text = text.replace(&format!("PORT{index}"), &port.to_string());
    }
    let file = place.folder.join(name);
    fs::write(&file, text).context("writing a server's configuration")?;
    Ok(file)
}

fn tomcat(place: &Place<'_>, ports: &[u16]) -> Command {
    let mut command =
        java(place, &["tomcat10-embed-core", "tomcat10-embed-el"], "Tomcat.java", ports);
    if !ports.is_empty() {
        command.arg(place.folder);
    }
    command
}

fn jetty(place: &Place<'_>, ports: &[u16]) -> Command {
    let jars = [
        "jetty9-http",
        "jetty9-io",
        "jetty9-security",
        "jetty9-server",
        "jetty9-servlet",
        "jetty9-util",
        "servlet-api",
        "commons-logging",
        "spring3-aop",
        "spring3-beans",
        "spring3-context",
        "spring3-core",
        "spring3-expression",
        "spring3-web",
        "spring3-web.servlet",
    ];
    java(place, &jars, "Jetty.java", ports)
}

fn java(place: &Place<'_>, jars: &[&str], source: &str, ports: &[u16]) -> Command {
    let jars: Vec<_> = jars.iter().map(|jar| format!("{JARS}/{jar}.jar")).collect();
    let mut command = Command::new("/usr/bin/java");
    // Spring 4 defines classes by reflection.
    command.args(["--add-opens", "java.base/java.lang=ALL-UNNAMED", "-Xmx256m", "-cp"]);
    command.arg(jars.join(":")).arg(place.sources.join(source)).args(texts(ports));
    command
}

fn node(place: &Place<'_>, ports: &[u16]) -> Result<Command> {
    let mut command = Command::new("node");
    command.arg(place.sources.join("express.js")).args(texts(ports));
    command.env("NODE_PATH", node_folder()?.join("node_modules"));
    Ok(command)
}

fn python(place: &Place<'_>, which: &str, ports: &[u16]) -> Command {
    // There is a home folder: what is started was installed into it.
    let folder = python_folder().unwrap_or_default();
    let mut command = Command::new(folder.join("bin/python"));
    command.arg(place.sources.join("python.py")).arg(which).args(texts(ports));
    command
}

fn texts(ports: &[u16]) -> Vec<String> {
    ports.iter().map(ToString::to_string).collect()
}
