//! Ends of connections by their clients: whether a client has reset its connection, which is its own
//! affair, or has failed.
//!
//! Many clients end so in good order: they close a socket with bytes that they have not read (a
//! `close_notify` of TLS, the rest of an answer), or with `SO_LINGER` of 0 so that no port waits.

use std::error::Error as StdError;
use std::io;

use crate::failure::Kind;
use crate::io::relay::Broken;
use crate::native;
use crate::native::frame::code::CANCEL;
use crate::tunnels::Ended;

/// The kind of an end that `error`, of the client's socket or of its agent's stream, has brought.
pub fn kind(error: &(dyn StdError + 'static)) -> Kind {
    if is_reset(error) { Kind::ClientReset } else { Kind::Reset }
}

fn is_reset(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(Ended::Relay(relay)) = error.downcast_ref::<Ended>() {
            next = Some(relay);
            continue;
        }
        if let Some(broken) = error.downcast_ref::<Broken>() {
            return is_cancelled(broken);
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.get_ref() {
                Some(inner) => inner.downcast_ref::<Broken>().is_some_and(is_cancelled),
                None => matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset
                        | io::ErrorKind::ConnectionAborted
                        | io::ErrorKind::BrokenPipe
                ),
            };
        }
        next = error.source();
    }
    false
}

/// Whether a stream has ended because the peer's application has reset its connection, or the peer's
/// agent has given it up; and not because the tunnel failed.
fn is_cancelled(broken: &Broken) -> bool {
    let cause = broken.cause();
    if let Some(error) = cause.downcast_ref::<native::Error>() {
        return matches!(error, native::Error::Reset(CANCEL));
    }
    let h2 = cause.downcast_ref::<h2::Error>();
    h2.is_some_and(|error| error.reason() == Some(h2::Reason::CANCEL) && !error.is_go_away())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::copy::CopyError;
    use crate::io::relay::RelayError;

    fn check(error: impl StdError + 'static, expect: Kind) {
        assert_eq!(kind(&error), expect, "{error:?}");
    }

    fn socket(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    #[test]
    fn a_reset_of_the_socket_is_the_clients_and_its_silence_a_failure() {
        for reset in [nix::libc::ECONNRESET, nix::libc::EPIPE, nix::libc::ECONNABORTED] {
            check(socket(reset), Kind::ClientReset);
            check(CopyError::Client(socket(reset)), Kind::ClientReset);
            check(Ended::Relay(RelayError::Application(socket(reset))), Kind::ClientReset);
        }
        check(CopyError::Client(io::ErrorKind::ConnectionReset.into()), Kind::ClientReset);
        for failed in [nix::libc::ETIMEDOUT, nix::libc::EHOSTUNREACH] {
            check(CopyError::Client(socket(failed)), Kind::Reset);
            check(Ended::Relay(RelayError::Application(socket(failed))), Kind::Reset);
        }
    }

    #[test]
    fn a_stream_that_was_cancelled_is_the_clients_and_a_tunnel_that_was_lost_a_failure() {
        let peer = |error: native::Error| Broken::because(error);
        let cancelled = || peer(native::Error::Reset(1));
        check(Ended::Relay(RelayError::Peer(cancelled())), Kind::ClientReset);
        // As HTTP reads it.
        check(io::Error::new(io::ErrorKind::ConnectionReset, cancelled()), Kind::ClientReset);
        let h2 = |reason: h2::Reason| Broken::because(h2::Error::from(reason));
        check(Ended::Relay(RelayError::Peer(h2(h2::Reason::CANCEL))), Kind::ClientReset);
        check(Ended::Relay(RelayError::Peer(h2(h2::Reason::INTERNAL_ERROR))), Kind::Reset);
        for lost in [
            native::Error::Closed,
            native::Error::Silent,
            native::Error::Reset(503),
            native::Error::Io(socket(nix::libc::ECONNRESET)),
        ] {
            let text = lost.to_string();
            let as_io = io::Error::new(io::ErrorKind::ConnectionReset, peer(lost));
            assert_eq!(kind(&as_io), Kind::Reset, "{text}");
        }
        let lost = native::Error::Io(socket(nix::libc::ECONNRESET));
        check(Ended::Relay(RelayError::Peer(peer(lost))), Kind::Reset);
    }
}
