//! Which tunnel the next stream goes to, and whether those after it need another. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::io::load::Load;

/// The load of one open tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Another stream fits.
    pub has_room: bool,
    /// Streams that are open.
    pub streams: u32,
    /// Those of them that are bulk transfers, which hold up the others.
    pub bulk: u32,
    /// One of its streams became a bulk transfer a short while ago.
    pub had_bulk: bool,
    /// Its peer owes an answer, and nothing is heard from it.
    pub is_silent: bool,
}

impl Carried {
    /// Load of a tunnel as of `now`, which remembers for `memory` that it had bulk. Its peer is heard.
    pub fn of(load: &Load, has_room: bool, memory: Duration, now: Instant) -> Self {
        let since = load.last_bulk().map(|last| now.saturating_duration_since(last));
        Self {
            has_room,
            streams: load.streams(),
            bulk: load.bulk(),
            had_bulk: since.is_some_and(|since| since < memory),
            is_silent: false,
        }
    }
}

/// The action for the next stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The tunnel that it goes to, by its place. `None`: it has to wait for a new one.
    pub place: Option<usize>,
    /// All tunnels that are not silent carry bulk, and there may be one more; or all are silent.
    pub another: bool,
}

/// Chooses among the `tunnels` that are open, in their order; there may be `most`, beside those that
/// are silent. These take no streams: they may be heard again, and until then are as if they were not
/// there.
///
/// The one with the fewest bulk transfers, and of these the first, so that the others become idle
/// and go away. Where there was bulk a short while ago, more is expected: streams that begin
/// together are spread before it is known what they carry, as they cannot be moved later.
pub fn choose(tunnels: impl Iterator<Item = Carried> + Clone, most: usize) -> Choice {
    let is_any = tunnels.clone().next().is_some();
    let tunnels = tunnels.enumerate().filter(|(_, tunnel)| !tunnel.is_silent);
    let expects_bulk = tunnels.clone().any(|(_, tunnel)| tunnel.had_bulk);
    let with_room = tunnels.clone().filter(|(_, tunnel)| tunnel.has_room);
    let lightest = with_room.min_by_key(|(place, tunnel)| {
        (tunnel.bulk, if expects_bulk { tunnel.streams } else { 0 }, *place)
    });
    let count = tunnels.clone().count();
    let is_crowded = count < most && tunnels.clone().all(|(_, tunnel)| tunnel.bulk > 0);
    Choice {
        place: lightest.map(|(place, _)| place),
        another: is_any && (count == 0 || is_crowded),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const MOST: usize = 3;

    /// A tunnel with so many streams and bulk transfers.
    const fn with(streams: u32, bulk: u32) -> Carried {
        Carried { has_room: true, streams, bulk, had_bulk: false, is_silent: false }
    }

    /// One that has carried bulk lately.
    const fn after(streams: u32, bulk: u32) -> Carried {
        Carried { had_bulk: true, ..with(streams, bulk) }
    }

    const FULL: Carried = Carried { has_room: false, ..with(100, 0) };
    const SILENT: Carried = Carried { is_silent: true, ..with(0, 0) };

    #[track_caller]
    fn check(tunnels: &[Carried], place: Option<usize>, another: bool) {
        assert_eq!(choose(tunnels.iter().copied(), MOST), Choice { place, another });
    }

    #[test]
    fn the_first_is_used_while_nothing_is_bulk() {
        check(&[with(0, 0)], Some(0), false);
        check(&[with(50, 0), with(1, 0), with(0, 0)], Some(0), false);
    }

    #[test]
    fn bulk_is_avoided() {
        check(&[with(1, 1), with(70, 0)], Some(1), false);
        check(&[with(9, 2), with(1, 1), with(1, 1)], Some(1), false);
    }

    #[test]
    fn another_is_wanted_when_all_carry_bulk_and_one_more_may_be() {
        check(&[with(1, 1)], Some(0), true);
        check(&[with(2, 2), with(2, 1)], Some(1), true);
        check(&[with(1, 1), with(1, 1), with(1, 1)], Some(0), false);
        check(&[with(1, 1), with(0, 0)], Some(1), false);
    }

    #[test]
    fn streams_that_begin_together_are_spread_where_bulk_is_expected() {
        check(&[after(0, 0), with(0, 0)], Some(0), false);
        check(&[after(1, 0), with(0, 0)], Some(1), false);
        check(&[after(1, 0), with(1, 0)], Some(0), false);
        check(&[after(0, 1), with(9, 0)], Some(1), false);
    }

    #[test]
    fn bulk_is_remembered_for_as_long_as_it_is_said() {
        let load = Arc::new(Load::default());
        let stream = load.add(1).unwrap();
        stream.carry(2 << 20);
        drop(stream);
        let ended = load.last_bulk().unwrap();
        let had_bulk = |memory, after| Carried::of(&load, true, memory, ended + after).had_bulk;
        assert!(had_bulk(Duration::from_secs(10), Duration::from_secs(9)));
        assert!(!had_bulk(Duration::from_secs(10), Duration::from_secs(10)));
        assert!(!had_bulk(Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn a_silent_one_is_as_if_it_were_not_there() {
        check(&[SILENT], None, true);
        check(&[SILENT, SILENT, SILENT, SILENT], None, true);
        check(&[SILENT, with(5, 0)], Some(1), false);
        check(&[SILENT, with(5, 1), SILENT], Some(1), true);
        check(&[SILENT, with(5, 1), with(4, 1), with(3, 1)], Some(1), false);
        check(&[SILENT, FULL], None, false);
        check(&[after(0, 0), SILENT, with(1, 0), with(0, 0)], Some(0), false);
    }

    #[test]
    fn a_full_one_is_not_used() {
        check(&[], None, false);
        check(&[FULL], None, false);
        check(&[FULL, with(3, 3)], Some(1), false);
    }

    fn carried() -> impl Strategy<Value = Carried> {
        (any::<bool>(), 0_u32..5, 0_u32..5, any::<bool>(), any::<bool>()).prop_map(
            |(has_room, bulk, small, had_bulk, is_silent)| Carried {
                has_room,
                streams: bulk + small,
                bulk,
                had_bulk,
                is_silent,
            },
        )
    }

    proptest! {
        #[test]
        fn none_with_room_has_less_bulk(tunnels in prop::collection::vec(carried(), 0..6)) {
            let choice = choose(tunnels.iter().copied(), MOST);
            let heard = || tunnels.iter().filter(|it| !it.is_silent);
            let least = heard().filter(|it| it.has_room).map(|it| it.bulk).min();
            prop_assert_eq!(choice.place.map(|place| tunnels[place].bulk), least);
            prop_assert!(choice.place.is_none_or(|place| tunnels[place].has_room));
            prop_assert!(!choice.another || heard().count() < MOST);
        }
    }
}
