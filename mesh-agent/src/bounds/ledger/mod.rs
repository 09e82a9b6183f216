//! The decision whether one more socket may come, or so much more memory, and the counts that it is
//! made from. A ledger is of one or the other.
//!
//! A party may hold a multiple of what is still free around it: the dynamic threshold of Choudhury
//! and Hahne ("Dynamic queue length thresholds for shared-memory packet switches", IEEE/ACM
//! Transactions on Networking 6(2), 1998). Alone it comes to two thirds or four fifths; each further
//! one lowers what all of them may come to, so that the greediest are refused first and some is
//! always left for the next. It is applied at each level, within the limit of the one above: to the
//! workloads of the node, the [`Use`]s of a workload, and the clients of a use; to networks of IPv6
//! before the addresses in them.
//!
//! A limit that is used up already falls when others take more. A part is therefore kept for those
//! that hold few: what the shared part refuses them, they get there.
//!
//! A holder that would like more than the least, as memory, gets a quarter of what is left of the first
//! half of what it may hold: the second half is for the least of those that come later.

use std::collections::HashMap;
use std::time::Instant;

use crate::bounds::{Client, Counts, Limit, Memory, Mention, Pool, Use};

/// A workload may hold so many times what is free on the node: alone, two thirds of all.
const WORKLOAD: usize = 2;

/// The same of a client, over all workloads.
const ANYWHERE: usize = 2;

/// The same of one use within a workload's limit, and of a client within that of a use: alone, four
/// fifths, so that one client of one workload comes to 2/3 × 4/5 × 4/5 = 43 % of all.
const WITHIN: usize = 4;

/// The part of what is over in the first half of a limit that one gets.
const PARTS: usize = 4;

/// How much there may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// In all.
    pub(super) all: usize,
    /// For tunnels of one workload, without those that come from the reserve.
    pub(super) tunnels: usize,
    /// One of so many is kept for those who hold few.
    pub(super) reserved: usize,
    /// The amount below which a client, of a use of a workload, is one of them.
    pub(super) few: usize,
}

impl Most {
    /// The part that everybody has together.
    fn shared(self) -> usize {
        self.all - self.all / self.reserved
    }

    /// The part of those who hold few, of each use.
    fn reserved(self) -> usize {
        self.all / self.reserved / Use::ALL.len()
    }

    fn of(self, used: Use) -> usize {
        match used {
            Use::Tunnel => self.tunnels,
            Use::Handshake | Use::Outbound | Use::Plaintext | Use::Stream => usize::MAX,
        }
    }
}

/// The party that holds a socket, and its use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder<'a> {
    /// The number of the workload's account.
    pub(super) workload: u64,
    /// The use.
    pub(super) used: Use,
    /// On whose behalf; `None`: the workload's own.
    pub(super) client: Option<&'a Client>,
}

/// All that is held on the node.
#[derive(Debug)]
pub(super) struct Ledger {
    most: Most,
    /// Sockets of the shared part, with those that are no connections.
    shared: usize,
    /// Sockets of the part that is kept for small holders, by [`Use`].
    reserved: [usize; Use::ALL.len()],
    workloads: HashMap<u64, Workload>,
    clients: HashMap<Client, Shares>,
    next: u64,
    refused: [[u64; Limit::ALL.len()]; Use::ALL.len()],
    accept_failures: u64,
    accept_mention: Mention,
}

/// The sockets of one workload.
#[derive(Debug, Default)]
struct Workload {
    all: usize,
    by_use: [Amount; Use::ALL.len()],
}

/// Sockets held for one use.
#[derive(Clone, Copy, Debug, Default)]
struct Amount {
    all: usize,
    reserved: usize,
}

/// The sockets of one client.
#[derive(Debug, Default)]
struct Shares {
    all: usize,
    /// By workload and use; never of 0 sockets. A node has few workloads, and a client talks to
    /// fewer.
    each: Vec<(u64, Use, usize)>,
}

impl Shares {
    fn of(&self, workload: u64, used: Use) -> usize {
        let same = |share: &&(u64, Use, usize)| share.0 == workload && share.1 == used;
        self.each.iter().find(same).map_or(0, |share| share.2)
    }

    fn add(&mut self, workload: u64, used: Use, amount: usize) {
        self.all += amount;
        match self.each.iter_mut().find(|share| share.0 == workload && share.1 == used) {
            Some(share) => share.2 += amount,
            None => self.each.push((workload, used, amount)),
        }
    }

    fn subtract(&mut self, workload: u64, used: Use, amount: usize) {
        self.all = self.all.saturating_sub(amount);
        let found = self.each.iter().position(|share| share.0 == workload && share.1 == used);
        let Some(share) = found.and_then(|at| self.each.get_mut(at)) else { return };
        share.2 = share.2.saturating_sub(amount);
        if share.2 == 0 {
            self.each.swap_remove(found.unwrap_or_default());
        }
    }
}

impl Ledger {
    /// Nothing is held yet.
    pub(super) fn new(most: Most) -> Self {
        Self {
            most,
            shared: 0,
            reserved: Default::default(),
            workloads: HashMap::new(),
            clients: HashMap::new(),
            next: 0,
            refused: Default::default(),
            accept_failures: 0,
            accept_mention: Mention::default(),
        }
    }

    /// The number of a new account.
    pub(super) fn open(&mut self) -> u64 {
        self.next += 1;
        self.workloads.insert(self.next, Workload::default());
        self.next
    }

    /// Forgets an account that holds nothing any more.
    pub(super) fn close(&mut self, workload: u64) {
        self.workloads.remove(&workload);
    }

    /// Counts descriptors that are no connections.
    pub(super) fn keep(&mut self, descriptors: usize) {
        self.shared += descriptors;
    }

    /// Counts them no longer.
    pub(super) fn let_go(&mut self, descriptors: usize) {
        self.shared = self.shared.saturating_sub(descriptors);
    }

    /// Takes one more, and says from which part.
    pub(super) fn admit(&mut self, holder: Holder<'_>) -> Result<Pool, Limit> {
        self.offer(holder, 1, 1).map(|(pool, _one)| pool).inspect_err(|limit| {
            self.refused(holder.used, *limit);
        })
    }

    /// Takes as much as there is between `least` and `wanted`, and says from which part, and how much.
    pub(super) fn offer(
        &mut self,
        holder: Holder<'_>,
        least: usize,
        wanted: usize,
    ) -> Result<(Pool, usize), Limit> {
        let (pool, over) = self.judge(holder, least)?;
        let amount = (over / PARTS).min(wanted).max(least);
        let workload = self.workloads.entry(holder.workload).or_default();
        workload.all += amount;
        let in_use = &mut workload.by_use[holder.used as usize];
        in_use.all += amount;
        match pool {
            Pool::Shared => self.shared += amount,
            Pool::Reserved => {
                in_use.reserved += amount;
                self.reserved[holder.used as usize] += amount;
            }
        }
        for client in [holder.client, holder.client.and_then(Client::around).as_ref()] {
            let Some(client) = client else { continue };
            // Copied only where it is new.
            if let Some(shares) = self.clients.get_mut(client) {
                shares.add(holder.workload, holder.used, amount);
            } else {
                let shares = self.clients.entry(client.clone()).or_default();
                shares.add(holder.workload, holder.used, amount);
            }
        }
        Ok((pool, amount))
    }

    /// Counts a refusal.
    pub(super) const fn refused(&mut self, used: Use, limit: Limit) {
        self.refused[used as usize][limit as usize] += 1;
    }

    /// Gives back to the part that it was taken from.
    pub(super) fn release(&mut self, holder: Holder<'_>, pool: Pool, amount: usize) {
        let used = holder.used as usize;
        if let Some(workload) = self.workloads.get_mut(&holder.workload) {
            workload.all = workload.all.saturating_sub(amount);
            let in_use = &mut workload.by_use[used];
            in_use.all = in_use.all.saturating_sub(amount);
            if pool == Pool::Reserved {
                in_use.reserved = in_use.reserved.saturating_sub(amount);
            }
        }
        let part = match pool {
            Pool::Shared => &mut self.shared,
            Pool::Reserved => &mut self.reserved[used],
        };
        *part = part.saturating_sub(amount);
        for client in [holder.client, holder.client.and_then(Client::around).as_ref()] {
            let Some(client) = client else { continue };
            let Some(shares) = self.clients.get_mut(client) else { continue };
            shares.subtract(holder.workload, holder.used, amount);
            if shares.all == 0 {
                self.clients.remove(client);
            }
        }
    }

    /// Counts of what is held and was refused, with those of memory.
    pub(super) fn counts(&self, memory: Memory) -> Counts {
        let ((most, held), refused) = (self.held(), self.refused);
        Counts { most, held, refused, accept_failures: self.accept_failures, memory }
    }

    /// The most that there may be, and what is held.
    pub(super) fn held(&self) -> (usize, [usize; Use::ALL.len()]) {
        let mut held = [0; Use::ALL.len()];
        for workload in self.workloads.values() {
            for (sum, amount) in held.iter_mut().zip(&workload.by_use) {
                *sum += amount.all;
            }
        }
        (self.most.all, held)
    }

    /// Accepting failed; returns how often since it was mentioned, if it is to be again.
    pub(super) fn accept_failed(&mut self, now: Instant) -> Option<u64> {
        self.accept_failures += 1;
        self.accept_mention.again(now)
    }

    /// Whether so much may come, from which part, and how much is over of the first half of the limits.
    fn judge(&self, holder: Holder<'_>, amount: usize) -> Result<(Pool, usize), Limit> {
        let around = holder.client.and_then(Client::around);
        let of = |client: &Client| {
            let shares = self.clients.get(client);
            shares.map_or_else(Share::default, |it| Share {
                anywhere: it.all,
                here: it.of(holder.workload, holder.used),
            })
        };
        let clients = [around.as_ref().map(of), holder.client.map(of)];
        let workload = self.workloads.get(&holder.workload);
        let (all, in_use) =
            workload.map_or_else(Default::default, |it| (it.all, it.by_use[holder.used as usize]));
        let within = Within {
            free: self.most.shared().saturating_sub(self.shared),
            workload: all,
            in_use: in_use.all,
            most: self.most.of(holder.used),
            clients,
        };
        let limit = match within.judge(amount) {
            Ok(over) => return Ok((Pool::Shared, over)),
            Err(limit) => limit,
        };
        // Of those that one host may have many of, the network. A workload's own connections have
        // no other client than itself.
        let holds = clients.iter().flatten().next().map_or(in_use.all, |share| share.here);
        let free = self.most.reserved().saturating_sub(self.reserved[holder.used as usize]);
        let most = reach(in_use.reserved, free, 1);
        let may = holds < self.most.few && in_use.reserved + amount <= most && amount <= free;
        may.then_some((Pool::Reserved, 0)).ok_or(limit)
    }
}

/// Amounts that are held around what may come.
#[derive(Clone, Copy, Debug)]
struct Within {
    /// Free in the shared part.
    free: usize,
    /// Held by the workload.
    workload: usize,
    /// Held by it for the same use.
    in_use: usize,
    /// The most that it may hold for that, whatever is free.
    most: usize,
    /// Held by the client's network, where that counts, and by itself.
    clients: [Option<Share>; 2],
}

/// Sockets held by a client.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    /// For all workloads of the node.
    anywhere: usize,
    /// For this use of this one.
    here: usize,
}

impl Within {
    fn judge(self, amount: usize) -> Result<usize, Limit> {
        if self.free < amount {
            return Err(Limit::Node);
        }
        let most = reach(self.workload, self.free, WORKLOAD);
        let mut over = over(self.workload, amount, most).ok_or(Limit::Workload)?;
        let mut most = reach(self.in_use, most - self.workload, WITHIN).min(self.most);
        let mut narrow = |held, most, limit| {
            over = over.min(self::over(held, amount, most).ok_or(limit)?);
            Ok(())
        };
        narrow(self.in_use, most, Limit::Use)?;
        let mut in_use = self.in_use;
        for Share { anywhere, here } in self.clients.into_iter().flatten() {
            most = reach(here, most - in_use, WITHIN);
            narrow(here, most, Limit::Client)?;
            narrow(anywhere, reach(anywhere, self.free, ANYWHERE), Limit::Client)?;
            in_use = here;
        }
        Ok(over)
    }
}

/// How much is over of the first half of a limit, where `held` and so much more is within all of it.
const fn over(held: usize, amount: usize, most: usize) -> Option<usize> {
    if held.saturating_add(amount) > most { None } else { Some((most / 2).saturating_sub(held)) }
}

/// How many a party comes to that has `held`, while `free` are left to it and others: until what it
/// has is `share` times what is left.
fn reach(held: usize, free: usize, share: usize) -> usize {
    share * (free + held + 1) / (1 + share)
}

#[cfg(test)]
mod tests;
