//! The registers of a HyperLogLog as bytes: all of them (4,096 bytes), or a list of those in use, ordered by index, 3 bytes each.
//!
//! Invariant: no bytes make this panic, also such as no version of this plugin has written.

const PRECISION: u32 = 12;
const REGISTERS: usize = 1 << PRECISION;
/// A register holds 1 + the zeros before the first one in what remains of a hash.
const RANK_MAX: usize = (64 - PRECISION) as usize + 1;
/// Bytes of an entry of the list: index (little endian), rank.
const ENTRY: usize = 3;
/// The list is at most this long.
const ENTRIES_MAX: usize = 341;

fn is_list(registers: &[u8]) -> bool {
    registers.len() != REGISTERS
}

fn entries(list: &[u8]) -> impl Iterator<Item = (usize, u8)> {
    list.as_chunks::<ENTRY>().0.iter().map(|[low, high, rank]| (usize::from(u16::from_le_bytes([*low, *high])), *rank))
}

/// Counts a value by its hash.
pub fn insert(registers: &mut Vec<u8>, hash: u64) {
    let index = (hash >> (64 - PRECISION)) as usize;
    // The bit below the hash's end bounds the rank.
    let rank = (hash << PRECISION | 1 << (PRECISION - 1)).leading_zeros() as u8 + 1;
    raise(registers, index, rank);
}

/// Raises register `index` to at least `rank`.
fn raise(registers: &mut Vec<u8>, index: usize, rank: u8) {
    if !is_list(registers) {
        if let Some(register) = registers.get_mut(index) {
            *register = rank.max(*register);
        }
        return;
    }
    let list = registers.as_chunks::<ENTRY>().0;
    match list.binary_search_by_key(&index, |[low, high, _]| usize::from(u16::from_le_bytes([*low, *high]))) {
        Ok(place) => {
            let register = &mut registers[place * ENTRY + 2];
            *register = rank.max(*register);
        }
        Err(_) if list.len() >= ENTRIES_MAX => {
            let mut all = vec![0; REGISTERS];
            entries(registers).for_each(|(index, rank)| raise(&mut all, index, rank));
            raise(&mut all, index, rank);
            *registers = all;
        }
        Err(place) => {
            let [low, high] = (index as u16).to_le_bytes();
            registers.splice(place * ENTRY..place * ENTRY, [low, high, rank]);
        }
    }
}

/// Counts what another state has counted.
pub fn merge(into: &mut Vec<u8>, other: Vec<u8>) {
    if into.is_empty() {
        *into = other;
    } else if is_list(&other) {
        entries(&other).for_each(|(index, rank)| raise(into, index, rank));
    } else {
        let mut all = other;
        if is_list(into) {
            entries(into).for_each(|(index, rank)| raise(&mut all, index, rank));
        } else {
            all.iter_mut().zip(into.iter()).for_each(|(register, rank)| *register = (*register).max(*rank));
        }
        *into = all;
    }
}

/// About how many different values were counted.
pub fn estimate(registers: &[u8]) -> f64 {
    let mut histogram = [0_u32; RANK_MAX + 1];
    let mut seen = 0;
    let mut count = |rank: u8| {
        seen += 1;
        histogram[usize::from(rank).min(RANK_MAX)] += 1;
    };
    if is_list(registers) {
        entries(registers).take(REGISTERS).for_each(|(_, rank)| count(rank));
    } else {
        registers.iter().for_each(|rank| count(*rank));
    }
    histogram[0] += (REGISTERS - seen) as u32;

    let m = REGISTERS as f64;
    let mut z = m * tau(1.0 - f64::from(histogram[RANK_MAX]) / m);
    for rank in histogram[1..RANK_MAX].iter().rev() {
        z = 0.5 * (z + f64::from(*rank));
    }
    z += m * sigma(f64::from(histogram[0]) / m);
    m * m / (2.0 * std::f64::consts::LN_2 * z)
}

/// Ertl's sigma: the registers that are still 0.
fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

/// Ertl's tau: the registers that can rise no further.
fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}
