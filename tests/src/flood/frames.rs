//! Frames of both transports as bytes: right ones, and wrong ones. Shares no code with the agent.

use std::net::{IpAddr, SocketAddr};

/// The transport of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// `nodemesh/1` (docs/transport.md).
    Native,
    /// HTTP/2 `CONNECT` (RFC 9113).
    Hbone,
}

/// The first bytes of a client of HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of native frames (docs/transport.md, "Frames").
const HELLO: u8 = 0x81;
const OPEN: u8 = 0x82;
const NATIVE_DATA: u8 = 0x84;
const RESET: u8 = 0x86;

/// Types of HTTP/2 frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

/// `END_HEADERS` of HEADERS and CONTINUATION.
const END_HEADERS: u8 = 4;

/// The largest window of both transports: the peer may send us all it likes.
const WINDOW: u32 = (1 << 31) - 1;

impl Transport {
    /// The transport of attempt `number`: one and the other in turn.
    pub(super) const fn of(number: u64) -> Self {
        if number.is_multiple_of(2) { Self::Native } else { Self::Hbone }
    }

    /// Its name in ALPN.
    pub(super) const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Native => b"nodemesh/1",
            Self::Hbone => b"h2",
        }
    }

    /// The bytes that a client sends first.
    pub(super) fn begin(self) -> Vec<u8> {
        match self {
            Self::Native => {
                let mut fields = vec![1, 4];
                fields.extend(1000_u32.to_be_bytes());
                fields.extend([2, 4]);
                fields.extend(WINDOW.to_be_bytes());
                native(HELLO, 0, &fields)
            }
            Self::Hbone => {
                // SETTINGS_INITIAL_WINDOW_SIZE (RFC 9113, section 6.5.2).
                let mut settings = vec![0, 4];
                settings.extend(WINDOW.to_be_bytes());
                [PREFACE, &h2((SETTINGS, 0), 0, &settings)].concat()
            }
        }
    }

    /// Opens stream `number`, of 1, 2, 3…, to an application.
    pub(super) fn open(self, number: u32, to: SocketAddr) -> Vec<u8> {
        match self {
            Self::Native => {
                let mut address = match to.ip() {
                    IpAddr::V4(ip) => ip.octets().to_vec(),
                    IpAddr::V6(ip) => ip.octets().to_vec(),
                };
                address.extend(to.port().to_be_bytes());
                native(OPEN, number, &field(0x81, &address))
            }
            Self::Hbone => {
                h2((HEADERS, END_HEADERS), odd(number), &request(to.to_string().as_bytes()))
            }
        }
    }

    /// Sends bytes of an application on a stream.
    pub(super) fn data(self, number: u32, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Native => native(NATIVE_DATA, number, bytes),
            Self::Hbone => h2((DATA, 0), odd(number), bytes),
        }
    }

    /// Ends a stream at once.
    pub(super) fn reset(self, number: u32) -> Vec<u8> {
        match self {
            Self::Native => native(RESET, number, &1_u32.to_be_bytes()),
            // CANCEL (RFC 9113, section 7).
            Self::Hbone => h2((RST_STREAM, 0), odd(number), &8_u32.to_be_bytes()),
        }
    }

    /// A tunnel that breaks the protocol, in one of several ways.
    pub(super) fn malformed(self, number: u64, to: SocketAddr) -> Vec<u8> {
        let begin = self.begin();
        match self {
            Self::Native => match number % 6 {
                // Longer than any payload.
                0 => [begin, vec![0xff, 0xff, 0xff, NATIVE_DATA, 0, 0, 0, 1]].concat(),
                // A critical type that nobody knows.
                1 => [begin, native(0xff, 0, b"x")].concat(),
                // A stream that was not opened.
                2 => [begin, self.data(9, b"x")].concat(),
                // A hole in the numbers.
                3 => [begin, self.open(7, to)].concat(),
                // Frames before the hello.
                4 => native(0x10, 0, &[0; 1024]).repeat(64),
                // An address of a length that no address has.
                _ => [begin, native(OPEN, 1, &field(0x81, &[1, 2, 3]))].concat(),
            },
            Self::Hbone => match number % 6 {
                // Longer than SETTINGS_MAX_FRAME_SIZE.
                0 => [begin, vec![0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]].concat(),
                // Bytes of no stream.
                1 => [begin, h2((DATA, 0), 0, b"x")].concat(),
                // An index that no table of HPACK has (RFC 7541, section 6.1).
                2 => [begin, h2((HEADERS, END_HEADERS), 1, &[0xff, 0xff, 0xff, 0x7f])].concat(),
                // A setting of five bytes.
                3 => [begin, h2((SETTINGS, 0), 0, &[0; 5])].concat(),
                // Streams that are reset as soon as they are opened.
                4 => (1..100).fold(begin, |mut all, number| {
                    all.extend(self.open(number, to));
                    all.extend(self.reset(number));
                    all
                }),
                // Questions that must all be answered.
                _ => [begin, h2((PING, 0), 0, &[0; 8]).repeat(500)].concat(),
            },
        }
    }

    /// A head that does not end. The native transport has none of its own: it is one of HTTP inside
    /// of a stream to an application.
    pub(super) fn huge_head(self, to: SocketAddr) -> Vec<u8> {
        let begin = self.begin();
        match self {
            Self::Native => {
                let mut head = b"GET / HTTP/1.1\r\nhost: target\r\nx-long: ".to_vec();
                head.resize(60_000, b'y');
                [begin, self.open(1, to), self.data(1, &head)].concat()
            }
            Self::Hbone => {
                let first = h2((HEADERS, 0), 1, &request(to.to_string().as_bytes()));
                // 64 × 16 KiB = 1 MiB of one header block, of fields that all differ.
                (0..64_u8).fold([begin, first].concat(), |mut all, number| {
                    all.extend(h2((CONTINUATION, 0), 1, &literals(number)));
                    all
                })
            }
        }
    }
}

/// The identifier of the client's stream `number` (RFC 9113, section 5.1.1).
const fn odd(number: u32) -> u32 {
    number * 2 - 1
}

/// A native frame.
fn native(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = length(payload);
    frame.push(kind);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A field of HELLO and OPEN.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let mut field = vec![number, u8::try_from(value.len()).unwrap_or(u8::MAX)];
    field.extend(value);
    field
}

/// A frame of HTTP/2, of a type with its flags.
fn h2((kind, flags): (u8, u8), stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = length(payload);
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Three bytes of length, as both transports begin a frame.
fn length(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    length.to_be_bytes()[1..].to_vec()
}

/// `CONNECT` to an authority: literals without indexing, with names 2 (`:method`) and 1
/// (`:authority`) of the static table (RFC 7541, section 6.2.2).
fn request(authority: &[u8]) -> Vec<u8> {
    [&[2][..], &text(b"CONNECT"), &[1], &text(authority)].concat()
}

/// 16 KiB of header fields with new names.
fn literals(number: u8) -> Vec<u8> {
    let mut block = Vec::new();
    for field in 0..16_000 / 100 {
        let name = format!("x-{number}-{field}");
        block.push(0);
        block.extend(text(name.as_bytes()));
        block.extend(text(&[b'y'; 85]));
    }
    block.truncate(16_384);
    block
}

/// A string of HPACK, of fewer than 127 bytes (RFC 7541, section 5.2).
fn text(bytes: &[u8]) -> Vec<u8> {
    field(u8::try_from(bytes.len()).unwrap_or(0), bytes).split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)), 80);

    #[test]
    fn native_frames_are_those_of_the_specification() {
        // The examples in docs/transport.md.
        let open = [0, 0, 8, 0x82, 0, 0, 0, 1, 0x81, 6, 10, 0, 0, 2, 0, 80];
        assert_eq!(Transport::Native.open(1, TO), open);
        assert_eq!(Transport::Native.data(1, b"hello"), b"\0\0\x05\x84\0\0\0\x01hello");
        assert_eq!(Transport::Native.reset(1), [0, 0, 4, 0x86, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(Transport::Native.begin()[..8], [0, 0, 12, 0x81, 0, 0, 0, 0]);
    }

    #[test]
    fn a_stream_of_hbone_names_its_destination() {
        let open = Transport::Hbone.open(2, TO);
        assert_eq!(open, b"\0\0\x16\x01\x04\0\0\0\x03\x02\x07CONNECT\x01\x0b10.0.0.2:80");
    }

    #[test]
    fn malformed_tunnels_differ() {
        for transport in [Transport::Native, Transport::Hbone] {
            let all = (0..6).map(|number| transport.malformed(number, TO));
            let all: std::collections::BTreeSet<_> = all.collect();
            assert_eq!(all.len(), 6);
        }
    }
}
