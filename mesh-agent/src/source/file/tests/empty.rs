//! Directories that become empty.

use super::*;

#[test]
fn a_directory_that_becomes_empty_keeps_what_was_in_force() {
    let mut lab = Lab::new();
    lab.source.allow_empty = false;
    lab.check(&[], 0);
    lab.write("a.yaml", &service("a", 80));
    lab.check(&["Service default/a 80"], 0);
    let is_empty = |conditions: &[Condition]| {
        conditions[0].message.contains("holds no documents any more; the last configuration stays")
    };
    lab.write("a.yaml", "# nothing\n");
    assert!(is_empty(&lab.check(&["Service default/a 80"], 1)));
    lab.remove("a.yaml");
    assert!(is_empty(&lab.check(&["Service default/a 80"], 1)));
    // Any document that comes then counts.
    lab.write("b.yaml", &service("b", 81));
    lab.check(&["Service default/b 81"], 0);
    lab.remove("b.yaml");
    lab.source.allow_empty = true;
    lab.check(&[], 0);
}

#[test]
fn a_file_of_which_nothing_was_ever_good_has_nothing_in_force() {
    let mut lab = Lab::new();
    lab.write("a.yaml", &service("a", 1));
    lab.check(&["Service default/a 1"], 0);
    for file in ["a.yaml", "b.yaml"] {
        fs::write(lab.dir.path().join(file), b"\xff").unwrap();
    }
    let told = lab.check(&["Service default/a 1"], 2);
    let ends = [
        "what was last good of the file stays in force",
        "until then nothing that it holds is in force",
    ];
    for (condition, end) in told.iter().zip(ends) {
        assert!(condition.message.ends_with(end), "{condition}");
    }
}
