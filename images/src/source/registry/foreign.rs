//! Layers that a manifest says are elsewhere (`urls`, image-spec descriptor.md). The address is a stranger's: it gets no
//! credentials, must be https, and none of this machine's own services or the cloud's metadata can be meant by it
//! (SECURITY_CASES 27).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::source::registry::connections::Connections;
use crate::source::registry::failure::Failure;
use crate::source::registry::hosts;
use crate::source::registry::http::Endpoint;
use crate::source::registry::tls::Material;

/// Addresses that an image has no business with.
fn is_inside(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(a) => {
            a.is_loopback() || a.is_link_local() || a.is_unspecified() || a.is_multicast() || a.is_broadcast()
        }
        IpAddr::V6(a) => a.is_loopback() || a.is_unicast_link_local() || a.is_unspecified() || a.is_multicast(),
    }
}

/// Names are looked up as always, but do not lead inside.
pub(super) struct Outside;

impl Resolve for Outside {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let outside: Vec<SocketAddr> = found.filter(|address| !is_inside(address.ip())).collect();
            match outside.is_empty() {
                true => Err("the name leads to this machine or its own network".into()),
                false => Ok(Box::new(outside.into_iter()) as Addrs),
            }
        })
    }
}

/// The address, if it may be asked. A redirect is checked alike.
pub(super) fn check(url: &Url) -> Result<()> {
    let wrong = |why: &str| Err(Error::new(Kind::Invalid, format!("the address of a foreign layer {why}")));
    if url.scheme() != "https" {
        return wrong("is not https");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("holds credentials");
    }
    let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    match host.is_empty() || host == "localhost" || host.ends_with(".localhost") || literal.is_ok_and(is_inside) {
        true => wrong("is this machine's own"),
        false => Ok(()),
    }
}

/// A layer from where its manifest says.
pub(super) fn endpoint(config: &Config, shared: &Arc<Connections>, address: &str) -> Result<Endpoint, Failure> {
    let wrong = |_| Error::new(Kind::Invalid, "the address of a foreign layer is none");
    let url: Url = address.parse().map_err(wrong)?;
    check(&url)?;
    let material = Material::read(&hosts::tls_of(config, &hosts::name(&url))?)?.without_identity();
    Ok(Endpoint::foreign(url, &material, shared)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_images_may_not_point() {
        for good in
            ["https://mcr.example/layer", "https://93.184.216.34/x", "https://10.0.0.1/x", "https://[2001:db8::1]/"]
        {
            check(&good.parse().unwrap()).unwrap();
        }
        for bad in [
            "http://mcr.example/layer",
            "https://localhost/x",
            "https://LOCALHOST./x",
            "https://a.localhost/x",
            "https://127.0.0.1:6443/x",
            "https://2130706433/x",
            "https://0/x",
            "https://169.254.169.254/latest",
            "https://[::1]/x",
            "https://[::ffff:127.0.0.1]/x",
            "https://[fe80::1]/x",
            "https://u:p@mcr.example/x",
            "file:///etc/shadow",
        ] {
            let why = check(&bad.parse().unwrap()).unwrap_err();
            assert_eq!(why.kind(), Kind::Invalid, "{bad}");
        }
    }
}
