//! The files of a configuration directory.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The most bytes of one file.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The most files in the directory.
const MAX_FILES: usize = 10_000;

/// Why the directory or a file in it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be listed.
    #[error("cannot read the configuration directory {}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read the file")]
    File(#[source] io::Error),
    /// A file is not one of text.
    #[error("the file is not regular")]
    NotRegular,
    /// A file is not UTF-8.
    #[error("the file is not UTF-8")]
    NotUtf8,
    /// A file is too large.
    #[error("the file has more than {MAX_FILE_BYTES} bytes")]
    TooLarge,
    /// The directory has too many files.
    #[error("the configuration directory has more than {MAX_FILES} files")]
    TooManyFiles,
}

/// The configuration files in `dir`, sorted by name.
///
/// They are those with the ending `.yaml` or `.yml` whose names do not begin with a dot. Symbolic
/// links are followed; folders are not entered, so that a mounted `ConfigMap` is read once.
pub(super) fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Directory { dir: dir.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_yaml = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
        let is_hidden =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_yaml && !is_hidden {
            if files.len() == MAX_FILES {
                return Err(Error::TooManyFiles);
            }
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A file's text; `None` if it is not there any more.
pub(super) fn text(path: &Path) -> Result<Option<String>, Error> {
    let gone_or = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(Error::File(error)) }
    };
    // A named pipe would block when it is opened.
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return Err(Error::NotRegular),
        Ok(_) => {}
        Err(error) => return gone_or(error),
    }
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > MAX_FILE_BYTES => Err(Error::TooLarge),
        Ok(_) => String::from_utf8(bytes).map(Some).map_err(|_bytes| Error::NotUtf8),
        Err(error) => gone_or(error),
    }
}

/// A number that tells one text from another.
pub(super) fn text_fingerprint(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
