//! The greatest common divisor; the bench compiles it into the host too, for comparison.

/// Euclid's, in 32 bits where both fit: processors divide those faster. A native compiler puts such a test before each 64-bit division
/// by itself, compilers of WebAssembly don't (1.6 times native without it).
pub fn gcd(a: i64, b: i64) -> i64 {
    if let (Ok(mut a), Ok(mut b)) = (u32::try_from(a), u32::try_from(b)) {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        return i64::from(a);
    }
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a as i64
}
