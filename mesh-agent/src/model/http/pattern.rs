//! Regular expressions, compiled: they match whole values, and are equal if their sources are.

use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

/// How large one expression may become, and the cache that one thread uses it with: 512 KiB. Most are
/// some KiB; it is repeated classes of all of Unicode that are large. Each byte of a value may cost a
/// step for each of its states.
const MAX_BYTES: usize = 512 << 10;

/// A longer value is matched by no expression: the time that one takes grows with both lengths.
const MAX_VALUE: usize = 4 << 10;

/// A regular expression that must match the whole of a value.
///
/// It is of bytes: what is not UTF-8 in a value is matched by no `.`, and hinders nothing else.
/// The time it takes is linear in the length of the value and in the size of the expression, both of
/// which have a bound: a value of more than 4 KiB is matched by none.
#[derive(Clone, Debug)]
pub struct Compiled {
    source: String,
    regex: Regex,
}

impl Compiled {
    /// Compiles an expression.
    ///
    /// # Errors
    ///
    /// If it is none, or larger than 512 KiB.
    pub fn new(source: &str) -> Result<Self, regex::Error> {
        let compile = |source: &str| {
            RegexBuilder::new(source).size_limit(MAX_BYTES).dfa_size_limit(MAX_BYTES).build()
        };
        // By itself first: `a)|(b` is no expression, but would be one in the brackets.
        compile(source)?;
        Ok(Self { source: source.to_owned(), regex: compile(&whole(source))? })
    }

    /// The expression, as it is written.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it matches the whole of `value`.
    pub fn is_match(&self, value: &[u8]) -> bool {
        value.len() <= MAX_VALUE && self.regex.is_match(value)
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
    /// Compiles them again, together.
    pub fn new(patterns: &[&Compiled]) -> Self {
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
    format!(r"\A(?:{source})\z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(source: &str) -> Compiled {
        Compiled::new(source).unwrap()
    }

    #[test]
    fn the_whole_value_must_match() {
        let check = |source: &str, value: &[u8], expect: bool| {
            let pattern = compiled(source);
            assert_eq!(pattern.is_match(value), expect, "{source} {value:?}");
            let set = CompiledSet::new(&[&compiled("x"), &pattern]);
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
        for source in ["(", "a)|(b", "[", "*", r"(?P<n>", r"(\w{1000}){1000}"] {
            assert!(Compiled::new(source).is_err(), "{source}");
        }
    }

    #[test]
    fn equal_sources_are_equal() {
        assert_eq!(compiled("a+"), compiled("a+"));
        assert_ne!(compiled("a+"), compiled("aa*"));
        assert_eq!(CompiledSet::new(&[&compiled("a")]), CompiledSet::new(&[&compiled("a")]));
        assert_ne!(CompiledSet::new(&[&compiled("a")]), CompiledSet::default());
    }

    #[test]
    fn a_long_value_is_matched_by_none() {
        let all = compiled(".*");
        let set = CompiledSet::new(&[&all]);
        for (length, expect) in [(MAX_VALUE, true), (MAX_VALUE + 1, false)] {
            let value = vec![b'a'; length];
            assert_eq!(all.is_match(&value), expect);
            assert_eq!(set.matches(&value).count(), usize::from(expect));
        }
    }

    #[test]
    fn what_is_too_large_for_one_set_is_several() {
        let sources: Vec<_> = (0..32).map(|i| compiled(&format!(r"{i}-\w{{10}}"))).collect();
        let set = CompiledSet::new(&sources.iter().collect::<Vec<_>>());
        assert!(set.sets.len() > 1, "{}", set.sets.len());
        for i in [0, 15, 16, 31] {
            let value = format!("{i}-{}", "a".repeat(10));
            assert_eq!(set.matches(value.as_bytes()).collect::<Vec<_>>(), [i]);
        }
    }
}
