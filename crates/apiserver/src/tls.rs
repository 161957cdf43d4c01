//! The server's certificate authority and certificate.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A name is not a DNS name, or the key could not be made.
    #[error("making the API server's certificate for {names}: {source}")]
    Certificate {
        /// Every name and address asked for.
        names: String,
        /// What rcgen said.
        source: rcgen::Error,
    },
    /// rustls does not take the certificate.
    #[error("setting up TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// A fresh authority and what it signed.
pub(crate) struct Identity {
    pub(crate) ca_pem: String,
    pub(crate) config: Arc<ServerConfig>,
}

/// Makes an authority, and a server certificate for these names and addresses.
pub(crate) fn identity(names: &[String], addresses: &[IpAddr]) -> Result<Identity, TlsError> {
    make(names, addresses).map_err(|source| TlsError::Certificate {
        names: names
            .iter()
            .cloned()
            .chain(addresses.iter().map(ToString::to_string))
            .collect::<Vec<_>>()
            .join(", "),
        source,
    })?
}

fn make(names: &[String], addresses: &[IpAddr]) -> Result<Result<Identity, TlsError>, rcgen::Error> {
    let mut authority = CertificateParams::new(Vec::<String>::new())?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "kubernetes-ca");
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let mut server = CertificateParams::new(names.to_vec())?;
    server.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    server.use_authority_key_identifier_extension = true;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &issuer)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(config(certificate.der().clone(), key)
        .map(|config| Identity { ca_pem: authority_certificate.pem(), config: Arc::new(config) })
        .map_err(TlsError::from))
}

fn config(
    certificate: rustls::pki_types::CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
