//! 64-bit hashes: MurmurHash64A (Appleby, public domain) for bytes, its kind of finaliser for integers.

const M: u64 = 0xC6A4_A793_5BD1_E995;

fn mix(word: u64) -> u64 {
    let word = word.wrapping_mul(M);
    (word ^ (word >> 47)).wrapping_mul(M)
}

/// A hash of some bytes.
pub fn bytes(data: &[u8]) -> u64 {
    let (words, tail) = data.as_chunks::<8>();
    let mut hash = (data.len() as u64).wrapping_mul(M);
    for word in words {
        hash = (hash ^ mix(u64::from_le_bytes(*word))).wrapping_mul(M);
    }
    if !tail.is_empty() {
        let word = tail.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ word).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 47)).wrapping_mul(M);
    hash ^ (hash >> 47)
}

/// A hash of a number: the finaliser of SplitMix64, a bijection.
pub fn number(value: u64) -> u64 {
    let mut hash = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ (hash >> 31)
}
