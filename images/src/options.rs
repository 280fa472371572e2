//! What accompanies one pull: credentials, the platform, and where progress is told.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Kind};

/// A string that prints as `[redacted]` and can be read only by asking for it.
#[derive(Clone, Default, Eq, PartialEq, Deserialize)]
#[serde(from = "String")]
pub struct Secret(String);

/// Written out it is `[redacted]` as well: configurations are printed.
impl Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str("[redacted]")
    }
}

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Credentials for the registry that an image reference names. They are never sent to another host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Auth {
    /// User name and password, for basic authentication and for token services.
    Basic {
        /// The user name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token for the registry's token service (CRI: `identity_token`).
    Identity(Secret),
    /// A bearer token to be sent as it is (CRI: `registry_token`).
    Bearer(Secret),
}

impl Auth {
    /// From CRI's `AuthConfig` fields, empty strings meaning absent: `registry_token`, `identity_token`, `auth`
    /// (base64 of `user:password`), `username` and `password`, in this order. `None` if all are empty.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] if `auth` is not base64 of `user:password`.
    pub fn from_cri(
        username: &str,
        password: &str,
        auth: &str,
        identity_token: &str,
        registry_token: &str,
    ) -> Result<Option<Self>, Error> {
        use base64::Engine as _;
        if !registry_token.is_empty() {
            return Ok(Some(Self::Bearer(Secret::new(registry_token))));
        }
        if !identity_token.is_empty() {
            return Ok(Some(Self::Identity(Secret::new(identity_token))));
        }
        if !username.is_empty() {
            return Ok(Some(Self::Basic { user: username.into(), password: Secret::new(password) }));
        }
        if auth.is_empty() {
            return Ok(None);
        }
        let wrong = || Error::new(Kind::InvalidArgument, "credentials: auth is not base64 of user:password");
        let bytes = base64::engine::general_purpose::STANDARD.decode(auth.trim()).map_err(|_| wrong())?;
        let text = String::from_utf8(bytes).map_err(|_| wrong())?;
        let (user, password) = text.split_once(':').ok_or_else(wrong)?;
        // Docker pads some of these with NUL bytes; containerd trims them as well.
        let password = password.trim_matches('\0');
        Ok(Some(Self::Basic { user: user.into(), password: Secret::new(password) }))
    }
}

/// Operating system, architecture and variant as Go and OCI name them: `linux/amd64`, `linux/arm/v7`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, ...
    pub architecture: String,
    /// `v7`, `v8`; absent means the architecture's default.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform that this program was compiled for.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8")),
            "arm" => ("arm", Some("v7")),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.map(str::to_owned) }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            _ => ("", "", None),
        };
        if os.is_empty() || architecture.is_empty() || variant.as_deref() == Some("") {
            let why = format!("platform {text:?}: expected os/architecture[/variant], as in linux/arm64");
            return Err(Error::new(Kind::InvalidArgument, why));
        }
        Ok(Self { os: os.into(), architecture: architecture.into(), variant })
    }
}

/// What a pull is told beside the reference.
#[derive(Clone, Debug, Default)]
pub struct PullOptions {
    /// Credentials for the reference's host.
    pub auth: Option<Auth>,
    /// Another platform than the host's.
    pub platform: Option<Platform>,
    /// Protects the image from garbage collection (CRI's `pinned`).
    pub pinned: bool,
}

/// One step of a pull or import, as it happens. Sizes are bytes as transferred.
#[derive(Clone, Debug)]
pub enum Event {
    /// The manifest is known: these layers will be needed, in this order.
    Resolved {
        /// The digest of the manifest chosen.
        manifest: Digest,
        /// Digest and size of each layer.
        layers: Vec<(Digest, u64)>,
    },
    /// The layer is unpacked already, or its blob is here.
    Exists(Digest),
    /// So many bytes of the layer have arrived by now.
    Progress {
        /// The layer.
        layer: Digest,
        /// Bytes that have arrived.
        bytes: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The layer is verified, unpacked and on disk.
    Done(Digest),
    /// A request failed and is tried again.
    Retry {
        /// Which blob.
        layer: Digest,
        /// Why, without credentials.
        why: String,
    },
}

/// Where events go: called from any thread, must not block.
pub type Progress = Arc<dyn Fn(Event) + Send + Sync>;

/// A sink for those who do not watch.
pub fn quiet() -> Progress {
    Arc::new(|_| {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_printed() {
        let auth = Auth::from_cri("me", "canary", "", "", "").unwrap().unwrap();
        let printed = format!("{auth:?} {:?}", PullOptions { auth: Some(auth.clone()), ..Default::default() });
        assert!(printed.contains("[redacted]") && !printed.contains("canary"), "{printed}");
    }

    #[test]
    fn cri_fields() {
        let basic =
            |user: &str, password: &str| Some(Auth::Basic { user: user.into(), password: Secret::new(password) });
        let from = |u, p, a, i, r| Auth::from_cri(u, p, a, i, r).unwrap();
        assert_eq!(from("", "", "", "", ""), None);
        assert_eq!(from("u", "p", "", "", ""), basic("u", "p"));
        assert_eq!(from("", "", "dTpwOnE=", "", ""), basic("u", "p:q"));
        assert_eq!(from("u", "p", "", "id", ""), Some(Auth::Identity(Secret::new("id"))));
        assert_eq!(from("u", "p", "", "id", "reg"), Some(Auth::Bearer(Secret::new("reg"))));
        assert!(Auth::from_cri("", "", "%%%", "", "").is_err());
        assert!(Auth::from_cri("", "", "bm9jb2xvbg==", "", "").is_err());
    }

    #[test]
    fn platforms() {
        assert_eq!("linux/arm/v7".parse::<Platform>().unwrap().to_string(), "linux/arm/v7");
        for bad in ["", "linux", "linux/", "/amd64", "linux/arm/", "a/b/c/d"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
    }
}
