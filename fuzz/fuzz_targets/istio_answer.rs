//! Any answer of an authority that speaks Istio's protocol: read before anything in it is believed.
//!
//! The input is the parts of the chain, between bytes of 0.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_agent::identity::authority::istio;
use mesh_agent::identity::describe;

fuzz_target!(|input: &[u8]| {
    let parts: Vec<String> = input
        .split(|byte| *byte == 0)
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .collect();
    let Ok(answer) = istio::read(&parts) else { return };
    assert!(!answer.chain.is_empty() && parts.len() > 1);
    assert_eq!(answer.roots, parts[parts.len() - 1].as_bytes());
    for der in &answer.chain {
        // The output for it is shown of anything.
        let _shown = describe(der);
    }
});
