//! Verdicts of policies, as the metrics count them.

use crate::authz::{Denial, Told};
use crate::model::id::ResourceName;

/// The verdict of a policy on a connection or a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Said {
    /// The policy, if it was one.
    pub policy: Option<ResourceName>,
    /// Its rule; `None`: it was not one of its rules.
    pub rule: Option<usize>,
    /// Why, in one word.
    pub reason: &'static str,
}

impl From<&Denial> for Said {
    fn from(denial: &Denial) -> Self {
        let policy = match denial {
            Denial::Gone(_) => None,
            _ => Some(denial.policy().clone()),
        };
        Self { policy, rule: denial.rule(), reason: denial.reason() }
    }
}

impl From<Told> for Said {
    fn from(told: Told) -> Self {
        Self { policy: Some(told.policy), rule: told.rule, reason: told.outcome.reason() }
    }
}

impl Said {
    /// The verdict that is counted where there are too many.
    pub(super) fn overflow(self) -> Self {
        Self { policy: None, rule: None, reason: self.reason }
    }
}

/// Policies, rules and reasons that are counted apart.
pub(super) const MAX_VERDICTS: usize = 10_000;
