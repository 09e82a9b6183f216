//! A result that was measured before: as tables in a document, and as a picture.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::args::Show;
use crate::result::Outcome;
use crate::{markdown, plot};

/// Shows a result.
///
/// # Errors
///
/// A file cannot be read or written, or is not what it should be.
pub(crate) fn run(show: &Show) -> Result<()> {
    let path = show.result.display();
    let text = fs::read_to_string(&show.result).with_context(|| format!("cannot read {path}"))?;
    let last = text.trim_end().lines().next_back().unwrap_or_default();
    let outcome: Outcome = serde_json::from_str(last)
        .with_context(|| format!("the last line of {path} is no result of --json"))?;
    let mut tables = markdown::tables(&outcome);
    if let Some(path) = &show.plot {
        draw(&outcome, path)?;
    }
    if let Some(path) = &show.into {
        if let Some(picture) = show.plot.as_deref().and_then(|plot| beside(path, plot)) {
            tables = format!("![The ratios, as dots]({picture})\n\n{tables}");
        }
        let name = path.display();
        let old = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
        let place = markdown::Place::of(&outcome);
        let new = markdown::replace(&old, place, &tables).with_context(|| {
            let markdown::Place { begin, end } = place;
            format!("{name} has no line `{begin}` with a line `{end}` below it")
        })?;
        fs::write(path, new).with_context(|| format!("cannot write {name}"))?;
    }
    if show.plot.is_none() && show.into.is_none() {
        write!(std::io::stdout(), "{tables}").context("cannot print the tables")?;
    }
    Ok(())
}

/// How a document names a picture in its own folder.
fn beside<'a>(document: &Path, picture: &'a Path) -> Option<&'a str> {
    (document.parent() == picture.parent()).then(|| picture.file_name()?.to_str())?
}

/// Draws the ratios of a result into a file.
///
/// # Errors
///
/// The file cannot be written.
pub(crate) fn draw(outcome: &Outcome, path: &Path) -> Result<()> {
    fs::write(path, plot::svg(outcome)).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_shows_a_picture_in_its_own_folder() {
        let check = |picture: &'static str| beside(Path::new("docs/a.md"), Path::new(picture));
        assert_eq!(check("docs/b.svg"), Some("b.svg"));
        assert_eq!(check("/tmp/b.svg"), None);
    }
}
