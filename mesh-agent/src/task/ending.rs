//! Reasons for the end of something that is served, from outside of it.

use std::time::Duration;

use crate::task::scope::Scope;

/// How long a peer has not answered, where something has ended because of that.
pub type Unanswered = Option<Duration>;

/// Reasons for the end of a tunnel that are not its own. Cheap to make; each is looked at by one
/// task.
#[derive(Clone, Copy, Debug)]
pub struct Ending<Retired, Cut> {
    /// No new streams are taken when this is ready; the tunnel ends with the last one that is open.
    pub retired: Retired,
    /// The tunnel ends at once, with all its streams, when this is ready.
    pub cut: Cut,
}

impl Ending<(), ()> {
    /// The ending of a tunnel in `scope`, which is retired also when the scope drains.
    pub fn within<Cut>(
        scope: &Scope,
        retired: impl Future<Output = ()>,
        cut: Cut,
    ) -> Ending<impl Future<Output = ()>, Cut> {
        let draining = scope.draining();
        let retired = async move {
            tokio::select! {
                () = draining => {}
                () = retired => {}
            }
        };
        Ending { retired, cut }
    }
}
