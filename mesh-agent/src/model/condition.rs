//! Errors of a resource, for people to read.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::model::id::ResourceName;

/// Something an operator should know about one document.
///
/// The mesh works on without what the condition names; a rejected document's last good version
/// stays in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Where it is written.
    pub location: Location,
    /// `Service default/echo`, or as much of it as could be read.
    pub subject: String,
    /// A field path such as `spec.rules[0].backendRefs[1].weight`; empty: the whole document.
    pub field: String,
    /// The word for machines: a Gateway API condition reason where one fits.
    pub reason: Reason,
    /// One sentence: what is wrong, and what to do.
    pub message: String,
}

/// Something wrong with a resource that only a node sees, and not whoever reads the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `Workload default/echo`, as [`Locations::of`] takes it.
    pub subject: String,
    /// As [`Condition::field`].
    pub field: &'static str,
    /// As [`Condition::reason`].
    pub reason: Reason,
    /// As [`Condition::message`].
    pub message: String,
}

/// A place in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The file; one for all places in it.
    pub file: Arc<Path>,
    /// The document in it, counted from 1.
    pub document: usize,
    /// The line in the file, counted from 1.
    pub line: usize,
}

/// Locations of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Locations(
    /// In the order of kinds and names.
    Vec<(&'static str, ResourceName, Location)>,
);

impl Locations {
    /// The location of `Workload default/echo`: a kind, a namespace and a name.
    pub fn of(&self, subject: &str) -> Option<&Location> {
        let (kind, name) = subject.split_once(' ')?;
        let wanted = (kind, name.split_once('/')?);
        let all = &self.0;
        let order = |(kind, name, _): &(&'static str, ResourceName, Location)| {
            (*kind, (&*name.namespace, &*name.name)).cmp(&wanted)
        };
        let place = all.binary_search_by(order).ok()?;
        all.get(place).map(|(_, _, location)| location)
    }
}

impl FromIterator<(&'static str, ResourceName, Location)> for Locations {
    fn from_iter<T: IntoIterator<Item = (&'static str, ResourceName, Location)>>(all: T) -> Self {
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by(|(kind, name, _), (other, other_name, _)| {
            (kind, name).cmp(&(other, other_name))
        });
        Self(all)
    }
}

/// Why a condition is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A route's backend names a service or port that does not exist (Gateway API `ResolvedRefs`).
    BackendNotFound,
    /// Another resource already has this name, address, place or parent.
    Conflicted,
    /// A failure mode that leaves policies unasked while the agent does not answer.
    FailsOpen,
    /// Filters of a route that cannot be together (Gateway API `Accepted`).
    IncompatibleFilters,
    /// The document cannot be read, or a field has a value it may not have.
    Invalid,
    /// There is more of something than the mesh takes, or than a map of the kernel holds.
    LimitExceeded,
    /// A kind of parent or backend that is not supported (Gateway API `ResolvedRefs`).
    InvalidKind,
    /// A workload was found, and the agent cannot serve it.
    NotEnrolled,
    /// A policy's principal is none that this mesh accepts.
    NoMatchingPrincipal,
    /// A route's parent does not exist (Gateway API `Accepted`).
    NoMatchingParent,
    /// Processes of a workload's cgroup are in another network namespace than the node's, where the mesh
    /// cannot serve them.
    OtherNamespace,
    /// A workload's network namespace is there, and the agent is not allowed to enter it.
    PlaceForbidden,
    /// A workload's place is not there (yet).
    PlaceNotFound,
    /// A route of requests, and a port of its parent that carries something else by its own word
    /// (`appProtocol`; Gateway API has the word for listeners and backends).
    UnsupportedProtocol,
    /// A field or kind that this mesh does not implement (Gateway API `Accepted`).
    UnsupportedValue,
}

impl Reason {
    /// Whether the workload that it is about is not protected by the mesh, or not as a whole.
    pub const fn is_unprotected(self) -> bool {
        matches!(self, Self::NotEnrolled | Self::OtherNamespace | Self::PlaceForbidden)
    }

    /// Whether the document says what its author may well mean, so that `check` only warns of it.
    pub const fn is_choice(self) -> bool {
        matches!(self, Self::FailsOpen)
    }

    /// The word as it is printed.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BackendNotFound => "BackendNotFound",
            Self::Conflicted => "Conflicted",
            Self::FailsOpen => "FailsOpen",
            Self::IncompatibleFilters => "IncompatibleFilters",
            Self::Invalid => "Invalid",
            Self::InvalidKind => "InvalidKind",
            Self::LimitExceeded => "LimitExceeded",
            Self::NotEnrolled => "NotEnrolled",
            Self::NoMatchingPrincipal => "NoMatchingPrincipal",
            Self::NoMatchingParent => "NoMatchingParent",
            Self::OtherNamespace => "OtherNamespace",
            Self::PlaceForbidden => "PlaceForbidden",
            Self::PlaceNotFound => "PlaceNotFound",
            Self::UnsupportedProtocol => "UnsupportedProtocol",
            Self::UnsupportedValue => "UnsupportedValue",
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} (document {})", self.file.display(), self.line, self.document)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}: ", self.location, self.subject, self.reason.as_str())?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}
