//! The values that several kinds have: names, ports, addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::condition::Reason;
use crate::model::id::ResourceName;

use super::super::schema::{Metadata, Selector};
use super::Problems;

/// The most bytes of a DNS label (RFC 1123).
const MAX_LABEL_BYTES: usize = 63;

/// The most bytes of a DNS subdomain (Kubernetes, "Object Names and IDs").
const MAX_SUBDOMAIN_BYTES: usize = 253;

/// The namespace of a document that names none.
pub(in crate::source::file) const DEFAULT_NAMESPACE: &str = "default";

/// `metadata.namespace` and `metadata.name`; the name may have dots if `dots` is.
pub(super) fn name(
    metadata: &Metadata,
    form: fn(&str) -> bool,
    problems: &mut Problems,
) -> Option<ResourceName> {
    let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    if !is_label(namespace) {
        problems.invalid("metadata.namespace", not_a_name(namespace));
    }
    let Some(name) = metadata.name.as_deref() else {
        problems.invalid("metadata.name", "the name is missing; add it");
        return None;
    };
    if !form(name) {
        problems.invalid("metadata.name", not_a_name(name));
    }
    Some(ResourceName::new(namespace, name))
}

/// `metadata.creationTimestamp` in the form that sorts by time; empty if it is not known.
pub(super) fn created(metadata: &Metadata, problems: &mut Problems) -> String {
    let created = metadata.creation_timestamp.clone().unwrap_or_default();
    if !created.is_empty() && !is_timestamp(&created) {
        let message = "this is not a time as Kubernetes writes it; write 2026-01-31T12:00:00Z, or \
                       remove it";
        problems.invalid("metadata.creationTimestamp", message);
    }
    created
}

/// `spec.selector.matchLabels` of a policy; empty: everything in its namespace.
pub(super) fn selector(
    written: Option<Selector>,
    problems: &mut Problems,
) -> BTreeMap<String, String> {
    let labels = written.and_then(|selector| selector.match_labels).unwrap_or_default();
    for (key, value) in &labels {
        // Istio refuses them too: they would match nothing, and the policy would do nothing.
        if key.is_empty() || key.contains('*') || value.contains('*') {
            let message = "a selector compares whole labels; write the whole key and value, \
                           without `*`";
            problems.invalid("spec.selector.matchLabels", message);
        }
    }
    labels
}

/// The namespace and name of a reference at `path`; the namespace is the document's own by default.
pub(super) fn reference(
    path: &str,
    (namespace, name): (Option<&str>, &str),
    own: &ResourceName,
    problems: &mut Problems,
) -> ResourceName {
    if let Some(namespace) = namespace.filter(|namespace| !is_label(namespace)) {
        problems.invalid(format!("{path}.namespace"), not_a_name(namespace));
    }
    if !is_label(name) {
        problems.invalid(format!("{path}.name"), not_a_name(name));
    }
    ResourceName::new(namespace.unwrap_or(&own.namespace), name)
}

/// A sentence for a text that is no name.
pub(super) fn not_a_name(text: &str) -> String {
    let text = super::super::yaml::printable(text);
    format!(
        "`{text}` is not a DNS-1123 name; use lower-case letters, digits and `-`, beginning and \
         ending with a letter or digit"
    )
}

/// Whether `text` is a DNS-1123 label.
pub(super) fn is_label(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=MAX_LABEL_BYTES).contains(&text.len())
        && text.bytes().all(|b| alphanumeric(b) || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether `text` is a DNS-1123 subdomain.
pub(super) fn is_subdomain(text: &str) -> bool {
    text.len() <= MAX_SUBDOMAIN_BYTES && text.split('.').all(is_label)
}

/// Whether a list at `path` has no more than `most` items, `found` being how many it has. A list with
/// more is not used: the kernel's maps have to hold it.
pub(super) fn at_most(path: &str, found: usize, most: usize, problems: &mut Problems) -> bool {
    if found > most {
        let message = format!(
            "these are {found}, and at most {most} are taken; remove some, or split the document"
        );
        problems.refuse(path, Reason::LimitExceeded, message);
    }
    found <= most
}

/// A port number at `path`.
pub(super) fn port(path: &str, number: i64, problems: &mut Problems) -> Option<u16> {
    let port = u16::try_from(number).ok().filter(|port| *port != 0);
    if port.is_none() {
        problems.invalid(path, format!("{number} is not a port; write a number from 1 to 65535"));
    }
    port
}

/// A port number that is written as text at `path`.
pub(super) fn port_text(path: &str, text: &str, problems: &mut Problems) -> Option<u16> {
    if let Ok(number) = text.parse() {
        return port(path, number, problems);
    }
    let text = super::super::yaml::printable(text);
    problems.invalid(path, format!("`{text}` is not a port; write a number from 1 to 65535"));
    None
}

/// Addresses of one resource at `path`: each once, and each of one host.
pub(super) fn addresses(path: &str, texts: &[String], problems: &mut Problems) -> Vec<IpAddr> {
    let mut addresses = Vec::with_capacity(texts.len());
    for (i, text) in texts.iter().enumerate() {
        let path = format!("{path}[{i}]");
        if let Some(address) = address(&path, text, problems) {
            if addresses.contains(&address) {
                problems.invalid(path, format!("{address} is written twice; remove one of them"));
            } else {
                addresses.push(address);
            }
        }
    }
    addresses
}

/// An address of one host at `path`.
pub(super) fn address(path: &str, text: &str, problems: &mut Problems) -> Option<IpAddr> {
    let Ok(address) = text.parse::<IpAddr>() else {
        let text = super::super::yaml::printable(text);
        let message = format!(
            "`{text}` is not an IP address; write one such as 10.0.2.10 or fd00:2::10, without a \
             prefix length or port"
        );
        problems.invalid(path, message);
        return None;
    };
    let why = match address {
        _ if address.is_unspecified() => "stands for every address",
        _ if address.is_loopback() => "is a different host's on every host",
        _ if address.is_multicast() => "is a group's",
        IpAddr::V4(v4) if v4.is_broadcast() => "is everybody's",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "is an IPv4 address in disguise",
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "is known on one link only",
        _ => return Some(address),
    };
    let message = format!("{address} {why}; write the address that other hosts connect to");
    problems.invalid(path, message);
    None
}

/// Whether `text` has the one form that sorts by time: `2026-01-31T12:00:00Z`.
fn is_timestamp(text: &str) -> bool {
    let form = "0000-00-00T00:00:00Z";
    text.len() == form.len()
        && text.bytes().zip(form.bytes()).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            _ => byte == form,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_timestamps_that_sort_are_taken() {
        let check = |text: &str, expect| assert_eq!(is_timestamp(text), expect, "{text}");
        check("2026-01-31T12:00:00Z", true);
        check("2026-01-31T12:00:00+01:00", false);
        check("2026-01-31T12:00:00.5Z", false);
        check("2026-01-31", false);
    }

    #[test]
    fn names_are_dns_1123() {
        let check = |text: &str, label, subdomain| {
            assert_eq!((is_label(text), is_subdomain(text)), (label, subdomain), "{text}");
        };
        check("echo", true, true);
        check("0-a", true, true);
        check("a.b", false, true);
        check("a..b", false, false);
        check("", false, false);
        check("-a", false, false);
        check("a-", false, false);
        check("Echo", false, false);
        check("a_b", false, false);
        check(&"a".repeat(63), true, true);
        check(&"a".repeat(64), false, false);
        check(&vec!["a".repeat(63); 5].join("."), false, false);
    }

    #[test]
    fn addresses_are_those_of_one_host() {
        let check = |text: &str, fine: bool| {
            let mut problems = Problems::default();
            assert_eq!(address("a", text, &mut problems).is_some(), fine, "{text}");
            assert_eq!(problems.found.is_empty(), fine, "{text}");
        };
        check("10.0.2.10", true);
        check("fd00:2::10", true);
        check("10.0.2.10/24", false);
        check("10.0.2.10:80", false);
        check("0.0.0.0", false);
        check("127.0.0.1", false);
        check("::1", false);
        check("224.0.0.1", false);
        check("255.255.255.255", false);
        check("::ffff:10.0.0.1", false);
        check("fe80::1", false);
    }
}
