//! Which of the peers that knock may begin a handshake. Pure: time is an argument.
//!
//! A handshake is the most expensive thing that a stranger can ask for, so that it is asked here
//! first. A rate is a token bucket, kept as the moment at which it will be full again; each
//! handshake moves that moment by its share of a second.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::Limit;

/// How often a refused peer is mentioned in the log, at most.
const MENTION_EVERY: Duration = Duration::from_secs(1);

/// How often the table is looked through for peers that need not be remembered, at most: at the
/// bound every stranger would have it done again otherwise.
const SWEEP_EVERY: Duration = Duration::from_millis(100);

/// How many handshakes may begin.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// In the long run. Not 0.
    pub per_second: u32,
    /// At once, after a rest.
    pub burst: u32,
}

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

/// Whose place a handshake has; give it back with [`Admission::finished`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// One of an address that is counted apart.
    Known(IpAddr),
    /// One of all the others.
    Stranger,
}

/// The handshakes of one namespace's workloads.
#[derive(Debug)]
pub struct Admission {
    options: Options,
    total: Bucket,
    under_way: usize,
    /// At most [`Options::peers`].
    peers: HashMap<IpAddr, Peer>,
    strangers: Peer,
    swept: Option<Instant>,
}

/// When a bucket is full again; `None`: it is.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket(Option<Instant>);

#[derive(Debug, Default)]
struct Peer {
    bucket: Bucket,
    under_way: usize,
    mentioned: Option<Instant>,
    unmentioned: u64,
}

impl Bucket {
    /// What the bucket is after one more; `None`: there is none left.
    fn less_one(self, rate: Rate, now: Instant) -> Option<Self> {
        let each = Duration::from_secs(1) / rate.per_second.max(1);
        let full = self.0.map_or(now, |full| full.max(now)) + each;
        (full - now <= each * rate.burst).then_some(Self(Some(full)))
    }

    fn is_full(self, now: Instant) -> bool {
        self.0.is_none_or(|full| full <= now)
    }
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
            peers: HashMap::new(),
            strangers: Peer::default(),
            swept: None,
        }
    }

    /// Whether `address` may begin a handshake. What one peer is refused for costs the others
    /// nothing.
    ///
    /// # Errors
    ///
    /// It is over one of the limits.
    pub fn admit(&mut self, address: IpAddr, now: Instant) -> Result<Place, Refused> {
        let address = address.to_canonical();
        self.make_room(address, now);
        let (total, options) = (self.total.less_one(self.options.total, now), self.options);
        let is_crowded = self.under_way >= options.under_way;
        let (place, peer) = self.peer(address);
        let bucket = peer.admit(&options, now).map_err(|limit| peer.refuse(limit, now))?;
        if is_crowded {
            return Err(peer.refuse(Limit::TotalUnderWay, now));
        }
        let total = total.ok_or_else(|| peer.refuse(Limit::TotalRate, now))?;
        peer.bucket = bucket;
        peer.under_way += 1;
        self.total = total;
        self.under_way += 1;
        Ok(place)
    }

    /// A handshake is over, whatever came of it.
    pub fn finished(&mut self, place: Place) {
        self.under_way = self.under_way.saturating_sub(1);
        let peer = match place {
            Place::Known(address) => self.peers.get_mut(&address),
            Place::Stranger => Some(&mut self.strangers),
        };
        if let Some(peer) = peer {
            peer.under_way = peer.under_way.saturating_sub(1);
        }
    }

    /// Who has an address: itself, or one of the strangers if the table is full.
    fn peer(&mut self, address: IpAddr) -> (Place, &mut Peer) {
        let is_full = self.peers.len() >= self.options.peers;
        if is_full && !self.peers.contains_key(&address) {
            return (Place::Stranger, &mut self.strangers);
        }
        (Place::Known(address), self.peers.entry(address).or_default())
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

#[cfg(test)]
mod tests;
