//! It uses what a toolchain may need of WASI preview 1: clock, randomness, output, environment. Under the adapter without imports
//! all of it gives the same on every run, and nothing gets out.

/// A part of what is to be written.
#[repr(C)]
struct Part {
    start: *const u8,
    length: usize,
}

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: i32, precision: i64, time: *mut u64) -> i32;
    fn random_get(buffer: *mut u8, length: usize) -> i32;
    fn fd_write(file: i32, parts: *const Part, count: usize, written: *mut usize) -> i32;
    fn environ_sizes_get(count: *mut usize, bytes: *mut usize) -> i32;
}

fn wasi_clock(_: i64) -> i64 {
    let mut time = 0;
    // SAFETY: the pointer is to a number that lives.
    unsafe { clock_time_get(0, 1, &mut time) };
    time as i64
}

fn wasi_random(_: i64) -> i64 {
    let mut bytes = [0; 8];
    // SAFETY: pointer and length are those of an array that lives.
    unsafe { random_get(bytes.as_mut_ptr(), bytes.len()) };
    i64::from_le_bytes(bytes)
}

fn wasi_print(text: &str) -> i64 {
    let (part, mut written) = (Part { start: text.as_ptr(), length: text.len() }, 0);
    // SAFETY: one part, a text that lives.
    unsafe { fd_write(1, &part, 1, &mut written) };
    written as i64
}

fn wasi_variables(_: i64) -> i64 {
    let (mut count, mut bytes) = (7, 7);
    // SAFETY: the pointers are to numbers that live.
    unsafe { environ_sizes_get(&mut count, &mut bytes) };
    count as i64
}

kindling_guest::plugin! {
    name: "import_wasi",
    version: "1.0.0",
    scalars: [
        /// What time it is, as the guest sees it: nanoseconds.
        wasi_clock,
        /// A random number, as the guest sees it.
        wasi_random,
        /// Prints a text to where nobody reads it; how many bytes were taken.
        wasi_print,
        /// How many environment variables there are, as the guest sees it.
        wasi_variables,
    ],
}
