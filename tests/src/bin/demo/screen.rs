//! The audience's view.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// How wide a step's title is, so that the times stand below each other.
const TITLE: usize = 66;

/// Lines of text, with colors where they can be seen.
#[derive(Debug)]
pub(crate) struct Screen {
    stderr: bool,
    color: bool,
}

impl Screen {
    /// Text goes to standard output, or, where that is for machines, to standard error.
    pub(crate) fn new(machine: bool) -> Self {
        let terminal =
            if machine { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        // https://no-color.org: present and not empty.
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { stderr: machine, color: terminal && !no_color }
    }

    /// Prints a line. A missing reader is no reason to stop: the claims are checked anyway.
    pub(crate) fn line(&self, text: &str) {
        let written = if self.stderr {
            writeln!(std::io::stderr(), "{text}")
        } else {
            writeln!(std::io::stdout(), "{text}")
        };
        drop(written);
    }

    /// Prints a line that belongs to a step.
    pub(crate) fn detail(&self, text: &str) {
        self.line(&format!("  {} {text}", self.dim("│")));
    }

    /// A bar of 40 that is divided: `share` of it, from 0 to 1, is in the other color and form.
    pub(crate) fn split(&self, share: f64) -> String {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 40")]
        let filled = (share * 40.0).round() as usize;
        let (rest, other) = (format!("{:━<1$}", "", 40 - filled), format!("{:╍<filled$}", ""));
        format!("{}{}", self.cyan(&rest), self.green(&other))
    }

    /// Does a step: prints its title, what it has to say, and how long it took.
    pub(crate) fn step<T>(&self, title: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        self.line("");
        self.line(&format!("  {}", self.bold(title)));
        let start = Instant::now();
        let result = step().with_context(|| format!("failed: {title}"))?;
        let took = format!("{:>7.2} s", start.elapsed().as_secs_f64());
        self.line(&self.dim(&format!("  └{:─>TITLE$}{took}", "")));
        Ok(result)
    }

    /// Prints why there is nothing more.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.line("");
        self.line(&format!("  {} {error:#}", self.red("✗")));
    }

    /// Prints the result for machines, on standard output.
    ///
    /// # Errors
    ///
    /// Nobody reads it.
    #[expect(clippy::unused_self, reason = "printing is the screen's")]
    pub(crate) fn result(&self, result: &Value) -> Result<()> {
        writeln!(std::io::stdout(), "{result}").context("cannot print the result")
    }

    pub(crate) fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(crate) fn green(&self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn red(&self, text: &str) -> String {
        self.paint("31", text)
    }

    pub(crate) fn cyan(&self, text: &str) -> String {
        self.paint("36", text)
    }

    /// Select Graphic Rendition (ECMA-48, section 8.3.117).
    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
