//! TLS towards registries: which certificates are believed, which one is shown.
//!
//! Believed are the system's roots (`SSL_CERT_FILE` and `SSL_CERT_DIR` are heeded) and the authorities of hosts.toml.
//! A certificate that is itself listed as an authority is believed as it stands, as Go does: self-signed servers are
//! their own authority. TLS 1.2 and 1.3; older versions do not exist here.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::digest::Digest;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::source::registry::hosts::Tls;

const LARGEST: u64 = 4 << 20;

/// Certificates and keys as they are on disk now.
#[derive(Clone, Debug)]
pub(super) struct Material {
    authorities: Vec<CertificateDer<'static>>,
    identities: Vec<Arc<CertifiedKey>>,
    unchecked: bool,
    /// Differs where any of it does.
    pub(super) print: String,
}

impl Material {
    /// Reads the files of one host.
    pub(super) fn read(tls: &Tls) -> Result<Self> {
        let (mut authorities, mut all) = (Vec::new(), Vec::new());
        for path in &tls.ca {
            for path in listed(path)? {
                let pem = read(&path)?;
                authorities.extend(certificates(&pem).context(|| format!("ca {}", path.display()))?);
                all.extend(pem);
            }
        }
        let mut identities = Vec::new();
        for (certificate, key) in &tls.client {
            let what = || format!("client certificate {}", certificate.display());
            let chain = read(certificate)?;
            let key = key.as_deref().map_or(Ok(chain.clone()), read)?;
            identities.push(Arc::new(identity(&chain, &key).context(what)?));
            all.extend(chain.into_iter().chain(key));
        }
        let unchecked = tls.skip_verify == Some(true);
        let print = format!("{} {unchecked}", Digest::of(&all));
        Ok(Self { authorities, identities, unchecked, print })
    }

    /// The same for another host than the one that it was configured for: our name is not shown there.
    pub(super) fn without_identity(&self) -> Self {
        match self.identities.is_empty() {
            true => self.clone(),
            false => Self { identities: Vec::new(), print: format!("{} elsewhere", self.print), ..self.clone() },
        }
    }

    /// A client's configuration; `system`: the roots of this machine.
    pub(super) fn config(&self, system: &RootCertStore) -> Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = system.clone();
        roots.add_parsable_certificates(self.authorities.iter().cloned());
        // Without any root nobody can be believed; that is said when somebody shows a certificate.
        let chains = match roots.is_empty() {
            true => None,
            false => {
                let wrong = |why| Error::caused(Kind::System, "certificate authorities", why);
                let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
                Some(builder.build().map_err(wrong)?)
            }
        };
        let verifier =
            Verifier { chains, own: self.authorities.clone(), unchecked: self.unchecked, provider: provider.clone() };
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|why| Error::caused(Kind::System, "TLS", why))?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match self.identities.is_empty() {
            true => builder.with_no_client_auth(),
            false => builder.with_client_cert_resolver(Arc::new(Identities(self.identities.clone()))),
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// The roots of this machine.
pub(super) fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for why in &found.errors {
        tracing::debug!(%why, "a root certificate of this machine cannot be read");
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    roots
}

/// The file, or the certificates in the directory.
fn listed(path: &Path) -> Result<Vec<std::path::PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let what = || format!("ca {}", path.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).context(what)? {
        let path = entry.context(what)?.path();
        if path.extension().is_some_and(|end| ["crt", "pem", "cer"].iter().any(|known| end == *known)) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let missing = || Error::new(Kind::InvalidArgument, format!("{} does not exist", path.display()));
    disk::read_small(path, LARGEST)?.ok_or_else(missing)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |_| Error::new(Kind::InvalidArgument, "it is damaged PEM");
    let found = CertificateDer::pem_slice_iter(pem).collect::<std::result::Result<Vec<_>, _>>().map_err(wrong)?;
    match found.is_empty() {
        true => Err(Error::new(Kind::InvalidArgument, "no certificate in PEM is in it")),
        false => Ok(found),
    }
}

/// A certificate with its key in PKCS #1, PKCS #8 or SEC 1 form.
fn identity(chain: &[u8], key: &[u8]) -> Result<CertifiedKey> {
    let wrong = |why: &str| Error::new(Kind::InvalidArgument, why.to_owned());
    let none = "no private key in PEM is with it (RSA, EC or PKCS #8; an encrypted one cannot be read)";
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| wrong(none))?;
    let provider = rustls::crypto::ring::default_provider();
    let unfit = |_| wrong("certificate and key do not belong together, or are of a kind that is not supported");
    CertifiedKey::from_der(certificates(chain)?, key, &provider).map_err(unfit)
}

/// Shows the certificate that the server's authorities may have issued, else the first.
#[derive(Debug)]
struct Identities(Vec<Arc<CertifiedKey>>);

impl ResolvesClientCert for Identities {
    fn resolve(&self, issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = || self.0.iter().filter(|one| one.key.choose_scheme(schemes).is_some());
        let issued = |one: &&Arc<CertifiedKey>| one.cert.iter().any(|der| issuers.contains(&issuer(der).as_slice()));
        usable().find(issued).or_else(|| usable().next()).cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn issuer(der: &CertificateDer<'_>) -> Vec<u8> {
    let parsed = x509_parser::parse_x509_certificate(der);
    parsed.map(|(_, certificate)| certificate.issuer().as_raw().to_vec()).unwrap_or_default()
}

#[derive(Debug)]
struct Verifier {
    chains: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates that are believed even where they are the server's own.
    own: Vec<CertificateDer<'static>>,
    unchecked: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// The server's certificate is one that was configured: only its name and its dates count.
    fn is_own(&self, server: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<bool, rustls::Error> {
        if !self.own.contains(server) {
            return Ok(false);
        }
        rustls::client::verify_server_name(&ParsedCertificate::try_from(server)?, name)?;
        let parsed = x509_parser::parse_x509_certificate(server);
        let (_, parsed) = parsed.map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
        let now = now.as_secs() as i64;
        match (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp()) {
            (from, _) if now < from => Err(CertificateError::NotValidYet.into()),
            (_, to) if now > to => Err(CertificateError::Expired.into()),
            _ => Ok(true),
        }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.unchecked || self.is_own(server, name, now)? {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.chains {
            Some(chains) => chains.verify_server_cert(server, chain, name, ocsp, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn files_that_are_wrong_are_named() {
        let dir = Scratch::new("tls");
        let at = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let ca = |path| Tls { ca: vec![path], ..Tls::default() };
        let client = |path| Tls { client: vec![(path, None)], ..Tls::default() };
        let damaged = "-----BEGIN CERTIFICATE-----\n!!canary\n-----END CERTIFICATE-----\n";
        let good = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n";
        for (tls, expect) in [
            (ca(dir.path().join("none.pem")), "none.pem does not exist"),
            (ca(at("empty.pem", "")), "empty.pem: no certificate in PEM"),
            (ca(at("damaged.pem", damaged)), "damaged.pem: it is damaged PEM"),
            (client(at("lone.pem", good)), "client certificate"),
            (client(at("lone.pem", good)), "lone.pem: no private key in PEM"),
        ] {
            let why = Material::read(&tls).unwrap_err();
            assert_eq!(why.kind(), Kind::InvalidArgument);
            assert!(why.to_string().contains(expect) && !why.to_string().contains("canary"), "{why}");
        }
        let certs = dir.path().join("certs");
        std::fs::create_dir(&certs).unwrap();
        std::fs::write(certs.join("readme"), "no certificate").unwrap();
        std::fs::write(certs.join("a.crt"), good).unwrap();
        assert_eq!(Material::read(&ca(certs)).unwrap().authorities.len(), 1);
    }

    /// What becomes of a server's certificate that is its own authority.
    fn believed(names: &[&str], from: i32, to: i32, called: &str) -> Result<(), rustls::Error> {
        let mut made =
            rcgen::CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        (made.not_before, made.not_after) = (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(to, 1, 1));
        made.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = made.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let own = vec![certificate.der().clone()];
        let verifier = Verifier { chains: None, own, unchecked: false, provider };
        // The first day of 2025.
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_735_689_600));
        let name = ServerName::try_from(called.to_owned()).unwrap();
        verifier.verify_server_cert(certificate.der(), &[], &name, &[], now).map(drop)
    }

    #[test]
    fn a_server_that_is_its_own_authority() {
        believed(&["a.test"], 2024, 2026, "a.test").unwrap();
        let refused = |names: &[&str], from, to, called| match believed(names, from, to, called) {
            Err(rustls::Error::InvalidCertificate(why)) => format!("{why:?}"),
            other => format!("{other:?}"),
        };
        assert!(refused(&["a.test"], 2024, 2026, "b.test").starts_with("NotValidForName"));
        assert_eq!(refused(&["a.test"], 2020, 2024, "a.test"), "Expired");
        assert_eq!(refused(&["a.test"], 2026, 2027, "a.test"), "NotValidYet");
    }
}
