//! Words that are likely to be meant for others.

/// Whether `written` is `known` or is likely to be meant for it: in another case, with one letter of four
/// wrong, or with letters in another order.
pub fn is_likely(written: &str, known: &str) -> bool {
    if written.len().abs_diff(known.len()) > known.len() / 4 {
        return false;
    }
    let (written, known) = (written.to_lowercase(), known.to_lowercase());
    let letters = |word: &str| {
        let mut letters = word.as_bytes().to_vec();
        letters.sort_unstable();
        letters
    };
    distance(&written, &known) <= known.len() / 4 || letters(&written) == letters(&known)
}

/// The Levenshtein distance in bytes.
pub fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row.iter_mut().skip(1).zip(b.bytes()) {
            let above = *cell;
            let replace = diagonal + usize::from(from != to);
            left = replace.min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typos_are_likely_and_other_words_are_not() {
        let check = |written: &str, known: &str, expect: bool| {
            assert_eq!(is_likely(written, known), expect, "{written} {known}");
        };
        for written in ["mtls", "mTLS", "mtsl", "mtl", "mtlss", "tmls"] {
            check(written, "mtls", true);
        }
        for written in ["mode", "", "mt", "meta", "tools"] {
            check(written, "mtls", false);
        }
        check("egres", "egress", true);
        check("address", "egress", false);
        check("namspace", "namespace", true);
        check("name", "namespace", false);
        check("names", "name", true);
        check("sameNdoe", "sameNode", true);
    }
}
