//! What TLS computes with: one library for clients and servers alike.

/// Has every TLS connection of this process use ring. Again does nothing.
pub fn install() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
