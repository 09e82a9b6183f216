//! How some servers read a path, in the order in which they do it: what `cargo xtask paths` has seen.

/// A server, by the field that tells its reading, and how it reads.
type Reader = (&'static str, fn(&str) -> String);

/// Tomcat; a server behind nginx that is given the decoded path; an application of Node that reads with
/// `URL`; Express; FastAPI, whose patterns match before a line feed.
const READERS: [Reader; 5] = [
    ("X-Read-By-Tomcat", |path| resolved(&merged(&decoded(&without_parameters(path))))),
    ("X-Read-Behind-Nginx", |path| decoded(&resolved(&merged(&decoded(path))))),
    ("X-Read-By-Node", |path| {
        resolved(&without_host(&path.replace('\\', "/").replace("%2e", ".")))
    }),
    ("X-Read-By-FastAPI", |path| decoded(path).trim_end_matches('\n').to_owned()),
    ("X-Read-By-Express", |path| path.strip_suffix('/').unwrap_or(path).to_ascii_lowercase()),
];

/// Fields with what they read, for paths that they do not read alike.
pub(super) fn fields(path: &str) -> Vec<(String, String)> {
    let all = READERS.map(|(name, read)| (name.to_owned(), read(path)));
    // A field has no control characters.
    let is_text = |value: &str| value.bytes().all(|byte| byte.is_ascii_graphic());
    let differs = all.iter().any(|(_, read)| read != path);
    all.into_iter().filter(|(_, read)| differs && is_text(read)).collect()
}

fn without_parameters(path: &str) -> String {
    let names = path.split('/').map(|part| part.split(';').next().unwrap_or_default());
    names.collect::<Vec<_>>().join("/")
}

fn decoded(path: &str) -> String {
    let mut parts = path.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => bytes.extend([&[byte], &part.as_bytes()[2..]].concat()),
            None => bytes.extend([b"%", part.as_bytes()].concat()),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn merged(path: &str) -> String {
    let mut merged = path.to_owned();
    while merged.contains("//") {
        merged = merged.replace("//", "/");
    }
    merged
}

fn resolved(path: &str) -> String {
    let mut kept = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

fn without_host(path: &str) -> String {
    let Some(rest) = path.strip_prefix("//") else { return path.to_owned() };
    rest.split_once('/').map_or("/".to_owned(), |(_, rest)| format!("/{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_read_a_path_as_they_were_seen_to() {
        let check = |path: &str, name: &str, expect: &str| {
            let fields = fields(path);
            let read = fields.iter().find(|(own, _)| own.ends_with(name));
            assert_eq!(read.map(|(_, read)| read.as_str()), Some(expect), "{path} {fields:?}");
        };
        check("/public/..;%2Fpublic/admin/x", "Tomcat", "/admin/x");
        check("/;x/public/%2e%2e;y/admin", "Tomcat", "/admin");
        check("/%2561dmin", "Nginx", "/admin");
        check("/public/..%2f%61dmin", "Nginx", "/admin");
        check("//h/admin", "Node", "/admin");
        check("/public/%2e./admin", "Node", "/admin");
        check("/ADMIN/", "Express", "/admin");
        assert_eq!(fields("/admin/x.json"), []);
    }
}
