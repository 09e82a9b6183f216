//! Several tunnels of one hostile peer, and the applications that use their streams, in every order:
//! nobody who could go on is left waiting, nothing panics, and when all is over nothing is left.
//!
//! All run on one thread, and the input says who is next: what is found is found again, and it is
//! fast. Nothing is finer than a step here, since whatever is shared is behind the lock of a tunnel;
//! the target `native_threads` has applications on a thread of their own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_agent::native::harness::{Applications, Held, Site, act, check_woken};
use mesh_fuzz::{Script, tunnels};

fuzz_target!(|input: &[u8]| {
    let mut site = Site::new(tunnels::SERVERS, tunnels::CLIENTS, Applications::Between);
    tunnels::greet(&mut site);
    let mut held = Vec::new();
    let mut script = Script::new(input);
    while step(&mut site, &mut held, &mut script).is_some() {}
    // Everybody has had a turn since the last thing has happened.
    held.extend(tunnels::turn_all(&mut site));
    check_woken(&mut held);
    drop(held);
    tunnels::end(site);
});

/// One step, of the peer or of an application.
fn step(site: &mut Site, held: &mut Vec<Held>, script: &mut Script<'_>) -> Option<()> {
    let byte = script.byte()?;
    if byte % 2 == 0 {
        held.extend(tunnels::attack(site, script, byte / 2)?);
    } else if !held.is_empty() {
        // Most steps are about those that came last.
        let from_last = usize::from(byte / 2) % held.len();
        let one = held.swap_remove(held.len() - 1 - from_last);
        held.extend(act(one, script.byte()?));
    }
    Some(())
}
