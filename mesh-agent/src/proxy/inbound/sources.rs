//! Local addresses of the agent's connections to applications: all clients of a port come from the agent,
//! and one address has some 28,000 ports only.
//!
//! The address that the kernel chooses comes first: that at which the application is reached. A listener
//! that is bound to a network device answers no other. While all its ports are in use others are taken.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mesh_common::addr::user::to_ip;
use mesh_common::addr::{INSIDE_V6, from_v4_be};
use nix::libc;

/// After how long an address is tried again whose ports were all in use. The kernel looks at each of them to
/// find that out: a few milliseconds.
const REST: Duration = Duration::from_secs(1);

/// Ports of applications that are kept apart.
const SLOTS: usize = 16;

/// Bits of the network of [`Source::Inside`].
pub const INSIDE_BITS: u8 = 64;

/// The network of [`Source::Inside`].
pub fn inside() -> Ipv6Addr {
    let [a, b, c, d] = INSIDE_V6.map(u32::from_be).map(u128::from);
    Ipv6Addr::from_bits(a << 96 | b << 64 | c << 32 | d)
}

/// A kind of local addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The one that the kernel chooses.
    Chosen,
    /// One of `127.64.0.0/10`, or `::1`. Connections from there that wait for their time to be over
    /// (`TIME_WAIT`) make room after a second (`net.ipv4.tcp_tw_reuse`, for loopback addresses).
    Loopback,
    /// An IPv6 address of [`INSIDE_V6`], which is local to the namespace from the first use on.
    Inside,
}

/// Which kinds of addresses have free ports in a namespace, by the applications' ports.
#[derive(Debug, Default)]
pub struct Sources {
    /// Until when not to try those that the kernel chooses, in milliseconds of the running time.
    chosen: [AtomicU64; SLOTS],
    /// The same of loopback addresses.
    loopback: [AtomicU64; SLOTS],
    /// Whether the network of [`Source::Inside`] was made local.
    has_inside: AtomicBool,
}

impl Source {
    /// The address to connect to `to` from. `None`: the kernel chooses it.
    pub fn address(self, to: IpAddr) -> Option<IpAddr> {
        match (self, to) {
            (Self::Chosen, _) => None,
            (Self::Loopback | Self::Inside, IpAddr::V4(_)) => {
                const NET: u32 = 0x7f40_0000;
                const HOSTS: u32 = 0x003f_ffff;
                let bits = NET | rand::random::<u32>() & HOSTS;
                Some(to_ip(from_v4_be(Ipv4Addr::from_bits(bits).to_bits().to_be())))
            }
            (Self::Loopback, IpAddr::V6(_)) => Some(Ipv6Addr::LOCALHOST.into()),
            (Self::Inside, IpAddr::V6(_)) => {
                let [a, b, ..] = INSIDE_V6;
                Some(to_ip([a, b, rand::random(), rand::random()]))
            }
        }
    }

    /// The kind that comes next, if `error` says that no port of this one is free.
    pub fn next(self, to: IpAddr, error: &io::Error) -> Option<Self> {
        if error.raw_os_error() != Some(libc::EADDRNOTAVAIL) {
            return None;
        }
        match self {
            Self::Chosen => Some(Self::Loopback),
            Self::Loopback if to.is_ipv6() => Some(Self::Inside),
            Self::Loopback | Self::Inside => None,
        }
    }
}

impl Sources {
    /// The kind to begin with, at the time `now`.
    pub fn first(&self, to: SocketAddr, now: Duration) -> Source {
        let is_full =
            |until: &[AtomicU64; SLOTS]| until[slot(to)].load(Ordering::Relaxed) > millis(now);
        if !is_full(&self.chosen) {
            Source::Chosen
        } else if to.is_ipv4() || !is_full(&self.loopback) {
            Source::Loopback
        } else {
            Source::Inside
        }
    }

    /// Notes that the network of [`Source::Inside`] is local to the namespace.
    pub fn note_inside(&self) {
        self.has_inside.store(true, Ordering::Relaxed);
    }

    /// Whether it was, since this was last asked.
    pub fn take_inside(&self) -> bool {
        self.has_inside.swap(false, Ordering::Relaxed)
    }

    /// Notes that no port of a kind is free.
    pub fn note_full(&self, kind: Source, to: SocketAddr, now: Duration) {
        let until = match kind {
            Source::Chosen => &self.chosen,
            Source::Loopback => &self.loopback,
            Source::Inside => return,
        };
        until[slot(to)].store(millis(now + REST), Ordering::Relaxed);
    }
}

fn slot(to: SocketAddr) -> usize {
    usize::from(to.port()) % SLOTS
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> io::Error {
        io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)
    }

    #[test]
    fn an_address_whose_ports_are_in_use_is_left_alone_for_a_while() {
        let (sources, secs) = (Sources::default(), Duration::from_secs);
        let [v4, v6] = ["10.0.0.1:80", "[fd00::1]:80"].map(|to| to.parse().unwrap());
        let first = |now| [v4, v6].map(|to| sources.first(to, now));
        assert_eq!(first(secs(9)), [Source::Chosen; 2]);
        sources.note_full(Source::Chosen, v4, secs(9));
        assert_eq!(first(secs(9)), [Source::Loopback; 2]);
        sources.note_full(Source::Loopback, v6, secs(9));
        assert_eq!(first(secs(9)), [Source::Loopback, Source::Inside]);
        let other = "10.0.0.1:81".parse().unwrap();
        assert_eq!(sources.first(other, secs(9)), Source::Chosen);
        assert_eq!(first(secs(10)), [Source::Chosen; 2]);
    }

    #[test]
    fn only_the_want_of_ports_leads_to_others() {
        let [v4, v6]: [IpAddr; 2] = ["10.0.0.1", "fd00::1"].map(|ip| ip.parse().unwrap());
        let chain = |to| {
            let next = |kind: &Source| kind.next(to, &full());
            std::iter::successors(Some(Source::Chosen), next).collect::<Vec<_>>()
        };
        assert_eq!(chain(v4), [Source::Chosen, Source::Loopback]);
        assert_eq!(chain(v6), [Source::Chosen, Source::Loopback, Source::Inside]);
        let refused = io::Error::from_raw_os_error(libc::ECONNREFUSED);
        assert_eq!(Source::Chosen.next(v4, &refused), None);
    }

    #[test]
    fn addresses_are_of_the_family_and_stay_inside() {
        use mesh_common::addr::is_inside;
        use mesh_common::addr::user::from_ip;
        for to in ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap()) {
            for kind in [Source::Loopback, Source::Inside] {
                let from = kind.address(to).unwrap();
                assert_eq!(from.is_ipv4(), to.is_ipv4());
                assert!(is_inside(from_ip(from)), "{from}");
            }
            assert_eq!(Source::Chosen.address(to), None);
        }
    }
}
