//! Cookies of a request.

/// The value of the first cookie with a name, in all that a request has, joined (RFC 6265, sections
/// 4.2.1 and 5.4).
pub fn find<'a>(all: &'a [u8], name: &str) -> Option<&'a [u8]> {
    all.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).find_map(|pair| {
        let end = pair.iter().position(|byte| *byte == b'=')?;
        let (key, value) = pair.split_at_checked(end)?;
        (key == name.as_bytes()).then(|| value.get(1..)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_name_counts() {
        let check = |all: &str, expect: Option<&str>| {
            let found = find(all.as_bytes(), "user").map(|value| str::from_utf8(value).unwrap());
            assert_eq!(found, expect, "{all}");
        };
        check("user=1", Some("1"));
        check("a=b; user=1; user=2", Some("1"));
        check("a=b;user=1=2;", Some("1=2"));
        check("user=", Some(""));
        check("user; xuser=1; User=2", None);
        check("", None);
        check(";;=", None);
    }
}
