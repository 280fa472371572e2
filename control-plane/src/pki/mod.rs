//! The cluster's certificates and keys: one authority, and what it signs.
//!
//! [`ensure`] makes a directory complete: it reads what is there, decides what must be (re)issued
//! (`decide`, pure), and issues it. It is safe to call at every start and after a crash at any point:
//! keys are written before certificates, each atomically, and a pair that does not fit is reissued. A lock file lets
//! one at a time do so: the parts of one daemon call it side by side.
//!
//! | file | what | renewed |
//! |---|---|---|
//! | `ca.crt`, `ca.key` | cluster authority, 10 years, P-256 | with the same key, so what it signed stays good |
//! | `apiserver.*` | the API's serving certificate | names changed, or a third of its year left |
//! | `admin.*` | client, `O=system:masters, CN=kubernetes-admin` | as above |
//! | `apiserver-kubelet-client.*` | client towards kubelets, `O=system:masters` | as above |
//! | `sa.key`, `sa.pub` | signs service-account tokens, ES256 (rcgen over ring makes no RSA keys) | never |
//! | `nodes/NAME/client.*` | kubelet client, `O=system:nodes, CN=system:node:NAME` | as above |
//! | `nodes/NAME/serving.*` | kubelet serving certificate | as above |
//!
//! Subjects follow Kubernetes' "PKI certificates and requirements". Keys are 0600 in 0700 directories.

mod decide;
mod files;
mod issue;
mod kubeconfig;

#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub use kubeconfig::{User, kubeconfig};

use crate::error::Result;
use decide::Wanted;
use issue::Authority;

/// The names that a server answers to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub ips: Vec<IpAddr>,
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// The private key, PKCS#8 PEM.
    pub key_pem: String,
    /// Where the certificate is.
    pub cert_path: PathBuf,
    /// Where the key is.
    pub key_path: PathBuf,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("cert_path", &self.cert_path).finish_non_exhaustive()
    }
}

/// The complete set of the control plane.
#[derive(Clone, Debug)]
pub struct Pki {
    /// The authority's certificate, PEM: what clients and servers trust.
    pub ca_pem: String,
    /// Where it is.
    pub ca_path: PathBuf,
    /// The API's serving certificate.
    pub serving: Identity,
    /// The administrator's client certificate.
    pub admin: Identity,
    /// What the API server shows to kubelets.
    pub kubelet_client: Identity,
    /// Signs service-account tokens: P-256, ES256. `cert_pem` is the public key (SPKI).
    pub service_account: Identity,
}

/// What a node needs to join: all of it in `dir`.
#[derive(Clone, Debug)]
pub struct NodePki {
    /// `nodes/NAME`.
    pub dir: PathBuf,
    /// Where the authority's certificate is (the kubelet's clients are checked against it).
    pub ca_path: PathBuf,
    /// The kubelet towards the API.
    pub client: Identity,
    /// The kubelet's HTTPS endpoint.
    pub serving: Identity,
}

impl NodePki {
    /// Writes `kubeconfig` into the node's directory, for the API at `server` (`https://host:port`),
    /// and returns its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_kubeconfig(&self, server: &str) -> Result<PathBuf> {
        let path = self.dir.join("kubeconfig");
        write_kubeconfig(&path, server, &files::read(&self.ca_path)?, &self.client)?;
        Ok(path)
    }
}

/// Completes the control plane's certificates in `dir`, for an API that answers to `names`.
///
/// # Errors
/// Files cannot be read or written, or a name is not a DNS name.
pub fn ensure(dir: &Path, names: &Names) -> Result<Pki> {
    ensure_at(dir, names, SystemTime::now())
}

/// As [`ensure`], at the time `now`.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_at(dir: &Path, names: &Names, now: SystemTime) -> Result<Pki> {
    files::make_dir(dir)?;
    let _lock = files::lock(dir)?;
    let authority = Authority::ensure(dir, now)?;
    let client = |name: &str, common: &str| {
        authority.ensure_signed(dir, name, &Wanted::client(common, Some("system:masters")), now)
    };
    Ok(Pki {
        serving: authority.ensure_signed(dir, "apiserver", &Wanted::server("kube-apiserver", None, names), now)?,
        admin: client("admin", "kubernetes-admin")?,
        kubelet_client: client("apiserver-kubelet-client", "kube-apiserver-kubelet-client")?,
        service_account: issue::ensure_key_pair(dir, "sa")?,
        ca_path: dir.join("ca.crt"),
        ca_pem: authority.cert_pem,
    })
}

/// Completes the certificates of the node `name` under `dir` (the directory given to [`ensure`], which
/// must have been called). `names` are what its kubelet is reached by; the node's name is always one.
///
/// # Errors
/// As [`ensure`]; also when `name` cannot be a directory's name.
pub fn issue_node(dir: &Path, name: &str, names: &Names) -> Result<NodePki> {
    issue_node_at(dir, name, names, SystemTime::now())
}

/// As [`issue_node`], at the time `now`.
///
/// # Errors
/// As [`issue_node`].
pub fn issue_node_at(dir: &Path, name: &str, names: &Names, now: SystemTime) -> Result<NodePki> {
    files::check_node_name(name)?;
    let _lock = files::lock(dir)?;
    let authority = Authority::ensure(dir, now)?;
    let home = dir.join("nodes").join(name);
    files::make_dir(&home)?;
    let user = format!("system:node:{name}");
    let mut names = names.clone();
    names.dns.push(name.to_owned());
    let server = Wanted::server(&user, Some("system:nodes"), &names);
    Ok(NodePki {
        client: authority.ensure_signed(&home, "client", &Wanted::client(&user, Some("system:nodes")), now)?,
        serving: authority.ensure_signed(&home, "serving", &server, now)?,
        ca_path: dir.join("ca.crt"),
        dir: home,
    })
}

/// Writes a kubeconfig (0600, atomically) for the API at `server`, with everything embedded.
///
/// # Errors
/// The file cannot be written.
pub fn write_kubeconfig(path: &Path, server: &str, ca_pem: &str, identity: &Identity) -> Result<()> {
    if let Some(parent) = path.parent().filter(|p| !p.exists()) {
        files::make_dir(parent)?;
    }
    let user = User { cert_pem: &identity.cert_pem, key_pem: &identity.key_pem };
    files::write(path, &kubeconfig(server, ca_pem, &user), 0o600)
}
