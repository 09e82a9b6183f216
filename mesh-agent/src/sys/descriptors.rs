//! Descriptors that go from process to process over a Unix stream socket (`SCM_RIGHTS`, `unix(7)`).

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Descriptors of one message, at most. The kernel closes what a receiver has no room for.
pub const MAX: usize = 4;

/// Sends `bytes`, and [`MAX`] of `descriptors` at most with the first of them. Returns how many bytes were
/// sent.
///
/// # Errors
///
/// Those of `sendmsg(2)`; `WouldBlock` if the socket is non-blocking and full.
pub fn send<D: AsFd>(socket: impl AsFd, bytes: &[u8], descriptors: &[D]) -> io::Result<usize> {
    let numbers: Vec<RawFd> =
        descriptors.iter().take(MAX).map(|one| one.as_fd().as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let rights = if numbers.is_empty() { &[][..] } else { &rights[..] };
    let to = socket.as_fd().as_raw_fd();
    Ok(sendmsg::<()>(to, &[IoSlice::new(bytes)], rights, MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Receives bytes into `buffer`, and the descriptors that came with them, which are closed on `exec`.
/// Returns how many bytes came; 0 at the end.
///
/// # Errors
///
/// Those of `recvmsg(2)`; `WouldBlock` if the socket is non-blocking and empty.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut room = cmsg_space!([RawFd; MAX]);
    let mut parts = [IoSliceMut::new(buffer)];
    let from = socket.as_fd().as_raw_fd();
    let message = recvmsg::<()>(from, &mut parts, Some(&mut room), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut taken = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = control {
            for number in numbers {
                // JUSTIFICATION: the crate gives numbers, which would stay open.
                // SAFETY: the kernel has just opened the descriptor for this process, and nobody else
                // knows its number.
                taken.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
    Ok((message.bytes, taken))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_come_with_the_bytes_that_they_were_sent_with() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut sent, mut kept) = UnixStream::pair().unwrap();
        sent.write_all(b"x").unwrap();
        assert_eq!(send(&one, b"none", &[] as &[OwnedFd]).unwrap(), 4);
        let mut buffer = [0; 16];
        let (n_bytes, descriptors) = receive(&other, &mut buffer).unwrap();
        assert_eq!((n_bytes, descriptors.len()), (4, 0));
        // No more than there is room for.
        let many: Vec<_> = (0..=MAX).map(|_| sent.try_clone().unwrap()).collect();
        assert_eq!(send(&one, b"some", &many).unwrap(), 4);
        let (n_bytes, descriptors) = receive(&other, &mut buffer).unwrap();
        assert_eq!((n_bytes, descriptors.len()), (4, MAX));
        drop((many, sent));
        let mut received = UnixStream::from(descriptors.into_iter().next().unwrap());
        received.write_all(b"y").unwrap();
        drop(received);
        let mut text = String::new();
        kept.read_to_string(&mut text).unwrap();
        assert_eq!(text, "xy");
        drop(one);
        assert_eq!(receive(&other, &mut buffer).unwrap().0, 0);
    }
}
