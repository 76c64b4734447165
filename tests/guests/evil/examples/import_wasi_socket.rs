//! It imports a part of WASI preview 1 that no toolchain needs: the network.

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn sock_accept(socket: i32, flags: i32, accepted: *mut i32) -> i32;
}

fn accept(socket: i64) -> i64 {
    let mut accepted = 0;
    // SAFETY: the pointer is to a number that lives.
    i64::from(unsafe { sock_accept(socket as i32, 0, &mut accepted) })
}

kindling_guest::plugin! {
    name: "import_wasi_socket",
    version: "1.0.0",
    scalars: [
        /// Waits for somebody to call; the number of the error.
        accept,
    ],
}
