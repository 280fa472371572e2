//! TLS with rustls and ring: client configurations for the API server, the serving configuration with
//! optional client certificates, and a self-signed serving certificate where none was given.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::error::{Error, Result};

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::LazyLock<Arc<CryptoProvider>> =
        std::sync::LazyLock::new(|| Arc::new(rustls::crypto::ring::default_provider()));
    PROVIDER.clone()
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| Error::config(format!("read {what}")).because(e))?;
    if all.is_empty() {
        return Err(Error::config(format!("{what}: no certificate in it")));
    }
    Ok(all)
}

fn roots(pem: &[u8], what: &str) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem, what)? {
        store.add(certificate).map_err(|e| Error::config(format!("use {what}")).because(e))?;
    }
    Ok(store)
}

/// A client that believes `ca` and shows `client` (PEM certificate and key).
///
/// # Errors
/// `Kind::Config` where one of them cannot be used.
pub(crate) fn client_config(
    ca: Option<&[u8]>,
    client: Option<&(Vec<u8>, Vec<u8>)>,
    alpn: &[&[u8]],
) -> Result<ClientConfig> {
    let store = ca.map_or_else(|| Ok(RootCertStore::empty()), |pem| roots(pem, "the API server's CA"))?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::config("set up TLS").because(e))?
        .with_root_certificates(store);
    let mut config = match client {
        Some((certificate, key)) => {
            let key =
                PrivateKeyDer::from_pem_slice(key).map_err(|e| Error::config("read the client key").because(e))?;
            builder
                .with_client_auth_cert(certificates(certificate, "the client certificate")?, key)
                .map_err(|e| Error::config("use the client certificate").because(e))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(config)
}

/// A client that believes any certificate: for HTTPS probes alone, which upstream does not verify either.
///
/// # Errors
/// `Kind::Config` where TLS cannot be set up.
pub(crate) fn probe_config() -> Result<ClientConfig> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::config("set up TLS").because(e))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider())))
        .with_no_client_auth())
}

/// The serving side. Client certificates are asked for where `client_ca` is given, but a caller may come
/// without one, with a bearer token instead. HTTP/1.1 only: upgrades need it.
///
/// # Errors
/// `Kind::Config` where certificate, key or CA cannot be used.
pub(crate) fn server_config(certificate: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> Result<ServerConfig> {
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| Error::config("read the serving key").because(e))?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::config("set up TLS").because(e))?;
    let builder = match client_ca {
        Some(pem) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pem, "the client CA")?), provider())
                    .allow_unauthenticated()
                    .build()
                    .map_err(|e| Error::config("use the client CA").because(e))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(certificates(certificate, "the serving certificate")?, key)
        .map_err(|e| Error::config("use the serving certificate").because(e))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The self-signed certificate and key under `dir`, made if they are not there yet, as upstream does.
///
/// # Errors
/// `Kind::Io` or `Kind::Config` saying what could not be made.
pub(crate) fn self_signed(dir: &Path, name: &str, ip: IpAddr) -> Result<(Vec<u8>, Vec<u8>)> {
    let (crt, key) = (dir.join("kubelet.crt"), dir.join("kubelet.key"));
    if let (Ok(c), Ok(k)) = (std::fs::read(&crt), std::fs::read(&key)) {
        return Ok((c, k));
    }
    let names = vec![name.to_string(), ip.to_string()];
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|e| Error::config("make a serving certificate").because(e))?;
    let (c, k) = (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes());
    crate::files::make_private_dir(dir)?;
    crate::files::replace(&key, &k, 0o600)?;
    crate::files::replace(&crt, &c, 0o644)?;
    Ok((c, k))
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
