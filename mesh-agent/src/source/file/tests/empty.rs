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
    // Whatever comes then counts.
    lab.write("b.yaml", &service("b", 81));
    lab.check(&["Service default/b 81"], 0);
    lab.remove("b.yaml");
    lab.source.allow_empty = true;
    lab.check(&[], 0);
}
