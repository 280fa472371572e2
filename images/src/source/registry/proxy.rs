//! Which proxy a request takes. Pure; the rules are those of Go's `golang.org/x/net/http/httpproxy`, because that is
//! what every other node component reads the same variables with: this machine itself never goes by a proxy, `NO_PROXY`
//! has names, addresses, CIDR ranges and ports. `ALL_PROXY` is read besides, where the other two are silent.

use std::net::IpAddr;

use reqwest::Url;

use crate::error::{Error, Kind, Result};
use crate::network::Proxies;
use crate::options::Secret;
use crate::source::registry::hosts;

/// What [`Proxies`] say, ready to be asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    https: Option<Proxy>,
    http: Option<Proxy>,
    exceptions: Vec<Exception>,
}

/// An address that does not print its user.
#[derive(Clone)]
struct Proxy(Url);

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), hosts::name(&self.0))
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Exception {
    Everything,
    Range(IpAddr, u8),
    Address(IpAddr, Option<u16>),
    /// With a dot in front; whether the name itself counts, too.
    Name(String, bool, Option<u16>),
}

impl Rules {
    /// # Errors
    /// [`Kind::InvalidArgument`] for an address that is none; it is not quoted, it may hold a password.
    pub(super) fn new(proxies: &Proxies) -> Result<Self> {
        let one = |own: &Option<Secret>| own.as_ref().or(proxies.all.as_ref()).map(proxy).transpose();
        let exceptions = proxies.no_proxy.split(',').filter_map(|text| exception(&text.trim().to_ascii_lowercase()));
        Ok(Self { https: one(&proxies.https)?, http: one(&proxies.http)?, exceptions: exceptions.collect() })
    }

    /// The proxy for an address.
    pub(super) fn choose(&self, url: &Url) -> Option<Url> {
        let proxy = match url.scheme() {
            "https" => self.https.as_ref()?,
            _ => self.http.as_ref()?,
        };
        let host = url.host_str()?.to_ascii_lowercase();
        if hosts::is_loopback(&host) {
            return None;
        }
        let port = url.port_or_known_default()?;
        let address = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
        let excepted = self.exceptions.iter().any(|exception| exception.fits(&host, address, port));
        (!excepted).then(|| proxy.0.clone())
    }
}

fn proxy(text: &Secret) -> Result<Proxy> {
    let parse = |text: &str| text.parse::<Url>().ok().filter(Url::has_host);
    let found = parse(text.reveal()).or_else(|| parse(&format!("http://{}", text.reveal())));
    let known = found.filter(|url| matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h"));
    let wrong = || {
        Error::new(Kind::InvalidArgument, "a proxy's address is not [http|https|socks5]://[USER:PASSWORD@]HOST[:PORT]")
    };
    known.map(Proxy).ok_or_else(wrong)
}

fn exception(text: &str) -> Option<Exception> {
    if text == "*" {
        return Some(Exception::Everything);
    }
    if let Some((address, bits)) = text.split_once('/') {
        let address: IpAddr = address.parse().ok()?;
        let bits = bits.parse().ok().filter(|bits| *bits <= if address.is_ipv4() { 32 } else { 128 })?;
        return Some(Exception::Range(address, bits));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if text.parse::<IpAddr>().is_err() => (host, Some(port.parse().ok()?)),
        _ => (text, None),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse() {
        return Some(Exception::Address(address, port));
    }
    let name = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
    match name.strip_prefix('.') {
        _ if name.is_empty() => None,
        Some(_) => Some(Exception::Name(name.to_owned(), false, port)),
        None => Some(Exception::Name(format!(".{name}"), true, port)),
    }
}

impl Exception {
    fn fits(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        let same = |wanted: &Option<u16>| wanted.is_none_or(|wanted| wanted == port);
        match self {
            Self::Everything => true,
            Self::Range(range, bits) => address.is_some_and(|address| within(address, *range, *bits)),
            Self::Address(wanted, at) => address == Some(*wanted) && same(at),
            Self::Name(name, itself, at) => {
                same(at) && (host.ends_with(name.as_str()) || *itself && host == &name[1..])
            }
        }
    }
}

fn within(address: IpAddr, range: IpAddr, bits: u8) -> bool {
    let cut = |bytes: u128, width: u32| bytes.checked_shr(width - u32::from(bits)).unwrap_or(0);
    match (address, range) {
        (IpAddr::V4(a), IpAddr::V4(r)) => cut(a.to_bits().into(), 32) == cut(r.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(r)) => cut(a.to_bits(), 128) == cut(r.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(http: &str, https: &str, all: &str, no_proxy: &str) -> Rules {
        let some = |text: &str| (!text.is_empty()).then(|| Secret::new(text));
        let proxies = Proxies { http: some(http), https: some(https), all: some(all), no_proxy: no_proxy.into() };
        Rules::new(&proxies).unwrap()
    }

    #[test]
    fn which_proxy() {
        let of = |rules: &Rules, url: &str| rules.choose(&url.parse().unwrap()).map(|url| url.to_string());
        let both = rules("plain:3128", "http://u:p@tls:1/", "", "");
        assert_eq!(of(&both, "http://a").as_deref(), Some("http://plain:3128/"));
        assert_eq!(of(&both, "https://a").as_deref(), Some("http://u:p@tls:1/"));
        let all = rules("", "tls:1", "socks5://s:1080", "");
        assert_eq!(of(&all, "http://a").as_deref(), Some("socks5://s:1080"));
        assert_eq!(of(&all, "https://a").as_deref(), Some("http://tls:1/"));
        for own in ["http://localhost:5000", "http://127.0.0.9", "https://[::1]:1"] {
            assert_eq!(of(&all, own), None, "{own}");
        }
        assert_eq!(of(&rules("", "x", "", ""), "http://a"), None);
        assert!(!format!("{both:?}").contains("u:p"), "{both:?}");
        let bad = Proxies { http: Some(Secret::new("ftp://u:canary@x")), ..Proxies::default() };
        assert!(!Rules::new(&bad).unwrap_err().to_string().contains("canary"));
    }

    #[test]
    fn exceptions() {
        for (no_proxy, url, direct) in [
            ("*", "https://a.io", true),
            ("a.io", "https://a.io", true),
            ("a.io", "https://x.a.io", true),
            ("a.io", "https://xa.io", false),
            (".a.io", "https://a.io", false),
            (".a.io", "https://x.a.io", true),
            ("*.a.io", "https://x.a.io", true),
            ("*.a.io", "https://a.io", false),
            ("A.io", "https://a.IO", true),
            ("b.io, a.io ,", "https://a.io", true),
            ("a.io:443", "https://a.io", true),
            ("a.io:5000", "https://a.io", false),
            ("a.io:5000", "https://a.io:5000", true),
            ("10.0.0.0/8", "https://10.1.2.3:5000", true),
            ("10.0.0.0/8", "https://11.1.2.3", false),
            ("10.0.0.0/8", "https://ten.io", false),
            ("0.0.0.0/0", "https://9.9.9.9", true),
            ("10.1.2.3", "https://10.1.2.3:99", true),
            ("10.1.2.3:98", "https://10.1.2.3:99", false),
            ("fd00::/8", "https://[fd12::1]:5000", true),
            ("fd12::1", "https://[fd12::1]", true),
            ("[fd12::1]:5000", "https://[fd12::1]:5000", true),
            ("[fd12::1]:5000", "https://[fd12::1]", false),
            (":5000", "https://a.io:5000", false),
            ("", "https://a.io", false),
            ("1.2.3.4/99", "https://1.2.3.4", false),
        ] {
            let chosen = rules("", "p:1", "", no_proxy).choose(&url.parse().unwrap());
            assert_eq!(chosen.is_none(), direct, "NO_PROXY={no_proxy} {url}");
        }
    }
}
