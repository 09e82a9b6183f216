//! Two sessions that keep the protocol, joined by pipes that deliver when and as they like, against
//! a simple model: nothing is a violation, and everything arrives once, whole and in order.
//!
//! The input is both sides' limits and steps. The tests of `session.rs` have the same model, with
//! random steps; here coverage chooses them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_agent::native::frame::Hello;
use mesh_agent::native::pair::{Pair, SERVER};
use mesh_agent::native::session::Limits;
use mesh_fuzz::Script;

fuzz_target!(|input: &[u8]| {
    let mut script = Script::new(input);
    if let (Some(client), Some(server)) = (limits(&mut script), limits(&mut script)) {
        let mut pair = Pair::new(client, server);
        while step(&mut pair, &mut script).is_some() {
            pair.check();
        }
        pair.drain();
    }
});

/// A side's limits, as the script says.
fn limits(script: &mut Script<'_>) -> Option<Limits> {
    let window = Hello::LEAST.window + script.size()? as u32;
    let growth = 8 * script.size()? as u32;
    Some(Limits { streams: Hello::LEAST.streams, window, growth })
}

/// The next step of the script.
fn step(pair: &mut Pair, script: &mut Script<'_>) -> Option<()> {
    let byte = script.byte()?;
    let side = usize::from(byte & 1);
    let pick = |pair: &Pair, script: &mut Script<'_>| pair.pick(side, script.byte()?.into());
    match (byte >> 1) % 12 {
        0 => (0..script.byte()? % 70).for_each(|_| pair.open()),
        1 => {
            let stream = pick(pair, script)?;
            if side == SERVER {
                pair.accept(stream);
            }
        }
        2 | 3 => pair.send(side, pick(pair, script)?, script.size()?),
        4 => pair.retry(side),
        5 => pair.read(side, pick(pair, script)?, script.size()?),
        6 => pair.end(side, pick(pair, script)?),
        7 => pair.reset(side, pick(pair, script)?, script.byte()?.into()),
        8 => pair.ping(side, script.byte()?.into()),
        9 => pair.go_away(side),
        _ => {
            pair.deliver(side, script.size()?);
        }
    }
    Some(())
}
