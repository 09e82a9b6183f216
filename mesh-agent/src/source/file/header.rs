//! The header of a document, read as far as it can be read.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::model::id::ResourceName;
use crate::model::likely::is_likely;
use crate::store::update::Kind;

use super::convert::DEFAULT_NAMESPACE;
use super::like::{self, Likely};

/// `apiVersion`, `kind` and `metadata` of a document.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) api_version: String,
    pub(super) kind: String,
    name: Option<String>,
    namespace: Option<String>,
    /// It is no item of a list.
    pub(super) is_alone: bool,
    /// Of a `List`: what is in it, and on which line of the document each begins.
    pub(super) items: Vec<(Header, usize)>,
}

/// The keys that identify a document.
const KEYS: [&str; 5] = ["apiVersion", "kind", "metadata", "name", "namespace"];

/// Whether a key that is none of a header's may be one that is misspelled, or at another place.
fn may_mean(key: &str) -> bool {
    KEYS.iter().any(|known| is_likely(key, known))
}

/// The mesh's use of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Known(Kind),
    List,
    /// A kind or version that is not read, most likely by mistake.
    Like(Likely),
    /// The same of a list.
    LikeList,
    Unknown,
}

impl Header {
    /// The header of a document that is no item of a list, before anything is read.
    pub(super) fn alone() -> Self {
        Self { is_alone: true, ..Self::default() }
    }

    /// The mesh's use of it.
    pub(super) fn class(&self) -> Class {
        match (self.api_version.as_str(), self.kind.as_str()) {
            ("v1", "Service") => Class::Known(Kind::Service),
            ("v1", "List") => Class::List,
            ("gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1alpha2", "TCPRoute") => {
                Class::Known(Kind::TcpRoute)
            }
            ("gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1beta1", "HTTPRoute") => {
                Class::Known(Kind::HttpRoute)
            }
            ("gateway.networking.k8s.io/v1", "GRPCRoute") => Class::Known(Kind::GrpcRoute),
            ("nodemesh.dev/v1alpha1", "Workload") => Class::Known(Kind::Workload),
            ("nodemesh.dev/v1alpha1", "MeshPolicy") => Class::Known(Kind::MeshPolicy),
            (
                "networking.istio.io/v1"
                | "networking.istio.io/v1beta1"
                | "networking.istio.io/v1alpha3",
                "ServiceEntry",
            ) => Class::Known(Kind::ServiceEntry),
            ("security.istio.io/v1" | "security.istio.io/v1beta1", "PeerAuthentication") => {
                Class::Known(Kind::PeerAuthentication)
            }
            (
                "security.istio.io/v1" | "security.istio.io/v1beta1" | "nodemesh.dev/v1alpha1",
                "AuthorizationPolicy",
            ) => Class::Known(Kind::AuthorizationPolicy),
            (api_version, kind) => like::class(api_version, kind),
        }
    }

    /// Its namespace and name, if it has a name.
    pub(super) fn name(&self) -> Option<ResourceName> {
        self.name.clone().map(|name| ResourceName::new(self.namespace(), name))
    }

    /// Its namespace.
    pub(super) fn namespace(&self) -> String {
        self.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
    }

    /// Adds what `other` has and this one has not.
    pub(super) fn complete(&mut self, other: Self) {
        for (to, from) in [(&mut self.api_version, other.api_version), (&mut self.kind, other.kind)]
        {
            if to.is_empty() {
                *to = from;
            }
        }
        self.name = self.name.take().or(other.name);
        self.namespace = self.namespace.take().or(other.namespace);
    }

    /// Takes the value of a key that [may be meant](may_mean) for another, where nothing else is known. Its document has a mistake: it says only
    /// what it may be.
    fn guess(&mut self, key: &str, value: Guess) {
        match value {
            Guess::Text(text) if is_likely(key, "apiVersion") && self.api_version.is_empty() => {
                self.api_version = text;
            }
            Guess::Text(text) if is_likely(key, "kind") && self.kind.is_empty() => self.kind = text,
            Guess::Map(all) if is_likely(key, "metadata") => {
                for (key, value) in all {
                    self.guess_name(&key, value);
                }
            }
            value => self.guess_name(key, value),
        }
    }

    fn guess_name(&mut self, key: &str, value: Guess) {
        match value {
            Guess::Text(text) if is_likely(key, "namespace") => {
                self.namespace.get_or_insert(text);
            }
            Guess::Text(text) if is_likely(key, "name") => {
                self.name.get_or_insert(text);
            }
            _ => {}
        }
    }

    /// For people: `Service default/echo`, or as much of it as could be read.
    pub(super) fn subject(&self) -> String {
        let kind = if self.kind.is_empty() { "document" } else { &self.kind };
        let subject = self.name().map_or_else(|| kind.to_owned(), |name| format!("{kind} {name}"));
        super::yaml::printable(&subject)
    }
}

/// Fills a [`Header`] as the document goes by, so that what stands before an error is kept.
pub(super) struct Fill<'a> {
    pub(super) header: &'a mut Header,
    /// Whether `items` are looked into; those of an item are not.
    pub(super) with_items: bool,
}

impl<'de> DeserializeSeed<'de> for Fill<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fill<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a resource with apiVersion, kind and metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "apiVersion" => self.header.api_version = map.next_value()?,
                "kind" => self.header.kind = map.next_value()?,
                "metadata" => map.next_value_seed(Metadata(self.header))?,
                "items" if self.with_items => map.next_value_seed(Items(&mut self.header.items))?,
                key if may_mean(key) => self.header.guess(key, map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// The part of `metadata` that identifies, kept as far as it can be read.
struct Metadata<'a>(&'a mut Header);

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "name" => self.0.name = map.next_value()?,
                "namespace" => self.0.namespace = map.next_value()?,
                key if may_mean(key) => self.0.guess_name(key, map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// A value under a key that may be a misspelled one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Guess {
    Text(String),
    Map(BTreeMap<String, Guess>),
    Other(IgnoredAny),
}

/// Of a document that cannot be read as a whole, the labels of its selector.
#[derive(Deserialize)]
pub(super) struct Selected {
    spec: SelectedSpec,
}

#[derive(Deserialize)]
struct SelectedSpec {
    selector: SelectedLabels,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SelectedLabels {
    match_labels: BTreeMap<String, String>,
}

impl Selected {
    /// Reads them; none if they cannot be read, or would select by something else than whole labels.
    pub(super) fn read(text: &str) -> BTreeMap<String, String> {
        let read = super::yaml::parse(text, PhantomData::<Self>);
        let labels = read.map(|it| it.spec.selector.match_labels).unwrap_or_default();
        let is_whole = |(key, value): (&String, &String)| {
            !key.is_empty() && !key.contains('*') && !value.contains('*')
        };
        if labels.iter().all(is_whole) { labels } else { BTreeMap::new() }
    }
}

/// The items of a list. Of another kind's field of that name, nothing.
struct Items<'a>(&'a mut Vec<(Header, usize)>);

impl<'de> DeserializeSeed<'de> for Items<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of resources")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(item) = seq.next_element::<Spanned<Item>>()? {
            let line = usize::try_from(item.referenced.line()).unwrap_or(1);
            self.0.push((item.value.0, line));
        }
        Ok(())
    }
}

/// A header that is read in one go.
struct Item(Header);

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut header = Header::default();
        Fill { header: &mut header, with_items: false }.deserialize(deserializer)?;
        Ok(Self(header))
    }
}
