//! Who we are towards one endpoint: what the caller gave, else what the login files have; found out only once a
//! registry asks.

use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::credentials::{Logins, Lookup};
use crate::digest::Digest;
use crate::network::Network;
use crate::options::{Auth, Secret};

/// Credentials for one host, or where to look for them.
#[derive(Debug)]
pub(super) struct Login {
    given: Option<Auth>,
    files: Option<Arc<Logins>>,
    host: String,
    repository: String,
    found: OnceCell<Lookup>,
}

impl Login {
    /// `given` goes before the files. `host` is the name under which the files have it.
    pub(super) fn new(given: Option<Auth>, files: &Arc<Logins>, host: &str, repository: &str) -> Self {
        let (host, repository) = (host.to_owned(), repository.to_owned());
        Self { given, files: Some(files.clone()), host, repository, found: OnceCell::new() }
    }

    /// Nobody.
    pub(super) fn none() -> Self {
        Self { given: None, files: None, host: String::new(), repository: String::new(), found: OnceCell::new() }
    }

    /// Under what the answer of a registry to this login is kept: different where the login may be.
    pub(super) fn key(&self) -> String {
        let who = match &self.given {
            None => Vec::new(),
            Some(Auth::Basic { user, password }) => format!("basic {user}:{}", password.reveal()).into_bytes(),
            Some(Auth::Identity(token)) => format!("identity {}", token.reveal()).into_bytes(),
            Some(Auth::Bearer(token)) => format!("bearer {}", token.reveal()).into_bytes(),
        };
        let files = self.files.as_ref().map(|files| files.print().to_string()).unwrap_or_default();
        format!("{} {} {} {files}", self.host, self.repository, Digest::of(&who))
    }

    /// A token that is sent without being asked.
    pub(super) fn unasked(&self) -> Option<Secret> {
        match &self.given {
            Some(Auth::Bearer(token)) => Some(Secret::new(format!("Bearer {}", token.reveal()))),
            _ => None,
        }
    }

    /// The credentials, looked up once.
    pub(super) async fn auth(&self, network: &Network) -> Option<&Auth> {
        let look = async || match (&self.given, &self.files) {
            (Some(given), _) => {
                Lookup { auth: Some(given.clone()), origin: "the credentials given with the pull".into() }
            }
            (None, Some(files)) => files.find(&self.host, &self.repository, network).await,
            (None, None) => Lookup { auth: None, origin: "no credentials are sent there".into() },
        };
        self.found.get_or_init(look).await.auth.as_ref()
    }

    /// For an error: what was tried.
    pub(super) fn said(&self) -> String {
        match self.found.get() {
            Some(Lookup { auth: Some(_), origin }) => format!("{origin}: not accepted"),
            Some(Lookup { auth: None, origin }) => origin.clone(),
            None if self.given.is_some() => "the credentials given with the pull: not accepted".into(),
            None => "no credentials were sent, it asked for none in a way that is supported".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_and_why_not() {
        let files = Arc::new(Logins::read(&[]).unwrap());
        let basic = |password: &str| Auth::Basic { user: "u".into(), password: Secret::new(password) };
        let given = Login::new(Some(basic("canary")), &files, "h", "r");
        assert_ne!(given.key(), Login::new(Some(basic("other")), &files, "h", "r").key());
        assert_eq!(given.key(), Login::new(Some(basic("canary")), &files, "h", "r").key());
        assert_eq!(given.auth(&Network::default()).await, Some(&basic("canary")));
        assert_eq!(given.said(), "the credentials given with the pull: not accepted");
        assert!(!format!("{given:?} {}", given.key()).contains("canary"));
        let none = Login::new(None, &files, "h", "r");
        assert_eq!(none.auth(&Network::default()).await, None);
        assert_eq!(none.said(), "no credentials were given");
    }
}
