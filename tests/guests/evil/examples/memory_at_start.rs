//! It wants more memory from the start than a guest may have.

static mut HOARD: [u8; 100 << 20] = [0; 100 << 20];

fn hoard(place: i64) -> i64 {
    // SAFETY: the modulus keeps the place inside, and a guest has one thread.
    unsafe {
        let hoard = (&raw mut HOARD).cast::<u8>().add(place as usize % (100 << 20));
        hoard.write(hoard.read().wrapping_add(1));
        i64::from(hoard.read())
    }
}

kindling_guest::plugin! {
    name: "memory_at_start",
    version: "1.0.0",
    scalars: [
        /// Counts calls, which no guest should.
        hoard,
    ],
}
