//! Tunnels of one hostile peer: what it does, for the targets about several of them.

use bytes::BytesMut;
use mesh_agent::native::frame::{self, Frame, Hello};
use mesh_agent::native::harness::{Held, Site};

use crate::{Script, open};

/// Tunnels that the peer has opened.
pub const SERVERS: usize = 2;
/// Tunnels that we have opened.
pub const CLIENTS: usize = 1;

const TUNNELS: usize = SERVERS + CLIENTS;

/// The data of the peer. Where it is taken for frames, the first is a violation: zeros would be 8,192
/// frames that are skipped, and take nearly all of the time.
static DATA: [u8; 65_536] = [0xff; 65_536];

/// Has the peer greet on all tunnels.
pub fn greet(site: &mut Site) {
    let mut hello = BytesMut::new();
    frame::put(&mut hello, &Frame::Hello(Hello::LEAST));
    for at in 0..TUNNELS {
        site.hear(at, &hello, 1 << 20);
    }
}

/// A step of the peer, chosen by `byte`; with what there is for applications. `None`: the script is
/// over.
pub fn attack(site: &mut Site, script: &mut Script<'_>, byte: u8) -> Option<Vec<Held>> {
    let at = usize::from(byte) % TUNNELS;
    let frame = match (byte / 3) % 16 {
        0 | 1 => Frame::Open(script.stream()?, open()),
        2 => Frame::Accept(script.stream()?),
        3 | 4 => {
            let (stream, length) = (script.stream()?, script.size()?.clamp(1, DATA.len()));
            Frame::Data(stream, bytes::Bytes::from_static(&DATA[..length]))
        }
        5 => Frame::End(script.stream()?),
        6 => Frame::Reset(script.stream()?, script.byte()?.into()),
        7 => Frame::Credit(script.stream()?, u32::try_from(script.size()?).unwrap_or(u32::MAX)),
        8 => Frame::Ping(1),
        9 => Frame::Pong(script.byte()?.into()),
        10 => Frame::GoAway(script.byte()?.into(), 0),
        other => {
            let mut held = Vec::new();
            match other {
                11 => {
                    let count = script.byte()?;
                    site.hear(at, script.bytes(count), 0);
                }
                12 => match script.byte()? % 4 {
                    0 => site.close(at),
                    1 => site.retire(at),
                    _ => site.hear(at, &[], 1 << 16),
                },
                13 => site.tick(at),
                14 => held.extend(site.lease(TUNNELS - 1)),
                _ => held.extend(site.turn(at)),
            }
            return Some(held);
        }
    };
    let mut out = BytesMut::new();
    frame::put(&mut out, &frame);
    // Many frames at once are worth trying, and many steps without a turn.
    let (times, turns) = match script.byte()? {
        more @ 224.. => (more % 70, more % 2 == 0),
        other => (1, other % 4 > 0),
    };
    (0..times).for_each(|_| site.hear(at, &out, usize::from(byte) << 4));
    Some(if turns { site.turn(at) } else { Vec::new() })
}

/// Lets every tunnel have its turns, with a peer that reads all, until none has more to do; with what
/// there is for applications.
pub fn turn_all(site: &mut Site) -> Vec<Held> {
    let mut held = Vec::new();
    (0..TUNNELS).for_each(|at| site.hear(at, &[], 1 << 30));
    loop {
        held.extend((0..TUNNELS).flat_map(|at| site.turn(at)));
        if site.is_idle() {
            return held;
        }
    }
}

/// Lets the tunnels end what nobody holds any more, and checks that nothing is left.
pub fn end(mut site: Site) {
    for _ in 0..4 {
        // Streams that are asked for are dropped at once.
        drop(turn_all(&mut site));
        (0..TUNNELS).for_each(|at| site.tick(at));
        drop(turn_all(&mut site));
    }
    site.check_empty();
}
