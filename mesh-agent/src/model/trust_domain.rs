//! The trust domains of a mesh, and the identities that the principals of policies mean in them.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::policy::Text;
use crate::model::spiffe::SpiffeId;

/// In the principal of a policy: the mesh's own trust domain, whatever it is called (Istio,
/// "Trust Domain Migration").
pub const OWN: &str = "cluster.local";

/// The longest name of a trust domain (SPIFFE ID standard, section 2.3).
const MAX_NAME_BYTES: usize = 255;

/// Why a text is no name of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no name of a trust domain: write 1 to {MAX_NAME_BYTES} lower-case letters, digits, `.`, `-` \
     and `_`, without `spiffe://`"
)]
pub struct InvalidName(String);

/// Checks the name of a trust domain (SPIFFE ID standard, section 2.1).
///
/// # Errors
///
/// It is empty, too long, or has other characters than lower-case letters, digits, `.`, `-` and `_`.
pub fn check_name(name: &str) -> Result<(), InvalidName> {
    let known =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    let fits = (1..=MAX_NAME_BYTES).contains(&name.len()) && !matches!(name, "." | "..");
    if fits && name.bytes().all(known) { Ok(()) } else { Err(InvalidName(name.to_owned())) }
}

/// The trust domains whose identities may call workloads of this mesh. A workload is the same in
/// all of them: policies do not tell `old/ns/a/sa/b` from `new/ns/a/sa/b`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomains {
    own: Arc<str>,
    aliases: Arc<BTreeSet<String>>,
    are_known: bool,
}

impl TrustDomains {
    /// The trust domain `own`, and the further ones that stand for it.
    pub fn new(own: &str, aliases: impl IntoIterator<Item = String>) -> Self {
        let aliases = aliases.into_iter().filter(|alias| alias != own).collect();
        Self { own: own.into(), aliases: Arc::new(aliases), are_known: true }
    }

    /// `own` in the place of trust domains that are not known: there may be any other.
    pub fn guess(own: &str) -> Self {
        Self { are_known: false, ..Self::new(own, []) }
    }

    /// The trust domain of the mesh's own workloads.
    pub fn own(&self) -> &str {
        &self.own
    }

    /// The principals that `written` means in a policy: itself with each trust domain of the mesh.
    /// None: no identity that may call has it.
    ///
    /// A trust domain that is written in part, before or after a `*`, means all of them if it is a
    /// part of one.
    pub fn principals(&self, written: &Text) -> Vec<Text> {
        let each = |make: &dyn Fn(&str) -> Text| self.all().map(make).collect();
        let meant = match written {
            Text::Present => return vec![written.clone()],
            Text::Exact(text) => match text.split_once('/') {
                Some((domain, rest)) if is_id(text) && self.are_meant(domain) => {
                    each(&|domain| Text::Exact(format!("{domain}/{rest}")))
                }
                _ => Vec::new(),
            },
            Text::Prefix(text) => match text.split_once('/') {
                Some((domain, rest)) if self.are_meant(domain) => {
                    each(&|domain| Text::Prefix(format!("{domain}/{rest}")))
                }
                None if self.all().any(|domain| domain.starts_with(text)) => {
                    each(&|domain| Text::Prefix(format!("{domain}/")))
                }
                _ => Vec::new(),
            },
            Text::Suffix(text) => match (text.matches('/').count(), text.split_once('/')) {
                // It ends behind the trust domain.
                (0..SLASHES, _) | (SLASHES, Some(("", _))) => return vec![written.clone()],
                (SLASHES, Some((end, rest))) if self.all().any(|domain| domain.ends_with(end)) => {
                    each(&|domain| Text::Exact(format!("{domain}/{rest}")))
                }
                _ => Vec::new(),
            },
        };
        if meant.is_empty() && !self.are_known { vec![written.clone()] } else { meant }
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        self.aliases.iter().map(String::as_str).chain([&*self.own])
    }

    /// Whether a trust domain that is written whole is of this mesh.
    fn are_meant(&self, domain: &str) -> bool {
        domain == OWN || self.all().any(|own| own == domain)
    }
}

/// Of `<trust domain>/ns/<namespace>/sa/<account>`.
const SLASHES: usize = 4;

/// Whether `text` is a whole principal.
fn is_id(text: &str) -> bool {
    format!("spiffe://{text}").parse::<SpiffeId>().is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(written: &str) -> Text {
        match (written.strip_prefix('*'), written.strip_suffix('*')) {
            (Some(""), _) => Text::Present,
            (Some(end), _) => Text::Suffix(end.to_owned()),
            (_, Some(begin)) => Text::Prefix(begin.to_owned()),
            (None, None) => Text::Exact(written.to_owned()),
        }
    }

    #[test]
    fn the_name_of_a_trust_domain_is_checked() {
        let longest = "a".repeat(255);
        for good in ["a", "cluster.local", "prod_1-eu.example", "10.0.0.1", &longest] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        let too_long = "a".repeat(256);
        for bad in
            ["", "Cluster.local", "a/b", "spiffe://a", "a:80", "a b", "ä", "a,b", "..", &too_long]
        {
            assert_eq!(check_name(bad), Err(InvalidName(bad.to_owned())), "{bad}");
        }
    }

    fn mesh() -> TrustDomains {
        TrustDomains::new("new.example", ["old.example".to_owned()])
    }

    #[track_caller]
    fn check(written: &str, expect: &[&str]) {
        let expect: Vec<_> = expect.iter().map(|written| text(written)).collect();
        assert_eq!(mesh().principals(&text(written)), expect, "{written}");
    }

    #[test]
    fn a_principal_means_a_workload_in_every_trust_domain_of_the_mesh() {
        let both = ["old.example/ns/a/sa/b", "new.example/ns/a/sa/b"];
        for domain in ["new.example", "old.example", "cluster.local"] {
            check(&format!("{domain}/ns/a/sa/b"), &both);
            check(&format!("{domain}/*"), &["old.example/*", "new.example/*"]);
            check(&format!("{domain}/ns/a/*"), &["old.example/ns/a/*", "new.example/ns/a/*"]);
        }
        check("new*", &["old.example/*", "new.example/*"]);
        check("*w.example/ns/a/sa/b", &both);
    }

    #[test]
    fn a_text_that_does_not_reach_the_trust_domain_stays() {
        for written in ["*", "*/ns/a/sa/b", "*a/sa/b", "*b"] {
            check(written, &[written]);
        }
    }

    #[test]
    fn a_principal_of_another_mesh_or_shape_means_nobody() {
        for written in [
            "other.example/ns/a/sa/b",
            "other.example/*",
            "other*",
            "*other.example/ns/a/sa/b",
            "cluster*",
            "cluster.local",
            "cluster.localhost/ns/a/sa/b",
            "new.example/sa/b",
            "new.example/ns/a/sa/b/c",
            "*/new.example/ns/a/sa/b",
            "",
        ] {
            check(written, &[]);
        }
    }

    #[test]
    fn what_is_not_known_is_not_missed() {
        let guess = TrustDomains::guess("cluster.local");
        for written in ["other.example/ns/a/sa/b", "cluster.local/ns/a/sa/b", "*x/ns/a/sa/b"] {
            assert_eq!(guess.principals(&text(written)), [text(written)]);
        }
    }

    fn domains() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["a", "b", "ab", "b.a", "cluster.local", "cluster"])
            .prop_map(str::to_owned)
    }

    fn texts() -> impl Strategy<Value = Text> {
        let whole = (domains(), "[ab]", "[ab]")
            .prop_map(|(domain, ns, account)| format!("{domain}/ns/{ns}/sa/{account}"));
        (whole, 0_usize..24, 0_u8..3).prop_map(|(whole, cut, kind)| {
            let (begin, end) = whole.split_at(cut.clamp(1, whole.len() - 1));
            match kind {
                0 => Text::Exact(whole.clone()),
                1 => Text::Prefix(begin.to_owned()),
                _ => Text::Suffix(end.to_owned()),
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The meaning, said in another way: an identity of the mesh is meant if the text matches
        /// it with any trust domain of the mesh, or `cluster.local` where that is written whole.
        #[test]
        fn an_identity_is_meant_under_any_of_its_names(
            own in domains(), aliases in prop::collection::btree_set(domains(), 0..3),
            written in texts(), ns in "[ab]", account in "[ab]",
        ) {
            let mesh = TrustDomains::new(&own, aliases);
            let named = |domain: &str| format!("{domain}/ns/{ns}/sa/{account}");
            let whole = match &written {
                Text::Exact(text) | Text::Prefix(text) => text.starts_with("cluster.local/"),
                Text::Suffix(_) | Text::Present => false,
            };
            let names = mesh.all().chain(whole.then_some(OWN));
            let expect = names.map(named).any(|name| written.matches(Some(&name)));
            let meant = mesh.principals(&written);
            for domain in mesh.all() {
                let name = named(domain);
                let is_meant = meant.iter().any(|text| text.matches(Some(&name)));
                prop_assert_eq!(is_meant, expect, "{:?} for {} by {:?}", written, name, meant);
            }
        }
    }
}
