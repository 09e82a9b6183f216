//! Several tunnels of one hostile peer, on one thread, and applications on another, at once: nothing
//! stands still, nothing panics, and when all is over nothing is left.
//!
//! The input is steps of the peer, one half, and of the applications, the other.
#![no_main]

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};

use libfuzzer_sys::fuzz_target;
use mesh_agent::native::frame::{self, Frame, Hello};
use mesh_agent::native::harness::{Held, Site, act};
use mesh_fuzz::{Script, open};

/// Tunnels that the peer has opened, and tunnels that we have.
const SERVERS: usize = 2;
const TUNNELS: usize = SERVERS + 1;

/// What the applications' thread is told.
enum Order {
    /// Steps of one run.
    Begin(Vec<u8>),
    /// Something new to hold.
    Hold(Held),
    /// Drop all, and answer.
    End,
}

struct Applications {
    orders: Sender<Order>,
    done: Receiver<()>,
}

fuzz_target!(|input: &[u8]| {
    // libFuzzer runs one input after the other, on one thread.
    static THREAD: OnceLock<std::sync::Mutex<Applications>> = OnceLock::new();
    let thread = THREAD.get_or_init(|| std::sync::Mutex::new(start()));
    run(input, &thread.lock().expect("no run panics and goes on"));
});

fn start() -> Applications {
    let ((orders, taken), (tell, done)) = (channel(), channel());
    std::thread::spawn(move || applications(&taken, &tell));
    Applications { orders, done }
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

fn run(input: &[u8], applications: &Applications) {
    let (peer, theirs) = input.split_at(input.len() / 2);
    let order = |order| applications.orders.send(order).expect("the thread never ends");
    order(Order::Begin(theirs.to_vec()));
    let mut site = Site::new(SERVERS, TUNNELS - SERVERS);
    for at in 0..TUNNELS {
        let mut hello = bytes::BytesMut::new();
        frame::put(&mut hello, &Frame::Hello(Hello::LEAST));
        site.hear(at, &hello, 1 << 20);
    }
    let mut script = Script::new(peer);
    while let Some(()) = attack(&mut site, &mut script, order) {}
    order(Order::End);
    applications.done.recv().expect("the thread never ends");
    for _ in 0..4 {
        for at in 0..TUNNELS {
            site.hear(at, &[], 1 << 30);
            // What is asked for is dropped at once.
            drop(site.turn(at));
            site.tick(at);
            drop(site.turn(at));
        }
    }
    site.check_empty();
}

/// A step of the peer.
fn attack(site: &mut Site, script: &mut Script<'_>, order: impl Fn(Order)) -> Option<()> {
    let byte = script.byte()?;
    let at = usize::from(byte) % TUNNELS;
    let mut out = bytes::BytesMut::new();
    let frame = match (byte / 3) % 16 {
        0 | 1 => Frame::Open(script.stream()?, open()),
        2 => Frame::Accept(script.stream()?),
        3 | 4 => {
            let (stream, length) = (script.stream()?, script.size()?.clamp(1, 65_536));
            Frame::Data(stream, vec![0; length].into())
        }
        5 => Frame::End(script.stream()?),
        6 => Frame::Reset(script.stream()?, script.byte()?.into()),
        7 => Frame::Credit(script.stream()?, script.size()? as u32),
        8 => Frame::Ping(1),
        9 => Frame::Pong(script.byte()?.into()),
        10 => Frame::GoAway(script.byte()?.into(), 0),
        11 => {
            let count = script.byte()?;
            site.hear(at, script.bytes(count), 0);
            Frame::Skipped(0x10)
        }
        12 => {
            site.close(at);
            Frame::Skipped(0x10)
        }
        13 => {
            site.retire(at);
            Frame::Skipped(0x10)
        }
        14 => {
            site.tick(at);
            Frame::Skipped(0x10)
        }
        _ => {
            if let Some(lease) = site.lease(TUNNELS - 1) {
                order(Order::Hold(lease));
            }
            Frame::Skipped(0x10)
        }
    };
    frame::put(&mut out, &frame);
    // Many steps without a turn, and many of a frame at once, are worth trying.
    let times = if byte >= 240 { script.byte()? % 70 } else { 1 };
    (0..times).for_each(|_| site.hear(at, &out, usize::from(byte) << 4));
    if byte % 2 == 0 {
        for held in site.turn(at) {
            order(Order::Hold(held));
        }
    }
    Some(())
}
