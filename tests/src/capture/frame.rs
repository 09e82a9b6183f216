//! From an Ethernet frame to what TCP carries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Ethernet's type of IPv4, IPv6 and ARP (IEEE 802 numbers, as registered with IANA).
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

/// Protocol numbers (IANA): TCP, and ICMP for IPv6.
const TCP: u8 = 6;
const ICMPV6: u8 = 58;

/// The flag of a segment that opens a direction (RFC 9293, section 3.1).
const SYN: u8 = 0x02;

/// The payload of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Payload<'a> {
    /// A TCP segment.
    Tcp(Segment<'a>),
    /// How neighbors find each other: ARP, ICMPv6.
    Neighbors,
    /// Anything else, and what is broken.
    Other(&'a [u8]),
}

/// A TCP segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub sequence: u32,
    pub opens: bool,
    pub bytes: &'a [u8],
}

/// Takes a frame apart.
pub(super) fn parse(frame: &[u8]) -> Payload<'_> {
    let packet = || -> Option<Payload<'_>> {
        let (header, packet) = frame.split_at_checked(14)?;
        match u16::from_be_bytes([header[12], header[13]]) {
            IPV4 => v4(packet),
            IPV6 => v6(packet),
            ARP => Some(Payload::Neighbors),
            _ => None,
        }
    };
    packet().unwrap_or(Payload::Other(frame))
}

/// RFC 791, section 3.1.
fn v4(packet: &[u8]) -> Option<Payload<'_>> {
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    let total: [u8; 2] = packet.get(2..4)?.try_into().ok()?;
    // A frame may be padded; and 0 stands for what the kernel has not cut into packets yet.
    let end = match u16::from_be_bytes(total) {
        0 => packet.len(),
        total => usize::from(total),
    };
    if *packet.get(9)? != TCP {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    };
    tcp(packet.get(header_bytes..end)?, address(12)?, address(16)?)
}

/// RFC 8200, section 3. Nothing here uses extension headers.
fn v6(packet: &[u8]) -> Option<Payload<'_>> {
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    };
    let length: [u8; 2] = packet.get(4..6)?.try_into().ok()?;
    let end = match u16::from_be_bytes(length) {
        0 => packet.len(),
        length => 40 + usize::from(length),
    };
    match *packet.get(6)? {
        TCP => tcp(packet.get(40..end)?, address(8)?, address(24)?),
        // Neighbor discovery, and the multicast reports that go before it in hop-by-hop options.
        ICMPV6 | 0 => Some(Payload::Neighbors),
        _ => None,
    }
}

/// RFC 9293, section 3.1.
fn tcp(segment: &[u8], from: IpAddr, to: IpAddr) -> Option<Payload<'_>> {
    let header = segment.get(..20)?;
    let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    let header_bytes = usize::from(header[12] >> 4) * 4;
    Some(Payload::Tcp(Segment {
        from: SocketAddr::new(from, port(0)),
        to: SocketAddr::new(to, port(2)),
        sequence,
        opens: header[13] & SYN != 0,
        bytes: segment.get(header_bytes..)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_v4(payload: &[u8], padding: usize) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        let total = u16::try_from(40 + payload.len()).unwrap().to_be_bytes();
        frame.extend([0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, TCP, 0, 0]);
        frame.extend([10, 1, 0, 10, 10, 2, 0, 10]);
        frame.extend([0x40, 0, 0x1f, 0x90, 0, 0, 0, 7, 0, 0, 0, 0, 0x50, SYN, 0, 0, 0, 0, 0, 0]);
        frame.extend(payload);
        frame.extend(vec![0; padding]);
        frame
    }

    #[test]
    fn a_segment_is_found_without_the_padding_of_its_frame() {
        let expect = Segment {
            from: "10.1.0.10:16384".parse().unwrap(),
            to: "10.2.0.10:8080".parse().unwrap(),
            sequence: 7,
            opens: true,
            bytes: b"hi",
        };
        assert_eq!(parse(&frame_v4(b"hi", 4)), Payload::Tcp(expect));
    }

    #[test]
    fn what_is_cut_off_is_kept_as_it_is() {
        let whole = frame_v4(b"hi", 0);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), Payload::Other(&whole[..length]));
        }
    }
}
