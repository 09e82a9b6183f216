//! Where the agent is asked: its admin socket, and the addresses of `--admin` and `--metrics`.
//!
//! Any process in the node's namespace may have such an address before the agent. This does not keep the
//! agent from its work: it says so, and tries again until it has the address. A predecessor hands its
//! listeners over, so that an address is never free in between, and shared with nobody (`SO_REUSEPORT`).

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use crate::admin::{self, Listener, Surface, Unpublished};
use crate::model::condition::{Finding, Reason};
use crate::settings::Settings;
use crate::sys::socket::{self, PeerTimeout};
use crate::task::scope::Scope;

/// How long to wait after the first failure to bind an address; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// The longest wait between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// How long a predecessor that has not handed its listener over may take to close it.
const CLOSING: Duration = Duration::from_secs(3);

/// How long answers may take once a successor gives them.
const ANSWERING: Duration = Duration::from_secs(1);

/// The addresses at which this agent is asked. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Ports(Arc<[Port]>);

/// One of them.
#[derive(Debug)]
struct Port {
    /// The setting that names it.
    option: &'static str,
    address: SocketAddr,
    surface: Surface,
    peer_timeout: PeerTimeout,
    /// The listener, for a successor. `None`: another process has the address, or it is handed over.
    held: Mutex<Option<TcpListener>>,
}

impl Ports {
    /// Listens at the addresses of `settings`, except at those that are in use.
    ///
    /// # Errors
    ///
    /// An address cannot be bound for another reason: it is not this machine's, or not allowed.
    pub(super) fn open(settings: &Settings) -> anyhow::Result<Self> {
        let asked = [
            ("--admin", settings.admin(), Surface::All),
            ("--metrics", settings.metrics(), Surface::Probes),
        ];
        let asked = asked.into_iter().filter_map(|(option, address, surface)| {
            address.map(|address| Port::open(option, address, surface, settings.peer_timeout()))
        });
        Ok(Self(asked.collect::<anyhow::Result<_>>()?))
    }

    /// Takes the listeners that a predecessor has handed over, of those addresses that this agent is asked
    /// for; closes others.
    pub(super) fn inherit(&self, descriptors: Vec<OwnedFd>) {
        for descriptor in descriptors {
            if let Err(error) = self.adopt(descriptor) {
                tracing::warn!(%error, "a listener of the agent that ran cannot be used");
            }
        }
    }

    fn adopt(&self, descriptor: OwnedFd) -> io::Result<()> {
        for port in self.0.iter() {
            let mut held = port.held();
            if held.is_none()
                && let Some(listener) =
                    socket::adopt(descriptor.try_clone()?, port.address, port.peer_timeout)?
            {
                *held = Some(listener);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Serves `state` at each address until `scope` drains: at once, or as soon as it is free. `replaces`:
    /// a predecessor may still have it.
    pub(super) fn serve(&self, replaces: bool, state: &admin::State, scope: &Scope) {
        for index in 0..self.0.len() {
            let (ports, state, scope) = (self.clone(), state.clone(), scope.clone());
            let closing = if replaces { CLOSING } else { Duration::ZERO };
            scope.clone().spawn(Box::pin(async move {
                let Some(port) = ports.0.get(index) else { return };
                let listener = tokio::select! {
                    biased;
                    () = scope.draining() => return,
                    listener = port.listener(closing) => listener,
                };
                serve(Listener::Tcp(listener), port.surface, (state, scope)).await;
            }));
        }
    }

    /// The listeners, for a successor.
    pub(super) fn hand_over(&self) -> Vec<TcpListener> {
        self.0.iter().filter_map(|port| port.held().take()).collect()
    }

    /// Ends what [`serve`](Self::serve) has begun in `scope`, and gives up the addresses: a successor answers.
    pub(super) async fn release(&self, scope: &Scope) {
        let _cut = scope.drain(ANSWERING).await;
        // An address that became free after the others were handed over.
        drop(self.hand_over());
    }

    /// Whether there are any addresses.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The addresses, and whether this agent listens there.
    pub(super) fn listening(&self) -> Vec<(SocketAddr, bool)> {
        self.0.iter().map(|port| (port.address, port.held().is_some())).collect()
    }

    /// Conditions of the addresses that other processes have.
    pub(super) fn findings(&self, node: &str) -> Vec<Finding> {
        let taken = self.0.iter().filter(|port| port.held().is_none());
        let finding = |port: &Port| Finding {
            subject: format!("Agent {node}"),
            field: port.option,
            reason: Reason::Conflicted,
            message: format!(
                "another process listens at {}: whoever asks there does not ask the agent. {}",
                port.address,
                port.remedy()
            ),
        };
        taken.map(finding).collect()
    }
}

impl Port {
    fn open(
        option: &'static str,
        address: SocketAddr,
        surface: Surface,
        peer_timeout: PeerTimeout,
    ) -> anyhow::Result<Self> {
        let held = match socket::listen_all(address, peer_timeout) {
            Ok(listener) => Some(listener),
            Err(error) if error.kind() == ErrorKind::AddrInUse => None,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("binding the admin server to {address} ({option})"));
            }
        };
        Ok(Self { option, address, surface, peer_timeout, held: Mutex::new(held) })
    }

    fn held(&self) -> MutexGuard<'_, Option<TcpListener>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The listener, as soon as it can be had. Says so if that is not within `closing`.
    async fn listener(&self, closing: Duration) -> TcpListener {
        let (began, mut pause, mut told) = (Instant::now(), FIRST_PAUSE, false);
        loop {
            match self.bind() {
                Ok(listener) => {
                    if told {
                        tracing::info!(address = %self.address, "the admin server listens");
                    }
                    return listener;
                }
                Err(error) if !told && began.elapsed() >= closing => {
                    told = true;
                    let (address, remedy) = (self.address, self.remedy());
                    tracing::error!(
                        %address,
                        %error,
                        "binding the admin server to {address}: the agent serves without it, and \
                         tries again. {remedy}"
                    );
                }
                Err(_still) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// The listener to serve; a copy stays for a successor.
    fn bind(&self) -> io::Result<TcpListener> {
        let mut held = self.held();
        let listener = match held.take() {
            Some(listener) => listener,
            None => socket::listen_all(self.address, self.peer_timeout)?,
        };
        let copy = listener.try_clone();
        *held = Some(listener);
        copy
    }

    /// How an operator finds the other process, and what to do.
    fn remedy(&self) -> String {
        format!(
            "Find the process by `ss -ltnp 'sport = :{}'` in the node's network namespace, and end it, \
             or choose another {}",
            self.address.port(),
            self.option
        )
    }
}

/// Opens the admin socket; `beside`: a predecessor has one, which is to be replaced.
pub(super) fn admin_socket(
    settings: &Settings,
    beside: bool,
) -> anyhow::Result<(Listener, Option<Unpublished>)> {
    let path = settings.admin_socket();
    let opened = if beside {
        Listener::unix_beside(path).map(|(listener, unpublished)| (listener, Some(unpublished)))
    } else {
        Listener::unix(path).map(|listener| (listener, None))
    };
    opened.with_context(|| {
        format!(
            "opening the admin socket {} (--admin-socket: name a file of at most 107 bytes, in a folder \
             in which the agent may write)",
            path.display()
        )
    })
}

/// Serves at one listener.
pub(super) async fn serve(
    listener: Listener,
    surface: Surface,
    (state, scope): (admin::State, Scope),
) {
    if let Err(error) = admin::serve(listener, surface, state, scope).await {
        tracing::error!(%error, "the admin server ended");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(address: SocketAddr) -> anyhow::Result<Ports> {
        let timeout = PeerTimeout::from_secs(60);
        Ok(Ports([Port::open("--admin", address, Surface::All, timeout)?].into()))
    }

    #[test]
    fn only_an_address_that_is_in_use_is_waited_for() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = other.local_addr().unwrap();
        let ports = port(address).unwrap();
        assert_eq!(ports.listening(), [(address, false)]);
        let found = ports.findings("a");
        assert_eq!(found[0].subject, "Agent a");
        assert!(found[0].message.contains(&format!("listens at {address}")), "{found:?}");
        assert!(ports.0[0].bind().is_err());
        drop(other);
        ports.0[0].bind().unwrap();
        assert_eq!((ports.listening(), ports.findings("a")), (vec![(address, true)], vec![]));
        // Of a range that is for documentation (RFC 5737).
        let error = port("192.0.2.1:15000".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "binding the admin server to 192.0.2.1:15000 (--admin)");
    }

    #[test]
    fn a_listener_that_is_handed_over_is_taken_once_and_by_its_address() {
        let predecessor = port("127.0.0.1:0".parse().unwrap()).unwrap();
        let listeners = predecessor.hand_over();
        assert!(!predecessor.listening()[0].1);
        let address = listeners[0].local_addr().unwrap();
        let successor = port(address).unwrap();
        assert_eq!(successor.listening(), [(address, false)]);
        let stray = TcpListener::bind("127.0.0.1:0").unwrap();
        let stray_address = stray.local_addr().unwrap();
        let copies = || listeners.iter().map(|one| one.try_clone().unwrap().into());
        successor.inherit(std::iter::once(stray.into()).chain(copies()).chain(copies()).collect());
        assert_eq!(successor.listening(), [(address, true)]);
        drop(listeners);
        // Listeners that are not taken are closed.
        drop(TcpListener::bind(stray_address).unwrap());
        assert_eq!(successor.0[0].bind().unwrap().local_addr().unwrap(), address);
    }
}
