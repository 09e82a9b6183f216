//! Any path: what it may be read as has no way out of itself, and a policy about one of these readings
//! is not passed by.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_agent::authz::path;
use mesh_agent::model::policy::request::Template;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    let (template, path) = text.split_once('\n').unwrap_or(("/{**}", text));
    let forms = path::forms(path);
    assert_eq!(forms[0], path);
    for form in &forms[1..] {
        assert!(form.starts_with('/'), "{form}");
        assert!(form.split('/').all(|segment| !matches!(segment, "." | "..")), "{form}");
    }
    // Whoever decodes once more, and then resolves dots, finds nothing that is not among them.
    if let Some(last) = forms.last()
        && !last.contains(['%', '\\'])
    {
        assert!(path::forms(last).iter().all(|again| forms.contains(again) || last.contains(';')));
    }
    if let Some(template) = Template::new(template) {
        let all = Template::new("/{**}").unwrap();
        assert!(!template.matches(path) || all.matches(path));
    }
});
