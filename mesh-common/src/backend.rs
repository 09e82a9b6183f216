//! Which endpoint of a service: weights as an alias table (Walker 1977, Vose 1991).

/// Slots in one entry of `BACKENDS`. Most sets have one entry.
pub const CHUNK: u32 = 16;

/// The same, of an array.
pub const CHUNK_SLOTS: usize = CHUNK as usize;

abi! {
    /// Key of `BACKENDS`.
    pub struct ChunkKey[8] {
        /// The set's number. A number means the same slots for ever: a set that changes has another.
        pub set: u32,
        /// Which [`CHUNK`] slots of it.
        pub chunk: u32,
    }
}

abi! {
    /// Value of `BACKENDS`: slots of a set, and nothing behind its last.
    pub struct Chunk[896] {
        /// In their order.
        pub slots: [Slot; CHUNK_SLOTS],
    }
}

impl ChunkKey {
    /// Where the slot `index` of a set is.
    #[inline(always)]
    pub const fn of(set: u32, index: u32) -> Self {
        Self { set, chunk: index / CHUNK }
    }
}

impl Chunk {
    /// Nothing.
    pub const EMPTY: Self = Self { slots: [Slot::EMPTY; CHUNK_SLOTS] };

    /// The slot `index` of the set, if it is in this part of it.
    #[inline(always)]
    pub fn slot(&self, index: u32) -> Option<&Slot> {
        self.slots.get((index % CHUNK) as usize)
    }
}

abi! {
    /// One slot of a set.
    ///
    /// Slot *i* holds two things that have nothing to do with each other: backend *i* of the table,
    /// and endpoint *i* of the list that the backends' ranges point into. The first slot also holds
    /// what concerns the whole.
    pub struct Slot[56] {
        /// Endpoint: its address.
        pub addr: [u32; 4],
        /// Endpoint: the id of its workload if it is one of this node; 0 if it is not.
        pub workload: u64,
        /// Endpoint: its port, network byte order.
        pub port_be: u16,
        /// Explicit padding; always zero.
        pub pad: u16,
        /// Endpoint: `GUARDED` or nothing.
        pub flags: u32,
        /// Backend: a random number of `0..total` below this is for itself, another for `alias`.
        pub threshold: u32,
        /// Backend: the one that the rest of its column belongs to.
        pub alias: u32,
        /// Backend: its first endpoint.
        pub first: u32,
        /// Backend: how many there are. 0: its share is refused.
        pub count: u32,
        /// Slot 0: the number of backends. 0: every connection is refused.
        pub backends: u32,
        /// Slot 0: the sum of all weights.
        pub total: u32,
    }
}

impl Slot {
    /// Nothing: no endpoint, no backend, no set.
    pub const EMPTY: Self = Self {
        addr: [0; 4],
        workload: 0,
        port_be: 0,
        pad: 0,
        flags: 0,
        threshold: 0,
        alias: 0,
        first: 0,
        count: 0,
        backends: 0,
        total: 0,
    };
}

/// The most backends of one set: 16 is what the Gateway API allows a rule.
pub const MAX_BACKENDS: usize = 1 << 10;
/// The most endpoints of one set; what has more is left to the agent.
pub const MAX_ENDPOINTS: usize = 1 << 16;

/// The result of a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick<'a> {
    /// This endpoint, of the backend with this index.
    Endpoint(&'a Slot, u32),
    /// Nobody serves the share that was picked.
    Nobody,
    /// The set is not there (any more).
    Unknown,
}

/// Picks an endpoint: a backend by its weight, exactly, then one of its endpoints.
///
/// `slot` is the set; `random` is uniform over 32 bits each time it is called.
#[inline(always)]
pub fn pick<'a>(slot: impl Fn(u32) -> Option<&'a Slot>, random: impl Fn() -> u32) -> Pick<'a> {
    let Some(head) = slot(0) else { return Pick::Unknown };
    if head.backends == 0 || head.total == 0 {
        return Pick::Nobody;
    }
    let column = scale(random(), head.backends);
    let Some(own) = slot(column) else { return Pick::Unknown };
    let point = scale(random(), head.total);
    let index = if point < own.threshold { column } else { own.alias };
    let Some(backend) = slot(index) else { return Pick::Unknown };
    if backend.count == 0 {
        return Pick::Nobody;
    }
    match slot(backend.first + scale(random(), backend.count)) {
        Some(endpoint) => Pick::Endpoint(endpoint, index),
        None => Pick::Unknown,
    }
}

/// Maps a random number, uniform over 32 bits, to `0..n`: to within `n` / 2^32 (Lemire 2019).
#[inline(always)]
const fn scale(random: u32, n: u32) -> u32 {
    ((random as u64 * n as u64) >> 32) as u32
}

/// The columns of an alias table: threshold and alias for each weight. The sum must fit 32 bits.
///
/// Exact: column *i* stands for `total` parts of `total × n`; `threshold` of them are its own.
#[cfg(any(test, feature = "user"))]
pub fn columns(weights: &[u32]) -> Option<(u32, Vec<(u32, u32)>)> {
    let count = u64::try_from(weights.len()).ok()?;
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let sum = u32::try_from(total).ok()?;
    // The part that each column still has to give away, in parts of `total × n`; a column takes `total`.
    let mut left: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) * count).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|index| left.get(*index).is_some_and(|parts| *parts < total));
    let mut table = vec![(sum, 0_u32); weights.len()];
    for (index, column) in table.iter_mut().enumerate() {
        column.1 = u32::try_from(index).ok()?;
    }
    while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
        let own = *left.get(poor)?;
        *table.get_mut(poor)? = (u32::try_from(own).ok()?, u32::try_from(rich).ok()?);
        let rest = left.get_mut(rich)?;
        *rest -= total - own;
        if *rest < total {
            large.pop();
            small.push(rich);
        }
    }
    Some((sum, table))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each weight's parts over all columns are its share, exactly.
        #[test]
        fn the_table_has_the_weights(weights in prop::collection::vec(0u32..=1_000_000, 1..40)) {
            let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            let (sum, table) = columns(&weights).unwrap();
            prop_assert_eq!(u64::from(sum), total);
            let mut parts = vec![0_u64; weights.len()];
            for (index, (threshold, alias)) in table.iter().enumerate() {
                parts[index] += u64::from(*threshold);
                parts[usize::try_from(*alias).unwrap()] += total - u64::from(*threshold);
            }
            for (weight, parts) in weights.iter().zip(parts) {
                prop_assert_eq!(parts, u64::from(*weight) * u64::try_from(weights.len()).unwrap());
            }
        }
    }

    /// A set whose backends have these weights and numbers of endpoints; endpoint `n` has port `n`.
    fn set(backends: &[(u32, u32)]) -> Vec<Slot> {
        let weights: Vec<_> = backends.iter().map(|(weight, _)| *weight).collect();
        let (total, table) = columns(&weights).unwrap();
        let count: u32 = backends.iter().map(|(_, count)| *count).sum();
        let length = usize::try_from(count).unwrap().max(backends.len()).max(1);
        let mut slots: Vec<_> = (0..length)
            .map(|index| Slot { port_be: u16::try_from(index).unwrap(), ..Slot::EMPTY })
            .collect();
        let mut first = 0;
        for ((slot, (_, count)), (threshold, alias)) in slots.iter_mut().zip(backends).zip(table) {
            (slot.threshold, slot.alias, slot.first, slot.count) =
                (threshold, alias, first, *count);
            first += count;
        }
        slots[0].backends = u32::try_from(backends.len()).unwrap();
        slots[0].total = total;
        slots
    }

    fn picked(slots: &[Slot], random: [u32; 3]) -> Option<(u16, u32)> {
        let drawn = core::cell::Cell::new(0);
        let draw = || {
            drawn.set(drawn.get() + 1);
            random[drawn.get() - 1]
        };
        match pick(|index| slots.get(usize::try_from(index).unwrap()), draw) {
            Pick::Endpoint(slot, backend) => Some((slot.port_be, backend)),
            Pick::Nobody => None,
            Pick::Unknown => panic!("a set that is whole has every slot"),
        }
    }

    #[test]
    fn nobody_serves_without_weight_or_endpoints() {
        for backends in [&[][..], &[(0, 1)], &[(5, 0)]] {
            assert_eq!(picked(&set(backends), [u32::MAX; 3]), None, "{backends:?}");
        }
    }

    proptest! {
        /// Over all columns and points, each backend is picked as often as its weight says, and
        /// only its own endpoints are.
        #[test]
        fn picks_have_the_weights(
            backends in prop::collection::vec((0u32..=12, 0u32..4), 1..6), third: u32,
        ) {
            let slots = set(&backends);
            let total: u32 = backends.iter().map(|(weight, _)| weight).sum();
            prop_assume!(total > 0);
            let count = u32::try_from(backends.len()).unwrap();
            let middle = |index: u32, of: u32| {
                u32::try_from((u64::from(index) * 2 + 1) * (1 << 31) / u64::from(of)).unwrap()
            };
            let mut hits = vec![0; backends.len()];
            for column in 0..count {
                for point in 0..total {
                    let random = [middle(column, count), middle(point, total), third];
                    if let Some((port, backend)) = picked(&slots, random) {
                        hits[usize::try_from(backend).unwrap()] += 1;
                        let own = &slots[usize::try_from(backend).unwrap()];
                        prop_assert!((own.first..own.first + own.count).contains(&port.into()));
                    }
                }
            }
            for ((weight, endpoints), hits) in backends.iter().zip(hits) {
                prop_assert_eq!(hits, if *endpoints == 0 { 0 } else { weight * count });
            }
        }
    }

    #[test]
    fn a_sum_beyond_32_bits_is_refused() {
        assert_eq!(columns(&[u32::MAX, 1]), None);
    }
}
