//! How many sockets the agent holds, and how much memory it has promised: for each client, each
//! workload, and all of them. Pure: an account is asked before a connection is served, or a socket is
//! made.
//!
//! Everything that a party can make the agent hold is a socket, or comes with one: accepted connections,
//! handshakes, tunnels, streams with their connections to applications, and dials that are under
//! way. So there is one count, whose sum is below the process's limit of descriptors. How it is
//! shared is in the ledger.
//!
//! Memory is another count, of what is promised to connections of HTTP/2.

mod bodies;
mod ledger;
mod promise;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::bodies::Total;
pub use self::bodies::{Bodies, KeptBody};
use self::ledger::{Holder, Ledger, Most};
pub use self::promise::{Promise, Wanted};
use crate::model::spiffe::SpiffeId;

/// How often refusals of one use of a workload are mentioned, at most.
const MENTION_EVERY: Duration = Duration::from_secs(1);

/// Of the sockets, one of so many is kept for those who hold few.
const RESERVED: usize = 8;

/// How many sockets there may be.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// In all.
    pub sockets: usize,
    /// Tunnels of peers of one workload, without those that come from the reserve.
    pub tunnels: usize,
    /// A client that holds fewer for a use of a workload may take from the reserve.
    pub few: usize,
    /// Bytes of memory that are promised to connections of HTTP/2 and tunnels of HBONE, in all.
    pub promised: usize,
    /// Bytes of requests that are kept to be sent again, in all.
    pub bodies: usize,
}

/// The use of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A handshake of a peer that is under way.
    Handshake,
    /// A connection of the workload's application, and what it goes to, be it a tunnel.
    Outbound,
    /// A connection that came without an identity, and the one to the application.
    Plaintext,
    /// A connection to the application for a peer with an identity.
    Stream,
    /// A tunnel of a peer.
    Tunnel,
}

/// On whose behalf a socket is held.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// A peer that has proved who it is.
    Identity(SpiffeId),
    /// The address of a peer without identity.
    Address(IpAddr),
    /// The network of such an address, where one host may have all of it.
    Network(Ipv6Addr),
}

/// The bound that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The client's.
    Client,
    /// The node's.
    Node,
    /// The bound of one use of the workload.
    Use,
    /// The workload's.
    Workload,
    /// The bound of memory, whoever's.
    Memory,
}

/// The part that a socket was taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pool {
    Shared,
    Reserved,
}

/// Numbers held and refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// The most that may be held.
    pub most: usize,
    /// Sockets, by [`Use`].
    pub held: [usize; Use::ALL.len()],
    /// Sockets that may not be, by [`Use`] and [`Limit`], since the start.
    pub refused: [[u64; Limit::ALL.len()]; Use::ALL.len()],
    /// How often accepting failed since the start.
    pub accept_failures: u64,
    /// Memory that was promised.
    pub memory: Memory,
}

/// Memory that connections are promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The most that there may be, in bytes.
    pub most_bytes: u64,
    /// Bytes, by [`Use`].
    pub promised_bytes: [u64; Use::ALL.len()],
}

/// The bounds of all workloads of the node together. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Node(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sockets: Mutex<Ledger>,
    /// In units of [`promise::UNIT_BYTES`].
    memory: Mutex<Ledger>,
    bodies: Arc<Total>,
}

/// The account of one workload.
#[derive(Debug)]
pub struct Account {
    node: Node,
    /// Its number among the sockets, and in the memory.
    number: u64,
    memory: u64,
    mentions: Mutex<[Mention; Use::ALL.len()]>,
    bodies: Arc<Bodies>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mention {
    last: Option<Instant>,
    since: u64,
}

/// A socket's place, given back when it is dropped.
#[derive(Debug)]
#[must_use = "dropping it gives the place back"]
pub struct Held {
    account: Arc<Account>,
    used: Use,
    /// In a box: most are a workload's own, and each connection's task has one.
    client: Option<Box<Client>>,
    pool: Pool,
}

/// Descriptors that are no connections, counted until it is dropped.
#[derive(Debug)]
#[must_use = "dropping it counts them no longer"]
pub struct Kept(Node, usize);

impl Node {
    /// Nothing is held yet.
    pub fn new(options: Options) -> Self {
        let Options { sockets, tunnels, few, promised, bodies } = options;
        let all = promised / promise::UNIT_BYTES;
        let memory = Most { all, tunnels: usize::MAX, reserved: promise::RESERVED, few: 1 };
        Self(Arc::new(Shared {
            sockets: Mutex::new(Ledger::new(Most {
                all: sockets,
                tunnels,
                reserved: RESERVED,
                few,
            })),
            memory: Mutex::new(Ledger::new(memory)),
            bodies: Total::new(bodies),
        }))
    }

    /// An account for one more workload.
    pub fn account(&self) -> Arc<Account> {
        Arc::new(Account {
            node: self.clone(),
            number: self.lock().open(),
            memory: self.memory().open(),
            mentions: Mutex::default(),
            bodies: Bodies::of(&self.0.bodies),
        })
    }

    /// Counts descriptors that are no connections, and come first.
    pub fn keep(&self, descriptors: usize) -> Kept {
        self.lock().keep(descriptors);
        Kept(self.clone(), descriptors)
    }

    /// Counts that accepting failed, which the bounds should have prevented. Whether it is mentioned:
    /// how often it did since the last time that was.
    pub fn accept_failed(&self, now: Instant) -> Option<u64> {
        self.lock().accept_failed(now)
    }

    /// Numbers held and refused.
    pub fn counts(&self) -> Counts {
        let (most, units) = self.memory().held();
        let bytes = |units: usize| (units * promise::UNIT_BYTES) as u64;
        let memory = Memory { most_bytes: bytes(most), promised_bytes: units.map(bytes) };
        self.lock().counts(memory)
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // A panic elsewhere leaves the numbers whole: each change is one call.
        self.0.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory(&self) -> MutexGuard<'_, Ledger> {
        self.0.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Takes one more socket; `client` is `None` for what the workload does itself.
    ///
    /// # Errors
    ///
    /// There are too many: the client is given back with the limit.
    pub fn admit(
        self: &Arc<Self>,
        used: Use,
        client: Option<Client>,
    ) -> Result<Held, (Option<Client>, Limit)> {
        let holder = Holder { workload: self.number, used, client: client.as_ref() };
        match self.node.lock().admit(holder) {
            Ok(pool) => {
                let client = client.map(Box::new);
                Ok(Held { account: Arc::clone(self), used, client, pool })
            }
            Err(limit) => Err((client, limit)),
        }
    }

    /// The bytes of its requests that are kept to be sent again.
    pub const fn bodies(&self) -> &Arc<Bodies> {
        &self.bodies
    }

    /// Whether a refusal is mentioned: how many there were since the last that was, this one among
    /// them.
    pub fn mention(&self, used: Use, now: Instant) -> Option<u64> {
        let mut mentions = self.mentions.lock().unwrap_or_else(PoisonError::into_inner);
        mentions[used as usize].again(now)
    }
}

impl Mention {
    /// One more. How many there were since the last one that was mentioned, if this one is.
    fn again(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        let recently = |last| now.saturating_duration_since(last) < MENTION_EVERY;
        if self.last.is_some_and(recently) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.node.lock().close(self.number);
        self.node.memory().close(self.memory);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let client = self.client.as_deref();
        let holder = Holder { workload: self.account.number, used: self.used, client };
        self.account.node.lock().release(holder, self.pool, 1);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.lock().let_go(self.1);
    }
}

impl Client {
    /// A peer without identity.
    pub const fn at(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }

    /// The client that it is a part of: of an address of IPv6 its /64, all of which one host may have (RFC
    /// 4291, section 2.5.1), or the pods of one node.
    pub fn around(&self) -> Option<Self> {
        let Self::Address(IpAddr::V6(address)) = self else { return None };
        let [a, b, c, d, ..] = address.segments();
        Some(Self::Network(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)))
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(id) => id.fmt(f),
            Self::Address(address) => address.fmt(f),
            Self::Network(network) => write!(f, "{network}/64"),
        }
    }
}

impl Use {
    /// All of them.
    pub const ALL: &[Self] =
        &[Self::Handshake, Self::Outbound, Self::Plaintext, Self::Stream, Self::Tunnel];

    /// The word used in the metrics and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Outbound => "outbound",
            Self::Plaintext => "plaintext",
            Self::Stream => "stream",
            Self::Tunnel => "tunnel",
        }
    }
}

impl Limit {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Client, Self::Node, Self::Use, Self::Workload, Self::Memory];

    /// The word used in the metrics and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Node => "node",
            Self::Use => "use",
            Self::Workload => "workload",
            Self::Memory => "memory",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "the client has as many sockets of this agent as it may",
            Self::Node => "this agent has as many sockets as it may (--max-sockets)",
            Self::Use => "the workload has as many sockets of this agent for this use as it may",
            Self::Workload => "the workload has as many sockets of this agent as it may",
            Self::Memory => "there is no memory left for more connections like it (--max-memory)",
        })
    }
}

impl std::error::Error for Limit {}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(sockets: usize) -> Options {
        Options { sockets, tunnels: 10, few: 2, promised: 1 << 30, bodies: 0 }
    }

    #[test]
    fn addresses_of_ipv6_are_parts_of_networks() {
        let around = |address: &str| Client::at(address.parse().unwrap()).around();
        assert_eq!(around("2001:db8::1"), Some(Client::Network("2001:db8::".parse().unwrap())));
        assert_eq!(around("2001:db8::1"), around("2001:db8::ffff:0:0:1"));
        assert_ne!(around("2001:db8::1"), around("2001:db8:0:1::1"));
        assert_eq!(around("::ffff:10.0.0.1"), None);
        assert_eq!(around("10.0.0.1"), None);
    }

    #[test]
    fn refusals_are_mentioned_once_a_second() {
        let account = Node::new(options(0)).account();
        let start = tokio::time::Instant::now().into_std();
        let mention = |used, ms| account.mention(used, start + Duration::from_millis(ms));
        assert_eq!(mention(Use::Stream, 0), Some(1));
        assert_eq!(mention(Use::Stream, 999), None);
        assert_eq!(mention(Use::Tunnel, 999), Some(1), "another use");
        assert_eq!(mention(Use::Stream, 1000), Some(2));
    }

    #[test]
    fn a_place_is_given_back_when_it_is_dropped() {
        let node = Node::new(options(800));
        let account = node.account();
        let kept = node.keep(100);
        let own = account.admit(Use::Outbound, None).unwrap();
        let client = Client::at([10, 0, 0, 1].into());
        let theirs = account.admit(Use::Plaintext, Some(client)).unwrap();
        assert_eq!(node.counts().held, [0, 1, 1, 0, 0]);
        drop((own, theirs, kept));
        assert_eq!(node.counts().held, [0; 5]);
    }
}
