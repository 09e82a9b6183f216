//! The values of `AuthorizationPolicy`: texts with a `*`, paths, blocks of addresses, service accounts.

use std::net::IpAddr;

use http::HeaderName;

use crate::model::condition::Reason;
use crate::model::policy::request::{PathText, Template};
use crate::model::policy::{Block, Text};
use crate::model::trust_domain::{OWN, TrustDomains};

use super::super::super::yaml::printable;
use super::super::{Problems, check};

/// `abc`, `abc*`, `*abc` or `*`.
pub(super) fn text(path: &str, text: &str, problems: &mut Problems) -> Option<Text> {
    let read = match (text.strip_prefix('*'), text.strip_suffix('*')) {
        (Some(""), _) => Text::Present,
        (Some(end), None) => Text::Suffix(end.to_owned()),
        (None, Some(begin)) => Text::Prefix(begin.to_owned()),
        (None, None) => Text::Exact(text.to_owned()),
        (Some(_), Some(_)) => Text::Exact("*".to_owned()),
    };
    let rest = match &read {
        Text::Exact(rest) | Text::Prefix(rest) | Text::Suffix(rest) => rest.as_str(),
        Text::Present => return Some(read),
    };
    // Each of them would match nothing, and a DENY would do nothing.
    let text = printable(text);
    let message = if rest.is_empty() {
        "the text is empty; write what is meant, or remove it".to_owned()
    } else if rest.contains('*') {
        format!(
            "`{text}` has a `*` that is not its first or its last character; write abc*, *abc, \
                 * or the whole text"
        )
    } else if rest.starts_with("spiffe:") {
        format!(
            "`{text}` is an ID, and principals are written without its scheme; remove \
                 `spiffe://`"
        )
    } else {
        return Some(read);
    };
    problems.invalid(path, message);
    None
}

/// A principal that no identity has which may call.
pub(super) fn nobody(path: &str, text: &str, domains: &TrustDomains, problems: &mut Problems) {
    let message = format!(
        "`{}` is the principal of no client: principals are <trust domain>/ns/<namespace>/sa/\
         <account>, of the trust domain `{}` or an alias; write `{OWN}` for the mesh's own trust \
         domain, whatever it is called, or name the other one in --trust-domain-aliases",
        printable(text),
        domains.own()
    );
    problems.note(path, Reason::NoMatchingPrincipal, message);
}

/// A path as a text with a `*`, or one with operators in braces.
pub(super) fn path(path: &str, text: &str, problems: &mut Problems) -> Option<PathText> {
    if !text.contains(['{', '}']) {
        return self::text(path, text, problems).map(PathText::Text);
    }
    let template = Template::new(text);
    if template.is_none() {
        let text = printable(text);
        let message = format!(
            "`{text}` is no path; write {{*}} for one segment, or {{**}} for all up to what follows \
             it, each between slashes, and nothing in braces after {{**}}"
        );
        problems.invalid(path, message);
    }
    template.map(PathText::Template)
}

/// The name in `request.headers[name]`.
pub(super) fn header(key: &str) -> Option<HeaderName> {
    key.strip_prefix("request.headers[")?.strip_suffix(']')?.parse().ok()
}

/// An address, or a block of them such as `10.0.0.0/8`.
pub(in super::super) fn block(path: &str, text: &str, problems: &mut Problems) -> Option<Block> {
    let block = match text.split_once('/') {
        None => text.parse().ok().map(|address: IpAddr| (address, width(address))),
        Some((address, prefix)) => address.parse().ok().zip(prefix.parse().ok()),
    };
    let block = block.filter(|(address, prefix)| *prefix <= width(*address));
    if block.is_none() {
        let text = printable(text);
        let message = format!(
            "`{text}` is no block of addresses; write one such as 10.0.0.0/8, or an address"
        );
        problems.invalid(path, message);
    }
    block.map(|(address, prefix)| masked(address, prefix))
}

/// The block without bits beyond the prefix; IPv4 in disguise as what it is.
fn masked(address: IpAddr, prefix: u8) -> Block {
    let mapped = match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().zip(prefix.checked_sub(96)),
        IpAddr::V4(_) => None,
    };
    let (address, prefix) = mapped.map_or((address, prefix), |(v4, prefix)| (v4.into(), prefix));
    let network = match address {
        IpAddr::V4(v4) => {
            let beyond = u32::from(32_u8.saturating_sub(prefix));
            IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(beyond).unwrap_or(0)).into())
        }
        IpAddr::V6(v6) => {
            let beyond = u32::from(128_u8.saturating_sub(prefix));
            IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(beyond).unwrap_or(0)).into())
        }
    };
    Block { network, prefix }
}

/// The length of the prefix that is one address.
const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// `namespace/account`, or an account of the policy's own namespace; of any trust domain.
pub(super) fn account(path: &str, text: &str, own: &str, problems: &mut Problems) -> Option<Text> {
    let (namespace, account) = text.split_once('/').unwrap_or((own, text));
    if !check::is_label(namespace) || !check::is_subdomain(account) {
        let text = printable(text);
        let message =
            format!("`{text}` is no service account; write one as namespace/account, without `*`");
        problems.invalid(path, message);
        return None;
    }
    Some(Text::Suffix(format!("/ns/{namespace}/sa/{account}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(read: impl Fn(&mut Problems) -> Option<T>) -> Option<T> {
        let mut problems = Problems::default();
        let value = read(&mut problems);
        assert_eq!(value.is_none(), problems.is_fatal);
        value
    }

    #[test]
    fn a_star_is_at_one_end() {
        let check = |written: &str, expect: Option<Text>| {
            assert_eq!(read(|problems| text("a", written, problems)), expect, "{written}");
        };
        check("abc", Some(Text::Exact("abc".into())));
        check("abc*", Some(Text::Prefix("abc".into())));
        check("*abc", Some(Text::Suffix("abc".into())));
        check("*", Some(Text::Present));
        for bad in ["", "a*c", "*a*", "**", "spiffe://cluster.local/ns/a/sa/b", "spiffe://*"] {
            check(bad, None);
        }
    }

    #[test]
    fn blocks_have_no_bits_beyond_their_prefix() {
        let check = |written: &str, expect: Option<(&str, u8)>| {
            let expect =
                expect.map(|(network, prefix)| Block { network: network.parse().unwrap(), prefix });
            assert_eq!(read(|problems| block("a", written, problems)), expect, "{written}");
        };
        check("10.1.2.3", Some(("10.1.2.3", 32)));
        check("10.1.2.3/8", Some(("10.0.0.0", 8)));
        check("10.1.2.3/0", Some(("0.0.0.0", 0)));
        check("fd00::1", Some(("fd00::1", 128)));
        check("fd00:1::1/16", Some(("fd00::", 16)));
        check("::/0", Some(("::", 0)));
        check("::ffff:10.1.2.3", Some(("10.1.2.3", 32)));
        check("::ffff:10.1.2.3/104", Some(("10.0.0.0", 8)));
        for bad in ["", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/a", "host"]
        {
            check(bad, None);
        }
    }

    #[test]
    fn accounts_are_of_the_policys_namespace_or_another() {
        let check = |written: &str, expect: Option<&str>| {
            let expect = expect.map(|text| Text::Suffix(text.into()));
            assert_eq!(
                read(|problems| account("a", written, "own", problems)),
                expect,
                "{written}"
            );
        };
        check("web", Some("/ns/own/sa/web"));
        check("shop/web.v1", Some("/ns/shop/sa/web.v1"));
        for bad in ["", "/", "shop/", "/web", "shop/*", "*", "a/b/c", "Shop/web"] {
            check(bad, None);
        }
    }
}
