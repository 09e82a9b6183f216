//! Destinations outside of the mesh that are known to it.

use std::sync::Arc;

use crate::model::id::ResourceName;
use crate::model::policy::Block;

/// An Istio `ServiceEntry`, as far as addresses go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Namespace and name.
    pub name: ResourceName,
    /// `spec.addresses`.
    pub blocks: Vec<Block>,
    /// `spec.ports[].number`; empty: all.
    pub ports: Vec<u16>,
    /// `spec.exportTo`: the namespaces that may connect to it; `None`: all.
    pub exported_to: Option<Vec<Arc<str>>>,
}
