//! Sentences name their subject: none begins with a clause in a noun's place ("What is sent is …").

use super::links::prose;
use super::{Report, Source};

/// Words that begin such a clause.
const WORDS: &[&str] =
    &["What", "Who", "Whoever", "Whom", "Whose", "That", "Whatever", "Whichever"];

/// Checks the sentences of a Markdown page. Cells of tables may be nouns of any kind.
pub(super) fn check_page(text: &str, report: Report<'_>) {
    let mut is_new = true;
    for (number, line) in prose(text) {
        let line = line.trim();
        if line.starts_with(['#', '|']) {
            is_new = true;
            continue;
        }
        check_line(line, (number, is_new), report);
        is_new = ends_sentence(line) || line.is_empty();
    }
}

/// Checks the sentences of a file's comments for documentation.
pub(super) fn check(source: &Source<'_>, report: Report<'_>) {
    let mut is_new = true;
    let mut is_code = false;
    for (number, line) in (1..).zip(source.text.lines()) {
        let line = line.trim_start();
        let Some(text) = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) else {
            (is_new, is_code) = (true, false);
            continue;
        };
        let text = text.trim();
        is_code ^= text.starts_with("```");
        if is_code || text.starts_with(['|', '#']) {
            is_new = true;
            continue;
        }
        check_line(text, (number, is_new), report);
        is_new = ends_sentence(text) || text.is_empty();
    }
}

/// Checks a line; `is_new`: a sentence begins with it.
fn check_line(line: &str, (number, is_new): (usize, bool), report: Report<'_>) {
    // An item of a list is new wherever it stands.
    let item = ["- ", "* "].iter().find_map(|mark| line.strip_prefix(mark));
    let numbered = line.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix(". ");
    let is_item =
        item.is_some() || (numbered.is_some() && line.starts_with(|c: char| c.is_ascii_digit()));
    let begin = item.or(numbered.filter(|_| is_item)).unwrap_or(line);
    let mut starts: Vec<&str> = Vec::new();
    if is_new || is_item {
        starts.push(begin);
    }
    for mark in [". ", "! ", "? "] {
        starts.extend(begin.match_indices(mark).filter_map(|(at, _)| begin.get(at + mark.len()..)));
    }
    for start in starts {
        let start = start.trim_start_matches(|c: char| "*_( ".contains(c));
        let word = start.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default();
        // A question may ask for the thing.
        let is_question = start.chars().find(|c| ".?".contains(*c)) == Some('?');
        if WORDS.contains(&word) && !is_question {
            report(number, format!("a sentence begins with `{word}`: name the thing"));
        }
    }
}

/// Whether the next line begins a sentence.
fn ends_sentence(line: &str) -> bool {
    line.trim_end_matches(|c: char| ")*_`".contains(c)).ends_with(['.', '!', '?', ':'])
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &[usize]) {
        let mut got = Vec::new();
        check_page(text, &mut |line, _| got.push(line));
        assert_eq!(got, expect, "{text}");
        let commented: Vec<_> = text.lines().map(|line| format!("/// {line}")).collect();
        let commented = commented.join("\n");
        let source =
            Source { path: Path::new("mesh-agent/src/x.rs"), text: &commented, test: false };
        let mut got = Vec::new();
        super::check(&source, &mut |line, _| got.push(line));
        assert_eq!(got, expect, "{commented}");
    }

    #[test]
    fn a_sentence_names_its_subject() {
        check("What is sent is kept.\n", &[1]);
        check("It is kept. Whoever reads it\nmay go on.\n", &[1]);
        check("One:\n- Whose it is\n2. That of the peer\n", &[2, 3]);
        check("**Who** reads\n", &[1]);
        check("It is kept by one\nWho reads (as the Doctor)\n", &[]);
        check("It says what it is. Whether it is so\n", &[]);
        check("| What | Whose |\n|---|---|\n", &[]);
        check("```\nWhat is code\n```\n", &[]);
        check("What's new\n", &[1]);
        check("Who owns it, and what bounds it?\nWhose is it. Is it?\n", &[2]);
    }
}
