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
/// A line that begins with `---` begins a document wherever it stands, and one that begins with `...`
/// ends one: YAML allows them within no scalar (YAML 1.2.2, section 9.1.2), which is what makes it safe
/// not to parse first.
pub(super) fn documents(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut begin = (0, 1);
    let mut offset = 0;
    for (line, content) in (1..).zip(lines(text)) {
        if offset > begin.0 && is_marker(content, "---") {
            pieces.extend(piece(text, begin, offset));
            begin = (offset, line);
        }
        offset += content.len();
        if is_marker(content, "...") {
            pieces.extend(piece(text, begin, offset));
            begin = (offset, line + 1);
        }
    }
    pieces.extend(piece(text, begin, text.len()));
    pieces
}

/// Lines with their ends, as YAML counts them (YAML 1.2.2, section 5.4): LF, CR LF, or CR alone.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').flat_map(|line| {
        // Few files have any, and looking for one is quick.
        let body = line.strip_suffix("\r\n").unwrap_or(line);
        let (whole, last) = line.split_at(body.rfind('\r').map_or(0, |at| at + 1));
        whole.split_inclusive('\r').chain(std::iter::once(last).filter(|last| !last.is_empty()))
    })
}

/// `text` from `begin` (its offset and line) to `end`, if it is a document.
fn piece(text: &str, (begin, line): (usize, usize), end: usize) -> Option<Piece<'_>> {
    let text = text.get(begin..end)?;
    let is_empty = |(i, line): (usize, &str)| {
        let line = line.trim_start_matches('\u{feff}');
        let line =
            if i == 0 && is_marker(line, "---") { line.trim_start_matches('-') } else { line };
        let line = line.trim();
        line.is_empty() || line.starts_with(['#', '%']) || line == "..."
    };
    (!lines(text).enumerate().all(is_empty)).then_some(Piece { text, line })
}

/// Whether a line is this mark between documents, then white space or nothing.
fn is_marker(line: &str, mark: &str) -> bool {
    line.strip_prefix(mark)
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
        check("a: 1\n...\nb: 2\n", &[("a: 1\n...\n", 1), ("b: 2\n", 3)]);
        check("a: 1\n... # x\n---\nb: 2", &[("a: 1\n... # x\n", 1), ("---\nb: 2", 3)]);
        check("a: 1\r---\rb: 2\r", &[("a: 1\r", 1), ("---\rb: 2\r", 2)]);
        check("a: 1\rb: 2\r\n---\nc: 3", &[("a: 1\rb: 2\r\n", 1), ("---\nc: 3", 3)]);
        check("a: 1\r\n\r---\r\n", &[("a: 1\r\n\r", 1)]);
        check("a: |\n  ---\n  b\n----\n", &[("a: |\n  ---\n  b\n----\n", 1)]);
    }

    proptest! {
        #[test]
        fn every_piece_is_where_it_says(text in "(---|\\.\\.\\.|[a:# \r\n-]){0,60}") {
            for piece in documents(&text) {
                let rest: String = lines(&text).skip(piece.line - 1).collect();
                prop_assert!(rest.starts_with(piece.text));
            }
        }

        #[test]
        fn lines_are_the_text_and_end_where_yaml_ends_them(text in "[ab\r\n]{0,30}") {
            let all: Vec<_> = lines(&text).collect();
            prop_assert_eq!(all.concat(), text.clone());
            let expect = text.replace("\r\n", "\n").replace('\r', "\n");
            prop_assert_eq!(all.len(), expect.split_inclusive('\n').count());
        }
    }
}
