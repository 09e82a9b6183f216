//! On which lines of a document its fields are.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::yaml;

/// The line, counted from 1 within `text`, of each of `paths` (such as `spec.ports[0].port`).
///
/// A field that is not there has the line of the innermost one around it that is.
pub(super) fn lines(text: &str, paths: &[&str]) -> Vec<usize> {
    let mut wanted = Wanted::default();
    for path in paths {
        wanted.any.extend(prefixes(path));
        wanted.inner.extend(prefixes(path).skip(1));
    }
    let mut lines = HashMap::new();
    let root = Node { path: String::new(), wanted: &wanted, lines: &mut lines };
    // A document that cannot be read to its end has lines as far as it could be read.
    let _read: Result<(), _> = serde_saphyr::with_deserializer_from_str_with_options(
        text,
        yaml::options(),
        |deserializer| root.deserialize(deserializer),
    );
    let line = |path: &&str| prefixes(path).find_map(|prefix| lines.get(prefix)).copied();
    paths.iter().map(|path| line(path).unwrap_or(1)).collect()
}

/// `a.b[0]`, `a.b`, `a`: the path and those around it, innermost first; not the root's.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    let mut next = Some(path);
    std::iter::from_fn(move || {
        let path = next.filter(|path| !path.is_empty())?;
        next = path.rfind(['.', '[']).and_then(|end| path.get(..end));
        Some(path)
    })
}

/// The paths whose lines are recorded.
#[derive(Default)]
struct Wanted<'a> {
    /// All of them.
    any: HashSet<&'a str>,
    /// Those with others below.
    inner: HashSet<&'a str>,
}

/// Records the lines of what is wanted at `path` and below.
struct Node<'a> {
    path: String,
    wanted: &'a Wanted<'a>,
    lines: &'a mut HashMap<String, usize>,
}

impl Node<'_> {
    fn record(&mut self, line: u64) {
        if self.wanted.any.contains(self.path.as_str())
            && let Ok(line) = usize::try_from(line)
        {
            self.lines.entry(self.path.clone()).or_insert(line);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<(), D::Error> {
        if self.path.is_empty() || self.wanted.inner.contains(self.path.as_str()) {
            deserializer.deserialize_any(self)
        } else {
            let leaf: Spanned<IgnoredAny> = de::Deserialize::deserialize(deserializer)?;
            self.record(leaf.referenced.line());
            Ok(())
        }
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            self.record(key.referenced.line());
            let dot = if self.path.is_empty() { "" } else { "." };
            let path = format!("{}{dot}{}", self.path, key.value);
            let mut child = Node { path, wanted: self.wanted, lines: self.lines };
            child.record(key.referenced.line());
            map.next_value_seed(child)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0_usize;
        loop {
            let path = format!("{}[{index}]", self.path);
            let child = Node { path, wanted: self.wanted, lines: self.lines };
            if seq.next_element_seed(child)?.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_on_the_line_of_its_key() {
        let text = "# a comment\nspec:\n  ports:\n  - name: a\n    port: 1\n  - {port: 2}\n  list:\n  - a\n  - b\n";
        let check = |path: &str, line| assert_eq!(lines(text, &[path]), [line], "{path}");
        check("spec", 2);
        check("spec.ports", 3);
        check("spec.ports[0]", 4);
        check("spec.ports[0].port", 5);
        check("spec.ports[1].port", 6);
        check("spec.list[1]", 9);
        check("spec.ports[0].absent", 4);
        check("spec.absent", 2);
        check("absent", 1);
    }
}
