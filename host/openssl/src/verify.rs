//! The server's certificate against the store, and the client's certificate for the server.

use crate::context::X509_V_OK;
use aws_lc_sys as crypto;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use std::ffi::{CStr, CString, c_int, c_long};
use std::net::IpAddr;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Who is asked besides: whether all is well so far, and the certificate at hand.
pub type VerifyCallback = Option<unsafe extern "C" fn(ok: c_int, context: *mut crypto::X509_STORE_CTX) -> c_int>;

/// A store of trusted certificates and the rules of a client.
#[derive(Debug)]
pub struct Trust {
    store: *mut crypto::X509_STORE,
    verify: bool,
    callback: VerifyCallback,
}

// SAFETY: an X509_STORE has its own lock and counts its references atomically.
unsafe impl Send for Trust {}
// SAFETY: as above.
unsafe impl Sync for Trust {}

impl Trust {
    /// Shares `store`.
    ///
    /// # Safety
    /// `store` is valid.
    pub unsafe fn new(store: *mut crypto::X509_STORE, verify: bool, callback: VerifyCallback) -> Self {
        // SAFETY: the caller says that it is valid.
        unsafe { crypto::X509_STORE_up_ref(store) };
        Self { store, verify, callback }
    }
}

impl Drop for Trust {
    fn drop(&mut self) {
        // SAFETY: the reference is this one's own.
        unsafe { crypto::X509_STORE_free(self.store) };
    }
}

/// Verifies the servers of one connection.
#[derive(Debug)]
pub struct Verifier {
    trust: Trust,
    /// The name that the certificate must be for; none where librdkafka was told not to look.
    host: Option<String>,
    provider: Arc<CryptoProvider>,
    /// What came out: `SSL_get_verify_result`.
    result: Arc<AtomicI64>,
}

/// Why a chain was refused.
#[derive(Debug)]
struct Refused(String);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl Verifier {
    /// A verifier for a server that goes by `host`.
    pub fn new(trust: Trust, host: Option<String>, provider: Arc<CryptoProvider>, result: Arc<AtomicI64>) -> Self {
        Self { trust, host, provider, result }
    }

    /// The code of `X509_verify_cert`.
    fn chain(&self, certificate: &CertificateDer<'_>, issuers: &[CertificateDer<'_>]) -> Result<c_long, Error> {
        let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
        // SAFETY: everything that is made here is freed by its guard, after the context that uses it.
        unsafe {
            let leaf = Certificate::parse(certificate).ok_or_else(bad)?;
            let chain = Chain(crypto::OPENSSL_sk_new_null());
            for issuer in issuers {
                let issuer = Certificate::parse(issuer).ok_or_else(bad)?;
                if crypto::OPENSSL_sk_push(chain.0, issuer.0.cast()) > 0 {
                    std::mem::forget(issuer);
                }
            }
            let context = Check(crypto::X509_STORE_CTX_new());
            let general = || Error::General("no memory to verify the certificate".into());
            if crypto::X509_STORE_CTX_init(context.0, self.trust.store, leaf.0, chain.0.cast()) != 1 {
                return Err(general());
            }
            // The purpose: a server of TLS.
            if crypto::X509_STORE_CTX_set_default(context.0, c"ssl_server".as_ptr()) != 1 {
                return Err(general());
            }
            if let Some(host) = &self.host {
                let param = crypto::X509_STORE_CTX_get0_param(context.0);
                let text = CString::new(host.as_str()).map_err(|_| bad())?;
                let set = match host.parse::<IpAddr>() {
                    Ok(_) => crypto::X509_VERIFY_PARAM_set1_ip_asc(param, text.as_ptr()),
                    Err(_) => crypto::X509_VERIFY_PARAM_set1_host(param, text.as_ptr(), host.len()),
                };
                if set != 1 {
                    return Err(Error::General(format!("the broker's name {host} can't be verified")));
                }
            }
            if self.trust.callback.is_some() {
                crypto::X509_STORE_CTX_set_verify_cb(context.0, self.trust.callback);
            }
            let good = crypto::X509_verify_cert(context.0) == 1;
            let code = c_long::from(crypto::X509_STORE_CTX_get_error(context.0));
            // A refusal without a reason is one all the same.
            Ok(if !good && code == X509_V_OK { c_long::from(crypto::X509_V_ERR_UNSPECIFIED) } else { code })
        }
    }
}

/// An X509 that is freed.
struct Certificate(*mut crypto::X509);

impl Certificate {
    fn parse(der: &[u8]) -> Option<Self> {
        let mut bytes = der.as_ptr();
        let length = c_long::try_from(der.len()).ok()?;
        // SAFETY: reads at most `length` bytes.
        let certificate = unsafe { crypto::d2i_X509(ptr::null_mut(), &mut bytes, length) };
        (!certificate.is_null()).then_some(Self(certificate))
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        // SAFETY: its own.
        unsafe { crypto::X509_free(self.0) };
    }
}

/// A stack that owns its certificates.
struct Chain(*mut crypto::stack_st);

impl Drop for Chain {
    fn drop(&mut self) {
        // SAFETY: its own, and so are the certificates.
        unsafe {
            for i in 0..crypto::OPENSSL_sk_num(self.0) {
                crypto::X509_free(crypto::OPENSSL_sk_value(self.0, i).cast());
            }
            crypto::OPENSSL_sk_free(self.0);
        }
    }
}

/// An X509_STORE_CTX that is freed.
struct Check(*mut crypto::X509_STORE_CTX);

impl Drop for Check {
    fn drop(&mut self) {
        // SAFETY: its own.
        unsafe { crypto::X509_STORE_CTX_free(self.0) };
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.trust.verify {
            return Ok(ServerCertVerified::assertion());
        }
        let code = self.chain(certificate, issuers)?;
        self.result.store(code, Ordering::SeqCst);
        if code == X509_V_OK {
            return Ok(ServerCertVerified::assertion());
        }
        // SAFETY: a static text.
        let text = unsafe { CStr::from_ptr(crypto::X509_verify_cert_error_string(code)) }.to_string_lossy();
        let host = self.host.as_deref().map_or(String::new(), |host| format!(" (broker {host})"));
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refused(format!("{text}{host}")))))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The client's certificate, for servers that ask for one.
#[derive(Debug)]
pub struct ClientCertificate {
    key: Arc<CertifiedKey>,
    /// Names of who signed the chain.
    issuers: Vec<Vec<u8>>,
}

impl ClientCertificate {
    /// `chain` begins with the client's own.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: Arc<dyn SigningKey>) -> Self {
        let issuers = chain.iter().filter_map(|c| issuer(c)).collect();
        Self { key: Arc::new(CertifiedKey::new(chain, key)), issuers }
    }
}

fn issuer(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = Certificate::parse(der)?;
    // SAFETY: the name is the certificate's, and lives as long.
    Some(unsafe { crate::context::allocated(|bytes| crypto::i2d_X509_NAME(crypto::X509_get_issuer_name(certificate.0), bytes)) })
}

impl ResolvesClientCert for ClientCertificate {
    /// None where the server names authorities and none of them signed it: it would refuse it, and may do without (librdkafka's rule).
    fn resolve(&self, authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let welcome = authorities.is_empty() || self.issuers.iter().any(|issuer| authorities.contains(&issuer.as_slice()));
        welcome.then(|| Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
