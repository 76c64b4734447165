//! Geohash (Niemeyer 2008) of a location: places near each other mostly share a prefix.

use kindling_guest::{InlineStr, plugin};

/// Characters of the longest geohash: 60 bits, 37 mm.
const PRECISION_MAX: usize = 12;
/// Bits of latitude and of longitude.
const BITS: u32 = 30;
const ALPHABET: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";

/// The geohash of latitude and longitude in degrees, `precision` characters long.
fn geohash(latitude: f64, longitude: f64, precision: i64) -> Result<InlineStr<PRECISION_MAX>, String> {
    if !(-90.0..=90.0).contains(&latitude) {
        return Err(format!("latitude {latitude} is not between -90 and 90 degrees"));
    }
    if !(-180.0..=180.0).contains(&longitude) {
        return Err(format!("longitude {longitude} is not between -180 and 180 degrees"));
    }
    let characters = usize::try_from(precision).ok().filter(|n| (1..=PRECISION_MAX).contains(n));
    let Some(characters) = characters else {
        return Err(format!("a geohash has 1 to {PRECISION_MAX} characters, not {precision}"));
    };
    // Bit by bit: longitude, latitude, longitude, ...
    let bits = spread(scale(longitude, 180.0)) << 1 | spread(scale(latitude, 90.0));
    let mut hash = InlineStr::default();
    for place in 0..characters {
        let digit = bits >> (55 - 5 * place) & 31;
        hash.push(char::from(ALPHABET[digit as usize]));
    }
    Ok(hash)
}

/// The share of [-bound, bound] as a fraction of 2^30; the upper bound belongs to the last cell.
fn scale(degrees: f64, bound: f64) -> u64 {
    let cells = (1_u64 << BITS) as f64;
    (((degrees + bound) / (2.0 * bound) * cells) as u64).min((1 << BITS) - 1)
}

/// Puts a 0 before each of 32 bits.
fn spread(bits: u64) -> u64 {
    let mut bits = bits & 0xFFFF_FFFF;
    for (shift, mask) in [
        (16, 0x0000_FFFF_0000_FFFF),
        (8, 0x00FF_00FF_00FF_00FF),
        (4, 0x0F0F_0F0F_0F0F_0F0F),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555),
    ] {
        bits = (bits | bits << shift) & mask;
    }
    bits
}

plugin! {
    name: "geohash",
    version: env!("CARGO_PKG_VERSION"),
    scalars: [
        /// The geohash of latitude and longitude in degrees, so many characters long.
        geohash,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::{Random, Rows, scalar};

    #[test]
    fn known_places() {
        let places = [
            (57.649_11, 10.407_44, 11, "u4pruydqqvj"),
            (42.605, -5.603, 5, "ezs42"),
            (-25.382_708, -49.265_506, 12, "6gkzwgjzn820"),
            (48.858_222, 2.2945, 6, "u09tun"),
            (0.0, 0.0, 4, "s000"),
            (90.0, 180.0, 3, "zzz"),
            (-90.0, -180.0, 12, "000000000000"),
        ];
        let rows = Rows::of(places.map(|place| place.0)).and(places.map(|place| place.1)).and(places.map(|place| place.2));
        assert_eq!(scalar(plugin(), "geohash", &rows), Ok(places.map(|place| place.3.to_owned()).to_vec()));
    }

    /// The definition: halve the ranges, bit by bit.
    fn by_halving(latitude: f64, longitude: f64, precision: usize) -> String {
        let mut ranges = [(-180.0, 180.0), (-90.0, 90.0)];
        let mut hash = String::new();
        for place in 0..precision {
            let mut digit = 0;
            for bit in 0..5 {
                let axis = (place * 5 + bit) % 2;
                let (low, high) = ranges[axis];
                let (middle, value) = ((low + high) / 2.0, [longitude, latitude][axis]);
                digit = digit << 1 | usize::from(value >= middle);
                ranges[axis] = if value >= middle { (middle, high) } else { (low, middle) };
            }
            hash.push(char::from(ALPHABET[digit]));
        }
        hash
    }

    #[test]
    fn against_the_definition() {
        let mut random = Random(5);
        for precision in 1..=PRECISION_MAX {
            for _ in 0..2_000 {
                let (latitude, longitude) = (random.unit() * 180.0 - 90.0, random.unit() * 360.0 - 180.0);
                let hash = geohash(latitude, longitude, precision as i64).expect("a place on earth");
                assert_eq!(hash.as_str(), by_halving(latitude, longitude, precision), "{latitude} {longitude}");
            }
        }
    }

    #[test]
    fn nulls_and_what_it_refuses() {
        let rows = Rows::of([Some(1.0), None]).constant(2.0).constant(3);
        assert_eq!(scalar(plugin(), "geohash", &rows), Ok(vec![Some("s01".to_owned()), None]));
        for (latitude, longitude, precision, text) in [
            (91.0, 0.0, 5, "latitude 91"),
            (f64::NAN, 0.0, 5, "latitude NaN"),
            (0.0, -181.0, 5, "longitude -181"),
            (0.0, 0.0, 13, "1 to 12"),
        ] {
            let failure = scalar::<String>(plugin(), "geohash", &Rows::of([latitude]).and([longitude]).constant(precision));
            let failure = failure.expect_err("refused");
            assert!(failure.message.contains(text) && failure.row == Some(0), "{failure:?}");
        }
    }
}
