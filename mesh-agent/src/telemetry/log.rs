//! The agent's own log, for those who run it and those who write it.
//!
//! Commands write their lines themselves. A running agent [starts](start) a thread that writes them to
//! standard error, from a [queue](super::queue) bounded in bytes: no thread that serves waits for the
//! reader of the log. Lines without room are dropped, counted, and told of when there is room again.
//!
//! Every text in a line is cut and escaped here, by [`Fields`]: many of them are a stranger's.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::error::Error as StdError;
use std::fmt::{self, Debug};
use std::io::{self, IsTerminal as _, Write, stderr};
use std::panic::{self, PanicHookInfo};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::{RecordFields, VisitOutput as _};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt as lines;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};

use crate::sys::stderr::write_within;
use crate::telemetry::cut::Cut;
use crate::telemetry::queue::{Batch, Options, Queue};

/// The most bytes of a field's text. Two SPIFFE IDs and the words of an error have room; a path of
/// 60,000 bytes, which clients may ask for, has not.
const MAX_FIELD_BYTES: usize = 512;

/// The same of a message, which has the agent's own words, or those of a condition.
const MAX_MESSAGE_BYTES: usize = 4096;

/// How long the end of the process waits for the reader of its last lines.
const END: Duration = Duration::from_secs(1);

/// Lines that wait for the thread that writes them. Without it there is none.
static QUEUE: OnceLock<Queue> = OnceLock::new();

thread_local! {
    /// Whether this thread writes its lines itself, and whole.
    static IS_DIRECT: Cell<bool> = const { Cell::new(false) };
}

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
    let log = lines::fmt().with_env_filter(filter).with_writer(Stderr).fmt_fields(Fields);
    // The cause would be a sentence that says the same.
    log.with_ansi(stderr().is_terminal()).try_init().map_err(|_again| Error::Twice)
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|source| Error::Filter { filter: filter.to_owned(), source })
}

/// Has lines and panics written by the thread `log` from now on. At most so many bytes of lines wait, and
/// as many are being written. Once a process, which must not be copied afterwards.
///
/// # Errors
///
/// The thread cannot be started, or was before.
pub fn start(most_bytes: usize) -> io::Result<()> {
    // Each line by itself: what gathers is nothing, and a process that is killed loses little.
    let queue = Queue::new(Options { most_bytes, linger: Duration::ZERO });
    QUEUE.set(queue).map_err(|_queue| io::Error::from(io::ErrorKind::AlreadyExists))?;
    let Some(queue) = QUEUE.get() else { return Ok(()) };
    // It may be held up for ever by the reader, and is not waited for then.
    drop(thread::Builder::new().name("log".to_owned()).spawn(move || {
        write_directly();
        write_all(queue, |line| stderr().write_all(line));
    })?);
    panic::set_hook(Box::new(|info| drop(Stderr.write_all(panic_text(info).as_bytes()))));
    Ok(())
}

/// Has this thread write its lines itself, and whole: it waits for the reader of the log, and for nothing
/// else.
pub fn write_directly() {
    IS_DIRECT.set(true);
}

/// Lines that were lost.
pub(super) fn dropped() -> u64 {
    QUEUE.get().map_or(0, Queue::dropped)
}

/// Writes what waits when it is dropped, for a second at the most.
#[derive(Debug)]
pub struct FlushAtEnd;

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        let _lost = flush();
    }
}

/// Prints the error that ends the process, after all lines before it.
pub fn end(error: &anyhow::Error) {
    let text = format!("mesh-agent: {error:#}\n");
    if QUEUE.get().is_none() {
        // A failed write has nowhere to be reported.
        let _lost: io::Result<()> = stderr().write_all(text.as_bytes());
    } else if flush() {
        let _lost = write_within(text, END);
    }
}

/// Writes what waits, for [`END`] at the most. Returns whether it is written.
fn flush() -> bool {
    QUEUE.get().is_none_or(|queue| queue.flush(END))
}

/// The thread: writes line by line. Lines of a page at the most stay whole in a pipe, whoever else writes
/// to it.
fn write_all(queue: &Queue, mut write: impl FnMut(&[u8]) -> io::Result<()>) {
    let mut told = 0;
    queue.write_all(|Batch { lines, dropped, .. }| {
        lines.split_inclusive(|byte| *byte == b'\n').try_for_each(&mut write)?;
        if dropped > told {
            let count = dropped - told;
            tracing::warn!(count, "lines of this log are lost: nobody has read it fast enough");
            told = dropped;
        }
        Ok(())
    });
}

/// The text of the standard library, with its stack if `RUST_BACKTRACE` asks for one.
fn panic_text(info: &PanicHookInfo<'_>) -> String {
    let thread = thread::current();
    let name = thread.name().unwrap_or("<unnamed>");
    let (message, stack) = (info.payload_as_str().unwrap_or("Box<dyn Any>"), Backtrace::capture());
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let message = Cut::new(message, MAX_MESSAGE_BYTES);
    let text = format!("thread '{name}' panicked at {place}:\n{message}\n");
    if stack.status() == BacktraceStatus::Captured {
        format!("{text}stack backtrace:\n{stack}\n")
    } else {
        text
    }
}

/// Standard error, or the queue of the thread that writes to it.
#[derive(Clone, Copy, Debug)]
struct Stderr;

impl MakeWriter<'_> for Stderr {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match QUEUE.get() {
            Some(queue) if !IS_DIRECT.get() => queue.push(line),
            _ => stderr().write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Formats the fields of events and spans as `tracing_subscriber` does, each cut to its bound, and in one
/// line.
#[derive(Clone, Copy, Debug)]
struct Fields;

impl<'a> FormatFields<'a> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'a>, fields: R) -> fmt::Result {
        let mut visitor = Bounded(DefaultVisitor::new(writer, true));
        fields.record(&mut visitor);
        visitor.0.finish()
    }
}

/// Cuts what it passes on.
struct Bounded<'a>(DefaultVisitor<'a>);

impl Visit for Bounded<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else if IS_DIRECT.get() || value.len() <= MAX_FIELD_BYTES {
            self.0.record_str(field, value);
        } else {
            // Cut before it is quoted: so the closing quote stays.
            self.0.record_str(field, &Cut::new(value, MAX_FIELD_BYTES).to_string());
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn StdError + 'static)) {
        let (mut chain, mut next) = (value.to_string(), value.source());
        while let Some(cause) = next {
            chain = format!("{chain}: {cause}");
            next = cause.source();
        }
        self.record_debug(field, &format_args!("{chain}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if IS_DIRECT.get() {
            self.0.record_debug(field, value);
        } else if field.name() == "message" {
            self.0.record_debug(field, &Cut::new(value, MAX_MESSAGE_BYTES));
        } else {
            self.0.record_debug(field, &Cut::in_line(value, MAX_FIELD_BYTES));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_filter_is_checked() {
        assert!(check("info,mesh_agent::hbone=debug").is_ok());
        assert_eq!(check("a=b=c").unwrap_err().to_string(), "`a=b=c` is not a log filter");
    }

    /// Keeps lines, whoever writes them.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(line)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Kept {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }

        /// Has `log` write its lines here.
        fn log(&self, log: impl FnOnce()) -> String {
            let kept = self.clone();
            let made = lines::fmt().with_writer(move || kept.clone()).fmt_fields(Fields);
            let made = made.with_ansi(false).without_time().finish();
            tracing::subscriber::with_default(made, log);
            self.text()
        }
    }

    /// A path of 60,000 bytes, and whatever else a client or a peer may say, in every way in which fields
    /// are written.
    #[test]
    fn texts_of_strangers_are_cut_and_stay_in_one_line() {
        let (path, cause) = ("/".repeat(60_000), io::Error::other("\n".repeat(60_000)));
        let error: &(dyn StdError + 'static) = &cause;
        let text = Kept::default().log(|| {
            tracing::info!(path, "a request is denied");
            tracing::info!(%path, "a request is denied");
            tracing::info!(?path, %cause, "a request is denied");
            tracing::info!(error, "a request is denied");
            tracing::info!(path = Some(&*path), evil = %"x\n2026 ERROR forged\u{1b}[31m", "denied");
            tracing::info!("{path}");
        });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 6, "{text}");
        for line in &lines[..5] {
            assert!(line.len() < 2 * MAX_FIELD_BYTES + 200, "{line}");
            assert!(line.contains('…'), "{line}");
        }
        assert!(lines[0].contains("a request is denied path=\"////"), "{}", lines[0]);
        assert!(lines[0].ends_with("/…\""), "{}", lines[0]);
        assert!(lines[4].ends_with("evil=x\\n2026 ERROR forged\\u{1b}[31m"), "{}", lines[4]);
        assert!(lines[5].len() < MAX_MESSAGE_BYTES + 200, "{}", lines[5].len());
    }

    #[test]
    fn short_texts_are_written_as_ever() {
        let error = io::Error::other("no \"route\"");
        let text = Kept::default().log(|| {
            tracing::warn!(%error, name = "a\nb", count = 3, none = None::<u64>, "broken:\nstack");
        });
        let expect = "broken:\nstack error=no \"route\" name=\"a\\nb\" count=3\n";
        assert!(text.ends_with(expect), "{text}");
    }

    #[test]
    fn a_reader_that_has_stopped_costs_lines_that_are_told_of_and_no_time() {
        let queue: &Queue =
            Box::leak(Box::new(Queue::new(Options { most_bytes: 8, linger: Duration::ZERO })));
        let (entered, has_entered) = mpsc::channel();
        let (go, may_go) = mpsc::channel();
        let kept = Kept::default();
        let mut into = kept.clone();
        let writing = thread::spawn(move || {
            let log = into.clone();
            log.log(|| {
                write_all(queue, |line| {
                    entered.send(()).unwrap();
                    may_go.recv().unwrap();
                    into.write_all(line)
                });
            });
        });
        queue.push(b"1\n");
        has_entered.recv().unwrap();
        for line in [b"2\n", b"3\n", b"4\n", b"5\n", b"6\n", b"7\n"] {
            queue.push(line);
        }
        assert!(!queue.flush(Duration::from_millis(1)), "nobody reads");
        assert_eq!((queue.dropped(), kept.text()), (2, String::new()));
        (0..5).for_each(|_| go.send(()).unwrap());
        queue.close();
        writing.join().unwrap();
        let text = kept.text();
        assert!(text.starts_with("1\n2\n3\n4\n5\n WARN "), "{text}");
        assert!(text.ends_with("nobody has read it fast enough count=2\n"), "{text}");
    }

    #[test]
    fn a_panic_is_told_as_ever() {
        let told = Arc::new(Mutex::new(String::new()));
        let into = Arc::clone(&told);
        let former = panic::take_hook();
        // Other tests have panics of their own.
        panic::set_hook(Box::new(move |info| match thread::current().name() {
            Some("panics") => *into.lock().unwrap() = panic_text(info),
            _ => former(info),
        }));
        let name = thread::Builder::new().name("panics".to_owned());
        let ended = name.spawn(|| panic!("index {} is out of bounds", 7)).unwrap().join();
        assert!(ended.is_err());
        let text = told.lock().unwrap().clone();
        assert!(text.starts_with("thread 'panics' panicked at "), "{text}");
        assert!(text.contains("index 7 is out of bounds\n"), "{text}");
    }
}
