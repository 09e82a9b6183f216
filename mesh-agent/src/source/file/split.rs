//! One file's text into its documents, so that a broken one does not take the others with it.

/// One document's text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// The document, with its `---` line if that is how it begins.
    pub(super) text: &'a str,
    /// The line of the file on which `text` begins, counted from 1.
    pub(super) line: usize,
}

/// The documents of a file. Those that hold comments, directives and white space alone are none.
///
/// A line that begins with `---` begins a document wherever it stands: YAML allows it within no
/// scalar (YAML 1.2.2, section 9.1.2), which is what makes it safe not to parse first.
pub(super) fn documents(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut begin = (0, 1);
    let mut offset = 0;
    for (line, content) in (1..).zip(text.split_inclusive('\n')) {
        if offset > begin.0 && is_marker(content) {
            pieces.extend(piece(text, begin, offset));
            begin = (offset, line);
        }
        offset += content.len();
    }
    pieces.extend(piece(text, begin, text.len()));
    pieces
}

/// `text` from `begin` (its offset and line) to `end`, if it is a document.
fn piece(text: &str, (begin, line): (usize, usize), end: usize) -> Option<Piece<'_>> {
    let text = text.get(begin..end)?;
    let is_empty = |(i, line): (usize, &str)| {
        let line = line.trim_start_matches('\u{feff}');
        let line = if i == 0 && is_marker(line) { line.trim_start_matches('-') } else { line };
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "..."
    };
    (!text.lines().enumerate().all(is_empty)).then_some(Piece { text, line })
}

/// Whether a line begins a document: `---`, then white space or nothing.
fn is_marker(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn documents_begin_at_their_markers() {
        let check = |text: &str, expect: &[(&str, usize)]| {
            let pieces = documents(text);
            let pieces: Vec<_> = pieces.iter().map(|piece| (piece.text, piece.line)).collect();
            assert_eq!(pieces, expect, "{text:?}");
        };
        check("", &[]);
        check("\n# nothing\n---\n", &[]);
        check("a: 1", &[("a: 1", 1)]);
        check("a: 1\n---\nb: 2\n", &[("a: 1\n", 1), ("---\nb: 2\n", 3 - 1)]);
        check("---\r\na: 1\r\n---\r\n", &[("---\r\na: 1\r\n", 1)]);
        check("--- # x\n--- {a: 1}\n", &[("--- {a: 1}\n", 2)]);
        check("%YAML 1.2\n---\na: 1\n...\n", &[("---\na: 1\n...\n", 2)]);
        check("a: |\n  ---\n  b\n----\n", &[("a: |\n  ---\n  b\n----\n", 1)]);
    }

    proptest! {
        #[test]
        fn every_piece_is_where_it_says(text in "(---|[a:# \n-]){0,60}") {
            for piece in documents(&text) {
                let rest: String = text.split_inclusive('\n').skip(piece.line - 1).collect();
                prop_assert!(rest.starts_with(piece.text));
            }
        }
    }
}
