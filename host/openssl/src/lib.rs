//! The part of OpenSSL that librdkafka uses, so that TLS and SASL to Kafka need a C compiler and nothing else.
//!
//! OpenSSL itself wants perl to build. aws-lc is OpenSSL's libcrypto built by `cc` alone, but its libssl is C++ and wants CMake. So
//! librdkafka is compiled against aws-lc's headers; certificates, keys, digests and the verification of chains are aws-lc's; and the 40
//! functions of libssl that librdkafka calls are here, over rustls (TLS 1.2 and 1.3), with the names and rules of `openssl/ssl.h`.
//!
//! - [`context`]: `SSL_CTX_*`, what a client's connections share: trust, its certificate and key, cipher suites.
//! - [`connection`]: `SSL_*`, one connection over a socket that does not block.
//! - `verify`: the server's certificate against the store, the client's certificate for the server.
//!
//! Not supported, and refused with an error: `ssl.sigalgs.list`, engines, providers. `rdkafka-sys` links this crate as `openssl-sys`.

// All of it is called from C, and calls C: every pointer's rule is that of openssl/ssl.h.
#![allow(unsafe_code)]

pub mod connection;
pub mod context;
mod verify;

use std::ffi::{CString, c_int};

/// `SSL_R_CERTIFICATE_VERIFY_FAILED` of aws-lc's ssl.h.
const CERTIFICATE_VERIFY_FAILED: c_int = 125;
/// `SSL_R_SSL_HANDSHAKE_FAILURE`: any other failure, the text says which.
const FAILED: c_int = 215;

/// Puts an error into the thread's queue, where librdkafka reads it from.
fn fail(reason: c_int, text: &str) {
    let text = CString::new(text.replace('\0', " ")).unwrap_or_default();
    // SAFETY: the file's name is static, and the text is copied.
    unsafe {
        aws_lc_sys::ERR_put_error(aws_lc_sys::ERR_LIB_SSL, 0, reason, c"rustls".as_ptr(), 0);
        aws_lc_sys::ERR_add_error_data(1, text.as_ptr());
    }
}
