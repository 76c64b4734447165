//! `SSL_*`: one connection over a socket that does not block.
//!
//! As in OpenSSL a call gives more than 0 where it did something, else `SSL_get_error` says what it waits for. Two rules keep librdkafka,
//! which waits by `poll` on the socket, from waiting for what is here already: a read takes all that has come, up to the room there is;
//! and a write counts only when its bytes have gone to the socket, so that until then librdkafka asks again with the same bytes.

use crate::context::{Context, X509_V_OK, exported};
use crate::verify::{ClientCertificate, Trust, Verifier};
use crate::{CERTIFICATE_VERIFY_FAILED, FAILED, fail};
use aws_lc_sys as crypto;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Error};
use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::io::{self, ErrorKind, Read, Write};
use std::mem::ManuallyDrop;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::os::fd::FromRawFd;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

const SSL_ERROR_NONE: c_int = 0;
const SSL_ERROR_SSL: c_int = 1;
const SSL_ERROR_WANT_READ: c_int = 2;
const SSL_ERROR_WANT_WRITE: c_int = 3;
const SSL_ERROR_SYSCALL: c_int = 5;
const SSL_ERROR_ZERO_RETURN: c_int = 6;

/// `SSL`.
pub struct Connection {
    settings: Option<Settings>,
    tls: Option<ClientConnection>,
    socket: c_int,
    /// The name to send: Server Name Indication.
    name: Option<String>,
    /// The name that the certificate must have.
    host: Option<String>,
    verified: Arc<AtomicI64>,
    /// What the last call waits for, or died of.
    error: c_int,
    /// The connection broke with this; it is told once what came before has been read.
    broken: Option<Error>,
    /// Bytes of a write that has not been counted yet, and where the caller has them.
    taken: usize,
    taken_from: *const c_void,
}

/// What a connection takes from its context.
struct Settings {
    trust: Trust,
    certificate: Option<ClientCertificate>,
    provider: Arc<CryptoProvider>,
}

impl Connection {
    fn start(&mut self) -> Result<(), Error> {
        let Some(settings) = self.settings.take() else { return Ok(()) };
        let verifier =
            Verifier::new(settings.trust, self.host.clone(), Arc::clone(&settings.provider), Arc::clone(&self.verified));
        let config = ClientConfig::builder_with_provider(settings.provider).with_safe_default_protocol_versions()?;
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match settings.certificate {
            Some(certificate) => config.with_client_cert_resolver(Arc::new(certificate)),
            None => config.with_no_client_auth(),
        };
        let name = self.name.as_deref().and_then(|name| ServerName::try_from(name.to_owned()).ok());
        config.enable_sni = name.is_some();
        // rustls wants a name; without one it is sent nowhere and the verifier does not look at it.
        let name = name.unwrap_or(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into()));
        self.tls = Some(ClientConnection::new(Arc::new(config), name)?);
        Ok(())
    }

    /// Remembers why a call did nothing.
    fn stop(&mut self, error: c_int) -> c_int {
        self.error = error;
        -1
    }

    /// Remembers what a call died of.
    fn die(&mut self, error: &Error) -> c_int {
        let reason = if matches!(error, Error::InvalidCertificate(_)) { CERTIFICATE_VERIFY_FAILED } else { FAILED };
        fail(reason, &error.to_string());
        self.stop(SSL_ERROR_SSL)
    }

    fn handshake(&mut self) -> c_int {
        if let Err(error) = self.start() {
            return self.die(&error);
        }
        let Some(mut tls) = self.tls.take() else { return self.stop(SSL_ERROR_SSL) };
        let done = self.shake(&mut tls);
        self.tls = Some(tls);
        done
    }

    fn shake(&mut self, tls: &mut ClientConnection) -> c_int {
        loop {
            match flush(tls, self.socket) {
                Ok(()) => {}
                Err(error) => return self.stop(waits(&error, SSL_ERROR_WANT_WRITE)),
            }
            if !tls.is_handshaking() {
                return 1;
            }
            match fill(tls, self.socket) {
                Ok(0) => return self.stop(SSL_ERROR_SYSCALL),
                Ok(_) => {}
                Err(error) => return self.stop(waits(&error, SSL_ERROR_WANT_READ)),
            }
            if let Err(error) = tls.process_new_packets() {
                // The alert, as far as the socket takes it.
                drop(flush(tls, self.socket));
                return self.die(&error);
            }
        }
    }

    fn read(&mut self, room: &mut [u8]) -> c_int {
        if self.tls.as_ref().is_none_or(|tls| tls.is_handshaking()) {
            let done = self.handshake();
            if done <= 0 {
                return done;
            }
        }
        let Some(mut tls) = self.tls.take() else { return self.stop(SSL_ERROR_SSL) };
        let mut read = 0;
        let stopped = self.take_in(&mut tls, room, &mut read);
        // Answers to the server's messages of the protocol.
        drop(flush(&mut tls, self.socket));
        self.tls = Some(tls);
        if read > 0 { c_int::try_from(read).unwrap_or(c_int::MAX) } else { stopped }
    }

    /// Reads until the room is full or nothing is left; what comes back matters only where nothing was read.
    fn take_in(&mut self, tls: &mut ClientConnection, room: &mut [u8], read: &mut usize) -> c_int {
        let mut ended = false;
        while *read < room.len() {
            match tls.reader().read(&mut room[*read..]) {
                Ok(0) => return self.stop(SSL_ERROR_ZERO_RETURN),
                Ok(n) => {
                    *read += n;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && !ended => {}
                Err(_) => return self.stop(SSL_ERROR_SYSCALL),
            }
            if let Some(error) = self.broken.clone() {
                return if *read > 0 { 0 } else { self.die(&error) };
            }
            match fill(tls, self.socket) {
                Ok(n) => ended = n == 0,
                Err(error) => return self.stop(waits(&error, SSL_ERROR_WANT_READ)),
            }
            self.broken = tls.process_new_packets().err();
        }
        0
    }

    fn write(&mut self, bytes: &[u8]) -> c_int {
        if self.tls.as_ref().is_none_or(|tls| tls.is_handshaking()) {
            let done = self.handshake();
            if done <= 0 {
                return done;
            }
        }
        let Some(mut tls) = self.tls.take() else { return self.stop(SSL_ERROR_SSL) };
        let written = self.give_out(&mut tls, bytes);
        self.tls = Some(tls);
        written
    }

    fn give_out(&mut self, tls: &mut ClientConnection, bytes: &[u8]) -> c_int {
        if let Err(error) = flush(tls, self.socket) {
            return self.stop(waits(&error, SSL_ERROR_WANT_WRITE));
        }
        if self.taken > 0 && (self.taken_from != bytes.as_ptr().cast() || self.taken > bytes.len()) {
            fail(FAILED, "bad write retry: other bytes than those that are on their way");
            return self.stop(SSL_ERROR_SSL);
        }
        if self.taken == 0 {
            match tls.writer().write(bytes) {
                Ok(taken) => (self.taken, self.taken_from) = (taken, bytes.as_ptr().cast()),
                Err(error) => return self.stop(waits(&error, SSL_ERROR_WANT_WRITE)),
            }
            if let Err(error) = flush(tls, self.socket) {
                return self.stop(waits(&error, SSL_ERROR_WANT_WRITE));
            }
        }
        c_int::try_from(std::mem::take(&mut self.taken)).unwrap_or(c_int::MAX)
    }
}

/// The socket, which stays librdkafka's.
fn stream(socket: c_int) -> ManuallyDrop<TcpStream> {
    // SAFETY: librdkafka keeps it open as long as the connection, and it is never closed here.
    ManuallyDrop::new(unsafe { TcpStream::from_raw_fd(socket) })
}

fn flush(tls: &mut ClientConnection, socket: c_int) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(&mut *stream(socket)) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => drop(other?),
        }
    }
    Ok(())
}

fn fill(tls: &mut ClientConnection, socket: c_int) -> io::Result<usize> {
    loop {
        match tls.read_tls(&mut *stream(socket)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn waits(error: &io::Error, want: c_int) -> c_int {
    if error.kind() == ErrorKind::WouldBlock { want } else { SSL_ERROR_SYSCALL }
}

unsafe fn text(text: *const c_char) -> String {
    // SAFETY: OpenSSL's texts end with a zero.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

exported! {
    /// A connection with the context's settings.
    fn SSL_new(context: *mut Context) -> *mut Connection {
        let certificate = match (*context).client_certificate() {
            Ok(certificate) => certificate,
            Err(error) => {
                fail(FAILED, &format!("the client's certificate or key can't be used: {error}"));
                return ptr::null_mut();
            }
        };
        let settings = Settings { trust: (*context).trust(), certificate, provider: (*context).provider() };
        Box::into_raw(Box::new(Connection {
            settings: Some(settings),
            tls: None,
            socket: -1,
            name: None,
            host: None,
            verified: Arc::new(AtomicI64::new(X509_V_OK)),
            error: SSL_ERROR_NONE,
            broken: None,
            taken: 0,
            taken_from: ptr::null(),
        }))
    }

    /// Frees a connection; its socket stays open.
    fn SSL_free(ssl: *mut Connection) {
        if !ssl.is_null() {
            drop(Box::from_raw(ssl));
        }
    }

    /// The socket.
    fn SSL_set_fd(ssl: *mut Connection, socket: c_int) -> c_int {
        (*ssl).socket = socket;
        1
    }

    /// The name that is sent to the server.
    fn SSL_set_tlsext_host_name(ssl: *mut Connection, name: *const c_char) -> c_int {
        (*ssl).name = Some(text(name));
        1
    }

    /// The name or address that the server's certificate must have.
    fn SSL_set1_host(ssl: *mut Connection, name: *const c_char) -> c_int {
        // An address of IPv6 comes in brackets.
        (*ssl).host = Some(text(name).trim_matches(['[', ']']).to_owned());
        1
    }

    /// Begins the handshake.
    fn SSL_connect(ssl: *mut Connection) -> c_int { (*ssl).handshake() }

    /// Goes on with the handshake; 1 when it is done.
    fn SSL_do_handshake(ssl: *mut Connection) -> c_int { (*ssl).handshake() }

    /// Reads at most `length` bytes.
    fn SSL_read(ssl: *mut Connection, bytes: *mut c_void, length: c_int) -> c_int {
        let length = usize::try_from(length).unwrap_or(0);
        if length == 0 {
            return (*ssl).stop(SSL_ERROR_NONE);
        }
        (*ssl).read(std::slice::from_raw_parts_mut(bytes.cast(), length))
    }

    /// Writes at most `length` bytes.
    fn SSL_write(ssl: *mut Connection, bytes: *const c_void, length: c_int) -> c_int {
        let length = usize::try_from(length).unwrap_or(0);
        if length == 0 {
            return (*ssl).stop(SSL_ERROR_NONE);
        }
        (*ssl).write(std::slice::from_raw_parts(bytes.cast(), length))
    }

    /// Why the last call did nothing.
    fn SSL_get_error(ssl: *const Connection, result: c_int) -> c_int {
        if result > 0 { SSL_ERROR_NONE } else { (*ssl).error }
    }

    /// Says goodbye to the server.
    fn SSL_shutdown(ssl: *mut Connection) -> c_int {
        let socket = (*ssl).socket;
        if let Some(tls) = (&mut *ssl).tls.as_mut() {
            tls.send_close_notify();
            drop(flush(tls, socket));
        }
        1
    }

    /// The server's certificate, which the caller frees; null before there is one.
    fn SSL_get_peer_certificate(ssl: *const Connection) -> *mut crypto::X509 {
        let certificates = (&*ssl).tls.as_ref().and_then(|tls| tls.peer_certificates());
        let Some(certificate) = certificates.and_then(<[_]>::first) else { return ptr::null_mut() };
        let mut bytes = certificate.as_ptr();
        crypto::d2i_X509(ptr::null_mut(), &mut bytes, c_long::try_from(certificate.len()).unwrap_or(0))
    }

    /// What came of the verification: `X509_V_OK` or a code of `openssl/x509.h`.
    fn SSL_get_verify_result(ssl: *const Connection) -> c_long { (*ssl).verified.load(Ordering::SeqCst) }

    /// Null: asked by librdkafka's certificate callback only, which is not called here.
    fn SSL_get_certificate(_ssl: *const Connection) -> *mut crypto::X509 { ptr::null_mut() }

    /// Null, as `SSL_get_certificate`.
    fn SSL_get_client_CA_list(_ssl: *const Connection) -> *mut c_void { ptr::null_mut() }

    /// None, as `SSL_get_certificate`.
    fn SSL_get0_chain_certs(_ssl: *const Connection, chain: *mut *mut crypto::stack_st_X509) -> c_int {
        *chain = ptr::null_mut();
        1
    }

    /// Nothing, as `SSL_get_certificate`.
    fn SSL_certs_clear(_ssl: *mut Connection) {}
}
