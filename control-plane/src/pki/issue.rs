//! DO: reads certificates, and issues those that `decide` asks for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::decide::{Found, Usage, Wanted, must_issue};
use super::{Identity, files};
use crate::error::{Error, Result};

/// Clocks differ: a new certificate is good from a little before it was made.
const BACKDATE: Duration = Duration::from_secs(300);

/// The authority, able to sign.
pub(super) struct Authority {
    pub(super) cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads the authority in `dir`, makes it, or renews its certificate with the same key.
    pub(super) fn ensure(dir: &Path, now: SystemTime) -> Result<Authority> {
        let wanted = Wanted::authority();
        let (cert_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
        let key = read_key(&key_path)?;
        let found = match (&key, files::read_if_there(&cert_path)?) {
            (Some(key), Some(pem)) => read_cert(&pem, key, None),
            _ => None,
        };
        if let Some(reason) = must_issue(found.as_ref(), &wanted, seconds(now)) {
            tracing::info!(path = %cert_path.display(), %reason, "issuing the cluster's authority");
            let key = match key {
                Some(key) => key,
                None => make_key(&key_path)?,
            };
            let cert = params(&wanted, now)?.self_signed(&key).map_err(|e| failed("sign the authority", e))?;
            files::write(&cert_path, &cert.pem(), 0o644)?;
        }
        let key = read_key(&key_path)?.ok_or_else(|| failed("use ca.key", "it is not a private key"))?;
        let cert_pem = files::read(&cert_path)?;
        let issuer = Issuer::from_ca_cert_pem(&cert_pem, key).map_err(|e| failed("use ca.crt", e))?;
        Ok(Authority { cert_pem, issuer })
    }

    /// Reads `dir/name.crt` with its key, or issues both.
    pub(super) fn ensure_signed(&self, dir: &Path, name: &str, wanted: &Wanted, now: SystemTime) -> Result<Identity> {
        let (cert_path, key_path) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        let key = read_key(&key_path)?;
        let found = match (&key, files::read_if_there(&cert_path)?) {
            (Some(key), Some(pem)) => read_cert(&pem, key, Some(&self.cert_pem)),
            _ => None,
        };
        if let Some(reason) = must_issue(found.as_ref(), wanted, seconds(now)) {
            tracing::info!(path = %cert_path.display(), %reason, "issuing a certificate");
            let key = make_key(&key_path)?;
            let cert = params(wanted, now)?
                .signed_by(&key, &self.issuer)
                .map_err(|e| failed(&format!("sign the certificate {name}"), e))?;
            files::write(&cert_path, &cert.pem(), 0o644)?;
        }
        let (cert_pem, key_pem) = (files::read(&cert_path)?, files::read(&key_path)?);
        Ok(Identity { cert_pem, key_pem, cert_path, key_path })
    }
}

/// Reads `dir/name.key`, or makes it; `name.pub` is its public half.
pub(super) fn ensure_key_pair(dir: &Path, name: &str) -> Result<Identity> {
    let (cert_path, key_path) = (dir.join(format!("{name}.pub")), dir.join(format!("{name}.key")));
    let key = match read_key(&key_path)? {
        Some(key) => key,
        None => make_key(&key_path)?,
    };
    let cert_pem = key.public_key_pem();
    if files::read_if_there(&cert_path)?.as_ref() != Some(&cert_pem) {
        files::write(&cert_path, &cert_pem, 0o644)?;
    }
    Ok(Identity { cert_pem, key_pem: files::read(&key_path)?, cert_path, key_path })
}

/// A new P-256 key, on disk before anything is signed for it.
fn make_key(path: &Path) -> Result<KeyPair> {
    let key = KeyPair::generate().map_err(|e| failed("make a key", e))?;
    files::write(path, &key.serialize_pem(), 0o600)?;
    Ok(key)
}

/// The key in the file; `None` when there is no file, or when it holds no usable key.
fn read_key(path: &Path) -> Result<Option<KeyPair>> {
    let pem = files::read_if_there(path)?;
    let key = pem.map(|pem| KeyPair::from_pem(&pem)).transpose();
    if let Err(why) = &key {
        tracing::warn!(path = %path.display(), error = %why, "a key cannot be read and will be replaced");
    }
    Ok(key.ok().flatten())
}

/// What a certificate says; `None` if it cannot be read.
fn read_cert(pem: &str, key: &KeyPair, authority: Option<&str>) -> Option<Found> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
    let (_, cert) = X509Certificate::from_der(&der).ok()?;
    let authority = authority.map(|pem| CertificateDer::from_pem_slice(pem.as_bytes())).transpose().ok()?;
    let authority = authority.as_ref().map(|der| X509Certificate::from_der(der)).transpose().ok()?;
    let signer = authority.as_ref().map(|(_, cert)| cert.public_key());
    let text = |attribute: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
        attribute.and_then(|a| a.as_str().ok()).map(str::to_owned)
    };
    Some(Found {
        common_name: text(cert.subject().iter_common_name().next())?,
        organization: text(cert.subject().iter_organization().next()),
        names: names(&cert),
        not_before: cert.validity().not_before.timestamp(),
        not_after: cert.validity().not_after.timestamp(),
        signed: cert.verify_signature(signer).is_ok(),
        key_fits: cert.public_key().subject_public_key.data.as_ref() == key.der_bytes(),
    })
}

fn names(cert: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(extension)) = cert.subject_alternative_name() else { return BTreeSet::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match *bytes {
            [a, b, c, d] => Some(IpAddr::from([*a, *b, *c, *d]).to_string()),
            bytes => <[u8; 16]>::try_from(bytes).ok().map(|b| IpAddr::from(b).to_string()),
        },
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn params(wanted: &Wanted, now: SystemTime) -> Result<CertificateParams> {
    let names: Vec<String> = wanted.names.iter().cloned().collect();
    let mut params = CertificateParams::new(names).map_err(|e| failed("use the names", e))?;
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + Duration::from_secs(wanted.days() * 86_400)).into();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(organization) = &wanted.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization.as_str());
    }
    params.distinguished_name.push(DnType::CommonName, wanted.common_name.as_str());
    match wanted.usage {
        Usage::Authority => {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        }
        Usage::Client | Usage::Server => {
            params.is_ca = IsCa::ExplicitNoCa;
            params.use_authority_key_identifier_extension = true;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            let usage = match wanted.usage {
                Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
                _ => ExtendedKeyUsagePurpose::ClientAuth,
            };
            params.extended_key_usages = vec![usage];
        }
    }
    Ok(params)
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

fn failed(what: &str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::internal(format!("cannot {what}"), cause)
}
