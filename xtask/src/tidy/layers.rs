//! Which module of the agent may use which, and which of them only decide.

use super::{Report, Source};

/// `mesh-agent`'s modules, bottom first. A module may use itself and the rows above its own in
/// this table: never a neighbour in its row, never a row below.
const LAYERS: &[&[&str]] = &[
    &["failure", "sys", "task"],
    &["model"],
    &["authz", "balance", "bounds", "fault", "mirror", "resilience", "route"],
    &["io", "telemetry"],
    &["store"],
    &["datapath", "dns", "http", "identity", "source"],
    &["flows", "hbone", "native"],
    &["tunnels"],
    &["proxy"],
    &["pods"],
    &["admin"],
    &["settings"],
    &["app"],
    &["cli"],
];

/// Modules that decide and never act: no clock, no I/O, no runtime.
const PURE: &[&str] =
    &["authz", "balance", "bounds", "failure", "fault", "mirror", "model", "resilience", "route"];

/// Names that a pure module may not use, and why.
const IMPURE: &[(&str, &str)] = &[
    ("tokio::", "no runtime"),
    ("tracing::", "no logs"),
    ("std::fs", "no files"),
    ("std::env", "no environment"),
    ("Instant::now", "no clock"),
    ("SystemTime::now", "no clock"),
    ("rand::", "no randomness of its own"),
];

/// Checks a file of the agent against [`LAYERS`] and [`PURE`].
pub(super) fn check(source: &Source<'_>, report: Report<'_>) {
    let Ok(inside) = source.path.strip_prefix("mesh-agent/src") else { return };
    let module = inside.iter().next().and_then(|name| name.to_str()).unwrap_or_default();
    let module = module.trim_end_matches(".rs");
    if matches!(module, "lib" | "main") || source.test {
        return;
    }
    let Some(own) = row(module) else {
        report(1, format!("`{module}` is not in LAYERS"));
        return;
    };
    let pure = PURE.contains(&module);
    // Inside `use crate::{ … }`, over lines: the names at depth one are modules.
    let mut group = Group::default();
    for (number, line) in source.code() {
        let code = line.split("//").next().unwrap_or_default();
        for used in group.modules(code) {
            if used != module && row(&used).is_some_and(|row| own <= row) {
                report(number, format!("`{module}` may not use `{used}`"));
            }
        }
        for (name, why) in IMPURE.iter().filter(|(name, _)| pure && names(code, name)) {
            report(number, format!("`{module}` is pure: {why} (`{name}`)"));
        }
    }
}

fn row(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// Whether `code` has `name` as a word: `operand::` does not name `rand::`.
fn names(code: &str, name: &str) -> bool {
    let before = |at: usize| code.get(..at).and_then(|text| text.chars().next_back());
    let mut hits = code.match_indices(name);
    hits.any(|(at, _)| before(at).is_none_or(|c| !c.is_alphanumeric() && c != '_'))
}

/// Reads the modules that lines of code name after `crate::`, also in a group of several lines.
#[derive(Default)]
struct Group {
    /// Braces that are open since `crate::{`.
    depth: usize,
}

impl Group {
    fn modules(&mut self, code: &str) -> Vec<String> {
        let mut used = Vec::new();
        if self.depth != 0 {
            self.inside(code, &mut used);
        }
        for rest in code.split("crate::").skip(1) {
            if rest.starts_with('{') {
                self.inside(rest, &mut used);
            } else {
                used.extend(first_name(rest));
            }
        }
        used
    }

    /// Reads a group's names at depth one, until it closes.
    fn inside(&mut self, text: &str, used: &mut Vec<String>) {
        let mut expected = self.depth == 1;
        for (at, c) in text.char_indices() {
            match c {
                '{' => self.depth += 1,
                '}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            match c {
                '}' if self.depth == 0 => return,
                '{' | ',' => expected = self.depth == 1,
                _ if expected && !c.is_whitespace() => {
                    used.extend(text.get(at..).and_then(first_name));
                    expected = false;
                }
                _ => {}
            }
        }
    }
}

/// The name that `text` starts with.
fn first_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expect: &[&str]) {
        let mut got = Vec::new();
        let test = path.starts_with("tests/it") || path.ends_with("tests.rs");
        let source = Source { path: Path::new(path), text, test };
        super::check(&source, &mut |line, what| got.push(format!("{line}: {what}")));
        assert_eq!(got, expect);
    }

    #[test]
    fn arrows_point_down() {
        let file = "mesh-agent/src/model/service.rs";
        check(file, "use crate::model::id;\n", &[]);
        check(file, "use crate::failure::Kind;\n", &[]);
        check(file, "use crate::proxy::Proxy;\n", &["1: `model` may not use `proxy`"]);
        check(file, "// see crate::proxy\n", &[]);
        check("xtask/src/x.rs", "use crate::proxy::Proxy;\n", &[]);
    }

    #[test]
    fn neighbors_stay_apart() {
        let text = "fn f() { crate::balance::pick() }\n";
        check("mesh-agent/src/route/mod.rs", text, &["1: `route` may not use `balance`"]);
    }

    #[test]
    fn groups_are_read() {
        let file = "mesh-agent/src/model/mod.rs";
        check(file, "use crate::{failure, hbone};\n", &["1: `model` may not use `hbone`"]);
        let text = "use crate::{\n    task::{a, proxy},\n    app::App,\n};\nuse x::{cli};\n";
        check(file, text, &["3: `model` may not use `app`"]);
    }

    #[test]
    fn test_code_may_use_anything() {
        let text = "#[cfg(test)]\nuse crate::proxy::Proxy;\n";
        check("mesh-agent/src/model/mod.rs", text, &[]);
        check("mesh-agent/src/model/tests.rs", "use crate::proxy::Proxy;\n", &[]);
    }

    #[test]
    fn pure_modules_do_nothing() {
        let file = "mesh-agent/src/balance/p2c.rs";
        let expect = ["1: `balance` is pure: no runtime (`tokio::`)"];
        check(file, "use tokio::time::Instant;\n", &expect);
        check(file, "let x = operand::f();\n", &[]);
        check("mesh-agent/src/io/copy.rs", "use tokio::io::copy;\n", &[]);
    }

    #[test]
    fn a_module_has_a_layer() {
        check("mesh-agent/src/thing/mod.rs", "", &["1: `thing` is not in LAYERS"]);
    }
}
