//! Reasons for the end of something that is served, from outside of it.

use crate::task::scope::Scope;

/// Reasons for the end of a tunnel that are not its own. Cheap to make; each is looked at by one
/// task.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a, Retired, Cut> {
    /// No new streams are taken when it drains; the tunnel ends with the last one that is open.
    pub scope: &'a Scope,
    /// The same, when this is ready.
    pub retired: Retired,
    /// The tunnel ends at once, with all its streams, when this is ready.
    pub cut: Cut,
}
