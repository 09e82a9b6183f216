//! The files of a configuration directory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The most bytes of one file.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The most files of the directory that are read.
pub(super) const MAX_FILES: usize = 10_000;

/// Why the directory or a file in it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be listed.
    #[error(
        "cannot read the configuration directory {} (--config: name a folder that the agent may read)",
        dir.display()
    )]
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
    /// A folder, a socket or a pipe has the name of a file.
    #[error("it is a folder, a pipe or the like, and no file")]
    NotRegular,
    /// A file is not UTF-8.
    #[error("the file is not UTF-8")]
    NotUtf8,
    /// A file is too large.
    #[error("the file has more than {} MiB", MAX_FILE_BYTES >> 20)]
    TooLarge,
}

/// The configuration files of a directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Files {
    /// Those that are read, sorted by name.
    pub(super) read: Vec<PathBuf>,
    /// How many there are.
    pub(super) n_all: usize,
}

impl Files {
    /// Whether there are more than are read.
    pub(super) const fn is_cut(&self) -> bool {
        self.n_all > self.read.len()
    }
}

/// The configuration files in `dir`, sorted by name.
///
/// They are those with the ending `.yaml` or `.yml` whose names do not begin with a dot. Symbolic
/// links are followed; folders are not entered, so that a mounted `ConfigMap` is read once. Of more
/// than [`MAX_FILES`], those that are known have their places, and of the others the first by name:
/// files that are added push out none.
pub(super) fn files(dir: &Path, is_known: impl Fn(&Path) -> bool) -> Result<Files, Error> {
    let failed = |source| Error::Directory { dir: dir.to_owned(), source };
    let mut first = BTreeSet::new();
    let mut n_all = 0;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_yaml = path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
        let is_hidden =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_yaml && !is_hidden {
            n_all += 1;
            first.insert((!is_known(&path), path));
            if first.len() > MAX_FILES {
                first.pop_last();
            }
        }
    }
    let mut read: Vec<_> = first.into_iter().map(|(_, path)| path).collect();
    read.sort();
    Ok(Files { read, n_all })
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

/// Numbers of this process that fingerprints are made with.
static KEY: LazyLock<[u64; 2]> = LazyLock::new(|| {
    let random = RandomState::new();
    [random.hash_one(0), random.hash_one(1)]
});

/// A number that tells one text from another, of this process: whoever writes documents cannot know
/// which texts have the same. Some GB a second, as each change has all of a file looked through.
pub(super) fn text_fingerprint(text: &str) -> u64 {
    let [mut state, key] = *KEY;
    let (blocks, rest) = text.as_bytes().as_chunks::<16>();
    let mut last = [0; 16];
    for (to, byte) in last.iter_mut().zip(rest) {
        *to = *byte;
    }
    for block in blocks.iter().chain([&last]) {
        let block = u128::from_le_bytes(*block);
        state = fold(low(block) ^ state, low(block >> 64) ^ key);
    }
    fold(state ^ text.len() as u64, key)
}

/// Both halves of the product of two numbers, in one.
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    low(product) ^ low(product >> 64)
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is wanted")]
const fn low(number: u128) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn texts_that_differ_have_other_fingerprints() {
        let long = "0123456789abcdef".repeat(3);
        let mut texts: Vec<String> = (0..=48).map(|n| long.chars().take(n).collect()).collect();
        texts.extend((0..=40).map(|n| "\0".repeat(n)));
        let with_x =
            |at| long.chars().enumerate().map(move |(n, it)| if n == at { 'x' } else { it });
        texts.extend((0..48).map(|at| with_x(at).collect()));
        texts.push("fedcba98765432100123456789abcdef".to_owned());
        let texts: HashSet<_> = texts.into_iter().collect();
        let all: HashSet<_> = texts.iter().map(|text| text_fingerprint(text)).collect();
        assert_eq!(all.len(), texts.len());
        assert!(texts.iter().all(|text| all.contains(&text_fingerprint(text))));
    }

    #[test]
    fn files_beyond_the_bound_push_out_none_that_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for n in 0..MAX_FILES {
            File::create(path(&format!("b{n:05}.yaml"))).unwrap();
        }
        assert!(!files(dir.path(), |_| false).unwrap().is_cut());
        for name in ["a.yaml", "c.yaml"] {
            File::create(path(name)).unwrap();
        }
        let is_old = |file: &Path| *file != path("a.yaml") && *file != path("c.yaml");
        let check = |is_known: &dyn Fn(&Path) -> bool, expect: [&str; 2]| {
            let Files { read, n_all } = files(dir.path(), is_known).unwrap();
            assert_eq!((n_all, read.len()), (MAX_FILES + 2, MAX_FILES));
            let ends = [read.first().unwrap(), read.last().unwrap()].map(Clone::clone);
            assert_eq!(ends, expect.map(path));
        };
        check(&|_| false, ["a.yaml", "b09998.yaml"]);
        check(&is_old, ["b00000.yaml", "b09999.yaml"]);
        fs::remove_file(path("b00007.yaml")).unwrap();
        let Files { read, n_all } = files(dir.path(), is_old).unwrap();
        assert_eq!((n_all, read.first()), (MAX_FILES + 1, Some(&path("a.yaml"))));
    }
}
