//! The readings of a host: the names that servers take it for (pure).

/// `host` as it is written, and if they differ, without its port, without the dot at its end, and
/// without both.
///
/// The port is no part of the name (RFC 9110, section 7.2), and a name that ends with a dot is the same
/// name, written absolutely (RFC 1034, section 3.1): servers differ in whether they cut either off
/// before they choose a virtual host.
pub(super) fn readings(host: &str) -> impl Iterator<Item = &str> {
    let name = without_port(host);
    let others = [name, without_dot(host), without_dot(name)];
    std::iter::once(host).chain(others.into_iter().filter(move |other| *other != host))
}

/// An address of IPv6 has colons, and is in brackets.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

fn without_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_and_last_dots_are_left_out() {
        for (host, expect) in [
            ("a.example", &["a.example"][..]),
            ("a.example.", &["a.example.", "a.example"]),
            ("a.example:80", &["a.example:80", "a.example"]),
            ("a.example:", &["a.example:", "a.example"]),
            ("a.example.:80", &["a.example.:80", "a.example.", "a.example"]),
            ("10.0.0.1:80", &["10.0.0.1:80", "10.0.0.1"]),
            ("[fd00::1]", &["[fd00::1]"]),
            ("[fd00::1]:80", &["[fd00::1]:80", "[fd00::1]"]),
            ("", &[""]),
        ] {
            let readings: BTreeSet<_> = readings(host).collect();
            assert_eq!(readings, expect.iter().copied().collect(), "{host}");
        }
    }
}
