//! TLS settings: only the named authorities are trusted, with ring and nothing of the system.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// The largest PEM file.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// A client's certificate: PEM texts of chain and key.
pub(crate) struct Identity<'a> {
    pub(crate) certificate: &'a [u8],
    pub(crate) private_key: &'a [u8],
}

/// Settings that trust the certificates in the PEM text `authorities`.
///
/// # Errors
/// What is wrong with the texts.
pub(crate) fn config(
    authorities: &[u8],
    identity: Option<Identity<'_>>,
) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities) {
        let certificate =
            certificate.map_err(|error| format!("the list of authorities is not PEM: {error}"))?;
        roots
            .add(certificate)
            .map_err(|error| format!("an authority's certificate cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err("the list of authorities holds no certificate".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let chain = CertificateDer::pem_slice_iter(identity.certificate)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| format!("the client's certificate is not PEM: {error}"))?;
            let key = PrivateKeyDer::from_pem_slice(identity.private_key)
                .map_err(|error| format!("the client's key is not PEM: {error}"))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| format!("the client's certificate cannot be used: {error}"))?
        }
    };
    Ok(Arc::new(config))
}

/// A PEM file's bytes.
///
/// # Errors
/// Path and reason.
pub(crate) fn read(path: &str) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(Path::new(path))
        .and_then(|file| file.take(MAX_PEM_BYTES).read_to_end(&mut bytes))
        .map_err(|error| format!("`{path}`: {error}"))?;
    Ok(bytes)
}
