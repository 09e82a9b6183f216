//! Output for people while it runs and at its end.

use std::io::{IsTerminal as _, Write as _};

/// The result goes to standard output, unless that is for machines; what happens meanwhile to
/// standard error.
#[derive(Debug)]
pub(crate) struct Screen {
    machine: bool,
    color: bool,
    terminal: bool,
    /// The round that was told last, where lines cannot be replaced.
    told: String,
}

impl Screen {
    pub(crate) fn new(machine: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let colors = if machine { terminal } else { std::io::stdout().is_terminal() };
        // https://no-color.org: present and not empty.
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { machine, color: colors && !no_color, terminal, told: String::new() }
    }

    /// Says what is being done, in place of what was said last; nothing to tell ends that.
    ///
    /// Where lines cannot be replaced, only every new beginning of a line (`round 1/5`) is told.
    pub(crate) fn live(&mut self, text: &str) {
        let mut stderr = std::io::stderr();
        // A missing reader is no reason to stop.
        if self.terminal {
            drop(write!(stderr, "\r\x1b[K{text}"));
            drop(stderr.flush());
            return;
        }
        let begin = text.split("  ").next().unwrap_or_default();
        if begin != self.told && !text.is_empty() {
            drop(writeln!(stderr, "{begin}"));
        }
        begin.clone_into(&mut self.told);
    }

    /// Prints a line of the result.
    pub(crate) fn line(&self, text: &str) {
        let written = if self.machine {
            writeln!(std::io::stderr(), "{text}")
        } else {
            writeln!(std::io::stdout(), "{text}")
        };
        drop(written);
    }

    /// Prints a line that is not about the result.
    #[expect(clippy::unused_self, reason = "printing is the screen's")]
    pub(crate) fn note(&self, text: &str) {
        drop(writeln!(std::io::stderr(), "{text}"));
    }

    pub(crate) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(crate) fn red(&self, text: &str) -> String {
        self.paint("31", text)
    }

    /// Select Graphic Rendition (ECMA-48, section 8.3.117).
    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
