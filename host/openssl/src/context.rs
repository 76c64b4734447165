//! `SSL_CTX_*`: what a client's connections share.
//!
//! A context is set up by one thread and only read after its first connection, as OpenSSL has it.

use crate::fail;
use crate::verify::{ClientCertificate, Trust, VerifyCallback};
use aws_lc_sys as crypto;
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{CipherSuite, NamedGroup};
use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::path::Path;
use std::ptr;
use std::sync::Arc;

const SSL_FILETYPE_PEM: c_int = 1;

/// Bundles of the authorities that a system trusts, where distributions have them.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// OpenSSL's names of the cipher suites of TLS 1.2; those of 1.3 are not chosen by `ssl.cipher.suites` in OpenSSL either.
const SUITES: [(&str, CipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// OpenSSL's names of groups.
const GROUPS: [(&str, NamedGroup); 7] = [
    ("X25519", NamedGroup::X25519),
    ("P-256", NamedGroup::secp256r1),
    ("PRIME256V1", NamedGroup::secp256r1),
    ("P-384", NamedGroup::secp384r1),
    ("SECP384R1", NamedGroup::secp384r1),
    ("P-521", NamedGroup::secp521r1),
    ("SECP521R1", NamedGroup::secp521r1),
];

/// `SSL_CTX`.
pub struct Context {
    pub(crate) store: *mut crypto::X509_STORE,
    pub(crate) verify: bool,
    pub(crate) verify_callback: VerifyCallback,
    certificate: *mut crypto::X509,
    chain: *mut crypto::stack_st_X509,
    key: *mut crypto::EVP_PKEY,
    password: crypto::pem_password_cb,
    password_data: *mut c_void,
    provider: CryptoProvider,
}

/// `SSL_METHOD`: there is one.
pub struct Method(#[allow(dead_code)] u8);
static CLIENT: Method = Method(0);

impl Context {
    /// What the connections verify the server with.
    pub(crate) fn trust(&self) -> Trust {
        // SAFETY: the store is the context's own.
        unsafe { Trust::new(self.store, self.verify, self.verify_callback) }
    }

    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        Arc::new(self.provider.clone())
    }

    /// The client's certificate with its chain and key; none where none was set.
    pub(crate) fn client_certificate(&self) -> Result<Option<ClientCertificate>, rustls::Error> {
        if self.certificate.is_null() || self.key.is_null() {
            return Ok(None);
        }
        // SAFETY: certificate, chain and key are the context's own.
        let (chain, key) = unsafe {
            let mut chain = vec![der(self.certificate)];
            let issuers = self.chain.cast::<crypto::stack_st>();
            let count = if issuers.is_null() { 0 } else { crypto::OPENSSL_sk_num(issuers) };
            chain.extend((0..count).map(|i| der(crypto::OPENSSL_sk_value(issuers, i).cast())));
            (chain, pkcs8(self.key))
        };
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        let key = self.provider.key_provider.load_private_key(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)))?;
        Ok(Some(ClientCertificate::new(chain, key)))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: each is the context's own, or null, which the functions take.
        unsafe {
            crypto::X509_STORE_free(self.store);
            crypto::X509_free(self.certificate);
            free_chain(self.chain);
            crypto::EVP_PKEY_free(self.key);
        }
    }
}

/// A certificate's bytes.
unsafe fn der(certificate: *mut crypto::X509) -> Vec<u8> {
    // SAFETY: with a null pointer in `bytes` the function allocates what it gives back.
    unsafe { allocated(|bytes| crypto::i2d_X509(certificate, bytes)) }
}

/// A private key's bytes.
unsafe fn pkcs8(key: *mut crypto::EVP_PKEY) -> Vec<u8> {
    // SAFETY: as for `der`; the intermediate form is freed here.
    unsafe {
        let info = crypto::EVP_PKEY2PKCS8(key);
        let bytes = allocated(|bytes| crypto::i2d_PKCS8_PRIV_KEY_INFO(info, bytes));
        crypto::PKCS8_PRIV_KEY_INFO_free(info);
        bytes
    }
}

/// The result of one of the `i2d_` functions; empty where it failed.
pub(crate) unsafe fn allocated(write: impl FnOnce(*mut *mut u8) -> c_int) -> Vec<u8> {
    let mut bytes: *mut u8 = ptr::null_mut();
    let length = write(&mut bytes);
    let Ok(length) = usize::try_from(length) else { return Vec::new() };
    if bytes.is_null() {
        return Vec::new();
    }
    // SAFETY: the function said how many bytes it allocated.
    unsafe {
        let copy = std::slice::from_raw_parts(bytes, length).to_vec();
        crypto::OPENSSL_free(bytes.cast());
        copy
    }
}

unsafe fn free_chain(chain: *mut crypto::stack_st_X509) {
    if chain.is_null() {
        return;
    }
    let stack = chain.cast::<crypto::stack_st>();
    // SAFETY: the stack owns its certificates.
    unsafe {
        for i in 0..crypto::OPENSSL_sk_num(stack) {
            crypto::X509_free(crypto::OPENSSL_sk_value(stack, i).cast());
        }
        crypto::OPENSSL_sk_free(stack);
    }
}

fn opened(path: &str) -> bool {
    std::fs::File::open(Path::new(path)).is_ok()
}

macro_rules! exported {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// As in `openssl/ssl.h`.
        #[unsafe(no_mangle)]
        // The names are OpenSSL's.
        #[allow(non_snake_case)]
        // Some of them do nothing.
        #[allow(unused_unsafe)]
        // SAFETY: pointers are valid as openssl/ssl.h demands of its callers.
        pub unsafe extern "C" fn $name($($arg: $type),*) $(-> $result)? { unsafe { $body } }
    )*};
}
pub(crate) use exported;

exported! {
    /// The method of all TLS clients.
    fn TLS_client_method() -> *const Method { &CLIENT }

    /// A context that trusts nobody yet.
    fn SSL_CTX_new(_method: *const Method) -> *mut Context {
        let context = Context {
            store: crypto::X509_STORE_new(),
            verify: false,
            verify_callback: None,
            certificate: ptr::null_mut(),
            chain: ptr::null_mut(),
            key: ptr::null_mut(),
            password: None,
            password_data: ptr::null_mut(),
            provider: aws_lc_rs::default_provider(),
        };
        Box::into_raw(Box::new(context))
    }

    /// Frees a context; connections have taken what they need.
    fn SSL_CTX_free(context: *mut Context) {
        if !context.is_null() {
            drop(Box::from_raw(context));
        }
    }

    /// Nothing: rustls has no SSL 3 and no renegotiation.
    fn SSL_CTX_set_options(_context: *mut Context, options: u32) -> u32 { options }

    /// Nothing: partial writes are always enabled.
    fn SSL_CTX_set_mode(_context: *mut Context, mode: u32) -> u32 { mode }

    /// Whether servers are verified, and who is asked besides.
    fn SSL_CTX_set_verify(context: *mut Context, mode: c_int, callback: VerifyCallback) {
        (*context).verify = mode & 1 != 0;
        (*context).verify_callback = callback;
    }

    /// Who knows the password of a private key.
    fn SSL_CTX_set_default_passwd_cb(context: *mut Context, callback: crypto::pem_password_cb) {
        (*context).password = callback;
    }

    /// What the password's callback is given.
    fn SSL_CTX_set_default_passwd_cb_userdata(context: *mut Context, data: *mut c_void) {
        (*context).password_data = data;
    }

    /// The store of trusted certificates; still the context's.
    fn SSL_CTX_get_cert_store(context: *const Context) -> *mut crypto::X509_STORE { (*context).store }

    /// Another store, which becomes the context's.
    fn SSL_CTX_set_cert_store(context: *mut Context, store: *mut crypto::X509_STORE) {
        crypto::X509_STORE_free((*context).store);
        (*context).store = store;
    }

    /// Trusts the certificates of a PEM file, or of a folder with hashed names.
    fn SSL_CTX_load_verify_locations(context: *mut Context, file: *const c_char, folder: *const c_char) -> c_int {
        crypto::X509_STORE_load_locations((*context).store, file, folder)
    }

    /// Trusts whom the system trusts, or whom SSL_CERT_FILE and SSL_CERT_DIR name.
    fn SSL_CTX_set_default_verify_paths(context: *mut Context) -> c_int {
        let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].iter().any(|name| std::env::var_os(name).is_some());
        let bundle = BUNDLES.iter().find(|path| !named && opened(path));
        if let Some(path) = bundle.and_then(|path| std::ffi::CString::new(*path).ok()) {
            return crypto::X509_STORE_load_locations((*context).store, path.as_ptr(), ptr::null());
        }
        crypto::X509_STORE_set_default_paths((*context).store)
    }

    /// The client's certificate.
    fn SSL_CTX_use_certificate(context: *mut Context, certificate: *mut crypto::X509) -> c_int {
        crypto::X509_up_ref(certificate);
        crypto::X509_free((*context).certificate);
        (*context).certificate = certificate;
        1
    }

    /// The client's certificate and those that lead to its authority, from a PEM file.
    fn SSL_CTX_use_certificate_chain_file(context: *mut Context, file: *const c_char) -> c_int {
        let bio = crypto::BIO_new_file(file, c"r".as_ptr());
        if bio.is_null() {
            return 0;
        }
        let (password, data) = ((*context).password, (*context).password_data);
        let leaf = crypto::PEM_read_bio_X509(bio, ptr::null_mut(), password, data);
        if leaf.is_null() {
            crypto::BIO_free(bio);
            return 0;
        }
        let chain = crypto::OPENSSL_sk_new_null();
        loop {
            let issuer = crypto::PEM_read_bio_X509(bio, ptr::null_mut(), password, data);
            if issuer.is_null() || crypto::OPENSSL_sk_push(chain, issuer.cast()) == 0 {
                break;
            }
        }
        // The end of the file is an error too.
        crypto::ERR_clear_error();
        crypto::BIO_free(bio);
        SSL_CTX_use_certificate(context, leaf);
        crypto::X509_free(leaf);
        SSL_CTX_set0_chain(context, chain.cast())
    }

    /// Certificates between the client's and its authority; they become the context's.
    fn SSL_CTX_set0_chain(context: *mut Context, chain: *mut crypto::stack_st_X509) -> c_int {
        free_chain((*context).chain);
        (*context).chain = chain;
        1
    }

    /// The client's private key.
    fn SSL_CTX_use_PrivateKey(context: *mut Context, key: *mut crypto::EVP_PKEY) -> c_int {
        crypto::EVP_PKEY_up_ref(key);
        crypto::EVP_PKEY_free((*context).key);
        (*context).key = key;
        1
    }

    /// The client's private key from a PEM file.
    fn SSL_CTX_use_PrivateKey_file(context: *mut Context, file: *const c_char, kind: c_int) -> c_int {
        if kind != SSL_FILETYPE_PEM {
            fail(crate::FAILED, "only PEM files of private keys are supported");
            return 0;
        }
        let bio = crypto::BIO_new_file(file, c"r".as_ptr());
        if bio.is_null() {
            return 0;
        }
        let key = crypto::PEM_read_bio_PrivateKey(bio, ptr::null_mut(), (*context).password, (*context).password_data);
        crypto::BIO_free(bio);
        if key.is_null() {
            return 0;
        }
        let set = SSL_CTX_use_PrivateKey(context, key);
        crypto::EVP_PKEY_free(key);
        set
    }

    /// Certificate, key and chain at once; the caller keeps its own.
    fn SSL_CTX_use_cert_and_key(
        context: *mut Context,
        certificate: *mut crypto::X509,
        key: *mut crypto::EVP_PKEY,
        chain: *mut crypto::stack_st_X509,
        _replace: c_int,
    ) -> c_int {
        let copy = crypto::OPENSSL_sk_new_null();
        let stack = chain.cast::<crypto::stack_st>();
        for i in 0..if stack.is_null() { 0 } else { crypto::OPENSSL_sk_num(stack) } {
            let issuer = crypto::OPENSSL_sk_value(stack, i).cast::<crypto::X509>();
            crypto::X509_up_ref(issuer);
            crypto::OPENSSL_sk_push(copy, issuer.cast());
        }
        SSL_CTX_use_certificate(context, certificate);
        SSL_CTX_use_PrivateKey(context, key);
        SSL_CTX_set0_chain(context, copy.cast());
        SSL_CTX_check_private_key(context)
    }

    /// Whether key and certificate belong together.
    fn SSL_CTX_check_private_key(context: *const Context) -> c_int {
        if (*context).certificate.is_null() || (*context).key.is_null() {
            fail(crate::FAILED, "a private key needs a certificate, and the other way round");
            return 0;
        }
        crypto::X509_check_private_key((*context).certificate, (*context).key)
    }

    /// Nothing: librdkafka's callback keeps back a certificate that the server's authorities did not sign, which this crate does too.
    fn SSL_CTX_set_cert_cb(_context: *mut Context, _callback: *const c_void, _data: *mut c_void) {}

    /// Cipher suites of TLS 1.2, by OpenSSL's names; words like HIGH and DEFAULT stand for all that there are.
    fn SSL_CTX_set_cipher_list(context: *mut Context, list: *const c_char) -> c_int {
        let list = CStr::from_ptr(list).to_string_lossy();
        let words: Vec<&str> = list.split([':', ',', ' ']).filter(|word| !word.is_empty()).collect();
        if words.iter().any(|word| word.split('+').any(|w| ["ALL", "DEFAULT", "HIGH"].contains(&w))) {
            return 1;
        }
        let wanted: Vec<CipherSuite> = SUITES.iter().filter(|(name, _)| words.contains(name)).map(|(_, suite)| *suite).collect();
        if wanted.is_empty() {
            fail(crate::FAILED, &format!("no cipher suite of {list} is supported"));
            return 0;
        }
        let kept = |suite: &rustls::SupportedCipherSuite| suite.tls13().is_some() || wanted.contains(&suite.suite());
        (*context).provider.cipher_suites.retain(kept);
        1
    }

    /// Groups of the key exchange, in order of preference.
    fn SSL_CTX_set1_curves_list(context: *mut Context, list: *const c_char) -> c_int {
        let list = CStr::from_ptr(list).to_string_lossy().to_ascii_uppercase();
        let mut groups: Vec<&'static dyn SupportedKxGroup> = Vec::new();
        for word in list.split(':') {
            let known = GROUPS.iter().find(|(name, _)| *name == word);
            let group = known.and_then(|(_, group)| aws_lc_rs::ALL_KX_GROUPS.iter().find(|g| g.name() == *group));
            let Some(group) = group else {
                fail(crate::FAILED, &format!("the curve {word} is not supported"));
                return 0;
            };
            groups.push(*group);
        }
        (*context).provider.kx_groups = groups;
        1
    }

    /// Refused.
    fn SSL_CTX_set1_sigalgs_list(_context: *mut Context, _list: *const c_char) -> c_int {
        fail(crate::FAILED, "ssl.sigalgs.list is not supported by this build: leave it out");
        0
    }
}

/// A `long` of C that says yes.
pub(crate) const X509_V_OK: c_long = 0;
