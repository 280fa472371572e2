//! Images and sizes as text: tables for people, JSON for programs. Pure.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::store::{Image, Usage};

/// A size with three digits: `1.23 MB`.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            let digits = if unit == "B" || value >= 99.5 { 0 } else { 1 };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// The first digits of a digest, enough to tell layers apart.
pub(super) fn short(digest: &Digest) -> &str {
    &digest.hex()[..12]
}

/// All images: a line for each name.
pub(super) fn list(images: &[Arc<Image>], as_json: bool, quiet: bool) -> String {
    if as_json {
        return pretty(&Value::Array(images.iter().map(|image| summary(image)).collect()));
    }
    if quiet {
        return images.iter().map(|image| format!("{}\n", image.id)).collect();
    }
    let mut rows = vec![["NAME", "ID", "SIZE", "BUILT"].map(str::to_owned)];
    for image in images {
        let id = image.id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        let built = image.created.as_deref().unwrap_or("-").chars().take(10).collect::<String>();
        let names = match (&image.repo_tags[..], &image.repo_digests[..]) {
            ([], []) => vec!["-".to_owned()],
            ([], digests) => digests.to_vec(),
            (tags, _) => tags.to_vec(),
        };
        rows.extend(names.into_iter().map(|name| [name, id.clone(), size(image.size), built.clone()]));
    }
    table(&rows)
}

fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn summary(image: &Image) -> Value {
    json!({
        "id": image.id,
        "manifest": image.manifest.to_string(),
        "repoTags": image.repo_tags,
        "repoDigests": image.repo_digests,
        "size": image.size,
        "pinned": image.pinned,
        "created": image.created,
        "storedAt": image.stored_at,
    })
}

/// Everything known about an image, its configuration included.
pub(super) fn inspect(image: &Image) -> String {
    let mut value = summary(image);
    value["config"] = serde_json::to_value(&image.config).unwrap_or(Value::Null);
    pretty(&value)
}

pub(super) fn usage(usage: Usage, as_json: bool) -> String {
    match as_json {
        true => pretty(&json!({"bytes": usage.bytes, "inodes": usage.inodes})),
        false => format!("{} in {} files\n", size(usage.bytes), usage.inodes),
    }
}

pub(super) fn freed(bytes: u64, as_json: bool) -> String {
    match as_json {
        true => pretty(&json!({"freedBlobBytes": bytes})),
        false => format!("{} of blobs freed\n", size(bytes)),
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (123_456, "123 kB"),
            (1_234_567, "1.2 MB"),
            (999_999, "1.0 MB"),
            (5_000_000_000_000, "5.0 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn a_table_of_images() {
        let image = Image {
            id: Digest::of(b"x").to_string(),
            manifest: Digest::of(b"m"),
            repo_tags: vec!["docker.io/library/a:1".into(), "docker.io/library/a:latest".into()],
            repo_digests: Vec::new(),
            size: 1_500_000,
            config: Default::default(),
            pinned: false,
            artifact: None,
            created: Some("2026-01-02T03:04:05Z".into()),
            stored_at: 0,
        };
        let images = [Arc::new(image)];
        let expect = "NAME                        ID            SIZE    BUILT\n\
                      docker.io/library/a:1       2d711642b726  1.5 MB  2026-01-02\n\
                      docker.io/library/a:latest  2d711642b726  1.5 MB  2026-01-02\n";
        assert_eq!(list(&images, false, false), expect);
        assert!(list(&images, true, false).contains("\"size\": 1500000"));
        assert_eq!(list(&[], false, true), "");
    }
}
