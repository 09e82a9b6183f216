//! What the kernel programs log, into the agent's own log.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;

use crate::task::scope::Scope;

/// Prints the programs' log lines until `scope` drains. They are sampled by nothing: for debugging.
///
/// # Errors
///
/// The object has no log.
pub(crate) fn forward(ebpf: &mut Ebpf, scope: &Scope) -> anyhow::Result<()> {
    let logger = EbpfLogger::init_with_logger(ebpf, Lines)?;
    let mut logger = AsyncFd::with_interest(logger, tokio::io::Interest::READABLE)?;
    let ending = scope.clone();
    scope.spawn(async move {
        loop {
            let ready = tokio::select! {
                biased;
                () = ending.draining() => return,
                ready = logger.readable_mut() => ready,
            };
            let Ok(mut ready) = ready else { return };
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}
