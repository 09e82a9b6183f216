//! One file's text into resources and conditions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize as _;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::model::condition::{Condition, Location, Reason};
use crate::model::id::ResourceName;
use crate::model::policy::{AuthorizationPolicy, MeshPolicy, PolicyKind};
use crate::model::trust_domain::TrustDomains;
use crate::store::update::{Key, Kind, Object, Resource};

use super::convert::{self, Problem, Problems, Written};
use super::header::{Class, Fill, Header, Selected};
use super::like::Likely;
use super::read::text_fingerprint;
use super::split::{self, Piece};
use super::yaml::{self, Unreadable};
use super::{locate, salvage, schema};

/// The most documents in one file.
const MAX_DOCUMENTS: usize = 100_000;

/// How many broken items of one list are told apart. Each costs one more reading of the list.
const MAX_BROKEN_ITEMS: usize = 32;

/// The documents that are read.
const READ: &str = "write v1 Service, gateway.networking.k8s.io/v1 HTTPRoute, GRPCRoute or TCPRoute, \
     security.istio.io/v1 AuthorizationPolicy or PeerAuthentication, networking.istio.io/v1 \
     ServiceEntry, or nodemesh.dev/v1alpha1 Workload or MeshPolicy, or remove it";

/// One document, or one item of a list, after reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) outcome: Outcome,
    pub(super) conditions: Vec<Condition>,
}

/// The result of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It cannot be used. Its subject, if that could be read.
    Broken(Option<Key>),
    /// It cannot be used, and nothing may pass that it might forbid: what is in force in its place,
    /// unless it was good before.
    Closed(Resource),
    /// The same of a document that may have been any of its file's before.
    ClosedUnknown(Resource),
    /// It is none of the mesh's business.
    Foreign,
    /// It can be used.
    Good(Resource),
}

/// A file's documents after reading, in their order, and where in it they were found.
#[derive(Debug, Default)]
pub(super) struct Documents {
    pub(super) all: Vec<Document>,
    /// By the fingerprint of their text: the line that it begins on, and which of `all` it became.
    found: HashMap<u64, (usize, Range<usize>)>,
}

impl Documents {
    /// The documents that a text became when it was read before, at the place that it has now.
    fn again(
        &self,
        fingerprint: u64,
        piece: &Piece<'_>,
        number: usize,
    ) -> Option<impl Iterator<Item = Document>> {
        let (line, range) = self.found.get(&fingerprint)?;
        let moved = move |location: &mut Location| {
            location.document = number;
            location.line = (location.line + piece.line).saturating_sub(*line);
        };
        Some(self.all.get(range.clone())?.iter().cloned().map(move |mut document| {
            document.conditions.iter_mut().for_each(|condition| moved(&mut condition.location));
            if let Outcome::Good(resource) | Outcome::Closed(resource) = &mut document.outcome {
                moved(&mut resource.location);
            }
            document
        }))
    }
}

/// Reads the documents of a file. Those that it had before, of which `last` is what they were, are
/// taken over: among thousands one is edited, and the others are the same objects as before.
pub(super) fn read(file: &Path, text: &str, domains: &TrustDomains, last: &Documents) -> Documents {
    let found = HashMap::with_capacity(last.found.len());
    let mut documents = Documents { all: Vec::with_capacity(last.all.len()), found };
    let file = &Arc::from(file);
    for (number, piece) in (1..).zip(split::documents(text)) {
        let reader = Reader { file, number, piece: &piece, domains };
        let first = documents.all.len();
        if number > MAX_DOCUMENTS {
            let message = format!(
                "the file has more than {MAX_DOCUMENTS} documents, of which this and the following \
                 are not read; split it"
            );
            let condition = reader.whole("document".to_owned(), Reason::Invalid, message);
            documents
                .all
                .push(Document { outcome: Outcome::Broken(None), conditions: vec![condition] });
            break;
        }
        let fingerprint = text_fingerprint(piece.text);
        match last.again(fingerprint, &piece, number) {
            Some(again) => documents.all.extend(again),
            None => reader.read(&mut documents.all),
        }
        // One without a name is called by its line, which may be another the next time.
        let is_named = |document: &Document| !matches!(document.outcome, Outcome::ClosedUnknown(_));
        if documents.all.iter().skip(first).all(is_named) {
            documents.found.insert(fingerprint, (piece.line, first..documents.all.len()));
        }
    }
    documents
}

/// One document that is being read.
struct Reader<'a> {
    file: &'a Arc<Path>,
    number: usize,
    piece: &'a Piece<'a>,
    domains: &'a TrustDomains,
}

impl Reader<'_> {
    fn read(&self, documents: &mut Vec<Document>) {
        let mut header = Header::alone();
        let fill = Fill { header: &mut header, with_items: true };
        if let Err(error) = yaml::parse(self.piece.text, fill) {
            return self.read_damaged(&error, documents);
        }
        match header.class() {
            Class::Known(kind) => {
                let written = yaml::parse(self.piece.text, Item(kind));
                documents.push(match written {
                    Ok(written) => {
                        let mut document = self.convert(&header, (1, ""), written);
                        self.locate(std::slice::from_mut(&mut document));
                        document
                    }
                    Err(error) => self.broken(&header, error, true),
                });
            }
            Class::List => self.read_list(&header, documents),
            Class::LikeList => {
                documents.push(self.unknown(&header, 1));
                self.read_list(&header, documents);
            }
            Class::Like(likely) => {
                let mut document = self.like(&header, likely, "");
                self.locate(std::slice::from_mut(&mut document));
                documents.push(document);
            }
            Class::Unknown => documents.push(self.unknown(&header, 1)),
        }
    }

    /// Reads a document with an error that keeps its header from being read with the rest.
    fn read_damaged(&self, error: &Unreadable, documents: &mut Vec<Document>) {
        let headers = salvage::headers(self.piece.text);
        let is_sure = headers.len() == 1;
        for header in &headers {
            match header.class() {
                Class::List | Class::LikeList => self.lose_list(header, error, documents),
                _ => documents.push(self.broken(header, error.clone(), is_sure)),
            }
        }
    }

    /// A list that cannot be read: what was known of the file stays, and its policies are closed.
    fn lose_list(&self, list: &Header, error: &Unreadable, documents: &mut Vec<Document>) {
        documents.push(self.broken(&Header::default(), error.clone(), true));
        for (item, line) in &list.items {
            let outcome = self.unusable(item, Some(*line), true);
            if matches!(outcome, Outcome::Closed(_) | Outcome::ClosedUnknown(_)) {
                let mut document = self.broken(item, error.clone(), true);
                document.outcome = outcome;
                documents.push(document);
            }
        }
    }

    /// Reads a list's items, each for itself: a broken one is left out, and the list read again.
    fn read_list(&self, list: &Header, documents: &mut Vec<Document>) {
        let mut kinds: Vec<_> = list.items.iter().map(|(item, _)| item.class()).collect();
        let mut broken = BTreeSet::new();
        let items = loop {
            let error = match yaml::parse(self.piece.text, List(&kinds)) {
                Ok(items) => break items,
                Err(error) => error,
            };
            let index = item_index(&error.path).filter(|index| broken.insert(*index));
            let (Some(index), true) = (index, broken.len() <= MAX_BROKEN_ITEMS) else {
                // The list itself, or too much of it.
                self.lose_list(list, &error, documents);
                return;
            };
            let Some((item, line)) = list.items.get(index) else { return };
            let outcome = self.unusable(item, Some(*line), true);
            documents.push(Document { outcome, ..self.broken(item, error, true) });
            if let Some(kind) = kinds.get_mut(index) {
                *kind = Class::List;
            }
        };
        let read = documents.len();
        for (i, (written, (item, line))) in items.into_iter().zip(&list.items).enumerate() {
            match written {
                Some(written) => {
                    let path = format!("items[{i}].");
                    documents.push(self.convert(item, (*line, &path), written));
                }
                None if broken.contains(&i) => {}
                None => documents.push(match item.class() {
                    Class::Like(likely) => {
                        let outcome = self.unusable(item, Some(*line), likely.is_sure);
                        let path = format!("items[{i}].");
                        Document { outcome, ..self.like(item, likely, &path) }
                    }
                    _ => self.unknown(item, *line),
                }),
            }
        }
        if let Some(converted) = documents.get_mut(read..) {
            self.locate(converted);
        }
    }

    /// Converts what could be read at `line` of the document; its fields are below `prefix`.
    fn convert(
        &self,
        header: &Header,
        (line, prefix): (usize, &str),
        written: Written,
    ) -> Document {
        let mut problems = Problems::default();
        let object = convert::convert(written, self.domains, &mut problems);
        let condition = |problem: Problem| Condition {
            location: self.location(line),
            subject: header.subject(),
            field: yaml::printable(&format!("{prefix}{}", problem.path)),
            reason: problem.reason,
            message: problem.message,
        };
        let conditions = problems.found.into_iter().map(condition).collect();
        let outcome = match object {
            Some(object) => {
                let content = self.first_line();
                let location = self.location(if prefix.is_empty() { content } else { line });
                Outcome::Good(Resource { location, object })
            }
            None => self.unusable(header, (!prefix.is_empty()).then_some(line), true),
        };
        Document { outcome, conditions }
    }

    /// The outcome of a document that cannot be used; `item`: the line of the list's item that it is.
    /// `is_sure`: it is known which document it is.
    fn unusable(&self, header: &Header, item: Option<usize>, is_sure: bool) -> Outcome {
        let (kind, is_sure) = match header.class() {
            Class::Known(kind) => (kind, is_sure),
            Class::Like(likely) => (likely.kind, is_sure && likely.is_sure),
            Class::List | Class::LikeList | Class::Unknown => return Outcome::Broken(None),
        };
        let location = self.location(self.first_line());
        let is_known = is_sure && header.name().is_some();
        let name = header.name().unwrap_or_else(|| {
            let line = item.map_or(location.line, |line| self.location(line).line);
            let file = self.file.file_name().unwrap_or_default().to_string_lossy();
            // A name that no document can have.
            let name = format!("{}:{line}", yaml::printable(&file));
            ResourceName::new(header.namespace(), name)
        });
        let text = self.piece.text;
        // The workloads that it is for are all that has to be known. Where that cannot be read, it is
        // for all of its namespace.
        let selector = || if item.is_none() { Selected::read(text) } else { BTreeMap::new() };
        let carried = |kind, name| {
            let policy = MeshPolicy::closed(kind, (name, selector()), text);
            policy.map(|policy| Object::MeshPolicy(policy.into()))
        };
        let object = match kind {
            Kind::AuthorizationPolicy => {
                let policy = AuthorizationPolicy::deny_all(name.clone(), selector());
                Some(Object::AuthorizationPolicy(policy.into()))
            }
            Kind::PeerAuthentication => carried(PolicyKind::PeerAuthentication, name.clone()),
            Kind::MeshPolicy => carried(PolicyKind::Mesh, name.clone()),
            _ => None,
        };
        match object.map(|object| Resource { location, object }) {
            Some(resource) if is_known => Outcome::Closed(resource),
            Some(resource) => Outcome::ClosedUnknown(resource),
            None => Outcome::Broken(is_known.then_some(Key { kind, name })),
        }
    }

    /// Finds the lines of the fields that the conditions of converted documents name.
    ///
    /// All at once, because each reading takes as long as the document is.
    fn locate(&self, documents: &mut [Document]) {
        let conditions = documents.iter_mut().flat_map(|document| &mut document.conditions);
        let mut conditions: Vec<_> = conditions.filter(|one| !one.field.is_empty()).collect();
        if conditions.is_empty() {
            return;
        }
        let paths: Vec<_> = conditions.iter().map(|condition| condition.field.as_str()).collect();
        let lines = locate::lines(self.piece.text, &paths);
        for (condition, line) in conditions.iter_mut().zip(lines) {
            condition.location = self.location(line);
        }
    }

    fn broken(&self, header: &Header, error: Unreadable, is_sure: bool) -> Document {
        let condition = Condition {
            location: self.location(error.line.unwrap_or_else(|| self.first_line())),
            subject: header.subject(),
            field: error.path,
            reason: Reason::Invalid,
            message: error.message,
        };
        let item = (!header.is_alone).then_some(1);
        Document { outcome: self.unusable(header, item, is_sure), conditions: vec![condition] }
    }

    /// A document that is most likely meant to be of another kind or version; its fields are below
    /// `prefix`.
    fn like(&self, header: &Header, likely: Likely, prefix: &str) -> Document {
        let Document { mut conditions, .. } = self.unknown(header, 1);
        let field = if header.kind == likely.kind.as_str() { "apiVersion" } else { "kind" };
        for condition in &mut conditions {
            condition.field = format!("{prefix}{field}");
        }
        let item = (!prefix.is_empty()).then_some(1);
        Document { outcome: self.unusable(header, item, true), conditions }
    }

    fn unknown(&self, header: &Header, line: usize) -> Document {
        let remedy = match header.class() {
            Class::Like(likely) => format!("did you mean `{}`?", likely.words()),
            Class::LikeList => "did you mean `v1 List`? Its items are read".to_owned(),
            _ => READ.to_owned(),
        };
        let mut condition = self.whole(
            header.subject(),
            Reason::UnsupportedValue,
            format!(
                "documents with apiVersion `{}` and kind `{}` are not read; {remedy}",
                yaml::printable(&header.api_version),
                yaml::printable(&header.kind)
            ),
        );
        if line > 1 {
            condition.location = self.location(line);
        }
        Document { outcome: Outcome::Foreign, conditions: vec![condition] }
    }

    /// A condition on the whole document.
    fn whole(&self, subject: String, reason: Reason, message: String) -> Condition {
        let location = self.location(self.first_line());
        Condition { location, subject, field: String::new(), reason, message }
    }

    /// The first line of the document that is neither empty, nor a comment, nor its marker.
    fn first_line(&self) -> usize {
        let content = |line: &str| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#') && line != "---"
        };
        self.piece.text.lines().position(content).map_or(1, |index| index + 1)
    }

    /// A line of the document, counted from 1, as a place in the file.
    fn location(&self, line: usize) -> Location {
        let line = self.piece.line + line.saturating_sub(1);
        Location { file: Arc::clone(self.file), document: self.number, line }
    }
}

/// The index in a path that begins with `items[index]`.
fn item_index(path: &str) -> Option<usize> {
    path.strip_prefix("items[")?.split_once(']')?.0.parse().ok()
}

/// Reads one resource of a kind.
struct Item(Kind);

impl<'de> DeserializeSeed<'de> for Item {
    type Value = Written;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Written, D::Error> {
        match self.0 {
            Kind::Service => schema::Service::deserialize(deserializer).map(Written::Service),
            Kind::TcpRoute => schema::TcpRoute::deserialize(deserializer).map(Written::TcpRoute),
            Kind::HttpRoute => schema::HttpRoute::deserialize(deserializer).map(Written::HttpRoute),
            Kind::GrpcRoute => schema::GrpcRoute::deserialize(deserializer).map(Written::GrpcRoute),
            Kind::Workload => schema::Workload::deserialize(deserializer).map(Written::Workload),
            Kind::MeshPolicy => {
                schema::MeshPolicy::deserialize(deserializer).map(Written::MeshPolicy)
            }
            Kind::ServiceEntry => {
                schema::ServiceEntry::deserialize(deserializer).map(Written::ServiceEntry)
            }
            Kind::PeerAuthentication => schema::PeerAuthentication::deserialize(deserializer)
                .map(Written::PeerAuthentication),
            Kind::AuthorizationPolicy => schema::AuthorizationPolicy::deserialize(deserializer)
                .map(Written::AuthorizationPolicy),
        }
    }
}

/// Reads a list whose items are of these classes; only those of known kinds are kept.
struct List<'a>(&'a [Class]);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = Vec<Option<Written>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = Vec<Option<Written>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of resources")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        const FIELDS: &[&str] = &["apiVersion", "items", "kind", "metadata"];
        let mut items = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "items" => items = map.next_value_seed(Items(self.0))?,
                "apiVersion" | "kind" | "metadata" => {
                    map.next_value::<IgnoredAny>()?;
                }
                other => return Err(de::Error::unknown_field(other, FIELDS)),
            }
        }
        Ok(items)
    }
}

/// Reads the items of a list.
struct Items<'a>(&'a [Class]);

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = Vec<Option<Written>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = Vec<Option<Written>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of resources")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::with_capacity(self.0.len());
        for class in self.0 {
            items.push(match class {
                Class::Known(kind) => seq.next_element_seed(Item(*kind))?,
                Class::List | Class::Like(_) | Class::LikeList | Class::Unknown => {
                    seq.next_element::<IgnoredAny>()?;
                    None
                }
            });
        }
        // The end, which the first reading has found there.
        seq.next_element::<IgnoredAny>()?;
        Ok(items)
    }
}
