//! What policies ask of a request of HTTP.

use http::HeaderName;

use crate::model::policy::Text;

/// What a request asks for: every field that is not empty must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpOperation {
    /// `methods`.
    pub methods: Vec<Text>,
    /// `notMethods`.
    pub not_methods: Vec<Text>,
    /// `paths`, without a query.
    pub paths: Vec<PathText>,
    /// `notPaths`.
    pub not_paths: Vec<PathText>,
    /// `hosts`, in lower case: of `Host` or `:authority`, with the port if that has one.
    pub hosts: Vec<Text>,
    /// `notHosts`, in lower case.
    pub not_hosts: Vec<Text>,
}

/// A header that must have, or must not have, some value (`request.headers[…]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderCondition {
    /// Its name.
    pub name: HeaderName,
    /// `values`.
    pub values: Vec<Text>,
    /// `notValues`.
    pub not_values: Vec<Text>,
}

/// How a path is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathText {
    /// As any text.
    Text(Text),
    /// With operators in braces.
    Template(Template),
}

/// A path with operators (Istio, `Operation.paths`): `{*}` is one segment, and `{**}` all up to what
/// is written after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    before: Vec<Segment>,
    /// What comes after `{**}`; `None`: there is none.
    after: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Any,
}

impl HttpOperation {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        let Self { methods, not_methods, paths, not_paths, hosts, not_hosts } = self;
        [methods, not_methods, hosts, not_hosts].iter().all(|list| list.is_empty())
            && paths.is_empty()
            && not_paths.is_empty()
    }
}

impl PathText {
    /// Whether `path` is meant.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Text(text) => text.matches(Some(path)),
            Self::Template(template) => template.matches(path),
        }
    }
}

impl Template {
    /// Reads one. `None`: an operator is not a segment of its own, is unknown, or comes after `{**}`.
    pub fn new(text: &str) -> Option<Self> {
        let mut template = Self { before: Vec::new(), after: None };
        for segment in text.strip_prefix('/')?.split('/') {
            let has_braces = segment.contains(['{', '}', '*']);
            match (segment, &mut template.after) {
                ("{*}", None) => template.before.push(Segment::Any),
                ("{**}", after @ None) => *after = Some(Vec::new()),
                (literal, None) if !has_braces => {
                    template.before.push(Segment::Literal(literal.to_owned()));
                }
                (literal, Some(after)) if !has_braces => after.push(literal.to_owned()),
                _ => return None,
            }
        }
        Some(template)
    }

    /// Whether `path` is meant.
    pub fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let segments: Vec<&str> = path.split('/').collect();
        let is_length = match &self.after {
            None => segments.len() == self.before.len(),
            Some(after) => segments.len() > self.before.len() + after.len(),
        };
        let is_before = |(segment, own): (&&str, &Segment)| match own {
            Segment::Literal(literal) => segment == literal,
            Segment::Any => !segment.is_empty(),
        };
        let after = self.after.iter().flatten().rev();
        is_length
            && segments.iter().zip(&self.before).all(is_before)
            && segments.iter().rev().zip(after).all(|(segment, own)| segment == own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_segments() {
        let check = |template: &str, path: &str, expect: bool| {
            let template = Template::new(template).unwrap();
            assert_eq!(template.matches(path), expect, "{template:?} {path}");
        };
        check("/a/{*}", "/a/b", true);
        check("/a/{*}", "/a/", false);
        check("/a/{*}", "/a/b/c", false);
        check("/a/{*}/c", "/a/b/c", true);
        check("/a/{*}/c", "/a/b/d", false);
        check("/a/{**}", "/a/", true);
        check("/a/{**}", "/a/b/c", true);
        check("/a/{**}", "/a", false);
        check("/a/{**}", "/ab/c", false);
        check("/{*}/{**}/z", "/a/b/c/z", true);
        check("/{*}/{**}/z", "/a/z", false);
        check("/{**}/z", "/a/zz", false);
        check("/{**}", "a", false);
    }

    #[test]
    fn what_is_no_template_is_none() {
        for text in ["a/{*}", "/a{*}", "/{*}b", "/{**}/{*}", "/{**}/{**}", "/{name}", "/a*/{*}", ""]
        {
            assert_eq!(Template::new(text), None, "{text}");
        }
    }
}
