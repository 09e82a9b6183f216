//! Documents that are malformed: the message has the place, and an operator knows what to do.

use super::*;

#[test]
fn a_file_that_holds_no_documents_is_told_so_without_the_librarys_words() {
    for text in
        ["hello\n", "#!/bin/sh\nset -e\necho hello\n", "- a\n- b\n", "127.0.0.1 localhost\n"]
    {
        let line = if text.starts_with('#') { 2 } else { 1 };
        check(text, &[&format!("{line}  Invalid: this is not a document: its lines should be ")]);
    }
}

#[test]
fn an_error_of_syntax_says_where_to_look() {
    let with = |metadata: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {metadata}\n");
    for text in [
        with("{name: echo"),
        with("\n\tname: echo"),
        with("{name: \"echo}"),
        with("\n  name: echo\n spec: x"),
    ] {
        let found = conditions(&text);
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        assert!(found[0].contains("Invalid: this is not YAML ("), "{text}: {found:#?}");
        assert!(found[0].contains("look here and one line above"), "{text}: {found:#?}");
    }
}

#[test]
fn a_value_of_another_kind_is_named_in_words() {
    let with = |spec: &str| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: echo}}\nspec:\n  {spec}\n")
    };
    for (spec, expect) in [
        ("ports: 80", "5 spec.ports Invalid: here should be a list (lines `- value`); correct it"),
        ("ports: [80]", "5 spec.ports[0] Invalid: here should be a mapping (lines `field: value`)"),
        ("ports: [{port: http}]", "5 spec.ports[0].port Invalid: here should be a whole number"),
        ("clusterIP: [10.96.0.10]", "5 spec.clusterIP Invalid: here should be a text; correct it"),
        ("ports: *all", "5 spec Invalid: an alias (`*name`) stands for an anchor"),
        ("prots: []", "5 spec.prots Invalid: there is no field `prots`; did you mean `ports`?"),
    ] {
        check(&with(spec), &[expect]);
    }
}

#[test]
fn no_message_has_the_librarys_words() {
    let words =
        ["serde", "deserialize", "struct ", "Option", "mapping start", "sequence", "DuplicateKey"];
    for text in [
        "a: 1\na: 2\n",
        "a: &a [*a]\n",
        "apiVersion: {}\nkind: 7\n",
        "apiVersion: v1\nkind: Service\nmetadata: []\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: ~}\nspec: ~\n",
        "apiVersion: v1\nkind: List\nitems: {}\n",
        "apiVersion: v1\nkind: List\nitems: [7]\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: !secret a}\n",
        "? [a]\n: b\n",
        "a: !!binary x\n",
    ] {
        for found in conditions(text) {
            let told = words.iter().find(|word| found.contains(*word));
            assert_eq!(told, None, "{text}: {found}");
        }
    }
}
