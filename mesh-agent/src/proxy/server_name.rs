//! The TLS server name that says which of several workloads on one address a tunnel is for.
//!
//! It chooses a certificate, and proves nothing: who is there is verified as without it.

use rustls_pki_types::{DnsName, ServerName};

use crate::model::id::ResourceName;

/// The suffix after the namespace. `internal` is reserved for private use (ICANN, 2024).
const SUFFIX: &str = ".workload.mesh.internal";

/// `<workload>.<namespace>.workload.mesh.internal`; `None` for a name that DNS does not allow.
pub fn of(workload: &ResourceName) -> Option<ServerName<'static>> {
    let name = format!("{}.{}{SUFFIX}", workload.name, workload.namespace);
    DnsName::try_from(name).ok().map(ServerName::DnsName)
}

/// The workload that a server name means.
pub fn workload(name: &str) -> Option<ResourceName> {
    // A namespace is one label (RFC 1123), and a workload's name may be several.
    let (workload, namespace) = name.strip_suffix(SUFFIX)?.rsplit_once('.')?;
    Some(ResourceName::new(namespace, workload))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn survives_print_and_parse(
            name in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z0-9]{1,5}){0,2}",
            namespace in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?",
        ) {
            let workload = ResourceName::new(namespace, name);
            let name = of(&workload).unwrap();
            prop_assert_eq!(super::workload(&name.to_str()), Some(workload));
        }
    }

    #[test]
    fn what_is_no_name_of_ours_is_nobodys() {
        assert_eq!(of(&ResourceName::new("demo", "a b")), None);
        for name in ["example.org", "web.workload.mesh.internal", ".workload.mesh.internal"] {
            assert_eq!(workload(name), None, "{name}");
        }
    }
}
