//! Works out what is in force: what documents say, and for those that are broken what they last said.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::model::condition::{Condition, Reason};
use crate::model::id::ResourceName;
use crate::model::policy::MeshPolicy;
use crate::store::update::{Key, Kind, Object, Resource};

use super::document::{Document, Outcome};
use super::in_force::Next;
use super::{FileSource, Good};

impl FileSource {
    /// Works out what is in force, from the files and what was in force before.
    pub(super) fn merge(&mut self) -> Vec<Condition> {
        let (next, kept) = (self.good.next(), BTreeSet::new());
        let mut merge = Merge { next, kept, closed: Vec::new(), conditions: Vec::new() };
        for (file, contents) in &self.files {
            merge.add_file(file, &contents.documents.all);
        }
        // A document that has moved from another file and is broken since.
        let all = || self.files.values().flat_map(|contents| &contents.documents.all);
        for document in all() {
            match &document.outcome {
                Outcome::Broken(Some(key)) => {
                    merge.keep(key);
                }
                Outcome::Closed(resource) => {
                    merge.keep(&resource.object.key());
                }
                Outcome::Broken(None)
                | Outcome::ClosedUnknown(_)
                | Outcome::Foreign
                | Outcome::Good(_) => {}
            }
        }
        let unknown = self.unknown();
        let mut with_policy = BTreeSet::new();
        for (file, documents) in &unknown {
            if !documents.is_empty() && merge.keep_file(file) {
                with_policy.insert(*file);
            }
        }
        if self.is_cut {
            merge.keep_all();
        }
        for (file, contents) in &self.files {
            let Some(unknown) = unknown.get(&**file) else { continue };
            for (index, document) in contents.documents.all.iter().enumerate() {
                // A policy of its file that no document says now is what it was.
                let was_kept = with_policy.contains(&**file) && unknown.contains(&index);
                if let Outcome::Closed(resource) | Outcome::ClosedUnknown(resource) =
                    &document.outcome
                    && !was_kept
                {
                    merge.close(resource);
                }
            }
        }
        for (file, contents) in &self.files {
            let is_illegible =
                |document: &Document| matches!(document.outcome, Outcome::Broken(None));
            if contents.documents.all.iter().any(is_illegible) {
                merge.keep_closed(file);
            }
        }
        // Only now is it known what has stayed.
        let Merge { next, kept, mut conditions, .. } = merge;
        conditions.extend(self.broken(&next, &kept));
        conditions.sort_by(|a, b| a.location.cmp(&b.location));
        let next = next.into_parts();
        self.good.become_next(next);
        conditions
    }

    /// Places of documents that cannot be used, and may be any that their file once said, by file. Their name is not known, or is that of none of them, or a good one has it now, as when
    /// the mistake is in the name or the namespace.
    fn unknown(&self) -> BTreeMap<&Path, BTreeSet<usize>> {
        let mut all = BTreeMap::new();
        for (file, contents) in &self.files {
            let documents = &contents.documents.all;
            let is_usable = |document: &Document| {
                matches!(document.outcome, Outcome::Good(_) | Outcome::Foreign)
            };
            if documents.iter().all(is_usable) {
                continue;
            }
            let said: BTreeSet<Key> = documents.iter().filter_map(good_key).collect();
            let is_it = |key: &Key| {
                let was_there = |it: &Good| !it.is_closed && it.is_of(file);
                !said.contains(key) && self.good.get(key).is_some_and(was_there)
            };
            let may_be_any = |document: &Document| match &document.outcome {
                Outcome::Broken(None) | Outcome::ClosedUnknown(_) => true,
                Outcome::Broken(Some(key)) => !is_it(key),
                Outcome::Closed(resource) => !is_it(&resource.object.key()),
                Outcome::Foreign | Outcome::Good(_) => false,
            };
            let places = documents.iter().enumerate().filter(|(_, it)| may_be_any(it));
            all.insert(&**file, places.map(|(place, _)| place).collect());
        }
        all
    }

    /// Conditions of the documents that are not good: each says what is in force in its place.
    fn broken(&self, next: &Next<'_>, kept: &BTreeSet<Key>) -> Vec<Condition> {
        let mut conditions = Vec::new();
        let of_file = |key: &Key| Some(&*next.get(key)?.resource.location.file);
        let stayed: BTreeSet<&Path> = kept.iter().filter_map(of_file).collect();
        let is_of_stayed = |document: &Document| {
            document.conditions.iter().any(|it| stayed.contains(&*it.location.file))
        };
        for document in self.files.values().flat_map(|contents| &contents.documents.all) {
            let key = match &document.outcome {
                Outcome::Broken(key) => key.clone(),
                Outcome::Closed(resource) | Outcome::ClosedUnknown(resource) => {
                    Some(resource.object.key()).filter(|key| next.get(key).is_some())
                }
                Outcome::Foreign | Outcome::Good(_) => continue,
            };
            let stays = match &key {
                Some(key) if kept.contains(key) => {
                    "; what was last good of it stays in force".to_owned()
                }
                Some(key) => match next.get(key) {
                    Some(used) if used.is_closed => {
                        let closed = match key.kind {
                            Kind::AuthorizationPolicy => "all connections are refused",
                            _ => "the strictest of each setting that it mentions is in force",
                        };
                        format!("; until then, for the workloads that it is for, {closed}")
                    }
                    Some(used) => format!("; until then {} is used", used.resource.location),
                    None if is_of_stayed(document) => STAYS.to_owned(),
                    None => "; until then it is left out".to_owned(),
                },
                None if is_of_stayed(document) => STAYS.to_owned(),
                None => "; until then nothing that it holds is in force".to_owned(),
            };
            conditions.extend(document.conditions.iter().cloned().map(|mut condition| {
                condition.message.push_str(&stays);
                condition
            }));
        }
        conditions
    }
}

/// The consequence of a document that may have been any of its file's.
const STAYS: &str = "; what was last good of the file stays in force";

/// The documents in force next, as they are being worked out.
struct Merge<'a> {
    next: Next<'a>,
    /// Those of them that were in force before, and are in no document now.
    kept: BTreeSet<Key>,
    /// Closed ones among them, which stand for documents that cannot be used.
    closed: Vec<Resource>,
    conditions: Vec<Condition>,
}

impl Merge<'_> {
    /// Adds a file's documents, in the order of the files: the first one of a name wins.
    ///
    /// Of several with one name, a broken one stays as it was only if it was the one in force: not
    /// if another says the same as that, or is at its place among them.
    fn add_file(&mut self, file: &Path, documents: &[Document]) {
        // Of a file without a broken document, only the first of a name is ever in force.
        let is_whole =
            |document: &Document| matches!(document.outcome, Outcome::Good(_) | Outcome::Foreign);
        if documents.iter().all(is_whole) {
            for document in documents {
                self.conditions.extend(document.conditions.iter().cloned());
                if let Outcome::Good(resource) = &document.outcome {
                    self.add(resource, 0);
                }
            }
            return;
        }
        let mut seen = BTreeMap::<Key, usize>::new();
        let mut nth = |key: &Key| {
            let seen = seen.entry(key.clone()).or_default();
            std::mem::replace(seen, *seen + 1)
        };
        let before = self.next.before();
        let is_in_force = |(key, resource): &(Key, &Resource)| {
            let is_it = |good: &Good| good.is_of(file) && good.resource.object == resource.object;
            before.get(key).is_some_and(is_it)
        };
        let goods = documents.iter().filter_map(|document| match &document.outcome {
            Outcome::Good(resource) => Some((resource.object.key(), resource)),
            Outcome::Broken(_)
            | Outcome::Closed(_)
            | Outcome::ClosedUnknown(_)
            | Outcome::Foreign => None,
        });
        let said: BTreeSet<Key> = goods.filter(is_in_force).map(|(key, _)| key).collect();
        for document in documents {
            match &document.outcome {
                Outcome::Good(resource) => {
                    let nth = nth(&resource.object.key());
                    self.conditions.extend(document.conditions.iter().cloned());
                    self.add(resource, nth);
                }
                Outcome::Foreign => self.conditions.extend(document.conditions.iter().cloned()),
                // Its conditions are told when it is known what stays.
                Outcome::Broken(None) | Outcome::ClosedUnknown(_) => {}
                Outcome::Broken(Some(key)) => self.keep_nth(file, key, nth(key), &said),
                Outcome::Closed(resource) => {
                    let key = resource.object.key();
                    let nth = nth(&key);
                    self.keep_nth(file, &key, nth, &said);
                }
            }
        }
    }

    /// Puts the `nth` document of a name in force, unless an earlier one is.
    fn add(&mut self, resource: &Resource, nth: usize) {
        let good = Good { resource: resource.clone(), nth, is_closed: false };
        let Err((key, good)) = self.next.insert(resource.object.key(), good) else { return };
        let Some(winner) = self.next.get(&key) else { return };
        self.conditions.push(Condition {
            location: good.resource.location,
            subject: key.to_string(),
            field: "metadata.name".to_owned(),
            reason: Reason::Conflicted,
            message: format!(
                "{} says the same name already, and the first one is used; rename or remove one of \
                 them",
                winner.resource.location
            ),
        });
    }

    /// Keeps what was in force under this name, if it was this one of a file's documents of the name.
    fn keep_nth(&mut self, file: &Path, key: &Key, nth: usize, said: &BTreeSet<Key>) {
        let was_it = |good: &Good| good.is_of(file) && good.nth == nth;
        if !said.contains(key) && self.next.before().get(key).is_some_and(was_it) {
            self.keep(key);
        }
    }

    /// Puts what refuses everything in the place of a document that cannot be used and never was
    /// good, unless something good has its name.
    fn close(&mut self, resource: &Resource) {
        let key = resource.object.key();
        let good = Good { resource: resource.clone(), nth: 0, is_closed: true };
        // One that is good has the name.
        if self.next.insert(key, good).is_ok() {
            self.closed.push(resource.clone());
        }
    }

    /// Keeps what was in force under this name, unless something good has it now. Returns whether it
    /// did just that.
    fn keep(&mut self, key: &Key) -> bool {
        let before = self.next.before().get(key).filter(|good| !good.is_closed);
        let is_kept =
            before.is_some_and(|before| self.next.insert(key.clone(), before.clone()).is_ok());
        if is_kept {
            self.kept.insert(key.clone());
        }
        is_kept
    }

    /// Keeps everything that this file once said, unless something good has its name now. Returns
    /// whether a policy is among what it kept.
    fn keep_file(&mut self, file: &Path) -> bool {
        let mut has_policy = false;
        for (key, good) in self.next.before().iter() {
            if good.is_of(file) && self.keep(key) {
                has_policy |= key.kind.is_policy();
            }
        }
        has_policy
    }

    /// Keeps what was closed in the place of a file's documents, while there is one in it of which nothing
    /// can be told: a document that gets worse opens nothing. Of several that close the same, one.
    fn keep_closed(&mut self, file: &Path) {
        let before = self.next.before();
        let mut closed: BTreeSet<String> =
            self.closed.iter().filter(|it| *it.location.file == *file).map(closes).collect();
        for (key, good) in before.iter().filter(|(_, good)| good.is_closed && good.is_of(file)) {
            if closed.insert(closes(&good.resource)) {
                // One that is good has the name.
                let _is_taken: Result<(), _> = self.next.insert(key.clone(), good.clone());
            }
        }
    }

    /// Keeps everything that was in force, unless something good has its name now.
    fn keep_all(&mut self) {
        for (key, _) in self.next.before().iter() {
            self.keep(key);
        }
    }
}

/// The workloads that a closed policy is for, and how it closes them: all of it but its name.
fn closes(resource: &Resource) -> String {
    let namespace = &resource.object.key().name.namespace;
    match &resource.object {
        Object::AuthorizationPolicy(policy) => format!("{namespace} {:?}", policy.selector),
        Object::MeshPolicy(policy) => {
            let name = ResourceName::new(&**namespace, "");
            format!("{:?}", MeshPolicy { name, ..(**policy).clone() })
        }
        other => other.key().to_string(),
    }
}

fn good_key(document: &Document) -> Option<Key> {
    match &document.outcome {
        Outcome::Good(resource) => Some(resource.object.key()),
        _ => None,
    }
}
