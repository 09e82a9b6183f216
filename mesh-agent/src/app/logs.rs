//! Log lines of the kernel programs, into the agent's own log.

use anyhow::Context as _;
use aya::Ebpf;
use aya_log::EbpfLogger;

use crate::sys::readable::Readable;
use crate::task::scope::Scope;

/// Prints the programs' log lines until `scope` drains.
///
/// # Errors
///
/// The object has no log.
pub(crate) fn forward(ebpf: &mut Ebpf, scope: &Scope) -> anyhow::Result<()> {
    let mut logger = EbpfLogger::init(ebpf)?;
    let readable = Readable::new(&logger).context("watching the log's ring buffer")?;
    let ending = scope.clone();
    scope.spawn(async move {
        loop {
            let ready = tokio::select! {
                biased;
                () = ending.draining() => return,
                ready = readable.wait() => ready,
            };
            if ready.is_err() {
                return;
            }
            logger.flush();
        }
    });
    Ok(())
}
