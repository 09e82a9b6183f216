//! Tells a bulk transfer from a long conversation, by the pieces in which its bytes go.

/// From so many bytes on, both ways together, a connection is a bulk transfer. A TLS handshake costs
/// as much as 1 MiB does.
///
/// Only bytes that are sent or read in pieces of at least [`LARGE_BYTES`] count, and smaller pieces
/// count against them: connections that exchange small messages for hours are served best together,
/// as their messages share packets and system calls (a third of the cost of each).
const BULK_BYTES: usize = 1 << 20;

/// The least piece of a bulk transfer.
const LARGE_BYTES: usize = 8 << 10;

/// Bytes that a connection has carried as a bulk transfer does, both ways together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bulk {
    bytes: usize,
}

impl Bulk {
    /// Notes how much was sent or read at once.
    pub const fn carry(&mut self, bytes: usize) {
        self.bytes = match bytes {
            LARGE_BYTES.. => self.bytes.saturating_add(bytes),
            _ => self.bytes.saturating_sub(BULK_BYTES / 16),
        };
    }

    /// Whether it is a bulk transfer.
    pub const fn is_bulk(self) -> bool {
        self.bytes >= BULK_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pieces: &[usize], times: usize, is_bulk: bool) {
        let mut bulk = Bulk::default();
        for piece in std::iter::repeat_n(pieces, times).flatten() {
            bulk.carry(*piece);
        }
        assert_eq!(bulk.is_bulk(), is_bulk);
    }

    #[test]
    fn a_bulk_transfer_is_told_from_a_long_conversation() {
        check(&[64 << 10], 15, false);
        check(&[64 << 10], 16, true);
        check(&[200, 40 << 10], 100_000, false);
        check(&[200, 2_000], 100_000, false);
        check(&[200, 200 << 10], 8, true);
        check(&[200, 2 << 20], 1, true);
    }
}
