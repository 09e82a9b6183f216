//! Spellings of paths to protected handlers, the same in every run.

use std::collections::BTreeSet;

/// Paths of handlers that the servers protect.
const GOALS: [&str; 5] = ["admin/x", "admin", "secret", "api/1/keys", "admin/public/x"];

/// Spellings of the segment `..`, and texts that a lenient decoder takes for it.
const UPS: [&[u8]; 36] = [
    b"..",
    b"%2e%2e",
    b".%2E",
    b"%2e.",
    b"%252e%252e",
    b".%252e",
    b"%25252e%25252e",
    b"%2%65%2%65",
    b"%%32%65%%32%65",
    b"%c0%ae%c0%ae",
    b"%e0%80%ae%e0%80%ae",
    b"%ef%bc%8e%ef%bc%8e",
    b"%u002e%u002e",
    b"%uff0e%uff0e",
    b"..;",
    b"..;a=b",
    b".;.",
    b".;/.",
    b"..%3b",
    b"..%3Ba=b",
    b"..%253b",
    b"%2e%2e;",
    b"%2e%2e%3b",
    b"..%00",
    b"..%20",
    b"..%09",
    b"..%0d",
    b"...",
    b"..%23",
    b"..%3f",
    b"..%ff",
    b"..\xff",
    b"..%",
    b"..%2",
    b"x/../..",
    b"..;/x/..",
];

/// Spellings of the slash between two segments, with what can be beside it.
const SLASHES: [&[u8]; 38] = [
    b"/",
    b"%2f",
    b"%2F",
    b"%5c",
    b"%5C",
    b"\\",
    b"%252f",
    b"%255c",
    b"%25252f",
    b"%2%66",
    b"%%32%66",
    b"%c0%af",
    b"%e0%80%af",
    b"%c1%9c",
    b"%u002f",
    b"%u005c",
    b"%ef%bc%8f",
    b"%e2%88%95",
    b";/",
    b";x/",
    b";x=y;z/",
    b";%2f",
    b";%2fpublic/",
    b";%2f..%2fpublic/",
    b";%5cpublic/",
    b"%3b/",
    b"%3b%2fpublic/",
    b"//",
    b"///",
    b"/./",
    b"/%2e/",
    b"/.;/",
    b"/;/",
    b"/;x/",
    b"%2f/",
    b"/%2f",
    b"%3f/",
    b"%23/",
];

/// Beginnings that servers take for nothing, or for the name of a host.
const PREFIXES: [&[u8]; 24] = [
    b"/",
    b"//",
    b"///",
    b"/./",
    b"/.//",
    b"/;/",
    b"/;x/",
    b"/.;/",
    b"/%2f",
    b"/%5c",
    b"/\\",
    b"\\",
    b"/x/../",
    b"/x/%2e%2e/",
    b"/x%2f..%2f",
    b"/../",
    b"/%2e/",
    b"//h/",
    b"///h/",
    b"/\\h/",
    b"http://h/",
    b"http://h//",
    b"http://public/",
    b"//public/",
];

/// Ends that servers take for nothing, or for another form of the same resource.
const SUFFIXES: [&[u8]; 46] = [
    b"",
    b"/",
    b"//",
    b".",
    b"..",
    b"/.",
    b"/./",
    b"/x/..",
    b"/x/%2e%2e",
    b";",
    b";x",
    b";x=y",
    b";/",
    b"/;x",
    b"/.;x",
    b"%3b",
    b"%3bx",
    b"%00",
    b"%00.png",
    b"%20",
    b"%09",
    b"%0a",
    b"%0d%0a",
    b".json",
    b".html",
    b".x.y",
    b"%2ejson",
    b"%2e",
    b"%2f",
    b"%5c",
    b"\\",
    b"%252f",
    b"?x",
    b"?/public/x",
    b"%3fx",
    b"#x",
    b"%23x",
    b"%ff",
    b"\xff",
    b"%",
    b"%2",
    b"%zz",
    b"~",
    b"+",
    b"%20/",
    b"%3f/public/x",
];

/// Segments that random paths are made of.
const SEGMENTS: [&[u8]; 10] =
    [b"public", b"public", b"public", b"x", b"admin", b"api", b"1", b"", b".", b"%2e"];

/// Random paths.
const N_RANDOM: usize = 2_500;

/// All targets, sorted.
pub(super) fn targets() -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    for goal in GOALS {
        written_otherwise(goal, &mut all);
    }
    for up in UPS {
        for slash in SLASHES {
            all.insert([b"/public/", up, slash, b"admin/x"].concat());
        }
        all.insert([b"/public", up, b"/secret"].concat());
        all.insert([b"/public/", up, b"/api/1/keys"].concat());
    }
    for slash in SLASHES {
        all.insert([b"/public", slash, b"../admin/x"].concat());
        all.insert([b"/public", slash, b"..", slash, b"admin/x"].concat());
        all.insert([b"/public/x", slash, b"..", slash, b"..", slash, b"secret"].concat());
        all.insert([b"/admin", slash, b"x"].concat());
        all.insert([b"/api", slash, b"1", slash, b"keys"].concat());
    }
    let mut random = Random(0x6d65_7368);
    for _ in 0..N_RANDOM {
        all.insert(any(&mut random));
    }
    all
}

/// The goal with other beginnings, ends, and letters.
fn written_otherwise(goal: &str, all: &mut BTreeSet<Vec<u8>>) {
    let letters = [
        goal.to_owned(),
        goal.to_ascii_uppercase(),
        encoded(goal, |code| format!("%{code:02x}")),
        encoded(goal, |code| format!("%25{code:02x}")),
        encoded(goal, |code| format!("%u00{code:02x}")),
        goal.replacen('a', "A", 1),
        goal.replacen('a', "%41", 1),
        goal.replacen('i', "%c4%b1", 1),
    ];
    for goal in &letters {
        for prefix in PREFIXES {
            all.insert([prefix, goal.as_bytes()].concat());
        }
    }
    for suffix in SUFFIXES {
        for goal in &letters[..2] {
            all.insert([b"/", goal.as_bytes(), suffix].concat());
        }
        all.insert([b"/public/../", goal.as_bytes(), suffix].concat());
    }
}

/// The text with the first letter of each segment in another form.
fn encoded(text: &str, form: impl Fn(u32) -> String) -> String {
    let mut is_first = true;
    let letters = text.chars().map(|letter| {
        let form = if is_first { form(letter.into()) } else { letter.to_string() };
        is_first = letter == '/';
        form
    });
    letters.collect()
}

fn any(random: &mut Random) -> Vec<u8> {
    let mut path = random.one(&PREFIXES[..17]).to_vec();
    let n_segments = 1 + random.below(4);
    let mut depth = 0_usize;
    for _ in 0..n_segments {
        path.extend_from_slice(random.one(&SEGMENTS));
        path.extend_from_slice(slash(random));
        depth += 1;
    }
    while 0 < depth && random.below(4) != 0 {
        path.extend_from_slice(random.one(&UPS));
        path.extend_from_slice(slash(random));
        depth -= 1;
    }
    path.extend_from_slice(random.one(&GOALS).as_bytes());
    if random.below(4) == 0 {
        path.extend_from_slice(random.one(&SUFFIXES));
    }
    path
}

fn slash(random: &mut Random) -> &'static [u8] {
    if random.below(2) == 0 { b"/" } else { random.one(&SLASHES) }
}

/// `SplitMix64`: the same numbers in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // 31 bits fit into any usize.
        usize::try_from((mixed ^ (mixed >> 31)) >> 33).unwrap_or_default() % bound
    }

    fn one<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_same_in_every_run_and_can_be_sent() {
        let all = targets();
        assert_eq!(all, targets());
        assert!(all.contains(&b"/public/..;%2fpublic/admin/x"[..]));
        assert!(all.contains(&b"//h/admin/x"[..]));
        let ends_line = |byte: &u8| matches!(byte, b' ' | b'\r' | b'\n');
        assert!(all.iter().all(|target| !target.is_empty() && !target.iter().any(ends_line)));
    }
}
