//! Limits of what may be written in code: stated invariants, tracked intentions, fenced unsafe.

use std::path::Path;

use super::{Report, Source};

/// The call whose text states an invariant. In two parts, or this file would not be tidy.
const EXPECT: &str = concat!(".exp", "ect(");

/// Where an unsafe function may be part of an interface.
const UNSAFE_PLACES: &[&str] = &["mesh-agent/src/sys", "mesh-ebpf", "mesh-common/src/abi.rs"];

/// The one file of the agent that makes TCP sockets: all of them notice a peer that vanishes.
const SOCKETS: &str = "mesh-agent/src/sys/socket.rs";

/// Calls that make one.
const SOCKET_CALLS: &[&str] =
    &["TcpListener::bind(", "TcpStream::connect(", "TcpSocket::new_v", "Socket::new("];

/// Checks one file, line by line.
pub(super) fn check(source: &Source<'_>, report: Report<'_>) {
    for (number, line) in source.text.lines().enumerate().map(|(index, line)| (index + 1, line)) {
        if let Some(rest) = line.split_once(concat!("TO", "DO")).map(|(_, rest)| rest)
            && !is_tracked(rest)
        {
            report(number, concat!("say which issue: `TO", "DO(#n): …`").to_owned());
        }
    }
    if source.test || source.path.starts_with("tests") {
        return;
    }
    let fenced = UNSAFE_PLACES.iter().any(|place| source.path.starts_with(Path::new(place)));
    let mut opened = false;
    for (number, line) in source.code() {
        let code = line.split("//").next().unwrap_or_default().trim();
        // `expect(` may end its line, with the text on the next one.
        let text = if opened { Some(code) } else { code.split_once(EXPECT).map(|(_, t)| t) };
        if let Some(text) = text
            && text.starts_with('"')
            && !text.starts_with("\"invariant: ")
        {
            report(number, "expect() states an invariant: `\"invariant: …\"`".to_owned());
        }
        opened = code.ends_with(EXPECT);
        if source.path.starts_with("mesh-agent/src")
            && source.path != Path::new(SOCKETS)
            && SOCKET_CALLS.iter().any(|call| code.contains(call))
        {
            report(number, format!("sockets are made in {SOCKETS}"));
        }
        if !fenced && is_public_unsafe(code) {
            report(number, "an unsafe interface belongs in mesh-agent/src/sys".to_owned());
        }
    }
}

/// Whether what follows the word is `(#<number>): `.
fn is_tracked(rest: &str) -> bool {
    let Some((number, _)) = rest.strip_prefix("(#").and_then(|rest| rest.split_once("): ")) else {
        return false;
    };
    !number.is_empty() && number.chars().all(|c| c.is_ascii_digit())
}

/// Whether a line begins an unsafe item that other modules can name.
fn is_public_unsafe(code: &str) -> bool {
    let Some(item) = code.strip_prefix("pub") else { return false };
    let item = match item.strip_prefix('(') {
        Some(scope) => scope.split_once(')').map_or("", |(_, item)| item),
        None => item,
    };
    let words = item.split_whitespace().take_while(|word| !matches!(*word, "fn" | "trait"));
    words.take(3).any(|word| word == "unsafe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, expect: &[usize]) {
        let mut got = Vec::new();
        let source = Source { path: Path::new(path), text, test: path.starts_with("tests/it") };
        super::check(&source, &mut |line, _| got.push(line));
        assert_eq!(got, expect, "{text}");
    }

    #[test]
    fn an_expectation_states_its_invariant() {
        let file = "mesh-agent/src/io/copy.rs";
        check(file, "x.expect(\"invariant: set above\")\n", &[]);
        check(file, "x.expect(\"works\")\n", &[1]);
        check(file, "x.expect(\n    \"works\",\n)\n", &[2]);
        check(file, "#[cfg(test)]\nx.expect(\"works\")\n", &[]);
        check("tests/it/drain.rs", "x.expect(\"works\")\n", &[]);
    }

    #[test]
    fn an_intention_has_an_issue() {
        let file = "mesh-agent/src/io/copy.rs";
        let word = concat!("// TO", "DO");
        check(file, &format!("{word}(#12): shorten\n"), &[]);
        check(file, &format!("{word}: shorten\n"), &[1]);
        check(file, &format!("{word}(me): shorten\n"), &[1]);
    }

    #[test]
    fn sockets_are_made_in_one_place() {
        let file = "mesh-agent/src/admin/listener.rs";
        for call in ["TcpListener::bind(a)?", "net::TcpStream::connect(a)", "TcpSocket::new_v4()"] {
            check(file, call, &[1]);
            check(SOCKETS, call, &[]);
            check("tests/it/lab.rs", call, &[]);
        }
        check(file, "#[cfg(test)]\nTcpStream::connect(a)\n", &[]);
    }

    #[test]
    fn unsafe_interfaces_are_fenced() {
        for text in ["pub unsafe fn f() {}", "pub(crate) const unsafe fn f()", "pub unsafe trait X"]
        {
            check("mesh-agent/src/io/copy.rs", text, &[1]);
            check("mesh-agent/src/sys/socket.rs", text, &[]);
        }
        check("mesh-agent/src/io/copy.rs", "pub fn unsafe_looking() {}", &[]);
    }
}
