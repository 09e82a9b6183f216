//! Policies with a mistake in their head: in a running agent they stay, at its start they are closed.

use proptest::prelude::*;

use super::*;
use crate::store::update::Key;
use crate::task::ready::Ready;

const GOOD: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: none, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, action: ALLOW, rules: [{}]}
";

/// A gate of nobody's.
pub(super) fn gate() -> Gate {
    Ready::new().gate("files")
}

/// Mistakes, and the name and number of labels of the policy that is closed when an agent starts.
fn mistakes() -> Vec<(&'static str, String, &'static str, usize)> {
    let with = |from: &str, to: &str| GOOD.replace(from, to);
    let spec_first = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                      spec: {action: DENY, action: DENY}\nmetadata: {name: none, namespace: shop}\n";
    vec![
        ("kind", with("Policy", "Polcy"), "shop/none", 1),
        ("version", with("/v1", "/v1alpha1"), "shop/none", 1),
        ("no version", with("/v1", ""), "shop/none", 1),
        ("group", with("security", "securty"), "shop/none", 1),
        ("no kind", with("kind: AuthorizationPolicy\n", ""), "shop/none", 1),
        ("no name", with("name: none, ", ""), "shop/a.yaml:1", 1),
        (
            "kind and no name",
            with("Policy", "Polcy").replace("name: none, ", ""),
            "shop/a.yaml:1",
            1,
        ),
        ("name twice", with("name: none", "name: none, name: none"), "shop/none", 0),
        ("two names", with("name: none", "name: none, name: other"), "shop/none shop/other", 0),
        ("kind twice", with("kind:", "kind: ConfigMap\nkind:"), "shop/none", 0),
        ("namespace", with("namespace", "namspace"), "shop/none", 1),
        ("case", with("namespace", "Namespace"), "shop/none", 1),
        ("metadata", with("metadata", "metdata"), "shop/none", 1),
        ("key of kind", with("kind:", "knid:"), "shop/none", 1),
        ("another group", with("security.istio", "istio"), "shop/none", 1),
        ("another word", with("kind: Authorization", "kind: Authz"), "shop/none", 1),
        (
            "outside of metadata",
            with("{name: none, namespace: shop}", "{name: none}\nnamespace: shop"),
            "shop/none",
            1,
        ),
        (
            "no space",
            with("{name: none, namespace: shop}", "\n  name: none\n  namespace:shop"),
            "shop/none",
            0,
        ),
        ("spec first", spec_first.to_owned(), "shop/none", 0),
        ("spec is no YAML", spec_first.replace("DENY}", "[}"), "shop/none", 0),
    ]
}

#[test]
fn a_policy_with_a_mistake_in_its_head_stays_as_it_was() {
    for (mistake, text, ..) in mistakes() {
        let mut lab = Lab::new();
        lab.write("a.yaml", GOOD);
        let before = lab.source.load().resources;
        lab.write("a.yaml", &text);
        for _ in 0..2 {
            let update = lab.source.load();
            let objects =
                |all: &[Resource]| all.iter().map(|it| it.object.clone()).collect::<Vec<_>>();
            assert_eq!(objects(&update.resources), objects(&before), "{mistake}");
            let told = &update.conditions;
            assert!(!told.is_empty(), "{mistake}");
            assert!(told.iter().all(|one| one.message.ends_with("stays in force")), "{told:#?}");
        }
        lab.write("a.yaml", GOOD);
        lab.check(&["AuthorizationPolicy shop/none Allow"], 0);
        lab.remove("a.yaml");
        lab.check(&[], 0);
    }
}

#[test]
fn a_policy_with_a_mistake_in_its_head_is_closed_at_the_start() {
    for (mistake, text, names, n_labels) in mistakes() {
        let mut lab = Lab::new();
        lab.write("a.yaml", &text);
        let update = lab.source.load();
        let one = |resource: &Resource| {
            let Object::AuthorizationPolicy(policy) = &resource.object else { panic!("{mistake}") };
            assert_eq!(policy.selector.len(), n_labels, "{mistake}");
            word(&resource.object)
        };
        let found: Vec<_> = update.resources.iter().map(one).collect();
        let expect = names.split(' ').map(|name| format!("AuthorizationPolicy {name} Deny"));
        assert_eq!(found, expect.collect::<Vec<_>>(), "{mistake}: {:#?}", update.conditions);
        let told = &update.conditions;
        assert!(told.iter().any(|it| it.message.ends_with("connections are refused")), "{told:#?}");
        lab.write("a.yaml", GOOD);
        lab.check(&["AuthorizationPolicy shop/none Allow"], 0);
    }
}

#[test]
fn a_mistake_in_a_name_takes_nothing_away() {
    let workload = "---\napiVersion: nodemesh.dev/v1alpha1\nkind: Workload\nmetadata: {name: web, \
                    namespace: shop}\nspec: {node: a, addresses: [10.0.0.1], serviceAccount: web}\n";
    let both = format!("{GOOD}{workload}");
    let good = ["Workload shop/web 10.0.0.1", "AuthorizationPolicy shop/none Allow"];
    for mistake in ["namespace: [shop]", "namespace: Shop", "namspace: shop", "namespace: 'a b'"] {
        let mut lab = Lab::new();
        lab.write("a.yaml", &both);
        lab.check(&good, 0);
        for text in [
            GOOD.replace("namespace: shop", mistake) + workload,
            format!("{GOOD}{}", workload.replace("namespace: shop", mistake)),
            both.replace("namespace: shop", mistake),
        ] {
            lab.write("a.yaml", &text);
            for _ in 0..2 {
                let told = lab.source.load().conditions;
                assert!(told.iter().all(|it| it.message.ends_with("stays in force")), "{told:#?}");
                let found = lab.source.load().resources;
                let found: Vec<_> = found.iter().map(|it| word(&it.object)).collect();
                assert_eq!(found, good, "{text}");
            }
        }
        // Once all of it can be read, what is gone is gone.
        lab.write("a.yaml", GOOD);
        lab.check(&good[1..], 0);
    }
}

#[test]
fn a_closed_policy_stays_closed_when_its_file_gets_worse() {
    let broken = GOOD.replace("spec:", "spce:");
    let mesh = "---\napiVersion: nodemesh.dev/v1alpha1\nkind: MeshPolicy\nmetadata: {name: m}\n\
                spec: {mtls: {mode: strict}}\n";
    let closed = ["MeshPolicy default/m Strict", "AuthorizationPolicy shop/none Deny"];
    let mut lab = Lab::new();
    lab.write("a.yaml", &(broken.clone() + mesh));
    lab.check(&closed, 2);
    for worse in [&b"\xff"[..], b"]", b"- a\n", b"kind: [\n"] {
        fs::write(lab.dir.path().join("a.yaml"), worse).unwrap();
        lab.check(&closed, 1);
        lab.check(&closed, 1);
    }
    lab.write("a.yaml", GOOD);
    lab.check(&["AuthorizationPolicy shop/none Allow"], 0);
    // One without a name, whose line is another each time.
    let nameless = GOOD.replace("name: none, ", "");
    let mut lab = Lab::new();
    for n_lines in 0..5 {
        lab.write("a.yaml", &format!("]\n{}---\n{nameless}", "\n".repeat(n_lines)));
        lab.check(&[&format!("AuthorizationPolicy shop/a.yaml:{} Deny", n_lines + 3)], 2);
    }
}

#[test]
fn documents_without_a_line_between_them_are_closed_each() {
    let one = |name: &str| GOOD.replace("none", name);
    let all = ["a", "b", "c"].map(one);
    let deny = ["a", "b", "c"].map(|name| format!("AuthorizationPolicy shop/{name} Deny"));
    let allow = ["a", "b", "c"].map(|name| format!("AuthorizationPolicy shop/{name} Allow"));
    let mut lab = Lab::new();
    lab.write("a.yaml", &all.concat());
    let n_conditions = lab.source.load().conditions.len();
    lab.check(&deny.each_ref().map(String::as_str), n_conditions);
    // Marks of YAML between them are read.
    for between in ["...\n", "---\n", "--- # next\n", "...\n---\n"] {
        let mut lab = Lab::new();
        lab.write("a.yaml", &all.join(between));
        lab.check(&allow.each_ref().map(String::as_str), 0);
    }
    let mut lab = Lab::new();
    lab.write("a.yaml", &all.join("---\n").replace('\n', "\r"));
    lab.check(&allow.each_ref().map(String::as_str), 0);
}

#[test]
fn a_name_of_any_length_is_cut_where_it_is_told() {
    let text = GOOD.replace("name: none", &format!("name: {}", "x".repeat(1 << 20)));
    let rules = "rules: [".to_owned() + &"{to: [{operation: {ports: [x]}}]}, ".repeat(200);
    let mut lab = Lab::new();
    lab.write("a.yaml", &text.replace("rules: [", &rules));
    let told = lab.source.load().conditions;
    assert!(told.len() > 50, "{}", told.len());
    let bytes: usize = told.iter().map(|it| it.to_string().len()).sum();
    assert!(bytes < told.len() * 4096, "{bytes}");
}

#[test]
fn a_likely_word_is_named_with_its_line() {
    let unread = |what: &str| format!("UnsupportedValue: documents with {what}; did you mean `");
    check(
        &GOOD.replace("Policy", "Polcy"),
        &[&format!(
            "2 kind {}security.istio.io/v1 AuthorizationPolicy`?; until then, for the workloads",
            unread("apiVersion `security.istio.io/v1` and kind `AuthorizationPolcy` are not read"),
        )],
    );
    check(
        &GOOD.replace("/v1", "/v9"),
        &[&format!(
            "1 apiVersion {}security.istio.io/v1 AuthorizationPolicy`?; until then, for the workloads",
            unread("apiVersion `security.istio.io/v9` and kind `AuthorizationPolicy` are not read"),
        )],
    );
    check(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n",
        &[
            "1  UnsupportedValue: documents with apiVersion `apps/v1` and kind `Deployment` are not read; write ",
        ],
    );
}

#[test]
fn items_of_a_list_with_a_mistake_in_their_heads_are_closed() {
    let item = |text: &str| {
        let indented: Vec<_> = text.lines().map(|line| format!("  {line}\n")).collect();
        indented.concat().replacen("  ", "- ", 1)
    };
    let list = |items: &[&str]| {
        let items: String = items.iter().map(|text| item(text)).collect();
        format!("apiVersion: v1\nkind: List\nitems:\n{items}")
    };
    let typo = GOOD.replace("Policy", "Polcy");
    let nameless = GOOD.replace("name: none, ", "");
    let twice = GOOD.replace("name: none", "name: none, name: none");
    let mut lab = Lab::new();
    lab.write("a.yaml", &list(&[&typo, &nameless]));
    let closed = ["AuthorizationPolicy shop/a.yaml:8 Deny", "AuthorizationPolicy shop/none Deny"];
    let told = lab.check(&closed, 2);
    assert_eq!(told.iter().map(|it| it.location.line).collect::<Vec<_>>(), [5, 10]);
    // The name of a list: its items are read all the same.
    let good = GOOD.replace("none", "good");
    lab.write("a.yaml", &list(&[&good]).replace("List", "Lst"));
    lab.check(&["AuthorizationPolicy shop/good Allow"], 1);
    // One that cannot be read at all.
    let mut lab = Lab::new();
    lab.write("a.yaml", &list(&[&twice, &good]));
    lab.check(&["AuthorizationPolicy shop/good Deny", "AuthorizationPolicy shop/none Deny"], 3);
}

#[test]
fn policies_without_names_are_told_apart_when_lines_are_added() {
    let nameless = format!("---\n{}", GOOD.replace("name: none, ", ""));
    let other = nameless.replace("app: web", "app: db");
    let mut lab = Lab::new();
    lab.write("a.yaml", &nameless);
    lab.check(&["AuthorizationPolicy shop/a.yaml:2 Deny"], 1);
    lab.write("a.yaml", &(other + &nameless));
    lab.check(
        &["AuthorizationPolicy shop/a.yaml:2 Deny", "AuthorizationPolicy shop/a.yaml:7 Deny"],
        2,
    );
}

#[test]
fn of_too_many_files_none_that_is_in_force_is_pushed_out() {
    let mut lab = Lab::new();
    lab.write("m.yaml", &service("m", 1));
    lab.write("o.yaml", &service("o", 2));
    let both = ["Service default/m 1", "Service default/o 2"];
    lab.check(&both, 0);
    for n in 0..read::MAX_FILES {
        fs::File::create(lab.dir.path().join(format!("a{n}.yaml"))).unwrap();
    }
    let told = lab.check(&both, 1);
    assert_eq!(told[0].reason, Reason::LimitExceeded);
    assert!(told[0].message.contains("has 10002 files, and 10000 are read"), "{}", told[0]);
    assert!(lab.source.is_cut());
    // Changes of files that are read are in force; nothing is taken away.
    lab.write("m.yaml", &service("m", 3));
    lab.remove("o.yaml");
    lab.check(&["Service default/m 3", "Service default/o 2"], 1);
    // An agent that starts reads the first by name.
    let dir = lab.dir.path().to_owned();
    let mut second = FileSource::new(dir, domains(), true).unwrap();
    assert!(second.is_cut());
    let update = second.load();
    assert_eq!((update.resources.len(), update.conditions.len()), (0, 1));
    lab.remove("a0.yaml");
    lab.check(&["Service default/m 3"], 0);
    assert!(!lab.source.is_cut());
}

/// A text of two documents, each good, broken, or not there.
fn text() -> impl Strategy<Value = String> {
    let document =
        (0..3_usize, 0..mistakes().len() + 3, any::<bool>()).prop_map(|(name, how, deny)| {
            let text = match mistakes().get(how) {
                Some((_, text, ..)) => text.clone(),
                None if how % 3 == 0 => return String::new(),
                None => GOOD.to_owned(),
            };
            let text = if deny { text.replace("ALLOW", "DENY") } else { text };
            format!("---\n{}", text.replace("none", ["a", "b", "c"][name]))
        });
    prop::collection::vec(document, 0..4).prop_map(|documents| documents.concat())
}

proptest! {
    #[test]
    fn a_history_ends_in_what_a_fresh_start_reads_or_in_what_was_in_force(
        history in prop::collection::vec((any::<bool>(), text()), 1..6),
        last in (text(), text()),
    ) {
        let mut lab = Lab::new();
        for (is_first, text) in history {
            lab.write(if is_first { "a.yaml" } else { "b.yaml" }, &text);
            lab.source.load();
        }
        lab.write("a.yaml", &last.0);
        lab.write("b.yaml", &last.1);
        let now_in_force = |lab: &Lab| {
            let all = lab.source.good.iter();
            all.map(|(key, good)| (key.clone(), good.resource.object.clone())).collect()
        };
        let before: BTreeMap<Key, Object> = now_in_force(&lab);
        let update = lab.source.load();
        // Nothing is in force that is neither written nor was in force; the same text is the same again.
        prop_assert_eq!(&lab.source.load(), &update);
        let fresh = FileSource::new(lab.dir.path().to_owned(), domains(), true).unwrap().load();
        let objects = |update: &Update| {
            let all = update.resources.iter();
            all.map(|it| (it.object.key(), it.object.clone())).collect::<BTreeMap<_, _>>()
        };
        let (found, expect) = (objects(&update), objects(&fresh));
        let policy = |object: &Object| match object {
            Object::AuthorizationPolicy(policy) => (policy.action, policy.selector.len()),
            other => panic!("{other:?}"),
        };
        for (key, object) in &found {
            let is_written = expect.get(key) == Some(object);
            // What is closed may be so for fewer workloads than at a start.
            let is_closed = lab.source.good.get(key).is_some_and(|good| good.is_closed);
            let is_kept = before.get(key) == Some(object);
            prop_assert!(is_written || is_kept || is_closed, "{} is of nowhere", key);
        }
        for (key, object) in &expect {
            // Closed where a fresh start is, unless the history knows better.
            let is_closed = policy(object).0 == crate::model::policy::Action::Deny;
            prop_assert!(found.contains_key(key) || is_closed, "{} is lost", key);
        }
        // What is mended is as a fresh start has it.
        for file in ["a.yaml", "b.yaml"] {
            lab.write(file, &format!("---\n{GOOD}"));
        }
        let mended = lab.source.load();
        let fresh = FileSource::new(lab.dir.path().to_owned(), domains(), true).unwrap().load();
        prop_assert_eq!(mended, fresh);
    }
}
