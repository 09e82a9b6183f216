//! The heads of the requests of one connection that wait for their answers: how much they take in all.
//!
//! A field of HTTP/2 may come as one byte (RFC 7541, section 6.1), and many requests wait at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::HeaderMap;
use hyper::http::request;

use crate::proxy::http::answer::{Reason, Refusal};
use crate::proxy::http::setup::{Http2, MAX_FIELDS, MAX_HEAD_BYTES};

/// The cost of a field besides its name and value: its place in hyper's map.
const FIELD_BYTES: usize = 104;

/// How many bytes the names and values of fields have.
fn length(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

/// How much memory fields take.
pub fn size(fields: &HeaderMap) -> usize {
    length(fields) + fields.len() * FIELD_BYTES
}

/// The heads of one connection.
#[derive(Debug)]
pub struct Heads {
    used: AtomicUsize,
    most: usize,
}

/// One of them, for as long as it is kept.
#[derive(Debug)]
pub struct Held {
    heads: Arc<Heads>,
    bytes: usize,
}

impl Heads {
    /// Those of a connection that may make the agent keep `most`.
    pub fn of(most: Http2) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), most: most.head_bytes() })
    }

    /// Counts a head. hyper bounds what it keeps of HTTP/1, and not what has come with one read.
    ///
    /// # Errors
    ///
    /// It is too large, or all together are: [`Reason::TooLarge`].
    pub fn hold(self: &Arc<Self>, head: &request::Parts) -> Result<Held, Refusal> {
        let too_large = |details: String| Err(Refusal { reason: Reason::TooLarge, details });
        if head.headers.len() > MAX_FIELDS {
            return too_large(format!("the head has more than {MAX_FIELDS} fields"));
        }
        let path = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
        let bytes = length(&head.headers) + path;
        if bytes > MAX_HEAD_BYTES {
            return too_large(format!("the head is longer than {MAX_HEAD_BYTES} bytes"));
        }
        let bytes = size(&head.headers) + path;
        let used = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let held = Held { heads: Arc::clone(self), bytes };
        if used > self.most {
            return too_large(format!(
                "the heads of the requests that wait on this connection take more than {} bytes",
                self.most
            ));
        }
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.heads.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn head(fields: usize, value: &str) -> request::Parts {
        let request =
            (0..fields).fold(Request::get("/"), |it, n| it.header(format!("x{n}"), value));
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn heads_have_a_bound_alone_and_together() {
        let heads = Arc::new(Heads { used: AtomicUsize::new(0), most: 100_000 });
        assert!(heads.hold(&head(MAX_FIELDS, "")).is_ok());
        assert!(heads.hold(&head(MAX_FIELDS + 1, "")).is_err());
        assert!(heads.hold(&head(1, &"a".repeat(MAX_HEAD_BYTES))).is_err());
        let large = || heads.hold(&head(1, &"a".repeat(40_000)));
        let held = [large().unwrap(), large().unwrap()];
        assert!(large().is_err());
        drop(held);
        assert!(large().is_ok());
        assert_eq!(heads.used.load(Ordering::Relaxed), 0);
    }
}
