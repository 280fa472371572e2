//! What one store keeps between its pulls: connections, the tokens that registries gave, and who did not answer.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Client, Url};
use rustls::RootCertStore;

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::network::{Network, Proxies};
use crate::options::Secret;
use crate::source::registry::failure::explain;
use crate::source::registry::foreign;
use crate::source::registry::proxy::Rules;
use crate::source::registry::tls::{self, Material};

/// Entries of one table; a node talks to fewer registries.
const MANY: usize = 256;
/// For so long whoever did not answer is asked last.
const REST: Duration = Duration::from_secs(30);

/// Shared by all pulls of a store.
pub struct Connections {
    pub(super) network: Network,
    proxies: Rules,
    roots: OnceLock<RootCertStore>,
    clients: Mutex<HashMap<String, Client>>,
    /// `Authorization` by whom it is for, and until when.
    logins: Mutex<HashMap<String, (Secret, Instant)>>,
    silent: Mutex<HashMap<String, Instant>>,
    /// Who was found to speak plain http where both are allowed.
    plain: Mutex<HashSet<String>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes room by forgetting everything: it is only a cache.
fn remember<K: Hash + Eq, V>(table: &Mutex<HashMap<K, V>>, key: K, value: V) {
    let mut table = lock(table);
    if table.len() >= MANY {
        table.clear();
    }
    table.insert(key, value);
}

/// What a client is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Use {
    /// A registry or what it points to.
    Registry,
    /// An address out of an image.
    Foreign,
}

impl Connections {
    /// Nothing is connected yet.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`] for a proxy's address that is none.
    pub fn new(config: &Config) -> Result<Self> {
        let of_environment = || Proxies::of_environment(|name| std::env::var(name).ok());
        let proxies = config.network.proxies.clone().unwrap_or_else(of_environment);
        Ok(Self {
            network: config.network.clone(),
            proxies: Rules::new(&proxies)?,
            roots: OnceLock::new(),
            clients: Mutex::default(),
            logins: Mutex::default(),
            silent: Mutex::default(),
            plain: Mutex::default(),
        })
    }

    /// A client with these certificates; the same ones share a client and so its connections.
    pub(super) fn client(&self, tls: &Material, connect: Option<Duration>, of: Use) -> Result<Client> {
        let connect = connect.unwrap_or(self.network.connect_timeout);
        let key = format!("{} {connect:?} {of:?}", tls.print);
        if let Some(client) = lock(&self.clients).get(&key) {
            return Ok(client.clone());
        }
        let config = tls.config(self.roots.get_or_init(tls::system_roots))?;
        let rules = self.proxies.clone();
        let mut builder = Client::builder()
            .user_agent(concat!("gantry/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(connect)
            .tcp_keepalive(Duration::from_secs(30))
            .http2_keep_alive_interval(Duration::from_secs(15))
            .http2_keep_alive_timeout(Duration::from_secs(20))
            .proxy(reqwest::Proxy::custom(move |url| rules.choose(url)))
            .tls_backend_preconfigured(config);
        if of == Use::Foreign {
            builder = builder.dns_resolver(Arc::new(foreign::Outside));
        }
        let wrong = |why| Error::new(Kind::InvalidArgument, format!("http client: {}", explain(why)));
        let client = builder.build().map_err(wrong)?;
        remember(&self.clients, key, client.clone());
        Ok(client)
    }

    /// True if a request goes by a proxy.
    pub(super) fn by_proxy(&self, url: &Url) -> bool {
        self.proxies.choose(url).is_some()
    }

    /// The `Authorization` that is still good.
    pub(super) fn login(&self, key: &str) -> Option<Secret> {
        let mut logins = lock(&self.logins);
        match logins.get(key) {
            Some((secret, until)) if Instant::now() < *until => return Some(secret.clone()),
            Some(_) => logins.remove(key),
            None => None,
        };
        None
    }

    /// Keeps one for most of its life.
    pub(super) fn keep_login(&self, key: &str, secret: &Secret, life: Duration) {
        remember(&self.logins, key.to_owned(), (secret.clone(), Instant::now() + life - life / 8));
    }

    /// Forgets one that was refused, unless another has taken its place.
    pub(super) fn drop_login(&self, key: &str, refused: &Secret) {
        let mut logins = lock(&self.logins);
        if logins.get(key).is_some_and(|(secret, _)| secret == refused) {
            logins.remove(key);
        }
    }

    pub(super) fn note_silent(&self, host: &str) {
        remember(&self.silent, host.to_owned(), Instant::now() + REST);
    }

    pub(super) fn note_answer(&self, host: &str) {
        lock(&self.silent).remove(host);
    }

    pub(super) fn is_silent(&self, host: &str) -> bool {
        lock(&self.silent).get(host).is_some_and(|until| Instant::now() < *until)
    }

    pub(super) fn note_plain(&self, host: &str) {
        lock(&self.plain).insert(host.to_owned());
    }

    pub(super) fn is_plain(&self, host: &str) -> bool {
        lock(&self.plain).contains(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_end() {
        let kept = Connections::new(&Config::default()).unwrap();
        let (one, two) = (Secret::new("1"), Secret::new("2"));
        kept.keep_login("a", &one, Duration::from_secs(60));
        kept.keep_login("b", &one, Duration::ZERO);
        assert_eq!((kept.login("a"), kept.login("b")), (Some(one.clone()), None));
        kept.drop_login("a", &two);
        assert_eq!(kept.login("a"), Some(one.clone()), "another was refused");
        kept.drop_login("a", &one);
        assert_eq!(kept.login("a"), None);
        for n in 0..2 * MANY {
            kept.keep_login(&n.to_string(), &one, Duration::from_secs(60));
        }
        assert!(lock(&kept.logins).len() <= MANY);
    }

    #[test]
    fn silence_is_forgotten() {
        let kept = Connections::new(&Config::default()).unwrap();
        kept.note_silent("a");
        assert!(kept.is_silent("a") && !kept.is_silent("b"));
        kept.note_answer("a");
        assert!(!kept.is_silent("a"));
    }
}
