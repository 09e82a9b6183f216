//! Resources in force, in the order of their keys, and the next state of them.
//!
//! Most documents of a directory stay from one reading to the next. Each keeps its place here, so that
//! nothing is sorted or indexed again while no document comes or goes.

use std::collections::{BTreeMap, HashMap};

use crate::store::update::Key;

use super::Good;

/// Resources in force.
#[derive(Debug, Default)]
pub(super) struct InForce {
    /// In the order of keys.
    all: Vec<(Key, Good)>,
    /// The place of each key in it.
    places: HashMap<Key, usize>,
}

/// The next state, as it is being worked out.
pub(super) struct Next<'a> {
    before: &'a InForce,
    parts: Parts,
}

/// Contents of the next state.
#[derive(Default)]
pub(super) struct Parts {
    /// Those whose keys were in force before, at their places.
    stay: Vec<Option<Good>>,
    /// The others.
    added: BTreeMap<Key, Good>,
}

impl InForce {
    /// The resource under this key.
    pub(super) fn get(&self, key: &Key) -> Option<&Good> {
        self.places.get(key).and_then(|place| self.all.get(*place)).map(|(_, good)| good)
    }

    /// All of them, in the order of keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Good)> {
        self.all.iter().map(|(key, good)| (key, good))
    }

    /// Nothing is in force.
    pub(super) const fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// A next state that holds nothing yet.
    pub(super) fn next(&self) -> Next<'_> {
        let stay = self.all.iter().map(|_| None).collect();
        Next { before: self, parts: Parts { stay, added: BTreeMap::new() } }
    }

    /// Becomes the next state.
    pub(super) fn become_next(&mut self, Parts { stay, added }: Parts) {
        let has_same_keys = added.is_empty() && stay.iter().all(Option::is_some);
        let before = std::mem::take(&mut self.all);
        let stay = before.into_iter().zip(stay).filter_map(|((key, _), good)| Some((key, good?)));
        self.all = stay.collect();
        if has_same_keys {
            return;
        }
        self.all.extend(added);
        // Two sorted parts, which this sort merges.
        self.all.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.places = (0..).zip(&self.all).map(|(place, (key, _))| (key.clone(), place)).collect();
    }
}

impl<'a> Next<'a> {
    /// The former state.
    pub(super) const fn before(&self) -> &'a InForce {
        self.before
    }

    /// The resource that is in force next under this key.
    pub(super) fn get(&self, key: &Key) -> Option<&Good> {
        match self.before.places.get(key) {
            Some(place) => self.parts.stay.get(*place)?.as_ref(),
            None => self.parts.added.get(key),
        }
    }

    /// Puts a resource in force. Returns it with the one that has the key already, if there is one.
    pub(super) fn insert(&mut self, key: Key, good: Good) -> Result<(), (Key, Good)> {
        let place = self.before.places.get(&key);
        match place.and_then(|place| self.parts.stay.get_mut(*place)) {
            Some(free @ None) => *free = Some(good),
            Some(Some(_)) => return Err((key, good)),
            None if self.parts.added.contains_key(&key) => return Err((key, good)),
            None => drop(self.parts.added.insert(key, good)),
        }
        Ok(())
    }

    /// Its contents.
    pub(super) fn into_parts(self) -> Parts {
        self.parts
    }
}
