//! Messages of gRPC in a body: five bytes before each ("gRPC over HTTP2", Length-Prefixed-Message).

use anyhow::{Result, ensure};

/// The flag, which says that nothing is compressed, and the length.
const PREFIX_BYTES: usize = 5;

/// The type of a body with messages.
pub const CONTENT_TYPE: &str = "application/grpc";

/// A message as it is sent.
///
/// # Errors
///
/// It is longer than 4 GiB.
pub fn framed(message: &str) -> Result<Vec<u8>> {
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len())?.to_be_bytes());
    frame.extend(message.as_bytes());
    Ok(frame)
}

/// Takes the first message from `buffer`, if all of it is there.
///
/// # Errors
///
/// It is compressed, or no text.
pub fn take(buffer: &mut Vec<u8>) -> Result<Option<String>> {
    let Some((&[flag, a, b, c, d], _)) = buffer.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    ensure!(flag == 0, "a message of gRPC is compressed");
    let end = PREFIX_BYTES + usize::try_from(u32::from_be_bytes([a, b, c, d]))?;
    if buffer.len() < end {
        return Ok(None);
    }
    let rest = buffer.split_off(end);
    let frame = std::mem::replace(buffer, rest);
    Ok(Some(String::from_utf8(frame.into_iter().skip(PREFIX_BYTES).collect())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_when_they_are_whole() {
        let mut buffer =
            [framed("one").unwrap(), framed("").unwrap(), framed("two").unwrap()].concat();
        buffer.pop();
        assert_eq!(take(&mut buffer).unwrap().as_deref(), Some("one"));
        assert_eq!(take(&mut buffer).unwrap().as_deref(), Some(""));
        assert_eq!(take(&mut buffer).unwrap(), None);
        buffer.push(b'o');
        assert_eq!(take(&mut buffer).unwrap().as_deref(), Some("two"));
        assert_eq!(take(&mut buffer).unwrap(), None);
    }
}
