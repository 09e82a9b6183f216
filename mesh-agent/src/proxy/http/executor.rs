//! Where hyper's tasks live: in a scope, like all others.

use hyper::rt::Executor;

use crate::task::scope::Scope;

/// Spawns into a scope.
#[derive(Clone, Debug)]
pub struct InScope(pub Scope);

impl<F> Executor<F> for InScope
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        // Of a size that is hyper's.
        self.0.spawn(Box::pin(task));
    }
}
