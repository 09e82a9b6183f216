//! Session persistence (GEP-1619): a client stays with the endpoint that it had first (pure).
//!
//! The client's copy says which endpoint that is and since when, as Envoy's stateful sessions do;
//! nothing is kept here, so that it is the same on every node and after a restart. A client that makes
//! it up chooses among the endpoints of the rule's backends, and no others.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use hyper::header::{COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};

use crate::balance;
use crate::model::http::rules::HttpRule;
use crate::model::http::{Persistence, PersistenceBy};
use crate::model::snapshot::{Backend, Endpoint};
use crate::route::http::cookie;
use crate::route::http::fields::Fields as _;

/// The client's copy of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    endpoint: SocketAddr,
    /// Since 1970.
    began: Duration,
    used: Duration,
}

impl Session {
    /// One that begins at `now`.
    pub fn begin(endpoint: SocketAddr, now: SystemTime) -> Self {
        let now = since_epoch(now);
        Self { endpoint, began: now, used: now }
    }

    /// The session of a request, if it still counts.
    pub fn of(by: &Persistence, headers: &HeaderMap, now: SystemTime) -> Option<Self> {
        let text = match by.by {
            PersistenceBy::Header => Cow::Borrowed(headers.get(&by.name)?.as_bytes()),
            PersistenceBy::Cookie { .. } => {
                let all = headers.joined(&COOKIE)?;
                Cow::Owned(cookie::find(&all, &by.name)?.to_vec())
            }
        };
        let session = Self::read(str::from_utf8(&text).ok()?)?;
        let now = since_epoch(now);
        let is_over = |limit: Option<Duration>, since: Duration| {
            limit.is_some_and(|limit| !limit.is_zero() && now.saturating_sub(since) >= limit)
        };
        let over = is_over(by.absolute, session.began) || is_over(by.idle, session.used);
        (!over).then_some(session)
    }

    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '_');
        let mut time = || u64::from_str_radix(parts.next()?, 16).ok().map(Duration::from_secs);
        let (began, used) = (time()?, time()?);
        // A cookie may hold no brackets' percent signs, but brackets (RFC 6265, section 4.1.1).
        let endpoint = parts.next()?.parse().ok()?;
        Some(Self { endpoint, began, used })
    }

    fn write(&self) -> String {
        format!("{:x}_{:x}_{}", self.began.as_secs(), self.used.as_secs(), self.endpoint)
    }

    /// Its endpoint, and the place of the backend of the rule that has it, if one has. Its weight is
    /// for new clients: others stay even if it is 0 (GEP-1619, Traffic Splitting).
    pub fn endpoint<'a>(&self, rule: &'a HttpRule) -> Option<(usize, &'a Backend, &'a Endpoint)> {
        rule.backends.iter().enumerate().find_map(|(index, backend)| {
            let endpoint = balance::at(backend.endpoints.as_slice(), self.endpoint)?;
            Some((index, backend, endpoint))
        })
    }

    /// Whether it is with this endpoint.
    pub fn is_of(&self, endpoint: SocketAddr) -> bool {
        self.endpoint == endpoint
    }

    /// The same, used at `now`.
    #[must_use]
    pub fn used(self, now: SystemTime) -> Self {
        Self { used: since_epoch(now), ..self }
    }

    /// Tells the client in an answer.
    pub fn tell(&self, by: &Persistence, response: &mut HeaderMap) {
        let value = self.write();
        let (name, value) = match by.by {
            PersistenceBy::Header => (by.name.parse::<HeaderName>().ok(), value),
            PersistenceBy::Cookie { permanent } => {
                let gone = self.used.saturating_sub(self.began);
                let left = by.absolute.filter(|_| permanent).map(|all| all.saturating_sub(gone));
                let age = left.map(|left| format!("; Max-Age={}", left.as_secs()));
                let age = age.unwrap_or_default();
                (Some(SET_COOKIE), format!("{}={value}; Path=/; HttpOnly{age}", by.name))
            }
        };
        // Both were checked when the document was read.
        if let (Some(name), Ok(value)) = (name, HeaderValue::from_str(&value)) {
            response.append(name, value);
        }
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    fn by(by: PersistenceBy) -> Persistence {
        Persistence { name: "x-session".to_owned(), by, absolute: Some(HOUR), idle: Some(HOUR / 4) }
    }

    /// The fields that the client sends after it was told.
    fn back(by: &Persistence, session: &Session) -> HeaderMap {
        let (mut response, mut request) = (HeaderMap::new(), HeaderMap::new());
        session.tell(by, &mut response);
        match by.by {
            PersistenceBy::Header => request = response,
            PersistenceBy::Cookie { .. } => {
                let set = response[SET_COOKIE].to_str().unwrap();
                let pair = set.split(';').next().unwrap();
                request.insert(COOKIE, format!("a=b; {pair}; c=d").parse().unwrap());
            }
        }
        request
    }

    #[test]
    fn a_client_comes_back_until_it_was_away_for_too_long() {
        let start = SystemTime::UNIX_EPOCH + HOUR * 1_000;
        for kind in [PersistenceBy::Header, PersistenceBy::Cookie { permanent: true }] {
            let by = by(kind);
            for endpoint in ["10.0.0.1:80", "[2001:db8::1]:80"] {
                let first = Session::begin(endpoint.parse().unwrap(), start);
                let at = |after| Session::of(&by, &back(&by, &first), start + after);
                assert_eq!(at(HOUR / 5), Some(first));
                assert_eq!(at(HOUR / 4), None);
                let later = first.used(start + HOUR / 10 * 9);
                let at = |after| Session::of(&by, &back(&by, &later), start + after);
                assert_eq!(at(HOUR / 20 * 19), Some(later));
                assert_eq!(at(HOUR), None);
            }
        }
    }

    proptest! {
        #[test]
        fn what_a_client_makes_up_is_none_or_reads_as_it_is_written(text in "[0-9a-f_.:\\[\\]]{0,40}") {
            if let Some(session) = Session::read(&text) {
                prop_assert_eq!(Session::read(&session.write()), Some(session));
            }
        }
    }
}
