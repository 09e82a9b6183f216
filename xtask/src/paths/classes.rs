//! The classes of readings that a server has, each shown by one target.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::ask::ask;
use super::programs::{PROGRAMS, Program, Running};

/// A class, and a target that reaches the handler `admin` or `secret` only of who reads so.
const CLASSES: [(&str, &[u8]); 20] = [
    ("decoded", b"/%61dmin/x"),
    ("decoded-twice", b"/%2561dmin/x"),
    ("decoded-%u", b"/%u0061dmin/x"),
    ("overlong", b"/public/%c0%ae%c0%ae/admin/x"),
    ("dots", b"/public/../admin/x"),
    ("dots-encoded", b"/public/%2e%2e/admin/x"),
    ("slash-encoded", b"/admin%2fx"),
    ("slash-before-dots", b"/public/..%2fadmin/x"),
    ("backslash", b"/public/..\\admin/x"),
    ("backslash-encoded", b"/public/..%5cadmin/x"),
    ("merged", b"//admin/x"),
    ("authority", b"//h/admin/x"),
    ("parameters", b"/admin;a=b/x"),
    ("parameters-of-dots", b"/public/..;/admin/x"),
    ("parameters-encoded", b"/admin%3ba=b/x"),
    ("parameters-then-decoded", b"/public/..;%2fpublic/admin/x"),
    ("query-encoded", b"/secret%3fx"),
    ("case", b"/SECRET"),
    ("slash-at-end", b"/secret/"),
    ("extension", b"/secret.json"),
];

/// The table: a line for each server, with its version, and its classes.
///
/// # Errors
///
/// A server does not answer.
pub(super) fn table(
    running: &[Running],
    version: impl Fn(&'static Program) -> Result<Vec<String>>,
) -> Result<String> {
    let mut table = "server\tversion\treads\n".to_owned();
    for program in &PROGRAMS {
        let is_first = |one: &&Running| {
            one.servers.first().map(|(name, _)| *name) == program.servers.first().copied()
        };
        let Some(one) = running.iter().find(is_first) else { continue };
        let versions = version(program)?;
        for (index, (name, port)) in one.servers.iter().enumerate() {
            let version = versions.get(index).or(versions.last()).map_or("", String::as_str);
            let mut classes = Vec::new();
            for (class, target) in CLASSES {
                let reached = ask(*port, target).with_context(|| format!("asking {name}"))?;
                if reached.is_some_and(|reached| reached.handler != "public") {
                    classes.push(class);
                }
            }
            // Writing to a string does not fail.
            let _infallible = writeln!(table, "{name}\t{version}\t{}", classes.join(" "));
        }
    }
    Ok(table)
}
