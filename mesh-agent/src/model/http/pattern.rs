//! Regular expressions, compiled: they match whole values, and are equal if their sources are.

use std::convert::Infallible;
use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use regex_syntax::ast::{self, Ast, ClassPerlKind, ClassSetItem, Visitor};

/// How large one expression may become, and the cache that one thread uses it with: 512 KiB. Most are
/// some KiB; it is repeated classes of all of Unicode that are large. Each byte of a value may cost a
/// step for each of its states.
pub const MAX_BYTES: usize = 512 << 10;

/// The least size that is told of an expression.
const LEAST_BYTES: usize = 1 << 10;

/// A longer value is matched by no expression: the time that one takes grows with both lengths.
const MAX_VALUE: usize = 4 << 10;

/// A regular expression as it is written in a route: checked, and compiled only where it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expression {
    source: String,
    size: usize,
}

impl Expression {
    /// Checks an expression.
    ///
    /// # Errors
    ///
    /// If it is none, or larger than 512 KiB.
    pub fn new(source: &str) -> Result<Self, regex::Error> {
        // By itself first: `a)|(b` is no expression, but would be one in the brackets.
        compile(&ascii(source), MAX_BYTES)?;
        // Its size is told by the limit that it is within.
        let (source, whole, mut size) = (source.to_owned(), whole(source), LEAST_BYTES);
        loop {
            match compile(&whole, size) {
                Ok(_fits) => return Ok(Self { source, size }),
                Err(regex::Error::CompiledTooBig(_)) if size < MAX_BYTES => size *= 2,
                Err(error) => return Err(error),
            }
        }
    }

    /// How many bytes it takes, compiled: a power of two, from 1 KiB to [`MAX_BYTES`].
    pub const fn size(&self) -> usize {
        self.size
    }

    /// It, as it is written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The form that values are compared with.
    pub fn compiled(&self) -> Compiled {
        // It was compiled when it was checked: what fails now, as nothing does, matches nothing.
        Compiled {
            source: self.source.clone(),
            regex: compile(&whole(&self.source), MAX_BYTES).ok(),
        }
    }
}

fn compile(source: &str, limit: usize) -> Result<Regex, regex::Error> {
    RegexBuilder::new(source).size_limit(limit).dfa_size_limit(MAX_BYTES).build()
}

/// A regular expression that must match the whole of a value.
///
/// `\\w`, `\\d`, `\\s` and `\\b` are about ASCII, as in RE2, which other meshes and gateways use: those of
/// all of Unicode take 50 times as much.
///
/// It is of bytes: what is not UTF-8 in a value is matched by no `.`, and hinders nothing else.
/// The time it takes is linear in the length of the value and in the size of the expression, both of
/// which have a bound: a value of more than 4 KiB is matched by none.
#[derive(Clone, Debug)]
pub struct Compiled {
    source: String,
    regex: Option<Regex>,
}

impl Compiled {
    /// Whether it matches the whole of `value`.
    pub fn is_match(&self, value: &[u8]) -> bool {
        let is_match = |regex: &Regex| regex.is_match(value);
        value.len() <= MAX_VALUE && self.regex.as_ref().is_some_and(is_match)
    }
}

impl PartialEq for Compiled {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Compiled {}

/// Expressions of which those that match a value are found together, in one pass over it.
#[derive(Debug, Default)]
pub struct CompiledSet {
    sources: Vec<String>,
    /// Sets of neighbors, each with the place of its first: one, unless that would be too large.
    sets: Vec<(usize, RegexSet)>,
}

impl CompiledSet {
    /// Compiles them together.
    pub fn new(patterns: &[&Expression]) -> Self {
        let sources: Vec<String> = patterns.iter().map(|pattern| pattern.source.clone()).collect();
        let mut sets = Vec::new();
        add(&mut sets, 0, &sources);
        Self { sources, sets }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The places of those that match the whole of `value`, ascending.
    pub fn matches(&self, value: &[u8]) -> impl Iterator<Item = usize> {
        let sets = self.sets.iter().filter(|_| value.len() <= MAX_VALUE);
        sets.flat_map(move |(first, set)| {
            set.matches(value).into_iter().map(move |index| first + index)
        })
    }
}

impl PartialEq for CompiledSet {
    fn eq(&self, other: &Self) -> bool {
        self.sources == other.sources
    }
}

impl Eq for CompiledSet {}

/// Compiles `sources`, the first of which is at `first`; in two halves if they are too large.
fn add(sets: &mut Vec<(usize, RegexSet)>, first: usize, sources: &[String]) {
    // Ten times what one may be: one alone is never too large, and so none is lost.
    let set = RegexSetBuilder::new(sources.iter().map(|source| whole(source)))
        .size_limit(10 * MAX_BYTES)
        .dfa_size_limit(10 * MAX_BYTES)
        .build();
    match set {
        _ if sources.is_empty() => {}
        Ok(set) => sets.push((first, set)),
        Err(_) if sources.len() > 1 => {
            let (left, right) = sources.split_at(sources.len() / 2);
            add(sets, first, left);
            add(sets, first + left.len(), right);
        }
        Err(_) => {}
    }
}

/// The expression that matches where all of a value matches `source`.
fn whole(source: &str) -> String {
    format!(r"\A(?:{})\z", ascii(source))
}

/// The expression `source` with classes and boundaries of words as RE2 has them. A text that is no expression
/// stays as it is.
fn ascii(source: &str) -> String {
    let Ok(parsed) = ast::parse::Parser::new().parse(source) else { return source.to_owned() };
    let replaced = match ast::visit(&parsed, Replaced::default()) {
        Ok(replaced) => replaced,
        Err(never) => match never {},
    };
    let (mut out, mut at) = (String::with_capacity(source.len()), 0);
    for (range, text) in replaced {
        out.push_str(source.get(at..range.start).unwrap_or_default());
        out.push_str(text);
        at = range.end;
    }
    out.push_str(source.get(at..).unwrap_or_default());
    out
}

/// Parts of an expression, in order, and what they are in RE2 (its page "Syntax").
#[derive(Default)]
struct Replaced(Vec<(Range<usize>, &'static str)>);

impl Replaced {
    fn add(&mut self, span: &ast::Span, text: &'static str) {
        self.0.push((span.start.offset..span.end.offset, text));
    }

    fn add_class(&mut self, class: &ast::ClassPerl) {
        let text = match (&class.kind, class.negated) {
            (ClassPerlKind::Digit, false) => "[0-9]",
            (ClassPerlKind::Digit, true) => "[^0-9]",
            (ClassPerlKind::Space, false) => r"[\t\n\f\r ]",
            (ClassPerlKind::Space, true) => r"[^\t\n\f\r ]",
            (ClassPerlKind::Word, false) => "[0-9A-Za-z_]",
            (ClassPerlKind::Word, true) => "[^0-9A-Za-z_]",
        };
        self.add(&class.span, text);
    }
}

impl Visitor for Replaced {
    type Output = Vec<(Range<usize>, &'static str)>;
    type Err = Infallible;

    fn finish(self) -> Result<Self::Output, Infallible> {
        Ok(self.0)
    }

    fn visit_pre(&mut self, part: &Ast) -> Result<(), Infallible> {
        match part {
            Ast::ClassPerl(class) => self.add_class(class),
            Ast::Assertion(assertion) => match assertion.kind {
                ast::AssertionKind::WordBoundary => self.add(&assertion.span, r"(?-u:\b)"),
                ast::AssertionKind::NotWordBoundary => self.add(&assertion.span, r"(?-u:\B)"),
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), Infallible> {
        if let ClassSetItem::Perl(class) = item {
            self.add_class(class);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expression(source: &str) -> Expression {
        Expression::new(source).unwrap()
    }

    #[test]
    fn the_whole_value_must_match() {
        let check = |source: &str, value: &[u8], expect: bool| {
            let pattern = expression(source);
            assert_eq!(pattern.compiled().is_match(value), expect, "{source} {value:?}");
            let set = CompiledSet::new(&[&expression("x"), &pattern]);
            assert_eq!(set.matches(value).collect::<Vec<_>>(), Vec::from_iter(expect.then_some(1)));
        };
        check("a", b"a", true);
        check("a", b"ab", false);
        check("a", b"ba", false);
        check("a|ab", b"ab", true);
        check("^a$", b"a", true);
        check("a$", b"a\n", false);
        check(".*", b"", true);
        check(".*", b"caf\xc3\xa9", true);
        check(".*", b"caf\xe9", false);
        check("(?-u:.)*", b"caf\xe9", true);
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for source in ["(", "a)|(b", "[", "*", r"(?P<n>", r"(\pL{1000}){1000}"] {
            assert!(Expression::new(source).is_err(), "{source}");
        }
    }

    #[test]
    fn classes_and_boundaries_are_those_of_re2() {
        let check = |source: &str, value: &str, expect: bool| {
            assert_eq!(
                expression(source).compiled().is_match(value.as_bytes()),
                expect,
                "{source} {value:?}"
            );
        };
        check(r"\w+", "a_9", true);
        check(r"\w", "\u{e9}", false);
        check(r"\W", "\u{e9}", true);
        check(r"\d", "\u{663}", false);
        check(r"\s", "\u{a0}", false);
        check(r"[\w.-]+@[^\s@]+", "a.b-c@d.e", true);
        check(r"[^\w]", "\u{e9}", true);
        check(r"[\W\d]", "_", false);
        check(r"\\w", r"\w", true);
        check(r"[\\w]", "w", true);
        check("a\u{e9}\\b", "a\u{e9}", false);
        check(r"\pL", "\u{e9}", true);
        check(r"caf.", "caf\u{e9}", true);
    }

    #[test]
    fn a_size_is_what_an_expression_takes() {
        let size = |source: &str| expression(source).size();
        assert_eq!(size("a"), LEAST_BYTES);
        assert!(size(r"/\w+/\d{8}-\w{30}") <= 4 * LEAST_BYTES);
        assert_eq!(size(r"\pL{5}"), MAX_BYTES / 2);
    }

    #[test]
    fn equal_sources_are_equal() {
        assert_eq!(expression("a+"), expression("a+"));
        assert_ne!(expression("a+"), expression("aa*"));
        assert_eq!(CompiledSet::new(&[&expression("a")]), CompiledSet::new(&[&expression("a")]));
        assert_ne!(CompiledSet::new(&[&expression("a")]), CompiledSet::default());
    }

    #[test]
    fn a_long_value_is_matched_by_none() {
        let all = expression(".*");
        let set = CompiledSet::new(&[&all]);
        for (length, expect) in [(MAX_VALUE, true), (MAX_VALUE + 1, false)] {
            let value = vec![b'a'; length];
            assert_eq!(all.compiled().is_match(&value), expect);
            assert_eq!(set.matches(&value).count(), usize::from(expect));
        }
    }

    #[test]
    fn what_is_too_large_for_one_set_is_several() {
        let sources: Vec<_> = (0..32).map(|i| expression(&format!(r"{i}-\pL{{10}}"))).collect();
        let set = CompiledSet::new(&sources.iter().collect::<Vec<_>>());
        assert!(set.sets.len() > 1, "{}", set.sets.len());
        for i in [0, 15, 16, 31] {
            let value = format!("{i}-{}", "a".repeat(10));
            assert_eq!(set.matches(value.as_bytes()).collect::<Vec<_>>(), [i]);
        }
    }
}
