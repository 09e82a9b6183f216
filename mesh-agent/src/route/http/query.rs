//! The parameters of a query, decoded.

use std::borrow::Cow;
use std::collections::HashMap;

/// The first value of each name. Bytes: what is decoded need not be UTF-8.
pub(super) type Parameters<'a> = HashMap<Cow<'a, [u8]>, Cow<'a, [u8]>>;

/// Reads a query as a form (the URL standard, section 5.1): `&` between parameters, `=` after the
/// name, `+` for a space. A parameter without `=` has an empty value.
pub(super) fn parameters(query: &str) -> Parameters<'_> {
    let mut parameters = HashMap::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        parameters.entry(decode(name)).or_insert_with(|| decode(value));
    }
    parameters
}

/// Undoes percent-encoding, and `+`. A `%` without two hexadecimal digits is itself.
fn decode(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [b'%', high, low, tail @ ..] if let Some(byte) = byte(*high, *low) => {
                decoded.push(byte);
                tail
            }
            [b'+', tail @ ..] => {
                decoded.push(b' ');
                tail
            }
            [byte, tail @ ..] => {
                decoded.push(*byte);
                tail
            }
            [] => return Cow::Owned(decoded),
        };
    }
}

/// The byte that two hexadecimal digits mean.
fn byte(high: u8, low: u8) -> Option<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_name_counts() {
        let check = |query: &str, expect: &[(&[u8], &[u8])]| {
            let found = parameters(query);
            assert_eq!(found.len(), expect.len(), "{query}");
            for (name, value) in expect {
                assert_eq!(found.get(*name).map(AsRef::as_ref), Some(*value), "{query}");
            }
        };
        check("", &[]);
        check("&&", &[]);
        check("a=1&b=2", &[(b"a", b"1"), (b"b", b"2")]);
        check("a=1&a=2", &[(b"a", b"1")]);
        check("%61=1&a=2", &[(b"a", b"1")]);
        check("a", &[(b"a", b"")]);
        check("a=b=c", &[(b"a", b"b=c")]);
        check("=x", &[(b"", b"x")]);
        check("a+b=c+d%2Be", &[(b"a b", b"c d+e")]);
        check("A=1", &[(b"A", b"1")]);
    }

    #[test]
    fn escapes_are_read() {
        let check = |text: &str, expect: &[u8]| assert_eq!(decode(text), expect, "{text}");
        check("abc", b"abc");
        check("%41%7a%7A", b"Azz");
        check("%C3%A9%ff", b"\xc3\xa9\xff");
        check("%", b"%");
        check("%4", b"%4");
        check("%zz%4g", b"%zz%4g");
        check("%%41", b"%A");
        check("%+1", b"% 1");
    }
}
