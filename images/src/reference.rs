//! Image references as people and Kubernetes write them, and their one normal form.
//!
//! The grammar is that of the distribution project's `reference` package: `[host[:port]/]path[:tag][@digest]`.
//! Normal form as Docker's: no host means `docker.io`, one path component there means `library/`, `index.docker.io`
//! is `docker.io`, neither tag nor digest means `:latest`. The host is recognised by a dot, a colon, an upper-case
//! letter or the name `localhost` in the first component. What is printed is always the full form, as crictl, podman and
//! ctr print it, so that nobody has to guess which registry a name means.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Kind};

const DEFAULT_HOST: &str = "docker.io";
/// Bytes of the repository's path; the host's length is its own matter.
const MAX_PATH: usize = 255;
const MAX_TAG: usize = 128;

/// A reference in normal form. `Display` prints it in full (`docker.io/library/busybox:latest`).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    host: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry's name, with its port if one was written: `docker.io`, `127.0.0.1:5000`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository inside the registry: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if there is one. With a digest beside it the digest decides what is fetched.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if the reference is pinned.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// `host/path`, the name that repository tags and digests share.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.host, self.path)
    }

    /// `host/path:tag`, if there is a tag.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.repository()))
    }

    /// `host/path@digest` for a digest that this repository serves.
    pub fn digested(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.repository())
    }

    /// What follows `/manifests/` in a registry's URL: the digest, else the tag.
    pub fn wanted(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".into(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|why| Error::new(Kind::InvalidArgument, format!("image reference {text:?}: {why}")))
    }
}

impl TryFrom<String> for Reference {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

fn parse(text: &str) -> Result<Reference, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(format!("a name has no scheme: leave {scheme}:// away (plain http is set in hosts.toml)"));
    }
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
        return Err("64 hex digits are an image id, not a name".into());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|e| e.to_string())?)),
        None => (text, None),
    };
    let (name, tag) = split_tag(rest);
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (host, path) = split_host(name);
    check_host(host)?;
    let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
    let path = match host == DEFAULT_HOST && !path.contains('/') {
        true => format!("library/{path}"),
        false => path.to_owned(),
    };
    check_path(&path)?;
    if path.len() > MAX_PATH {
        return Err(format!("the repository is longer than {MAX_PATH} bytes"));
    }
    let tag = match (tag, &digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference { host: host.to_owned(), path, tag, digest })
}

/// A colon starts a tag only behind the last slash; before it, it is a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    let after_slash = text.rfind('/').map_or(0, |at| at + 1);
    match text[after_slash..].find(':') {
        Some(at) => (&text[..after_slash + at], Some(&text[after_slash + at + 1..])),
        None => (text, None),
    }
}

fn split_host(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_HOST, name),
    }
}

fn check_tag(tag: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    match tag.as_bytes() {
        [] => Err("the tag is empty".into()),
        [b'.' | b'-', ..] => Err(format!("the tag {tag:?} starts badly")),
        bytes if bytes.len() > MAX_TAG => Err(format!("the tag is longer than {MAX_TAG} bytes")),
        bytes if bytes.iter().all(|b| good(*b)) => Ok(()),
        _ => Err(format!("the tag {tag:?} has a character outside [A-Za-z0-9_.-]")),
    }
}

fn check_host(host: &str) -> Result<(), String> {
    let (name, port) = match host.strip_prefix('[') {
        Some(six) => match six.split_once(']') {
            Some((address, rest)) => {
                let hex = |b: u8| b.is_ascii_hexdigit() || b == b':';
                if address.is_empty() || !address.bytes().all(hex) {
                    return Err(format!("the host {host:?} is not an IPv6 address"));
                }
                ("", rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some("") }))
            }
            None => return Err(format!("the host {host:?} lacks a closing bracket")),
        },
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    if !host.starts_with('[') {
        let label = |l: &str| {
            !l.is_empty()
                && !l.starts_with('-')
                && !l.ends_with('-')
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !name.split('.').all(label) {
            return Err(format!("the host {host:?} is not a host name"));
        }
    }
    match port {
        Some(port) if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) => {
            Err(format!("the host {host:?} has a bad port"))
        }
        Some(port) if port.parse::<u16>().is_err() => Err(format!("the host {host:?} has a port above 65535")),
        _ => Ok(()),
    }
}

/// Components of `[a-z0-9]+` joined by `.`, `_`, `__` or dashes, none at either end.
fn check_path(path: &str) -> Result<(), String> {
    for component in path.split('/') {
        if component.is_empty() {
            return Err("the repository has an empty component".into());
        }
        let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if !component.bytes().all(|b| alnum(b) || b"._-".contains(&b)) {
            return Err(match component.bytes().any(|b| b.is_ascii_uppercase()) {
                true => "the repository must be lower case".into(),
                false => format!("the component {component:?} has a character outside [a-z0-9._-]"),
            });
        }
        let runs = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let joint = |run: &str| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|b| b == b'-');
        let ends = [component.as_bytes()[0], component.as_bytes()[component.len() - 1]];
        if !ends.into_iter().all(alnum) || !runs.into_iter().all(joint) {
            return Err(format!("the component {component:?} has misplaced separators"));
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;
