//! The agent's own log, for those who run it and those who write it.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt;

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter is not in the language of `EnvFilter`, for example `info,mesh_agent::hbone=debug`.
    #[error("`{filter}` is not a log filter")]
    Filter {
        /// The filter that was given.
        filter: String,
        /// Its error.
        #[source]
        source: ParseError,
    },
    /// The process has a log already.
    #[error("the log is set up already")]
    Twice,
}

/// Checks a log filter.
///
/// # Errors
///
/// `filter` is not in the language of `EnvFilter`.
pub fn check(filter: &str) -> Result<(), Error> {
    parse(filter).map(drop)
}

/// Prints what passes `filter` to standard error, in color on a terminal. Once a process.
///
/// # Errors
///
/// `filter` is not in the language of `EnvFilter`, or there is a log already.
pub fn init(filter: &str) -> Result<(), Error> {
    let filter = parse(filter)?;
    let log = fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
    // The cause would be a sentence that says the same.
    log.try_init().map_err(|_again| Error::Twice)
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| Error::Filter { filter: filter.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_checked() {
        assert!(check("info,mesh_agent::hbone=debug").is_ok());
        assert_eq!(check("a=b=c").unwrap_err().to_string(), "`a=b=c` is not a log filter");
    }
}
