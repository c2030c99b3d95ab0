//! TLS at the hub itself, for those without a proxy.

use actix_tls::accept::rustls_0_23::reexports::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

use crate::config::{ConfigError, Tls};

/// Reads certificate and key; `None` where none are set.
///
/// # Errors
/// Which file is at fault, and why.
pub(super) fn load(tls: &Tls) -> Result<Option<ServerConfig>, ConfigError> {
    let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else { return Ok(None) };
    let fault = |name: &str, error: &dyn std::fmt::Display| {
        let file = if name == "cert" { cert } else { key };
        ConfigError(format!("server.tls.{name}: {}: {error}", file.display()))
    };
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|error| fault("cert", &error))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| fault("key", &error))?;
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map(Some)
        .map_err(|error| fault("cert", &error))
}
