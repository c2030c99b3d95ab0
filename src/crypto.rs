//! The cryptography of TLS: one library for clients and servers.

/// Makes every TLS connection of this process use ring. A second call does nothing.
pub fn install() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
