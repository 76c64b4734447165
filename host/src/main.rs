//! The `kindling` command.

use std::process::ExitCode;

// The pipeline makes many small allocations of strings and messages; mimalloc serves them with less CPU than the system's malloc.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kindling::cli::main()
}
