//! `Debug` for the one message that carries secrets: whoever logs a request must not log a password
//! (CVE-2020-15157, credentials in events).

use std::fmt;

use crate::AuthConfig;

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &str| if secret.is_empty() { "" } else { "<redacted>" };
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("password", &hidden(&self.password))
            .field("auth", &hidden(&self.auth))
            .field("server_address", &self.server_address)
            .field("identity_token", &hidden(&self.identity_token))
            .field("registry_token", &hidden(&self.registry_token))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::{AuthConfig, PullImageRequest};

    #[test]
    fn no_secret_is_printed() {
        let auth = AuthConfig {
            username: "ann".into(),
            password: "canary".into(),
            auth: "canary".into(),
            server_address: "registry.local".into(),
            identity_token: "canary".into(),
            registry_token: "canary".into(),
        };
        let said = format!("{:?}", PullImageRequest { auth: Some(auth), ..Default::default() });
        assert!(said.contains("ann") && said.contains("registry.local"), "{said}");
        assert!(!said.contains("canary"), "{said}");
    }
}
