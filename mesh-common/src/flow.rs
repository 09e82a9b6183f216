//! How much a TCP connection has carried, by what the kernel counts of it. Pure.

use crate::event::{RESET_BY_CLIENT, RESET_BY_SERVER};

/// TCP's states as the kernel numbers them (`include/net/tcp_states.h`).
pub const ESTABLISHED: u32 = 1;
/// A SYN was sent and is not answered.
pub const SYN_SENT: u32 = 2;
/// A FIN was sent and is not acknowledged.
pub const FIN_WAIT1: u32 = 4;
/// A FIN was sent and acknowledged; the other side's is awaited.
pub const FIN_WAIT2: u32 = 5;
/// The end.
pub const CLOSE: u32 = 7;
/// The other side's FIN is here, ours is not sent.
pub const CLOSE_WAIT: u32 = 8;
/// The other side's FIN is here, ours is sent.
pub const LAST_ACK: u32 = 9;
/// Both FINs have crossed.
pub const CLOSING: u32 = 11;

/// `ECONNREFUSED`.
const REFUSED: u32 = 111;
/// `ETIMEDOUT`.
const TIMED_OUT: u32 = 110;

/// The kernel's count: sequence numbers, of which SYN and FIN take one each.
#[derive(Clone, Copy, Debug)]
pub struct Bytes {
    /// `tcp_sock::bytes_acked`.
    pub acked: u64,
    /// `tcp_sock::bytes_received`.
    pub received: u64,
}

/// The payload that an opening end sent and received, when it goes from the state `old` to
/// [`CLOSE`].
///
/// `at_fin_wait2` is what it had received when it came to [`FIN_WAIT2`]. From there a socket that
/// its application has closed ends at once, without the other side's FIN; one that was only shut
/// down waits for it. If it had more to receive and was closed before the FIN, the count is one
/// too low.
#[inline(always)]
pub const fn payload(old: u32, bytes: Bytes, at_fin_wait2: u64) -> (u64, u64) {
    if old == SYN_SENT {
        return (0, 0);
    }
    let fin_acked = old == FIN_WAIT2 || old == CLOSING;
    let fin_received = old == CLOSE_WAIT
        || old == LAST_ACK
        || old == CLOSING
        || (old == FIN_WAIT2 && bytes.received != at_fin_wait2);
    // The SYN's acknowledgement counts.
    let sent = bytes.acked.saturating_sub(1).saturating_sub(fin_acked as u64);
    (sent, bytes.received.saturating_sub(fin_received as u64))
}

/// Why a connection was not established, as far as the kernel lets a program see: a refusal
/// answers the first SYN, and a silent peer is asked again.
#[inline(always)]
pub const fn errno(retransmitted: u32) -> u32 {
    if retransmitted == 0 { REFUSED } else { TIMED_OUT }
}

/// The side that has reset a connection, as flags of its event, when its opening end goes from the
/// state `old` to [`CLOSE`]. `was_reset`: a reset has come.
///
/// An end in order sends a FIN first. A side that closes a socket with bytes that nobody has read, or with
/// `SO_LINGER` of 0, goes to the end at once (`tcp_close()`).
#[inline(always)]
pub const fn reset(old: u32, was_reset: bool) -> u32 {
    if old == SYN_SENT {
        0
    } else if was_reset {
        RESET_BY_SERVER
    } else if old == ESTABLISHED || old == CLOSE_WAIT {
        RESET_BY_CLIENT
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_without_a_fin_has_reset() {
        for old in [ESTABLISHED, CLOSE_WAIT] {
            assert_eq!(reset(old, false), RESET_BY_CLIENT);
            assert_eq!(reset(old, true), RESET_BY_SERVER);
        }
        for old in [FIN_WAIT1, FIN_WAIT2, CLOSING, LAST_ACK] {
            assert_eq!(reset(old, false), 0);
            assert_eq!(reset(old, true), RESET_BY_SERVER);
        }
        assert_eq!(reset(SYN_SENT, true), 0, "it was refused");
    }

    /// A connection that has sent 10 bytes and received 20, with the SYN and the FINs that count.
    #[track_caller]
    fn check(old: u32, (acked, received, at_fin_wait2): (u64, u64, u64), expect: (u64, u64)) {
        assert_eq!(payload(old, Bytes { acked, received }, at_fin_wait2), expect, "{old}");
    }

    #[test]
    fn syn_and_fin_are_no_payload() {
        check(SYN_SENT, (0, 0, 0), (0, 0));
        // Reset while established: no FIN.
        check(1, (11, 20, 0), (10, 20));
        // The other side has closed first.
        check(LAST_ACK, (11, 21, 0), (10, 20));
        check(CLOSE_WAIT, (11, 21, 0), (10, 20));
        // Ours is acknowledged, the socket was closed: it ends without the other side's FIN.
        check(FIN_WAIT2, (12, 20, 20), (10, 20));
        // Ours is acknowledged, the socket was shut down, and the other side's FIN has come.
        check(FIN_WAIT2, (12, 21, 5), (10, 20));
        check(CLOSING, (12, 21, 0), (10, 20));
        // Ours is not acknowledged.
        check(FIN_WAIT1, (11, 20, 0), (10, 20));
    }

    #[test]
    fn who_is_asked_once_has_refused() {
        assert_eq!((errno(0), errno(1)), (REFUSED, TIMED_OUT));
    }
}
