//! One socket, treated in ways that a shorter way than TCP may not expect.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use mesh_tests::pattern::{Digest, Pattern};
use mesh_tests::report::{Confirmation, Event, Transfer};
use nix::fcntl::{SpliceFFlags, splice};
use nix::sys::socket::{setsockopt, sockopt::TcpUlp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::args::{Press, Pressure};
use crate::dial::dial;
use crate::{client, control, tell};

/// After how long in which nothing is taken a sender counts as held back.
const HELD_BACK: Duration = Duration::from_millis(500);
/// More than TCP and the shorter way hold together: who takes this holds nobody back.
const FLOOD_LIMIT: u64 = 256 << 20;
/// As many small messages take 330 MiB if nothing bounds them, at 1.1 KiB each.
const FLOOD_MESSAGES: u64 = 300_000;
/// The threads of `writers`, and the messages of each.
const WRITERS: u32 = 4;
const MESSAGES: u32 = 20_000;

/// Does as `plan` says, and reports.
pub(crate) async fn run(plan: Press) -> Result<()> {
    let start = Instant::now();
    let mut seen = Transfer { sent: 0, received: 0, confirmed: None, error: None, total_us: 0 };
    let result = match plan.pressure {
        Pressure::Flood => flood(&plan, &mut seen).await,
        Pressure::Writers | Pressure::Tls | Pressure::Splice => {
            let stream = dial(&plan.target).await?.into_std()?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(plan.target.timeout()))?;
            match plan.pressure {
                Pressure::Writers => writers(&stream, &mut seen),
                Pressure::Tls => setsockopt(&stream, TcpUlp::default(), b"tls").map_err(Into::into),
                _ => spliced(stream, &mut seen),
            }
        }
    };
    seen.error = result.err().map(|error| client::name(&error));
    seen.total_us = client::micros(start);
    tell(&Event::Transfer(seen))
}

/// Sends until it is held back, says so, and goes on when it is told to.
async fn flood(plan: &Press, seen: &mut Transfer) -> io::Result<()> {
    let mut stream = dial(&plan.target).await?;
    stream.set_nodelay(true)?;
    let (mut pattern, mut digest) = (Pattern::new(Pattern::UP), Digest::EMPTY);
    let mut message = vec![0; plan.size];
    let mut taken = plan.size;
    let mut messages = 0;
    while seen.sent < FLOOD_LIMIT && messages < FLOOD_MESSAGES {
        if taken == message.len() {
            pattern.fill(&mut message);
            taken = 0;
            messages += 1;
        }
        match stream.try_write(&message[taken..]) {
            Ok(length) => {
                digest.update(&message[taken..taken + length]);
                taken += length;
                seen.sent += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if timeout(HELD_BACK, stream.writable()).await.is_err() {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    tell(&Event::Transfer(seen.clone())).map_err(io::Error::other)?;
    let _line = control::lines().recv().await;
    stream.shutdown().await?;
    let mut line = String::new();
    stream.read_to_string(&mut line).await?;
    let confirmation: Confirmation = serde_json::from_str(&line)?;
    let digest = digest.to_string();
    seen.confirmed = Some(confirmation == Confirmation { received: seen.sent, digest });
    Ok(())
}

/// Each thread's messages are numbered; what comes back must have each thread's in order.
/// Reads all of it. A blocking read of an accelerated socket that is woken because there is room to
/// write again answers `EAGAIN` (`tcp_bpf_recvmsg` of Linux 6.18 does not wait again).
fn read_whole(mut stream: &TcpStream, mut rest: &mut [u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match stream.read(rest) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => rest = &mut rest[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn writers(stream: &TcpStream, seen: &mut Transfer) -> io::Result<()> {
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || -> io::Result<()> {
                for number in 0..MESSAGES {
                    let message = (u64::from(writer) << 32 | u64::from(number)).to_be_bytes();
                    (&mut &*stream).write_all(&message)?;
                }
                Ok(())
            });
        }
        let mut next = [0; WRITERS as usize];
        for _ in 0..WRITERS * MESSAGES {
            let mut message = [0; 8];
            read_whole(stream, &mut message)?;
            let message = u64::from_be_bytes(message);
            let expected = usize::try_from(message >> 32).ok().and_then(|at| next.get_mut(at));
            let expected = expected.ok_or_else(|| io::Error::other("a broken message"))?;
            if message & 0xffff_ffff != *expected {
                return Err(io::Error::other(format!("{message:x} instead of {expected}")));
            }
            *expected += 1;
            seen.received += 8;
        }
        seen.sent = seen.received;
        Ok(())
    })
}

/// Sends a little, and reads it back past user space.
fn spliced(mut stream: TcpStream, seen: &mut Transfer) -> io::Result<()> {
    const TEXT: &[u8] = b"past user space";
    stream.write_all(TEXT)?;
    seen.sent = TEXT.len() as u64;
    // Until the answer is there.
    stream.peek(&mut [0])?;
    let (mut read, write) = io::pipe()?;
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK;
    stream.set_nonblocking(true)?;
    let length = splice(&stream, None, &write, None, TEXT.len(), flags)?;
    let mut text = vec![0; length];
    read.read_exact(&mut text)?;
    seen.received = length as u64;
    seen.confirmed = Some(text == TEXT);
    Ok(())
}
