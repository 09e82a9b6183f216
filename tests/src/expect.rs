//! Waiting for something to become true.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The pause between two looks at a condition.
///
/// Short enough that a test does not notice, long enough that the looking does not load the
/// machine that it waits for.
const POLL: Duration = Duration::from_millis(10);

/// Asks `probe` until it has an answer.
///
/// # Errors
///
/// There was none within `deadline`; `what` names it in the error.
pub fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if start.elapsed() >= deadline {
            bail!("waited {} s for {what}", deadline.as_secs_f32());
        }
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "the one pause, between two looks at a condition")]
fn pause() {
    std::thread::sleep(POLL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_as_soon_as_there_is_an_answer() {
        let mut looks = 0;
        let found = eventually("the third look", Duration::from_secs(5), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn names_what_it_waited_for() {
        let error = eventually::<()>("a miracle", Duration::ZERO, || None).unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s for a miracle");
    }
}
