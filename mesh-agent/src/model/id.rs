//! Names of things.

use std::fmt;
use std::sync::Arc;

/// The namespace and name of a resource (Kubernetes `metadata.namespace`, `metadata.name`).
///
/// Cheap to clone. Prints as `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceName {
    /// `metadata.namespace`; `default` where a document leaves it out.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl ResourceName {
    /// Puts a name together.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
