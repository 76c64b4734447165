//! The `kindling` command.
//!
//! `unsafe` because the standard library has no call for how the system gives memory out: one system call with numbers.
#![allow(unsafe_code)]

use std::process::ExitCode;

// The pipeline makes many small allocations of strings and messages; mimalloc serves them with less CPU than the system's malloc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages. With them memory is cleared and counted 2 MiB at a time, of which a buffer that comes and goes with each epoch
    // takes a part: a job of many keys has 30 MiB more then, and up to a tenth more CPU; tables of millions of keys are no quicker for them.
    #[cfg(target_os = "linux")]
    // SAFETY: sets a flag of this process; the last three arguments must be 0.
    unsafe {
        let (on, none): (libc::c_ulong, libc::c_ulong) = (1, 0);
        libc::prctl(libc::PR_SET_THP_DISABLE, on, none, none, none);
    }
    kindling::cli::main()
}
