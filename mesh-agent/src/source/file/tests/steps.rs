//! Readings one after the other, of which each keeps most of the one before.

use super::*;

/// The text of a file: services by their names and ports, with comments between them that move what
/// follows. A name may be there several times.
fn text() -> impl Strategy<Value = String> {
    let document = ("[a-e]", 80_u32..83, "(#\n)?\n?");
    let documents = prop::collection::vec(document, 0..6);
    documents.prop_map(|all| {
        let one =
            |(name, port, space): &(String, u32, String)| [space.clone(), service(name, *port)];
        all.iter().flat_map(one).collect()
    })
}

proptest! {
    /// Files that are read step by step give the same as if all of them were read for the first time.
    #[test]
    fn readings_are_the_same_as_the_first_one(
        steps in prop::collection::vec((prop::sample::select(vec!["a", "b"]), text()), 1..8),
    ) {
        let mut lab = Lab::new();
        for (file, text) in steps {
            lab.write(&format!("{file}.yaml"), &text);
            let update = lab.source.load();
            let fresh = FileSource::new(lab.dir.path().to_owned(), domains(), true);
            prop_assert_eq!(update, fresh.unwrap().load());
        }
    }
}

#[test]
fn documents_that_stay_are_the_same_objects() {
    let mut lab = Lab::new();
    let text = |port| format!("{}{}{}", service("a", 80), service("b", port), service("c", 80));
    lab.write("a.yaml", &text(80));
    let before = lab.source.load().resources;
    lab.write("a.yaml", &format!("# moved\n{}", text(81)));
    let after = lab.source.load().resources;
    let same = |(before, after): (&Resource, &Resource)| match (&before.object, &after.object) {
        (Object::Service(before), Object::Service(after)) => Arc::ptr_eq(before, after),
        _ => false,
    };
    let same: Vec<_> = before.iter().zip(&after).map(same).collect();
    assert_eq!(same, [true, false, true]);
    let lines: Vec<_> = after.iter().map(|resource| resource.location.line).collect();
    assert_eq!(lines, [3, 8, 13]);
}

#[test]
fn files_have_settled_when_nobody_writes_them() {
    let mut lab = Lab::new();
    let dir = lab.dir.path().to_owned();
    lab.write("a.yaml", &service("a", 80));
    lab.source.look();
    assert!(lab.source.looks.are_settled(&dir, |_| false));
    lab.write("a.yaml", &service("a", 8080));
    assert!(!lab.source.looks.are_settled(&dir, |_| false), "another size");
    lab.source.look();
    lab.write("b.yaml", "");
    assert!(!lab.source.looks.are_settled(&dir, |_| false), "one more file");
    lab.source.look();
    assert!(lab.source.looks.are_settled(&dir, |_| false));
    lab.remove("b.yaml");
    assert!(!lab.source.looks.are_settled(&dir, |_| false), "one file less");
}
