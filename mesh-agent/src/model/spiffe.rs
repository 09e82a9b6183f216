//! SPIFFE IDs of workloads, in the one shape that Istio's peers understand.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.
///
/// The same shape on Kubernetes and on bare metal, so that any Istio-compatible peer can parse it.
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// Why a text is no SPIFFE ID of a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The path is not `/ns/<namespace>/sa/<service-account>`.
    #[error("`{0}` is not of the form spiffe://<trust-domain>/ns/<namespace>/sa/<account>")]
    Form(String),
    /// A part has a character that the SPIFFE ID standard (section 2) does not allow.
    #[error("`{0}` holds a character other than letters, digits, `.`, `-` and `_`")]
    Character(String),
}

impl SpiffeId {
    /// Puts an ID together.
    ///
    /// # Errors
    ///
    /// A part is empty or holds a character that the SPIFFE ID standard does not allow.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, ParseError> {
        for part in [trust_domain, namespace, service_account] {
            check_part(part)?;
        }
        Ok(Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }

    /// The trust domain, for example `cluster.local`.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

/// Checks one segment (SPIFFE ID standard, sections 2.1 and 2.2).
fn check_part(part: &str) -> Result<(), ParseError> {
    if part.is_empty() || part == "." || part == ".." {
        return Err(ParseError::Form(part.to_owned()));
    }
    if part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        Ok(())
    } else {
        Err(ParseError::Character(part.to_owned()))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl FromStr for SpiffeId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let form = || ParseError::Form(text.to_owned());
        let mut parts = text.strip_prefix("spiffe://").ok_or_else(form)?.split('/');
        let (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(form());
        };
        Self::new(domain, namespace, account)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_other_shapes() {
        for bad in [
            "",
            "cluster.local/ns/a/sa/b",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/a b/sa/b",
            "spiffe://cluster.local/sa/a/ns/b",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn survives_print_and_parse(
            domain in "[a-z][a-z0-9.-]{0,20}", ns in "[a-z0-9][a-z0-9-]{0,20}",
            account in "[a-z0-9][a-z0-9-]{0,20}",
        ) {
            let id = SpiffeId::new(&domain, &ns, &account).unwrap();
            prop_assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
        }

        #[test]
        fn parsing_never_panics(text in ".{0,80}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
