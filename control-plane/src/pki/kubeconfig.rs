//! A kubeconfig with everything embedded, as `kubectl`, client libraries and our kubelet read it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Who the kubeconfig speaks for.
pub struct User<'a> {
    /// Client certificate, PEM.
    pub cert_pem: &'a str,
    /// Its key, PEM.
    pub key_pem: &'a str,
}

/// The text of a kubeconfig (YAML) with one cluster, one user and one context, all named `gantry`.
/// `server` is `https://host:port`.
pub fn kubeconfig(server: &str, ca_pem: &str, user: &User<'_>) -> String {
    let ca = STANDARD.encode(ca_pem);
    let cert = STANDARD.encode(user.cert_pem);
    let key = STANDARD.encode(user.key_pem);
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: gantry
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: gantry
  user:
    client-certificate-data: {cert}
    client-key-data: {key}
contexts:
- name: gantry
  context:
    cluster: gantry
    user: gantry
current-context: gantry
"
    )
}
