//! Protocols that a connection of HTTP/1.1 may switch to, where its requests are judged or routed.

use std::sync::Arc;

/// The protocols, as `spec.upgrades` of a `MeshPolicy` lists them; [`DEFAULT`] where none does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Upgrades(Option<Arc<[Box<str>]>>);

/// The one protocol that is allowed by default, as in Istio (RFC 6455).
pub const DEFAULT: &str = "websocket";

/// Protocols that carry requests of their own, past every policy and route: HTTP/2 (RFC 7540,
/// section 3.2) and TLS (RFC 2817). They cannot be allowed.
const OF_REQUESTS: [&str; 4] = ["h2", "h2c", "http", "tls"];

/// The reason why a word cannot be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It is no name of a protocol.
    #[error(
        "is not a protocol as RFC 9110, section 7.8, writes it: `<name>` or `<name>/<version>`"
    )]
    Syntax,
    /// It is one of [`OF_REQUESTS`].
    #[error(
        "carries requests that no policy and no route would see; to speak HTTP/2, set `appProtocol: \
         kubernetes.io/h2c` on the port of the Service"
    )]
    Requests,
}

impl Upgrades {
    /// These protocols and no other.
    pub fn only<W: AsRef<str>>(words: &[W]) -> Self {
        Self(Some(words.iter().map(|word| word.as_ref().into()).collect()))
    }

    /// Whether `protocol` is allowed, in any case (RFC 9110, section 7.8).
    pub fn has(&self, protocol: &str) -> bool {
        match &self.0 {
            None => protocol.eq_ignore_ascii_case(DEFAULT),
            Some(words) => words.iter().any(|word| protocol.eq_ignore_ascii_case(word)),
        }
    }
}

/// Checks a word of `spec.upgrades`.
///
/// # Errors
///
/// It is no protocol, or one that must not be allowed.
pub fn check(word: &str) -> Result<(), Wrong> {
    let (name, version) = word.split_once('/').unwrap_or((word, "-"));
    if !is_token(name) || !is_token(version) {
        return Err(Wrong::Syntax);
    }
    if OF_REQUESTS.iter().any(|other| name.eq_ignore_ascii_case(other)) {
        return Err(Wrong::Requests);
    }
    Ok(())
}

/// RFC 9110, section 5.6.2.
fn is_token(text: &str) -> bool {
    let is_char = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_char)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn websocket_alone_is_the_default() {
        let default = Upgrades::default();
        assert!(default.has("websocket") && default.has("WebSocket"));
        assert!(!default.has("h2c") && !default.has("websocket/13") && !default.has(""));
        let own = Upgrades::only(&["Foo/1", "bar"]);
        assert!(own.has("foo/1") && own.has("BAR"));
        assert!(!own.has("foo") && !own.has("websocket"));
        assert!(!Upgrades::only::<&str>(&[]).has("websocket"));
    }

    #[test]
    fn words_are_protocols_that_carry_no_requests() {
        for good in ["websocket", "connect-udp", "SPDY/3.1", "qotd"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "a b", "a,b", "/1", "a/", "a/1/2", "é"] {
            assert_eq!(check(bad), Err(Wrong::Syntax), "{bad}");
        }
        for bad in ["h2c", "H2C", "HTTP/2.0", "http", "TLS/1.0", "h2"] {
            assert_eq!(check(bad), Err(Wrong::Requests), "{bad}");
        }
    }
}
