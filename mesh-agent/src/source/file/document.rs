//! One file's text into resources and conditions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize as _;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::model::condition::{Condition, Location, Reason};
use crate::model::policy::{AuthorizationPolicy, MeshPolicy, PolicyKind};
use crate::model::trust_domain::TrustDomains;
use crate::store::update::{Key, Kind, Object, Resource};

use super::convert::{self, Problem, Problems, Written};
use super::header::{Class, Fill, Header, Selected};
use super::read::text_fingerprint;
use super::split::{self, Piece};
use super::yaml::{self, Unreadable};
use super::{locate, schema};

/// The most documents in one file.
const MAX_DOCUMENTS: usize = 100_000;

/// How many broken items of one list are told apart. Each costs one more reading of the list.
const MAX_BROKEN_ITEMS: usize = 32;

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
        documents.found.insert(fingerprint, (piece.line, first..documents.all.len()));
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
            documents.push(self.broken(&header, error));
            return;
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
                    Err(error) => self.broken(&header, error),
                });
            }
            Class::List => self.read_list(&header, documents),
            Class::Unknown => documents.push(self.unknown(&header, 1)),
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
                // The list itself, or too much of it: what was known of the file stays.
                documents.push(self.broken(&Header::default(), error));
                return;
            };
            let Some((item, _)) = list.items.get(index) else { return };
            documents.push(self.broken(item, error));
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
                None => documents.push(self.unknown(item, *line)),
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
            field: format!("{prefix}{}", problem.path),
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
            None => self.unusable(header, prefix.is_empty()),
        };
        Document { outcome, conditions }
    }

    /// The outcome of a document that cannot be used; `alone`: it is no item of a list.
    fn unusable(&self, header: &Header, alone: bool) -> Outcome {
        let Some(key) = header.key() else { return Outcome::Broken(None) };
        let text = self.piece.text;
        // The workloads that it is for are all that has to be known. Where that cannot be read, it is
        // for all of its namespace.
        let selector = || if alone { Selected::read(text) } else { BTreeMap::new() };
        let name = key.name.clone();
        let carried = |kind, name| {
            let policy = MeshPolicy::closed(kind, (name, selector()), text);
            policy.map(|policy| Object::MeshPolicy(policy.into()))
        };
        let object = match key.kind {
            Kind::AuthorizationPolicy => {
                let policy = AuthorizationPolicy::deny_all(name, selector());
                Some(Object::AuthorizationPolicy(policy.into()))
            }
            Kind::PeerAuthentication => carried(PolicyKind::PeerAuthentication, name),
            Kind::MeshPolicy => carried(PolicyKind::Mesh, name),
            _ => None,
        };
        let Some(object) = object else { return Outcome::Broken(Some(key)) };
        Outcome::Closed(Resource { location: self.location(self.first_line()), object })
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

    fn broken(&self, header: &Header, error: Unreadable) -> Document {
        let condition = Condition {
            location: self.location(error.line.unwrap_or_else(|| self.first_line())),
            subject: header.subject(),
            field: error.path,
            reason: Reason::Invalid,
            message: error.message,
        };
        Document { outcome: self.unusable(header, header.is_alone), conditions: vec![condition] }
    }

    fn unknown(&self, header: &Header, line: usize) -> Document {
        let mut condition = self.whole(
            header.subject(),
            Reason::UnsupportedValue,
            format!(
                "documents with apiVersion `{}` and kind `{}` are not read; write v1 Service, \
                 gateway.networking.k8s.io/v1 HTTPRoute, GRPCRoute or TCPRoute, \
                 security.istio.io/v1 AuthorizationPolicy or PeerAuthentication, \
                 networking.istio.io/v1 ServiceEntry, or \
                 nodemesh.dev/v1alpha1 Workload or MeshPolicy, or remove it",
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
                Class::List | Class::Unknown => {
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
