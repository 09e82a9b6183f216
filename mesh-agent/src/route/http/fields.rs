//! The header fields of a request, as far as routes ask for them.

use std::borrow::Cow;
use std::fmt::Debug;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Header fields, whichever way they are kept.
pub trait Fields: Debug {
    /// How many names there are, or fields: what looking at each of them costs.
    fn count(&self) -> usize;

    /// Shows each name, some perhaps more than once.
    fn each_name(&self, see: &mut dyn FnMut(&HeaderName));

    /// The values of a field as one (RFC 9110, section 5.3; RFC 6265, section 5.4 for cookies);
    /// `None` if there is no such field.
    fn joined(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>>;
}

impl Fields for HeaderMap {
    fn count(&self) -> usize {
        self.keys_len()
    }

    fn each_name(&self, see: &mut dyn FnMut(&HeaderName)) {
        self.keys().for_each(see);
    }

    fn joined(&self, name: &HeaderName) -> Option<Cow<'_, [u8]>> {
        join(name, self.get_all(name).iter().map(HeaderValue::as_bytes))
    }
}

/// The values of the field `name` as one.
pub fn join<'a>(
    name: &HeaderName,
    mut values: impl Iterator<Item = &'a [u8]>,
) -> Option<Cow<'a, [u8]>> {
    let mut all = Cow::Borrowed(values.next()?);
    let separator: &[u8] = if name == header::COOKIE { b"; " } else { b"," };
    for value in values {
        let all = all.to_mut();
        all.extend_from_slice(separator);
        all.extend_from_slice(value);
    }
    Some(all)
}
