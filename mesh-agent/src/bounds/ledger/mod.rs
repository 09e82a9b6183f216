//! The decision whether one more socket may come, and the counts that it is made from.
//!
//! A party may hold a multiple of what is still free around it: the dynamic threshold of Choudhury
//! and Hahne ("Dynamic queue length thresholds for shared-memory packet switches", IEEE/ACM
//! Transactions on Networking 6(2), 1998). Alone it comes to two thirds or four fifths; each further
//! one lowers what all of them may come to, so that the greediest are refused first and some is
//! always left for the next. It is applied at each level, within the limit of the one above: to the
//! workloads of the node, the [`Use`]s of a workload, and the clients of a use; to networks of IPv6
//! before the addresses in them.
//!
//! What others take later lowers a limit that is used up already. A part of the sockets is therefore
//! kept for those that hold few: what the shared part refuses them, they get there.

use std::collections::HashMap;
use std::time::Instant;

use crate::bounds::{Client, Counts, Limit, Mention, Options, Pool, Use, Windows};

/// A workload may hold so many times what is free on the node: alone, two thirds of all.
const WORKLOAD: usize = 2;

/// The same of a client, over all workloads.
const ANYWHERE: usize = 2;

/// The same of one use within a workload's limit, and of a client within that of a use: alone, four
/// fifths, so that one client of one workload comes to 2/3 × 4/5 × 4/5 = 43 % of all.
const WITHIN: usize = 4;

/// Who holds a socket, and what for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder<'a> {
    /// The number of the workload's account.
    pub(super) workload: u64,
    /// What for.
    pub(super) used: Use,
    /// On whose behalf; `None`: the workload's own.
    pub(super) client: Option<&'a Client>,
}

/// All sockets of the node that are held.
#[derive(Debug)]
pub(super) struct Ledger {
    options: Options,
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

/// What is held for one use.
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

    fn add(&mut self, workload: u64, used: Use) {
        self.all += 1;
        match self.each.iter_mut().find(|share| share.0 == workload && share.1 == used) {
            Some(share) => share.2 += 1,
            None => self.each.push((workload, used, 1)),
        }
    }

    fn subtract(&mut self, workload: u64, used: Use) {
        self.all = self.all.saturating_sub(1);
        let found = self.each.iter().position(|share| share.0 == workload && share.1 == used);
        let Some(share) = found.and_then(|at| self.each.get_mut(at)) else { return };
        share.2 = share.2.saturating_sub(1);
        if share.2 == 0 {
            self.each.swap_remove(found.unwrap_or_default());
        }
    }
}

impl Ledger {
    /// Nothing is held yet.
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
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

    /// The number of a new account, and what its peers may be promised.
    pub(super) fn open(&mut self) -> (u64, Windows) {
        self.next += 1;
        self.workloads.insert(self.next, Workload::default());
        (self.next, self.options.windows)
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

    /// Takes one more socket, and says from which part.
    pub(super) fn admit(&mut self, holder: Holder<'_>) -> Result<Pool, Limit> {
        let pool = self.judge(holder).inspect_err(|limit| {
            self.refused[holder.used as usize][*limit as usize] += 1;
        })?;
        let workload = self.workloads.entry(holder.workload).or_default();
        workload.all += 1;
        let amount = &mut workload.by_use[holder.used as usize];
        amount.all += 1;
        match pool {
            Pool::Shared => self.shared += 1,
            Pool::Reserved => {
                amount.reserved += 1;
                self.reserved[holder.used as usize] += 1;
            }
        }
        for client in [holder.client, holder.client.and_then(Client::around).as_ref()] {
            let Some(client) = client else { continue };
            // Copied only where it is new.
            if let Some(shares) = self.clients.get_mut(client) {
                shares.add(holder.workload, holder.used);
            } else {
                let shares = self.clients.entry(client.clone()).or_default();
                shares.add(holder.workload, holder.used);
            }
        }
        Ok(pool)
    }

    /// Gives a socket back to the part that it was taken from.
    pub(super) fn release(&mut self, holder: Holder<'_>, pool: Pool) {
        let used = holder.used as usize;
        if let Some(workload) = self.workloads.get_mut(&holder.workload) {
            workload.all = workload.all.saturating_sub(1);
            let amount = &mut workload.by_use[used];
            amount.all = amount.all.saturating_sub(1);
            if pool == Pool::Reserved {
                amount.reserved = amount.reserved.saturating_sub(1);
            }
        }
        match pool {
            Pool::Shared => self.shared = self.shared.saturating_sub(1),
            Pool::Reserved => self.reserved[used] = self.reserved[used].saturating_sub(1),
        }
        for client in [holder.client, holder.client.and_then(Client::around).as_ref()] {
            let Some(client) = client else { continue };
            let Some(shares) = self.clients.get_mut(client) else { continue };
            shares.subtract(holder.workload, holder.used);
            if shares.all == 0 {
                self.clients.remove(client);
            }
        }
    }

    /// What is held, and what was refused.
    pub(super) fn counts(&self) -> Counts {
        let mut held = [0; Use::ALL.len()];
        for workload in self.workloads.values() {
            for (sum, amount) in held.iter_mut().zip(&workload.by_use) {
                *sum += amount.all;
            }
        }
        Counts {
            most: self.options.sockets,
            held,
            refused: self.refused,
            accept_failures: self.accept_failures,
        }
    }

    /// Accepting failed; returns how often since it was mentioned, if it is to be again.
    pub(super) fn accept_failed(&mut self, now: Instant) -> Option<u64> {
        self.accept_failures += 1;
        self.accept_mention.again(now)
    }

    fn judge(&self, holder: Holder<'_>) -> Result<Pool, Limit> {
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
        let (all, amount) =
            workload.map_or_else(Default::default, |it| (it.all, it.by_use[holder.used as usize]));
        let within = Within {
            free: self.options.shared().saturating_sub(self.shared),
            workload: all,
            in_use: amount.all,
            most: self.options.most_of(holder.used),
            clients,
        };
        let Err(limit) = within.judge() else { return Ok(Pool::Shared) };
        // Of those that one host may have many of, the network. A workload's own connections have
        // no other client than itself.
        let holds = clients.iter().flatten().next().map_or(amount.all, |share| share.here);
        let free = self.options.reserved().saturating_sub(self.reserved[holder.used as usize]);
        let may = holds < self.options.few && amount.reserved < reach(amount.reserved, free, 1);
        may.then_some(Pool::Reserved).ok_or(limit)
    }
}

/// What is held around a socket that may come.
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

/// What a client holds.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    /// For all workloads of the node.
    anywhere: usize,
    /// For this use of this one.
    here: usize,
}

impl Within {
    fn judge(self) -> Result<(), Limit> {
        if self.free == 0 {
            return Err(Limit::Node);
        }
        let most = reach(self.workload, self.free, WORKLOAD);
        if self.workload >= most {
            return Err(Limit::Workload);
        }
        let mut most = reach(self.in_use, most - self.workload, WITHIN).min(self.most);
        let mut in_use = self.in_use;
        if in_use >= most {
            return Err(Limit::Use);
        }
        for Share { anywhere, here } in self.clients.into_iter().flatten() {
            most = reach(here, most - in_use, WITHIN);
            if here >= most || anywhere >= reach(anywhere, self.free, ANYWHERE) {
                return Err(Limit::Client);
            }
            in_use = here;
        }
        Ok(())
    }
}

/// How many a party comes to that has `held`, while `free` are left to it and others: until what it
/// has is `share` times what is left.
fn reach(held: usize, free: usize, share: usize) -> usize {
    share * (free + held + 1) / (1 + share)
}

#[cfg(test)]
mod tests;
