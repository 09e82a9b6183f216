//! A directory of YAML files: Kubernetes' documents and this mesh's own.
//!
//! [`FileSource::load`] reads the directory once; [`FileSource::run`] does so whenever it changes.
//! The task owns what was last good of every document: that stays in force while the document is
//! broken. It ends when its scope drains or nobody listens to its updates.

mod split;
mod wording;
mod yaml;
mod locate;
mod schema;
mod convert;
mod header;
mod document;
mod looks;
mod read;
mod watch;
mod in_force;
mod news;
mod again;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::failure::chain;
use crate::model::condition::{Condition, Location, Reason};
use crate::model::trust_domain::TrustDomains;
use crate::store::update::{Key, Kind, Resource, Update};
use crate::task::clock;
use crate::task::scope::Scope;

use document::{Document, Documents, Outcome};
use in_force::{InForce, Next};
use looks::Looks;
use watch::{Change, Watch};

pub use again::{Again, Asked, channel};
pub use read::Error;

/// The source's name in its updates.
const NAME: &str = "file";

/// How long the files have to be the same before they are read: editors and copies write in steps.
const SETTLE: Duration = Duration::from_millis(50);

/// Settling time where each was put in its place as a whole: several may be renamed one after the other.
const SETTLE_WHOLE: Duration = Duration::from_millis(10);

/// How often that is waited for; then they are read as they are. 20 × 50 ms = 1 s.
const MAX_SETTLES: u32 = 20;

/// How often the directory is looked at without an event: for file systems that have none, and
/// symbolic links to elsewhere.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Reads a configuration directory.
#[derive(Debug)]
pub struct FileSource {
    dir: PathBuf,
    domains: TrustDomains,
    /// Whether it may become empty.
    allow_empty: bool,
    looks: Looks,
    /// The documents of each file as they were last read.
    files: BTreeMap<PathBuf, Contents>,
    /// The documents in force.
    good: InForce,
}

/// The document in force under one name.
#[derive(Clone, Debug)]
struct Good {
    resource: Resource,
    /// How many documents of its file had this name before it did: which of several it was.
    nth: usize,
    /// It stands in the place of a document that never was good.
    is_closed: bool,
}

impl Good {
    /// Whether it was written in this file.
    fn is_of(&self, file: &Path) -> bool {
        *self.resource.location.file == *file
    }
}

/// A file that has been read.
#[derive(Debug)]
struct Contents {
    /// Of the text; `None` if it could not be read.
    fingerprint: Option<u64>,
    documents: Documents,
}

impl FileSource {
    /// A source that has read nothing yet. `domains` are those of identities and principals.
    /// `allow_empty`: a directory without documents means that there shall be nothing, also where there
    /// was something before; otherwise that is taken for a mistake.
    ///
    /// # Errors
    ///
    /// The directory cannot be read now. Later that is a condition.
    pub fn new(dir: PathBuf, domains: TrustDomains, allow_empty: bool) -> Result<Self, Error> {
        read::files(&dir)?;
        let (looks, files, good) = (Looks::default(), BTreeMap::new(), InForce::default());
        Ok(Self { dir, domains, allow_empty, looks, files, good })
    }

    /// Reads the directory and says what is in force now.
    ///
    /// A document that is broken now and was good before stays as it was. If it cannot be told
    /// which one it was, all that its file once said, and no document says now, stays.
    pub fn load(&mut self) -> Update {
        let files = match read::files(&self.dir) {
            Ok(files) => files,
            Err(error) => {
                let condition = self.unreadable_directory(&error);
                return self.update(vec![condition]);
            }
        };
        let mut contents = BTreeMap::new();
        for file in files {
            if let Some(read) = self.read(&file) {
                contents.insert(file, read);
            }
        }
        self.files = contents;
        let is_empty = self.files.values().all(|file| file.documents.all.is_empty());
        if is_empty && !self.good.is_empty() && !self.allow_empty {
            let condition = self.empty_directory();
            return self.update(vec![condition]);
        }
        let conditions = self.merge();
        self.update(conditions)
    }

    /// The number of documents that were read last, whether they are good or not.
    pub fn n_documents(&self) -> usize {
        self.files.values().map(|file| file.documents.all.len()).sum()
    }

    /// Sends an update now, whenever the files say something else, and, if they do, when it is
    /// asked to look, until `scope` drains.
    pub async fn run(self, updates: mpsc::Sender<Update>, asked: Asked, scope: Scope) {
        tokio::select! {
            biased;
            () = scope.draining() => {}
            () = updates.closed() => {}
            () = self.follow(&updates, asked) => {}
        }
    }

    async fn follow(mut self, updates: &mpsc::Sender<Update>, mut asked: Asked) {
        let mut watch = Watch::new(&self.dir)
            .inspect_err(|error| tracing::warn!(%error, "cannot watch; looking every 5 s instead"))
            .ok();
        let mut sent: Option<Update> = None;
        let mut seen = None;
        loop {
            // Before the files are read, so that no later change is missed.
            if let Some(watch) = &mut watch {
                watch.renew();
            }
            let now = seen.take().unwrap_or_else(|| self.look());
            let began = Instant::now();
            let update = self.load();
            tracing::debug!(read_ms = began.elapsed().as_millis(), "read the configuration");
            if sent.as_ref() != Some(&update) {
                let before = sent.as_ref().map_or(&[][..], |sent| &sent.conditions);
                let (news, more) = news::news(before, &update.conditions);
                for condition in news {
                    tracing::warn!("{condition}");
                }
                if more > 0 {
                    tracing::warn!(
                        more,
                        "there are more conditions than are logged: ask /conditions"
                    );
                }
                if updates.send(update.clone()).await.is_err() {
                    return;
                }
                sent = Some(update);
            }
            asked.answer();
            tokio::select! {
                biased;
                () = asked.wait() => {}
                next = self.changed(watch.as_mut(), now) => seen = Some(next),
            }
        }
    }

    /// Waits until the files are not as they were when `seen` was taken, and have settled. Returns what
    /// they look like then, or looked like before something was written that has not settled yet.
    async fn changed(&mut self, mut watch: Option<&mut Watch>, seen: u64) -> u64 {
        let mut now = seen;
        let mut settle = SETTLE_WHOLE;
        while now == seen {
            settle = settle.max(event(&mut watch).await);
            now = self.look();
        }
        for _ in 0..MAX_SETTLES {
            sleep(settle).await;
            if self.looks.are_settled(&self.dir) {
                break;
            }
            now = self.look();
        }
        now
    }

    /// See [`Looks::fingerprint`].
    fn look(&mut self) -> u64 {
        self.looks.fingerprint(&self.dir, clock::now())
    }

    /// The documents of a file, or `None` if it has vanished meanwhile.
    fn read(&mut self, file: &Path) -> Option<Contents> {
        let last = self.files.get(file).and_then(|last| last.fingerprint);
        if self.looks.is_same(file, last) {
            return self.files.remove(file);
        }
        let text = match read::text(file) {
            Ok(text) => text?,
            Err(error) => return Some(unreadable_file(file, &error)),
        };
        let fingerprint = Some(read::text_fingerprint(&text));
        let last = match self.files.remove(file) {
            Some(last) if last.fingerprint == fingerprint => return Some(last),
            last => last.map(|last| last.documents).unwrap_or_default(),
        };
        let documents = document::read(file, &text, &self.domains, &last);
        Some(Contents { fingerprint, documents })
    }

    /// Works out what is in force, from the files and what was in force before.
    fn merge(&mut self) -> Vec<Condition> {
        let (next, kept) = (self.good.next(), BTreeSet::new());
        let mut merge = Merge { next, kept, conditions: Vec::new() };
        for (file, contents) in &self.files {
            merge.add_file(file, &contents.documents.all);
        }
        // A document that has moved from another file and is broken since.
        let all = || self.files.values().flat_map(|contents| &contents.documents.all);
        for document in all() {
            match &document.outcome {
                Outcome::Broken(Some(key)) => merge.keep(key),
                Outcome::Closed(resource) => merge.keep(&resource.object.key()),
                Outcome::Broken(None) | Outcome::Foreign | Outcome::Good(_) => {}
            }
        }
        for (file, contents) in &self.files {
            let is_unknown = |document: &Document| document.outcome == Outcome::Broken(None);
            if contents.documents.all.iter().any(is_unknown) {
                merge.keep_file(file);
            }
        }
        for document in all() {
            if let Outcome::Closed(resource) = &document.outcome {
                merge.close(resource);
            }
        }
        // Only now is it known what has stayed.
        let Merge { next, kept, mut conditions, .. } = merge;
        let of_file = |key: &Key| Some(&*next.get(key)?.resource.location.file);
        let stayed: BTreeSet<&Path> = kept.iter().filter_map(of_file).collect();
        for document in all() {
            let key = match &document.outcome {
                Outcome::Broken(key) => key.clone(),
                Outcome::Closed(resource) => Some(resource.object.key()),
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
                    None => "; until then it is left out".to_owned(),
                },
                None if document
                    .conditions
                    .iter()
                    .any(|it| stayed.contains(&*it.location.file)) =>
                {
                    "; what was last good of the file stays in force".to_owned()
                }
                None => "; until then nothing that it holds is in force".to_owned(),
            };
            conditions.extend(document.conditions.iter().cloned().map(|mut condition| {
                condition.message.push_str(&stays);
                condition
            }));
        }
        conditions.sort_by(|a, b| a.location.cmp(&b.location));
        let next = next.into_parts();
        self.good.become_next(next);
        conditions
    }

    fn update(&self, conditions: Vec<Condition>) -> Update {
        let resources = self.good.iter().map(|(_, good)| good.resource.clone()).collect();
        Update { source: NAME, resources, conditions }
    }

    fn empty_directory(&self) -> Condition {
        let message = format!(
            "the configuration directory {} holds no documents any more; the last configuration \
             stays in force until it does. If nothing shall be in force, start the agent with \
             --allow-empty",
            self.dir.display()
        );
        whole(&self.dir, "directory", message)
    }

    fn unreadable_directory(&self, error: &Error) -> Condition {
        let message =
            format!("{}; until that is put right, all stays as it was last", chain(error));
        whole(&self.dir, "directory", message)
    }
}

/// Waits until the directory may have changed, and says how long to wait for it to settle. `watch` is
/// taken away when it does not work.
async fn event(watch: &mut Option<&mut Watch>) -> Duration {
    let deadline = Instant::now() + LOOK_AGAIN;
    let Some(events) = watch else {
        sleep_until(deadline).await;
        return SETTLE;
    };
    match timeout_at(deadline, events.changed()).await {
        Ok(Ok(change)) => {
            events.renew();
            return if change == Change::Whole { SETTLE_WHOLE } else { SETTLE };
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "cannot watch; looking every 5 s instead");
            *watch = None;
        }
        Err(_elapsed) => events.renew(),
    }
    SETTLE
}

/// The documents in force next, as they are being worked out.
struct Merge<'a> {
    next: Next<'a>,
    /// Those of them that were in force before, and are in no document now.
    kept: BTreeSet<Key>,
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
            Outcome::Broken(_) | Outcome::Closed(_) | Outcome::Foreign => None,
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
                Outcome::Broken(None) => {}
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
        let _is_taken: Result<(), _> = self.next.insert(key, good);
    }

    /// Keeps what was in force under this name, unless something good has it now.
    fn keep(&mut self, key: &Key) {
        let before = self.next.before().get(key).filter(|good| !good.is_closed);
        if let Some(before) = before
            && self.next.insert(key.clone(), before.clone()).is_ok()
        {
            self.kept.insert(key.clone());
        }
    }

    /// Keeps everything that this file once said, unless something good has its name now.
    fn keep_file(&mut self, file: &Path) {
        for (key, good) in self.next.before().iter() {
            if good.is_of(file) {
                self.keep(key);
            }
        }
    }
}

/// A file of which nothing is known but that it is there.
fn unreadable_file(file: &Path, error: &Error) -> Contents {
    let remedy = match error {
        Error::TooLarge => "divide it into several files",
        Error::File(_) => "let the agent read it, or remove it",
        _ => {
            "put a file of YAML in UTF-8 there, or give it a name that does not end in .yaml or .yml"
        }
    };
    let message = format!("{}; {remedy}", chain(error));
    let conditions = vec![whole(file, "file", message)];
    let mut documents = Documents::default();
    documents.all.push(Document { outcome: Outcome::Broken(None), conditions });
    Contents { fingerprint: None, documents }
}

/// A condition on all of a path.
fn whole(path: &Path, subject: &str, message: String) -> Condition {
    Condition {
        location: Location { file: path.into(), document: 1, line: 1 },
        subject: subject.to_owned(),
        field: String::new(),
        reason: Reason::Invalid,
        message,
    }
}

#[cfg(test)]
mod tests;
