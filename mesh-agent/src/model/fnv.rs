//! A hash that is the same everywhere and in every version, and not secret.

/// FNV-1a over `bytes`, 64 bits, never 0. Two inputs with one value are found within seconds by who looks
/// for them: nothing that protects anybody may depend on it.
pub const fn fnv_1a(bytes: &[u8]) -> u64 {
    // The offset basis and the prime of FNV-1a (draft-eastlake-fnv, section 5).
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut rest = bytes;
    while let [byte, tail @ ..] = rest {
        hash = (hash ^ *byte as u64).wrapping_mul(0x0100_0000_01b3);
        rest = tail;
    }
    if hash == 0 { 1 } else { hash }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_its_authors_have_it() {
        // Test vectors of draft-eastlake-fnv, appendix C.
        assert_eq!(fnv_1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv_1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
