//! Which conditions the log is told of: those that were not there before, and not all of very many.

use std::collections::HashSet;
use std::path::Path;

use crate::model::condition::Condition;

/// How many conditions one change of the files may log. The author of the documents chooses how many
/// there are; all of them are shown at `/conditions`.
const MAX_LINES: usize = 100;

/// A condition, wherever in its file it is written: lines above it come and go.
type Said<'a> = (&'a Path, &'a str, &'a str, &'a str);

fn said(condition: &Condition) -> Said<'_> {
    (&condition.location.file, &condition.subject, &condition.field, &condition.message)
}

/// The conditions of `now` that are to be logged, and how many more there are.
pub(super) fn news<'a>(before: &[Condition], now: &'a [Condition]) -> (Vec<&'a Condition>, usize) {
    let before: HashSet<_> = before.iter().map(said).collect();
    let mut news: Vec<_> =
        now.iter().filter(|condition| !before.contains(&said(condition))).collect();
    let rest = news.len().saturating_sub(MAX_LINES);
    news.truncate(MAX_LINES);
    (news, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::condition::{Location, Reason};

    fn condition(line: usize, message: &str) -> Condition {
        Condition {
            location: Location { file: Path::new("a.yaml").into(), document: 1, line },
            subject: "Service demo/a".into(),
            field: "spec".into(),
            reason: Reason::Invalid,
            message: message.into(),
        }
    }

    #[test]
    fn a_condition_is_logged_once() {
        let before = [condition(1, "one"), condition(9, "two")];
        let now = [condition(2, "one"), condition(10, "three")];
        let (logged, rest) = news(&before, &now);
        assert_eq!((logged, rest), (vec![&now[1]], 0));
        // It was mended and is there again.
        let (logged, rest) = news(&before[1..], &before);
        assert_eq!((logged, rest), (vec![&before[0]], 0));
    }

    #[test]
    fn one_change_logs_so_many() {
        let now: Vec<_> = (0..1_000).map(|n| condition(n, &n.to_string())).collect();
        let (logged, rest) = news(&[], &now);
        assert_eq!((logged.len(), rest), (MAX_LINES, 1_000 - MAX_LINES));
    }
}
