//! Any TLS server name of a peer: a workload that it means has this name and no other.
//!
//! The input is a name; before a slash, a namespace.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_agent::model::id::ResourceName;
use mesh_agent::proxy::server_name;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = str::from_utf8(input) else { return };
    if let Some(workload) = server_name::workload(text)
        && let Some(name) = server_name::of(&workload)
    {
        assert_eq!(name.to_str(), text);
    }
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    let workload = ResourceName::new(namespace, name);
    // A namespace is one label: the configuration takes no other.
    if let Some(name) = server_name::of(&workload)
        && !namespace.contains('.')
    {
        assert_eq!(server_name::workload(&name.to_str()), Some(workload));
    }
});
