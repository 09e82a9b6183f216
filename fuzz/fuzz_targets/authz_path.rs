//! Any path: its readings are bounded and closed, and a policy about one of them is not passed by.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_agent::authz::path::{self, Readings};
use mesh_agent::model::policy::Text;
use mesh_agent::model::policy::request::{PathText, Template};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    let (pattern, path) = text.split_once('\n').unwrap_or(("/{**}", text));
    let readings = Readings::of(path);
    assert_eq!(readings.written(), path);
    let all: Vec<_> = readings.iter().collect();
    assert!(all.len() <= 65, "{all:?}");
    assert!(readings.is_complete || readings.is_ambiguous);
    if path::is_valid(path) && path != "*" {
        assert!(all.iter().all(|reading| reading.starts_with('/')), "{all:?}");
    }
    // A server that makes the same steps with a reading that has nothing left to decode stays inside.
    if readings.is_complete
        && let Some(last) = all.iter().find(|reading| !reading.contains(['%', '\u{fffd}']))
    {
        let again = Readings::of(last);
        assert!(!again.is_complete || again.iter().all(|reading| all.contains(&reading)), "{last}");
    }
    // A pattern that is meant exactly is meant broadly.
    let pattern = match Template::new(pattern) {
        Some(template) => PathText::Template(template),
        None => match pattern.split_once('*') {
            Some(("", end)) => PathText::Text(Text::Suffix(end.to_owned())),
            Some((start, _)) => PathText::Text(Text::Prefix(start.to_owned())),
            None => PathText::Text(Text::Exact(pattern.to_owned())),
        },
    };
    assert!(!pattern.matches(path) || pattern.covers(path), "{pattern:?} {path}");
});
