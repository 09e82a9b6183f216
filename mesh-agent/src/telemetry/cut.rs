//! Bounds of texts in both logs: clients, peers and servers choose many of them, and their length.

use std::fmt::{self, Debug, Display, Write};

/// The end of a text that was cut.
const MARK: &str = "…";

/// A value whose text is cut after so many bytes; a mark follows then.
#[derive(Clone, Copy)]
pub(super) struct Cut<T> {
    value: T,
    most_bytes: usize,
    escapes: bool,
}

impl<T> Cut<T> {
    /// Cuts the text of `value`.
    pub(super) const fn new(value: T, most_bytes: usize) -> Self {
        Self { value, most_bytes, escapes: false }
    }

    /// Also escapes control characters, so that the text stays in one line.
    pub(super) const fn in_line(value: T, most_bytes: usize) -> Self {
        Self { value, most_bytes, escapes: true }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, text: fmt::Arguments<'_>) -> fmt::Result {
        let (left, escapes) = (self.most_bytes, self.escapes);
        let mut bounded = Bounded { out: f, left, escapes, is_full: false };
        // The error of a full one ends the formatting, however much is left of the text.
        match bounded.write_fmt(text) {
            Err(_) if bounded.is_full => f.write_str(MARK),
            written => written,
        }
    }
}

impl<T: Display> Display for Cut<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, format_args!("{}", self.value))
    }
}

impl<T: Debug> Debug for Cut<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, format_args!("{:?}", self.value))
    }
}

/// Takes so many bytes.
struct Bounded<'a, 'b> {
    out: &'a mut fmt::Formatter<'b>,
    left: usize,
    escapes: bool,
    is_full: bool,
}

impl Bounded<'_, '_> {
    /// Writes `text` whole, or as much of it as there is room for.
    fn take(&mut self, text: &str) -> fmt::Result {
        let fits = text.floor_char_boundary(self.left);
        self.out.write_str(text.get(..fits).unwrap_or_default())?;
        self.left -= fits;
        self.is_full = fits < text.len();
        if self.is_full { Err(fmt::Error) } else { Ok(()) }
    }
}

impl Write for Bounded<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !self.escapes {
            return self.take(text);
        }
        let mut rest = text;
        while let Some((at, control)) = rest.char_indices().find(|(_, it)| it.is_control()) {
            let (plain, after) = rest.split_at(at);
            self.take(plain)?;
            self.take(&control.escape_default().to_string())?;
            rest = after.get(control.len_utf8()..).unwrap_or_default();
        }
        self.take(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_its_bound_between_characters() {
        let check = |text: &str, most: usize, expect: &str| {
            assert_eq!(Cut::new(text, most).to_string(), expect);
        };
        check("", 0, "");
        check("abc", 3, "abc");
        check("abcd", 3, "abc…");
        check("é", 1, "…");
        check("aé", 2, "a…");
        check("aéb", 3, "aé…");
        check("a\nb", 3, "a\nb");
    }

    #[test]
    fn several_parts_have_one_bound() {
        assert_eq!(Cut::new(format_args!("{}-{}", "ab", "cd"), 4).to_string(), "ab-c…");
        assert_eq!(Cut::new(format_args!("{}-{}", "ab", "cd"), 5).to_string(), "ab-cd");
        assert_eq!(format!("{:?}", Cut::new("a\nb", 4)), "\"a\\n…");
    }

    #[test]
    fn a_text_stays_in_its_line() {
        let line = |text, most| Cut::in_line(text, most).to_string();
        assert_eq!(line("a\r\nb\u{1b}[31m\u{9b}é", 100), "a\\r\\nb\\u{1b}[31m\\u{9b}é");
        assert_eq!(line("\0\0\0", 7), "\\u{0}\\u…");
    }

    /// A text of a gigabyte is not made to be cut.
    #[test]
    fn no_more_is_formatted_than_is_written() {
        struct Endless;
        impl Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("more")?;
                }
            }
        }
        assert_eq!(Cut::new(Endless, 10).to_string(), "moremoremo…");
    }
}
