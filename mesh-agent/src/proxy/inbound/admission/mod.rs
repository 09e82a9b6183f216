//! Which of the peers that knock may begin a handshake. Pure: time is an argument.
//!
//! A handshake is the most expensive thing that a stranger can ask for, so that it is asked here
//! first: of each address, of each namespace, and of the node. The limit of the namespaces together is
//! first come, first served; so that those which are flooded leave the others some, each namespace
//! has a few of its own besides, which no other can take.

pub mod budget;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::proxy::inbound::admission::budget::{Bucket, Budget, Most, Over, Rate};
use crate::telemetry::Limit;

/// How often a refused peer is mentioned in the log, at most.
const MENTION_EVERY: Duration = Duration::from_secs(1);

/// How often the table is looked through for peers that need not be remembered, at most: at the
/// bound every stranger would have it done again otherwise.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// How many handshakes may begin, and be under way.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Of all peers together.
    pub total: Rate,
    /// Of one address.
    pub per_peer: Rate,
    /// Handshakes of all peers that are under way.
    pub under_way: usize,
    /// Those of one address.
    pub under_way_per_peer: usize,
    /// Of all peers of one namespace, when the node has none left.
    pub own: Most,
    /// Addresses that are counted apart; the others are counted as one.
    pub peers: usize,
}

/// A handshake that may not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub limit: Limit,
    /// How many of this peer were refused since it was last mentioned, this one among them; `None`:
    /// it was mentioned a moment ago.
    pub mention: Option<u64>,
}

/// A handshake's place; give it back with [`Admission::finished`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The one that has it.
    pub holder: Holder,
    /// The share that it was taken from.
    pub share: Share,
}

/// The holder of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// An address that is counted apart.
    Known(IpAddr),
    /// One of all the others.
    Stranger,
}

/// Which handshakes a place is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Those that all namespaces have together.
    Node,
    /// Those that this namespace has to itself.
    Own,
}

/// The handshakes of one namespace's workloads.
#[derive(Debug)]
pub struct Admission {
    options: Options,
    total: Bucket,
    under_way: usize,
    own: Budget,
    /// At most [`Options::peers`].
    peers: HashMap<IpAddr, Peer>,
    strangers: Peer,
    swept: Option<Instant>,
}

#[derive(Debug, Default)]
struct Peer {
    bucket: Bucket,
    under_way: usize,
    mentioned: Option<Instant>,
    unmentioned: u64,
}

impl Peer {
    fn admit(&self, options: &Options, now: Instant) -> Result<Bucket, Limit> {
        if self.under_way >= options.under_way_per_peer {
            return Err(Limit::PeerUnderWay);
        }
        self.bucket.less_one(options.per_peer, now).ok_or(Limit::PeerRate)
    }

    fn refuse(&mut self, limit: Limit, now: Instant) -> Refused {
        self.unmentioned += 1;
        if !self.may_be_mentioned(now) {
            return Refused { limit, mention: None };
        }
        self.mentioned = Some(now);
        Refused { limit, mention: Some(std::mem::take(&mut self.unmentioned)) }
    }

    fn may_be_mentioned(&self, now: Instant) -> bool {
        self.mentioned.is_none_or(|last| now.saturating_duration_since(last) >= MENTION_EVERY)
    }

    /// Whether forgetting it changes nothing.
    fn is_fresh(&self, now: Instant) -> bool {
        self.under_way == 0 && self.bucket.is_full(now) && self.may_be_mentioned(now)
    }
}

impl Admission {
    /// Nobody has knocked yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            total: Bucket::default(),
            under_way: 0,
            own: Budget::new(options.own),
            peers: HashMap::new(),
            strangers: Peer::default(),
            swept: None,
        }
    }

    /// Whether `address` may begin a handshake, with `node` what all namespaces have together. A limit that
    /// one peer is refused for costs the others nothing.
    ///
    /// # Errors
    ///
    /// It is over one of the limits.
    pub fn admit(
        &mut self,
        address: IpAddr,
        node: &mut Budget,
        now: Instant,
    ) -> Result<Place, Refused> {
        let address = address.to_canonical();
        self.make_room(address, now);
        let (total, options) = (self.total.less_one(self.options.total, now), self.options);
        let is_crowded = self.under_way >= options.under_way;
        let share = share(node, &self.own, now);
        let (holder, peer) = self.peer(address);
        let bucket = peer.admit(&options, now).map_err(|limit| peer.refuse(limit, now))?;
        if is_crowded {
            return Err(peer.refuse(Limit::TotalUnderWay, now));
        }
        let total = total.ok_or_else(|| peer.refuse(Limit::TotalRate, now))?;
        let (share, rest) = share.map_err(|limit| peer.refuse(limit, now))?;
        peer.bucket = bucket;
        peer.under_way += 1;
        self.total = total;
        self.under_way += 1;
        match share {
            Share::Node => node.begin(rest),
            Share::Own => self.own.begin(rest),
        }
        Ok(Place { holder, share })
    }

    /// A handshake is over, whatever came of it.
    pub fn finished(&mut self, place: Place, node: &mut Budget) {
        self.under_way = self.under_way.saturating_sub(1);
        match place.share {
            Share::Node => node.finish(),
            Share::Own => self.own.finish(),
        }
        let peer = match place.holder {
            Holder::Known(address) => self.peers.get_mut(&address),
            Holder::Stranger => Some(&mut self.strangers),
        };
        if let Some(peer) = peer {
            peer.under_way = peer.under_way.saturating_sub(1);
        }
    }

    /// The peer of an address: itself, or one of the strangers if the table is full.
    fn peer(&mut self, address: IpAddr) -> (Holder, &mut Peer) {
        let is_full = self.peers.len() >= self.options.peers;
        if is_full && !self.peers.contains_key(&address) {
            return (Holder::Stranger, &mut self.strangers);
        }
        (Holder::Known(address), self.peers.entry(address).or_default())
    }

    /// Forgets whoever need not be remembered, if `address` has no place otherwise.
    fn make_room(&mut self, address: IpAddr, now: Instant) {
        let recently = |swept| now.saturating_duration_since(swept) < SWEEP_EVERY;
        if self.peers.len() < self.options.peers
            || self.peers.contains_key(&address)
            || self.swept.is_some_and(recently)
        {
            return;
        }
        self.swept = Some(now);
        self.peers.retain(|_, peer| !peer.is_fresh(now));
    }
}

/// The share that one more handshake of a namespace is taken from, and its bucket then: `own` only if
/// the node has none left, so that it is whole when it is needed.
fn share(node: &Budget, own: &Budget, now: Instant) -> Result<(Share, Bucket), Limit> {
    let over = match node.less_one(now) {
        Ok(rest) => return Ok((Share::Node, rest)),
        Err(over) => over,
    };
    match (own.less_one(now), over) {
        (Ok(rest), _) => Ok((Share::Own, rest)),
        (Err(_), Over::Rate) => Err(Limit::NodeRate),
        (Err(_), Over::UnderWay) => Err(Limit::NodeUnderWay),
    }
}

#[cfg(test)]
mod tests;
