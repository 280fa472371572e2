//! Results of plugins, of every version of the specification: read, and written again in another one.
//!
//! Up to 0.2.0 a result has one address a family (`ip4`, `ip6`); since 0.3.0 interfaces and a list of addresses, which
//! until 0.4.0 name their family (SPEC-0.2.0.md, SPEC-0.3.1.md, SPEC-0.4.0.md, SPEC.md). What a newer version adds
//! (MTU, socket paths, tables of routes) is kept as it came.

use super::version::Version;
use crate::error::{Error, Kind, Result};
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// What a plugin answered to ADD, in the terms of the newest version.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Outcome {
    interfaces: Vec<Map<String, Value>>,
    ips: Vec<Map<String, Value>>,
    routes: Vec<Map<String, Value>>,
    dns: Map<String, Value>,
    /// All, as it was said, and the version that it was said in.
    said: Option<(Version, Value)>,
}

fn wrong<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::new(Kind::Internal, why))
}

impl Outcome {
    /// Reads a result; one that names no version is of the configuration's.
    ///
    /// # Errors
    /// `Internal`, saying what is wrong with it.
    pub(super) fn parse(value: Value, configured: Version) -> Result<Self> {
        let Value::Object(body) = &value else { return wrong("the result is no JSON object") };
        let version = match body.get("cniVersion") {
            None => configured,
            Some(Value::String(text)) if text.is_empty() => configured,
            Some(Value::String(text)) => Version::known(text)?,
            Some(_) => return wrong("the result's cniVersion is no string"),
        };
        let mut outcome = if version < Version::V0_3 { old(body)? } else { new(body)? };
        outcome.dns = match body.get("dns") {
            Some(Value::Object(dns)) => dns.clone(),
            _ => Map::new(),
        };
        for ip in &outcome.ips {
            address(ip)?;
        }
        outcome.said = Some((version, value));
        Ok(outcome)
    }

    /// The result in another version: as it was said, where that is the version that it was said in.
    pub(super) fn in_version(&self, version: Version) -> Value {
        match &self.said {
            Some((said, value)) if *said == version => {
                let mut value = value.clone();
                value["cniVersion"] = version.to_string().into();
                value
            }
            _ if version < Version::V0_3 => self.to_old(version),
            _ => self.to_new(version),
        }
    }

    fn to_new(&self, version: Version) -> Value {
        let mut value = json!({ "cniVersion": version.to_string() });
        let ips = self.ips.iter().map(|ip| {
            let mut ip = ip.clone();
            match (version < Version::V1_0, address(&ip)) {
                (true, Ok(at)) => drop(ip.insert("version".into(), if at.is_ipv4() { "4" } else { "6" }.into())),
                _ => drop(ip.remove("version")),
            }
            ip
        });
        let lists = [("interfaces", self.interfaces.clone()), ("ips", ips.collect()), ("routes", self.routes.clone())];
        for (key, list) in lists {
            if !list.is_empty() {
                value[key] = list.into();
            }
        }
        value["dns"] = self.dns.clone().into();
        value
    }

    /// The first address of each family, with the routes of that family.
    fn to_old(&self, version: Version) -> Value {
        let mut value = json!({ "cniVersion": version.to_string(), "dns": self.dns });
        for (key, four) in [("ip4", true), ("ip6", false)] {
            let fits = |ip: &&Map<String, Value>| address(ip).is_ok_and(|at| at.is_ipv4() == four);
            let Some(ip) = self.ips.iter().find(fits) else { continue };
            let mut old = Map::from_iter([("ip".to_owned(), ip["address"].clone())]);
            if let Some(gateway) = ip.get("gateway") {
                old.insert("gateway".into(), gateway.clone());
            }
            let of_family = |route: &&Map<String, Value>| {
                route.get("dst").and_then(Value::as_str).is_some_and(|to| to.contains(':') != four)
            };
            let routes: Vec<_> = self.routes.iter().filter(of_family).cloned().collect();
            if !routes.is_empty() {
                old.insert("routes".into(), routes.into());
            }
            value[key] = old.into();
        }
        value
    }

    /// The addresses that the pod has on `device`: those of the interface of that name inside a sandbox, and those that
    /// name no interface. IPv4 first, as kubelet and containerd expect, else in the order of the result.
    pub(super) fn addresses(&self, device: &str) -> Vec<IpAddr> {
        let of_pod = |ip: &&Map<String, Value>| match ip.get("interface").and_then(Value::as_u64) {
            None => true,
            Some(at) => self.interfaces.get(at as usize).is_some_and(|interface| is_device(interface, device)),
        };
        let mut all: Vec<IpAddr> = self.ips.iter().filter(of_pod).filter_map(|ip| address(ip).ok()).collect();
        all.sort_by_key(IpAddr::is_ipv6);
        all
    }

    /// The gateway of the first address that has one.
    pub(super) fn gateway(&self) -> Option<IpAddr> {
        self.ips.iter().find_map(|ip| ip.get("gateway")?.as_str()?.parse().ok())
    }

    /// The hardware address of `device` in the pod; empty where the result does not say.
    pub(super) fn mac(&self, device: &str) -> String {
        let device = self.interfaces.iter().find(|interface| is_device(interface, device));
        device.and_then(|device| device.get("mac")?.as_str()).unwrap_or_default().to_owned()
    }
}

fn is_device(interface: &Map<String, Value>, device: &str) -> bool {
    let text = |key: &str| interface.get(key).and_then(Value::as_str).unwrap_or_default();
    text("name") == device && !text("sandbox").is_empty()
}

fn address(ip: &Map<String, Value>) -> Result<IpAddr> {
    let text = ip.get("address").and_then(Value::as_str).unwrap_or_default();
    let plain = text.split('/').next().unwrap_or_default();
    plain.parse().or_else(|_| wrong(format!("the result has an address {text:?}, which is none")))
}

fn objects(body: &Map<String, Value>, key: &str) -> Result<Vec<Map<String, Value>>> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(all)) => all
            .iter()
            .map(|one| match one {
                Value::Object(one) => Ok(one.clone()),
                _ => wrong(format!("the result's {key} hold something that is no object")),
            })
            .collect(),
        Some(_) => wrong(format!("the result's {key} are no array")),
    }
}

fn new(body: &Map<String, Value>) -> Result<Outcome> {
    let outcome = Outcome {
        interfaces: objects(body, "interfaces")?,
        ips: objects(body, "ips")?,
        routes: objects(body, "routes")?,
        ..Outcome::default()
    };
    for ip in &outcome.ips {
        let at = ip.get("interface").filter(|at| !at.is_null());
        let there = |at: &Value| at.as_u64().is_some_and(|at| (at as usize) < outcome.interfaces.len());
        if at.is_some_and(|at| !there(at)) {
            return wrong("the result has an address on an interface that it does not list");
        }
    }
    Ok(outcome)
}

fn old(body: &Map<String, Value>) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    for key in ["ip4", "ip6"] {
        let family = match body.get(key) {
            None | Some(Value::Null) => continue,
            Some(Value::Object(family)) => family,
            Some(_) => return wrong(format!("the result's {key} is no object")),
        };
        let mut ip = Map::from_iter([("address".to_owned(), family.get("ip").cloned().unwrap_or_default())]);
        if let Some(gateway) = family.get("gateway") {
            ip.insert("gateway".into(), gateway.clone());
        }
        outcome.ips.push(ip);
        outcome.routes.extend(objects(family, "routes")?);
    }
    Ok(outcome)
}

/// What a plugin that fails says on its standard output (SPEC.md, section 5, "Error").
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// 1 to 99 as the specification has them, above as the plugin does.
    pub(super) code: u64,
    /// `msg`, and `details` where there are any.
    pub(super) text: String,
}

impl Refusal {
    /// Reads it; `None` for anything else.
    pub(super) fn parse(said: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(said).ok()?;
        let code = value.get("code")?.as_u64()?;
        let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
        let text = match (text("msg"), text("details")) {
            (msg, details) if details.is_empty() => msg,
            (msg, details) => format!("{msg}; {details}"),
        };
        Some(Self { code, text })
    }

    /// What a caller may branch on.
    pub(super) fn kind(&self) -> Kind {
        match self.code {
            // "Try again later", and STATUS: the plugin is not ready, or not fully.
            11 | 50 | 51 => Kind::Unavailable,
            _ => Kind::Internal,
        }
    }

    /// What the specification calls the code.
    pub(super) fn meaning(&self) -> &'static str {
        match self.code {
            1 => "incompatible CNI version",
            2 => "unsupported field in the configuration",
            3 => "the container is unknown or does not exist",
            4 => "invalid environment variables",
            5 => "I/O failure",
            6 => "failed to decode content",
            7 => "invalid network configuration",
            11 => "try again later",
            50 => "the plugin is not available",
            51 => "the plugin is not available, and existing containers may have limited connectivity",
            _ => "",
        }
    }
}
