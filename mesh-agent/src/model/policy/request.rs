//! The parts of a request of HTTP that policies ask about.

use http::HeaderName;

use crate::model::policy::Text;

/// The operation of a request: every field that is not empty must match.
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
    /// The elements after `{**}`; `None`: there is none.
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

    /// Whether `path` may reach what is meant, for what is refused: routers of applications ignore the
    /// case of letters (Express), a slash at the end (Express, servlets, Spring), a line feed there
    /// (FastAPI), or what follows a dot in the last segment (Spring before 5.3, Rails).
    pub fn covers(&self, path: &str) -> bool {
        let mut forms = routed(path);
        match self {
            Self::Text(Text::Present) => !path.is_empty(),
            Self::Text(Text::Exact(text)) => {
                let text = without_slash(text).unwrap_or(text);
                forms.any(|form| form.eq_ignore_ascii_case(text))
            }
            Self::Text(Text::Prefix(text)) => {
                let is_folder = text.strip_suffix('/');
                is_start(path, text)
                    || is_folder.is_some_and(|text| path.eq_ignore_ascii_case(text))
            }
            Self::Text(Text::Suffix(text)) => {
                let text = without_slash(text).unwrap_or(text);
                forms.any(|form| is_end(form, text))
            }
            Self::Template(template) => forms.any(|form| template.covers(form)),
        }
    }
}

/// The path, and what routers take it for that ignore a slash, a line feed or an extension at the end.
fn routed(path: &str) -> impl Iterator<Item = &str> {
    let start = path.rfind('/').map_or(0, |slash| slash + 1);
    let last = path.get(start..).unwrap_or_default();
    let until = |dot: Option<usize>| {
        let length = dot.filter(|length| 0 < *length)?;
        path.get(..start + length)
    };
    let (first, last) = (until(last.find('.')), until(last.rfind('.')));
    let forms = [Some(path), without_slash(path), path.strip_suffix('\n'), first, last];
    forms.into_iter().flatten()
}

/// The path without the slash at its end, if it has one and is more than that.
fn without_slash(path: &str) -> Option<&str> {
    path.strip_suffix('/').filter(|path| !path.is_empty())
}

/// Whether `path` begins with `text`, in any case.
fn is_start(path: &str, text: &str) -> bool {
    let start = path.as_bytes().get(..text.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()))
}

/// Whether `path` ends with `text`, in any case.
fn is_end(path: &str, text: &str) -> bool {
    let start = path.len().checked_sub(text.len());
    let end = start.and_then(|start| path.as_bytes().get(start..));
    end.is_some_and(|end| end.eq_ignore_ascii_case(text.as_bytes()))
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
        self.are(&path.split('/').collect::<Vec<_>>(), |segment, literal| segment == literal)
    }

    /// Whether `path` is meant, in any case, or a slash after it makes it so.
    fn covers(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut segments: Vec<&str> = path.split('/').collect();
        let is_literal = str::eq_ignore_ascii_case;
        self.are(&segments, is_literal) || {
            segments.push("");
            self.are(&segments, is_literal)
        }
    }

    fn are(&self, segments: &[&str], is_literal: impl Fn(&str, &str) -> bool) -> bool {
        let is_length = match &self.after {
            None => segments.len() == self.before.len(),
            Some(after) => segments.len() > self.before.len() + after.len(),
        };
        let is_before = |(segment, own): (&&str, &Segment)| match own {
            Segment::Literal(literal) => is_literal(segment, literal),
            Segment::Any => !segment.is_empty(),
        };
        let after = self.after.iter().flatten().rev();
        is_length
            && segments.iter().zip(&self.before).all(is_before)
            && segments.iter().rev().zip(after).all(|(segment, own)| is_literal(segment, own))
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
    fn a_path_that_may_reach_the_same_handler_is_covered() {
        let text = |text: &str| match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(end), _) => PathText::Text(Text::Suffix(end.to_owned())),
            (_, Some(start)) => PathText::Text(Text::Prefix(start.to_owned())),
            _ => PathText::Text(Text::Exact(text.to_owned())),
        };
        let check = |pattern: &str, path: &str, expect: bool| {
            let template = Template::new(pattern).filter(|_| pattern.contains('{'));
            let pattern = template.map_or_else(|| text(pattern), PathText::Template);
            assert_eq!(pattern.covers(path), expect, "{pattern:?} {path}");
        };
        for path in ["/a", "/A", "/a/", "/a.json", "/a.b.c", "/a\n"] {
            for pattern in ["/a", "/a/", "*/a", "*a", "/{**}/a"] {
                check(pattern, path, pattern != "/{**}/a");
            }
        }
        check("/{**}/a", "/x/A.json", true);
        check("/a.b", "/a.b.c", true);
        check("/a", "/ab", false);
        check("/a", "/a/b", false);
        check("/a", "/a/b.c", false);
        check("/", "/", true);
        check("/", "/a", false);
        check("/", "/.env", false);
        check("/a/*", "/a", true);
        check("/a/*", "/A/b", true);
        check("/a/*", "/ab", false);
        check("/a/{**}", "/a", true);
        check("/a/{*}/c", "/A/b/C/", true);
        check("/a/{*}/c", "/a/b/d", false);
        check("/caf\u{e9}*", "/caf\u{e9}/x", true);
        check("/caf\u{e9}*", "/caf", false);
    }

    #[test]
    fn what_is_no_template_is_none() {
        for text in ["a/{*}", "/a{*}", "/{*}b", "/{**}/{*}", "/{**}/{**}", "/{name}", "/a*/{*}", ""]
        {
            assert_eq!(Template::new(text), None, "{text}");
        }
    }
}
