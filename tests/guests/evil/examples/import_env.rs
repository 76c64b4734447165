//! It imports a function that nobody grants.

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn secret(number: i64) -> i64;
}

fn ask(number: i64) -> i64 {
    // SAFETY: takes and gives numbers.
    unsafe { secret(number) }
}

kindling_guest::plugin! {
    name: "import_env",
    version: "1.0.0",
    scalars: [
        /// Asks the host for a secret.
        ask,
    ],
}
