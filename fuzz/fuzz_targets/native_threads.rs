//! Several tunnels of one hostile peer, on one thread, and applications on another, at once: nothing
//! stands still, nothing panics, and when all is over nothing is left.
//!
//! The input is steps of the peer, one half, and of the applications, the other.
#![no_main]

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

use libfuzzer_sys::fuzz_target;
use mesh_agent::native::harness::{Applications, Held, Site, act};
use mesh_fuzz::{Script, tunnels};

/// Orders to the applications' thread.
enum Order {
    /// Steps of one run.
    Begin(Vec<u8>),
    /// Something new to hold.
    Hold(Held),
    /// Drop all, and answer.
    End,
}

struct Thread {
    orders: Sender<Order>,
    done: Receiver<()>,
}

fuzz_target!(|input: &[u8]| {
    // libFuzzer runs one input after the other, on one thread.
    static THREAD: OnceLock<std::sync::Mutex<Thread>> = OnceLock::new();
    let thread = THREAD.get_or_init(|| std::sync::Mutex::new(start()));
    run(input, &thread.lock().expect("no run panics and goes on"));
});

fn start() -> Thread {
    let ((orders, taken), (tell, done)) = (channel(), channel());
    std::thread::spawn(move || applications(&taken, &tell));
    Thread { orders, done }
}

fn applications(orders: &Receiver<Order>, tell: &Sender<()>) {
    let (mut held, mut steps) = (Vec::new(), Vec::new().into_iter());
    while let Ok(order) = orders.recv() {
        match order {
            Order::Begin(next) => steps = next.into_iter(),
            Order::Hold(new) => held.push(new),
            Order::End => {
                while let (false, Some((at, byte))) =
                    (held.is_empty(), steps.next().zip(steps.next()))
                {
                    step(&mut held, at, byte);
                }
                held.clear();
                if tell.send(()).is_err() {
                    return;
                }
            }
        }
        if let (false, Some((at, byte))) = (held.is_empty(), steps.next().zip(steps.next())) {
            step(&mut held, at, byte);
        }
    }
}

fn step(held: &mut Vec<Held>, at: u8, byte: u8) {
    let at = usize::from(at) % held.len();
    let one = held.swap_remove(at);
    held.extend(act(one, byte));
}

fn run(input: &[u8], applications: &Thread) {
    let (peer, theirs) = input.split_at(input.len() / 2);
    let order = |order| applications.orders.send(order).expect("the thread never ends");
    order(Order::Begin(theirs.to_vec()));
    let mut site = Site::new(tunnels::SERVERS, tunnels::CLIENTS, Applications::Beside);
    tunnels::greet(&mut site);
    let mut script = Script::new(peer);
    while let Some(held) =
        script.byte().and_then(|byte| tunnels::attack(&mut site, &mut script, byte))
    {
        held.into_iter().for_each(|held| order(Order::Hold(held)));
    }
    order(Order::End);
    applications.done.recv().expect("the thread never ends");
    tunnels::end(site);
}
