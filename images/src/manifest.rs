//! Manifests and indexes: OCI image-spec manifest.md and image-index.md, Docker "Image Manifest V 2, Schema 2".
//! Pure: bytes in, checked values out.
//!
//! One document must not be readable as two things (CVE-2021-41190): a body with both `manifests` and `layers` or
//! `config`, a `mediaType` that contradicts the body or the transport, and repeated keys are refused.

use serde::Deserialize;

use crate::config::Limits;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::options::Platform;
use crate::platform;

/// Media types of manifests, in the order in which a registry is asked for them.
pub const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// Media types of indexes.
pub const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
/// Layers; `nondistributable` and `foreign` ones are the same content with another origin.
const LAYERS: [&str; 12] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd",
];

/// No content at all.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A pointer to content.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Where else a foreign layer is served.
    #[serde(default)]
    pub urls: Vec<String>,
    /// Inside an index: what it runs on.
    pub platform: Option<Target>,
    /// Free text about the content.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: std::collections::BTreeMap<String, String>,
}

impl Descriptor {
    /// A descriptor of a blob about which only this much is known.
    pub fn plain(digest: &Digest, size: u64) -> Self {
        Self {
            media_type: String::new(),
            digest: digest.clone(),
            size,
            urls: Vec::new(),
            platform: None,
            annotations: std::collections::BTreeMap::new(),
        }
    }
}

/// The `platform` of an index entry.
#[derive(Clone, Debug, Default, Eq, PartialEq, Deserialize)]
pub struct Target {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// `v8`.
    #[serde(default)]
    pub variant: String,
    /// `10.0.17763.1`, for Windows.
    #[serde(default, rename = "os.version")]
    pub os_version: String,
}

/// A checked document.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A choice of images; never empty of meaning: entries may be none.
    Index(Vec<Descriptor>),
}

/// A checked manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// What an artifact says that it is; `None` for an image.
    pub artifact: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    // Keys of other documents: Docker schema 1.
    fs_layers: Option<serde::de::IgnoredAny>,
    history: Option<serde::de::IgnoredAny>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> Result<std::collections::BTreeMap<String, String>, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

fn refuse(why: impl Into<String>) -> Error {
    Error::new(Kind::Invalid, format!("manifest: {}", why.into()))
}

/// Reads a document. `said` is the media type that the transport or a descriptor gave, if any.
///
/// # Errors
/// [`Kind::Invalid`] for contradictions, [`Kind::Unsupported`] for other kinds of document, [`Kind::TooLarge`].
pub fn parse(body: &[u8], said: Option<&str>, limits: &Limits) -> Result<Document> {
    crate::faces::check(body)?;
    // Not only a struct: serde refuses a repeated key of a struct, which is what is wanted here.
    let raw: Raw = serde_json::from_slice(body).map_err(|why| Error::caused(Kind::Invalid, "manifest", why))?;
    if raw.schema_version == 1 || raw.fs_layers.is_some() {
        return Err(Error::new(Kind::Unsupported, "manifest: Docker schema 1 is obsolete and not read"));
    }
    if raw.schema_version != 2 {
        return Err(refuse(format!("schemaVersion {} is not 2", raw.schema_version)));
    }
    let is_index = raw.manifests.is_some();
    if is_index && (raw.config.is_some() || raw.layers.is_some() || raw.history.is_some()) {
        return Err(refuse("the document is both a manifest and an index"));
    }
    check_media_type(is_index, raw.media_type.as_deref(), said)?;
    match (raw.manifests, raw.config, raw.layers) {
        (Some(entries), _, _) if entries.len() > limits.index_entries => {
            Err(Error::new(Kind::TooLarge, format!("index: more than {} entries", limits.index_entries)))
        }
        (Some(entries), _, _) => Ok(Document::Index(entries)),
        (None, Some(config), Some(layers)) => manifest(config, layers, raw.artifact_type, limits),
        (None, ..) => Err(refuse("neither config and layers nor manifests")),
    }
}

/// The three places that can name the type must agree on manifest or index.
fn check_media_type(is_index: bool, own: Option<&str>, said: Option<&str>) -> Result<()> {
    let (wanted, other) = if is_index { (&INDEXES, &MANIFESTS) } else { (&MANIFESTS, &INDEXES) };
    let body = if is_index { "an index" } else { "a manifest" };
    if let Some(own) = own.filter(|own| !wanted.contains(own)) {
        return Err(refuse(format!("the body is {body}, its mediaType says {own:?}")));
    }
    // Servers say text/plain or application/json when they do not know; only a contradiction counts.
    let said = said.map(|said| said.split(';').next().unwrap_or(said).trim());
    match (said.filter(|said| other.contains(said)), own, said) {
        (Some(said), ..) => Err(refuse(format!("the body is {body}, it was sent as {said:?}"))),
        (None, Some(own), Some(said)) if wanted.contains(&said) && own != said => {
            Err(refuse(format!("mediaType {own:?} was sent as {said:?}")))
        }
        _ => Ok(()),
    }
}

fn manifest(
    config: Descriptor,
    layers: Vec<Descriptor>,
    artifact: Option<String>,
    limits: &Limits,
) -> Result<Document> {
    let image = CONFIGS.contains(&config.media_type.as_str());
    let artifact = (!image).then(|| artifact.unwrap_or_else(|| config.media_type.clone()));
    // An artifact without content names the two bytes `{}`.
    let layers: Vec<Descriptor> =
        layers.into_iter().filter(|layer| artifact.is_none() || layer.media_type != EMPTY).collect();
    if config.size > limits.config_bytes {
        let why = format!("image configuration of {} bytes, more than {}", config.size, limits.config_bytes);
        return Err(Error::new(Kind::TooLarge, why));
    }
    if layers.len() > limits.layers {
        return Err(Error::new(Kind::TooLarge, format!("{} layers, more than {}", layers.len(), limits.layers)));
    }
    for layer in &layers {
        if image && !LAYERS.contains(&layer.media_type.as_str()) {
            let why = format!("manifest: layer {} is of type {:?}", layer.digest, layer.media_type);
            return Err(Error::new(Kind::Unsupported, why));
        }
        if layer.size > limits.layer_bytes {
            let why = format!("layer {} of {} bytes, more than {}", layer.digest, layer.size, limits.layer_bytes);
            return Err(Error::new(Kind::TooLarge, why));
        }
    }
    Ok(Document::Manifest(Manifest { config, layers, artifact }))
}

/// The entry of an index that suits `wanted` best ([`crate::platform`]).
///
/// # Errors
/// [`Kind::Unsupported`] with the platforms that there are.
pub fn choose<'a>(entries: &'a [Descriptor], wanted: &Platform) -> Result<&'a Descriptor> {
    platform::candidates(entries, wanted).into_iter().next().ok_or_else(|| none_for(entries, wanted))
}

/// What to say when no entry suits.
pub(crate) fn none_for(entries: &[Descriptor], wanted: &Platform) -> Error {
    let why = format!("index: nothing for {wanted}; there is {}", platform::listed(entries));
    Error::new(Kind::Unsupported, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(media_type: &str, more: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{D}","size":3{more}}}"#)
    }

    fn manifest_with(head: &str) -> String {
        format!(
            r#"{{"schemaVersion":2{head},"config":{},"layers":[{}]}}"#,
            descriptor(CONFIGS[0], ""),
            descriptor(LAYERS[1], "")
        )
    }

    fn said(body: &str, transport: Option<&str>) -> String {
        match parse(body.as_bytes(), transport, &Limits::default()) {
            Ok(Document::Manifest(Manifest { layers, artifact: Some(what), .. })) => {
                format!("{what} of {}", layers.len())
            }
            Ok(Document::Manifest(manifest)) => format!("manifest of {}", manifest.layers.len()),
            Ok(Document::Index(entries)) => format!("index of {}", entries.len()),
            Err(why) => format!("{:?}", why.kind()),
        }
    }

    #[test]
    fn documents() {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor(MANIFESTS[0], ""));
        assert_eq!(said(&manifest_with(""), None), "manifest of 1");
        assert_eq!(said(&manifest_with(r#","annotations":null"#), Some(MANIFESTS[0])), "manifest of 1");
        assert_eq!(said(&index, Some("application/vnd.oci.image.index.v1+json; charset=utf-8")), "index of 1");
        assert_eq!(said(&index, Some("application/json")), "index of 1");
        assert_eq!(said(r#"{"schemaVersion":1,"fsLayers":[]}"#, None), "Unsupported");
        assert_eq!(said("{}", None), "Invalid");
        assert_eq!(said(r#"{"schemaVersion":2}"#, None), "Invalid");
    }

    /// SECURITY_CASES 16.
    #[test]
    fn a_document_with_two_faces_is_refused() {
        let both = manifest_with(&format!(r#","manifests":[{}]"#, descriptor(MANIFESTS[0], "")));
        assert_eq!(said(&both, None), "Invalid");
        let null = manifest_with(r#","manifests":[]"#);
        assert_eq!(said(&null, None), "Invalid");
        let lies = manifest_with(&format!(r#","mediaType":"{}""#, INDEXES[0]));
        assert_eq!(said(&lies, None), "Invalid");
        assert_eq!(said(&manifest_with(""), Some(INDEXES[1])), "Invalid");
        let docker = manifest_with(&format!(r#","mediaType":"{}""#, MANIFESTS[1]));
        assert_eq!(said(&docker, Some(MANIFESTS[1])), "manifest of 1");
        assert_eq!(said(&docker, Some(MANIFESTS[0])), "Invalid");
        let twice = manifest_with(&format!(r#","config":{}"#, descriptor(CONFIGS[0], "")));
        assert_eq!(said(&twice, None), "Invalid");
    }

    #[test]
    fn limits_and_foreign_kinds() {
        let huge = manifest_with("").replace("\"size\":3", "\"size\":99999999999999");
        assert_eq!(said(&huge, None), "TooLarge");
        assert_eq!(said(&manifest_with("").replace("\"size\":3", "\"size\":-3"), None), "Invalid");
        let chart = manifest_with("").replace(CONFIGS[0], "application/vnd.cncf.helm.config.v1+json");
        assert_eq!(said(&chart, None), "application/vnd.cncf.helm.config.v1+json of 1");
        let model = manifest_with(r#","artifactType":"text/x""#).replace(CONFIGS[0], EMPTY).replace("tar+gzip", "y");
        assert_eq!(said(&model, None), "text/x of 1");
        assert_eq!(
            said(&model.replace(LAYERS[1].split("tar").next().unwrap(), "x").replace("xy", EMPTY), None),
            "text/x of 0"
        );
        assert_eq!(said(&manifest_with(r#","artifactType":"text/x""#), None), "manifest of 1");
        assert_eq!(said(&manifest_with("").replace("tar+gzip", "tar+gzip+encrypted"), None), "Unsupported");
        let layers = vec![descriptor(LAYERS[0], ""); 300].join(",");
        let many = format!(r#"{{"schemaVersion":2,"config":{},"layers":[{layers}]}}"#, descriptor(CONFIGS[1], ""));
        assert_eq!(said(&many, None), "TooLarge");
    }

    #[test]
    fn platforms() {
        let entries: Vec<Descriptor> = [
            (r#"{"os":"unknown","architecture":"unknown"}"#, 1),
            (r#"{"os":"linux","architecture":"arm","variant":"v6"}"#, 2),
            (r#"{"os":"linux","architecture":"arm","variant":"v7"}"#, 3),
            (r#"{"os":"linux","architecture":"amd64"}"#, 4),
            (r#"{"os":"linux","architecture":"amd64"}"#, 5),
            (r#"{"os":"linux","architecture":"amd64","variant":"v3"}"#, 6),
            (r#"{"os":"linux","architecture":"arm64"}"#, 7),
            (r#"{"os":"windows","architecture":"amd64"}"#, 8),
        ]
        .iter()
        .map(|(platform, size)| {
            let text = descriptor(MANIFESTS[0], &format!(r#","platform":{platform}"#));
            serde_json::from_str(&text.replace("\"size\":3", &format!("\"size\":{size}"))).unwrap()
        })
        .collect();
        for (wanted, size) in [
            ("linux/amd64", 4),
            ("linux/amd64/v2", 4),
            ("linux/amd64/v3", 6),
            ("linux/amd64/v4", 6),
            ("linux/arm64/v8", 7),
            ("linux/arm64", 7),
            ("linux/arm/v7", 3),
            ("linux/arm/v6", 2),
            ("linux/arm/v8", 3),
            ("linux/arm64/v9", 7),
        ] {
            assert_eq!(choose(&entries, &wanted.parse().unwrap()).unwrap().size, size, "{wanted}");
        }
        let none = choose(&entries, &"linux/riscv64".parse().unwrap()).unwrap_err();
        assert!(
            none.to_string().contains("there is linux/arm/v6, linux/arm/v7, linux/amd64, linux/amd64/v3"),
            "{none}"
        );
        assert!(choose(&entries, &"linux/arm/v5".parse().unwrap()).is_err());
    }
}
