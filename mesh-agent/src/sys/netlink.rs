//! Netlink's messages and attributes: written, and read without trust in a length (pure).
//!
//! include/uapi/linux/netlink.h: everything is aligned to 4 bytes, in the machine's byte order.

use nix::libc;

/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Bytes of `struct nlattr`.
const ATTRIBUTE_BYTES: usize = 4;
/// `NLMSG_ERROR`: an answer that says whether the request succeeded.
const ERROR: u16 = 2;
/// `NLMSG_DONE`: the end of an answer of several messages.
const DONE: u16 = 3;
/// `NLMSG_OVERRUN`: messages were lost.
const OVERRUN: u16 = 4;
/// `NLA_F_NESTED`: attributes are inside.
const NESTED: u16 = 1 << 15;
/// `NLA_TYPE_MASK`: an attribute's kind without its two flags.
const KIND: u16 = 0x3fff;

/// The bytes are not what netlink says they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the message is cut short, or of another layout")]
pub struct Malformed;

/// A message that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_seq`: of the request that it answers.
    pub sequence: u32,
    /// The bytes after the header.
    pub payload: &'a [u8],
}

/// The messages of one datagram. Ends after the first that is malformed.
#[derive(Clone, Debug)]
pub struct Messages<'a>(&'a [u8]);

/// The attributes of a message, or of an attribute. Ends before what is malformed.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(&'a [u8]);

/// A message that is being written.
#[derive(Debug)]
pub struct Writer(Vec<u8>);

impl Message<'_> {
    /// The result of the request, if the message is one: an `errno` if it failed.
    pub fn error(&self) -> Option<Result<(), i32>> {
        let code = match self.kind {
            ERROR => i32::from_ne_bytes(array(self.payload, 0).unwrap_or([0xff; 4])),
            // Its number may be missing: nothing failed.
            DONE => array(self.payload, 0).map_or(0, i32::from_ne_bytes),
            OVERRUN => -libc::ENOBUFS,
            _ => return None,
        };
        Some(if code < 0 { Err(code.saturating_neg()) } else { Ok(()) })
    }
}

impl<'a> Messages<'a> {
    /// Reads a datagram.
    pub const fn new(datagram: &'a [u8]) -> Self {
        Self(datagram)
    }

    fn read(&mut self) -> Result<Message<'a>, Malformed> {
        let length = usize::try_from(u32_at(self.0, 0)?).map_err(|_too_large| Malformed)?;
        let message = self.0.get(..length).ok_or(Malformed)?;
        let payload = message.get(HEADER_BYTES..).ok_or(Malformed)?;
        let kind = u16::from_ne_bytes(array(message, 4)?);
        let sequence = u32_at(message, 8)?;
        self.0 = after(self.0, length);
        Ok(Message { kind, sequence, payload })
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let message = self.read();
        if message.is_err() {
            self.0 = &[];
        }
        Some(message)
    }
}

impl<'a> Attributes<'a> {
    /// Reads what is inside a message or an attribute.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The contents of the first attribute of this kind.
    pub fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find_map(|(found, payload)| (found == kind).then_some(payload))
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(array(self.0, 0).ok()?));
        let kind = u16::from_ne_bytes(array(self.0, 2).ok()?) & KIND;
        let payload = self.0.get(ATTRIBUTE_BYTES..length)?;
        self.0 = after(self.0, length);
        Some((kind, payload))
    }
}

impl Writer {
    /// A message of this kind, with these of `NLM_F_*`.
    pub fn new(kind: u16, flags: i32) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        let flags = u16::try_from(flags).unwrap_or_default();
        put_at(&mut bytes, 4, &kind.to_ne_bytes());
        put_at(&mut bytes, 6, &flags.to_ne_bytes());
        Self(bytes)
    }

    /// Appends bytes, and what aligns the next ones.
    pub fn put(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Appends an attribute.
    pub fn attribute(&mut self, kind: u16, payload: &[u8]) {
        self.wrap(kind, |inside| inside.put(payload), payload.len());
    }

    /// Appends an attribute with those that `fill` appends in it.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.wrap(kind | NESTED, fill, 0);
        let length = self.0.len() - start;
        self.set_length(start, length);
    }

    /// The message, with its length and `sequence`.
    pub fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or_default();
        put_at(&mut self.0, 0, &length.to_ne_bytes());
        put_at(&mut self.0, 8, &sequence.to_ne_bytes());
        self.0
    }

    fn wrap(&mut self, kind: u16, fill: impl FnOnce(&mut Self), length: usize) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; ATTRIBUTE_BYTES]);
        put_at(&mut self.0, start + 2, &kind.to_ne_bytes());
        self.set_length(start, ATTRIBUTE_BYTES + length);
        fill(self);
    }

    fn set_length(&mut self, start: usize, length: usize) {
        // Our own messages have a few dozen bytes; longer than 64 KiB would be refused as cut short.
        let length = u16::try_from(length).unwrap_or_default();
        put_at(&mut self.0, start, &length.to_ne_bytes());
    }
}

/// The `N` bytes at `offset`.
///
/// # Errors
///
/// There are not so many.
pub fn array<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], Malformed> {
    bytes.get(offset..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(Malformed)
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, Malformed> {
    array(bytes, offset).map(u32::from_ne_bytes)
}

/// The bytes after the first `length` and their padding, which the last one may lack.
fn after(bytes: &[u8], length: usize) -> &[u8] {
    bytes.get(length.next_multiple_of(4)..).unwrap_or_default()
}

fn put_at(bytes: &mut [u8], offset: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(offset..offset + value.len()) {
        place.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut writer = Writer::new(kind, 0);
        writer.put(payload);
        writer.finish(7)
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(bytes in vec(any::<u8>(), 0..300)) {
            // Each step takes bytes away, so that there are no more steps than bytes.
            prop_assert!(Messages::new(&bytes).count() <= bytes.len());
            prop_assert!(Attributes::new(&bytes).count() <= bytes.len());
            for message in Messages::new(&bytes).flatten() {
                prop_assert!(message.payload.len() + HEADER_BYTES <= bytes.len());
                message.error();
            }
        }

        #[test]
        fn a_message_with_one_wrong_byte_is_read_to_an_end(
            payload in vec(any::<u8>(), 0..100), at in 0_usize..116, byte: u8,
        ) {
            let mut bytes = message(20, &payload);
            let at = at % bytes.len();
            bytes[at] = byte;
            for message in Messages::new(&bytes).flatten() {
                prop_assert!(Attributes::new(message.payload).count() <= payload.len());
            }
        }

        #[test]
        fn what_is_written_is_read(
            all in vec((0..KIND, vec(any::<u8>(), 0..40)), 0..8), kind: u16, sequence: u32,
        ) {
            let mut writer = Writer::new(kind, 0);
            writer.nested(5, |inside| {
                for (kind, payload) in &all {
                    inside.attribute(*kind, payload);
                }
            });
            let bytes = writer.finish(sequence);
            let messages: Vec<_> = Messages::new(&bytes).collect();
            let [Ok(message)] = messages[..] else { panic!("{messages:?}") };
            prop_assert_eq!((message.kind, message.sequence), (kind, sequence));
            let inside = Attributes::new(message.payload).find(5).unwrap();
            let read: Vec<_> = Attributes::new(inside).map(|(k, p)| (k, p.to_vec())).collect();
            prop_assert_eq!(read, all);
        }
    }

    #[test]
    fn a_length_that_leads_nowhere_ends_it() {
        let mut endless = message(20, &[]);
        endless[..4].fill(0);
        let mut long = message(20, &[]);
        long[..4].copy_from_slice(&17_u32.to_ne_bytes());
        for bytes in [endless, long, vec![1, 2]] {
            let read: Vec<_> = Messages::new(&bytes).collect();
            assert_eq!(read, [Err(Malformed)]);
        }
        assert_eq!(Attributes::new(&[0; 8]).count(), 0);
    }

    #[test]
    fn several_messages_are_read_in_order() {
        let bytes = [message(20, &[1, 2, 3, 4]), message(DONE, &[0; 4])].concat();
        let kinds: Vec<_> = Messages::new(&bytes).flatten().map(|message| message.kind).collect();
        assert_eq!(kinds, [20, DONE]);
    }

    #[test]
    fn errors_are_positive_numbers() {
        let check = |kind, payload: &[u8], expect| {
            let bytes = message(kind, payload);
            let message = Messages::new(&bytes).next().unwrap().unwrap();
            assert_eq!(message.error(), expect);
        };
        check(ERROR, &0_i32.to_ne_bytes(), Some(Ok(())));
        check(ERROR, &(-libc::ENOENT).to_ne_bytes(), Some(Err(libc::ENOENT)));
        check(ERROR, &i32::MIN.to_ne_bytes(), Some(Err(i32::MAX)));
        check(ERROR, &[], Some(Err(1)));
        check(DONE, &[], Some(Ok(())));
        check(DONE, &(-libc::EPERM).to_ne_bytes(), Some(Err(libc::EPERM)));
        check(OVERRUN, &[], Some(Err(libc::ENOBUFS)));
        check(20, &[], None);
    }
}
