//! Runs real programs on every path through the mesh, after installing them.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::run::{self, Build};
use crate::{Programs, Workspace, process, setup};

/// Versions of what `PyPI` has.
const PYTHON_PACKAGES: [&str; 4] =
    ["websockets==17.4", "grpcio==1.85.3", "pyftpdlib==2.2.0", "aiosmtpd==1.4.6"];

/// Changes with the list above: it names the folder of what was installed.
const PACKAGES_VERSION: &str = "1";

/// Debian's packages of programs that are quick, each with a file that it has.
const QUICK: [(&str, &str); 8] = [
    ("redis-server", "/usr/bin/redis-server"),
    ("redis-tools", "/usr/bin/redis-cli"),
    ("nginx-light", "/usr/sbin/nginx"),
    ("curl", "/usr/bin/curl"),
    ("dnsmasq-base", "/usr/sbin/dnsmasq"),
    ("bind9-dnsutils", "/usr/bin/dig"),
    ("openssl", "/usr/bin/openssl"),
    ("python3-venv", "/usr/share/doc/python3-venv"),
];

/// The same of the others. Of the databases' servers, those parts that start nothing by themselves.
const SLOW: [(&str, &str); 7] = [
    ("openssh-server", "/usr/sbin/sshd"),
    ("openssh-client", "/usr/bin/ssh"),
    ("rsync", "/usr/bin/rsync"),
    ("postgresql", "/usr/share/doc/postgresql"),
    ("postgresql-client", "/usr/bin/psql"),
    ("mariadb-server-core", "/usr/sbin/mariadbd"),
    ("mariadb-client-core", "/usr/bin/mariadb"),
];

/// Installs the programs, builds, and runs them. The exit code says whether all is as without a mesh,
/// but for what is known.
///
/// # Errors
///
/// Something cannot be installed, built or started, or we are not root.
pub(crate) fn run(workspace: &Workspace, options: &Programs) -> Result<ExitCode> {
    let needed = QUICK.iter().chain(SLOW.iter().filter(|_| !options.quick));
    let missing = needed.filter(|(_, file)| !Path::new(file).exists());
    let mut missing: Vec<_> = missing.map(|(package, _)| *package).collect();
    if !options.quick && process::which("git").is_none() {
        missing.push("git");
    }
    setup::packages(&missing, "real programs that are sent through the mesh")?;
    let python = install_python(workspace)?;
    let mut args = vec!["--venv".to_owned(), python.join("bin").display().to_string()];
    args.extend(options.json.then(|| "--json".to_owned()));
    args.extend(options.quick.then(|| "--quick".to_owned()));
    for (option, values) in [("--only", &options.only), ("--path", &options.path)] {
        args.extend(values.iter().flat_map(|value| [option.to_owned(), value.clone()]));
    }
    run::program(workspace, "mesh-programs", Build::Development, &args)
}

/// Makes a Python environment with [`PYTHON_PACKAGES`], if there is none.
fn install_python(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target_dir.join(format!("tools/programs-python-{PACKAGES_VERSION}"));
    // Written after everything is there.
    let whole = folder.join("whole");
    if whole.exists() {
        return Ok(folder);
    }
    let mut venv = Command::new("/usr/bin/python3");
    process::step("making a Python environment (10 s)", venv.args(["-m", "venv"]).arg(&folder))?;
    let mut install = Command::new(folder.join("bin/pip"));
    install.arg("install").args(PYTHON_PACKAGES);
    process::step("installing servers and clients with pip (20 s)", &mut install)?;
    std::fs::write(whole, "")?;
    Ok(folder)
}
