//! Stops single threads of an agent, as a debugger does.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::agent::Agent;
use crate::process::Killed;
use crate::script::PYTHON;

/// Stops one thread (`PTRACE_SEIZE`, `PTRACE_INTERRUPT`) for as long as it runs itself.
const TRACER: &str = "
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long] * 4
tid = int(sys.argv[1])
for request in 0x4206, 0x4207:
    if libc.ptrace(request, tid, 0, 0) != 0: sys.exit(os.strerror(ctypes.get_errno()))
os.waitpid(tid, 0x40000000)
print('stopped', flush=True)
while True: time.sleep(60)
";

/// Stops the thread that the kernel calls `name`, until the result is dropped.
///
/// # Errors
///
/// There is none, or it cannot be traced.
pub fn stop_thread(agent: &Agent, name: &str) -> Result<Killed> {
    let tasks = fs::read_dir(format!("/proc/{}/task", agent.pid()))?;
    let is_named = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    let tid = tasks.filter_map(Result::ok).find(is_named).context("there is no such thread")?;
    let mut command = Command::new(PYTHON);
    command.args(["-c", TRACER]).arg(tid.file_name());
    let mut tracer = Killed(command.stdout(Stdio::piped()).spawn().context("cannot trace")?);
    let mut line = String::new();
    BufReader::new(tracer.0.stdout.take().context("a piped output is there")?)
        .read_line(&mut line)?;
    ensure!(line == "stopped\n", "the tracer said {line:?}");
    Ok(tracer)
}
