//! A user from a client certificate: the common name is the user, each organisation a group.
//!
//! rustls has verified the chain, the time and the purpose when this is asked.

use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AUTHENTICATED, User};

/// The user of a certificate (DER); `None` if it names nobody.
pub(crate) fn user_of(certificate: &[u8]) -> Option<User> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    if name.is_empty() {
        return None;
    }
    let groups = subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned);
    let groups = groups.chain([AUTHENTICATED.to_owned()]).collect();
    Some(User { name: name.to_owned(), groups, ..Default::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    #[test]
    fn subject_becomes_user_and_groups() {
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("params");
        params.distinguished_name.push(DnType::CommonName, "alice");
        params.distinguished_name.push(DnType::OrganizationName, "dev");
        let key = KeyPair::generate().expect("key");
        let certificate = params.self_signed(&key).expect("signed");
        let user = user_of(certificate.der()).expect("user");
        assert_eq!(
            (user.name.as_str(), user.groups.as_slice()),
            ("alice", &["dev".to_owned(), AUTHENTICATED.into()][..])
        );
        assert!(user_of(b"nonsense").is_none());
    }
}
