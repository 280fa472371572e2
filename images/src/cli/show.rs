//! Images and sizes as text: tables for people, JSON for programs. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::digest::Digest;
use crate::exchange::LayerInfo;
use crate::store::Image;

/// A size with two or three digits: `1.2 MB`, `123 kB`.
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

/// A share of a whole, `0%` of nothing.
pub(super) fn percent(of: u64, whole: u64) -> String {
    format!("{}%", (u128::from(of) * 100).checked_div(u128::from(whole)).unwrap_or(0))
}

/// The first digits of a digest, enough to tell layers apart.
pub(super) fn short(digest: &Digest) -> &str {
    &digest.hex()[..12]
}

/// The same of an id.
pub(super) fn part(id: &str) -> &str {
    let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
    hex.get(..12).unwrap_or(hex)
}

/// How long ago, as docker says it.
pub(super) fn ago(seconds: u64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let text = match () {
        () if seconds < 1 => "less than a second".to_owned(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "about a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "about an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if days < 14 => format!("{days} days"),
        () if days < 60 => format!("{} weeks", days / 7),
        () if days < 730 => format!("{} months", days / 30),
        () => format!("{} years", days / 365),
    };
    format!("{text} ago")
}

/// Nanoseconds since 1970 as RFC 3339 in UTC, whole seconds.
pub(super) fn rfc3339(nanoseconds: u64) -> String {
    let seconds = i64::try_from(nanoseconds / 1_000_000_000).unwrap_or(0);
    Timestamp::from_second(seconds).map_or_else(|_| "-".into(), |time| time.to_string())
}

/// How a list looks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Style {
    /// With a column of digests.
    pub(super) digests: bool,
    /// Ids in full.
    pub(super) full: bool,
    /// Nanoseconds since 1970.
    pub(super) now: u64,
}

/// All images: a line for each name.
pub(super) fn list(images: &[Arc<Image>], style: Style) -> String {
    let mut head = vec!["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"];
    if !style.digests {
        head.remove(2);
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for image in images {
        let id = if style.full { &image.id } else { part(&image.id) };
        let digest = if style.full { image.manifest.to_string() } else { short(&image.manifest).to_owned() };
        for (repository, tag) in names(image) {
            let mut row =
                vec![repository, tag, digest.clone(), id.to_owned(), created(image, style.now), size(image.size)];
            if !style.digests {
                row.remove(2);
            }
            rows.push(row);
        }
    }
    table(&rows)
}

/// Repository and tag of each name; of an image without tags the repositories that it came from.
fn names(image: &Image) -> Vec<(String, String)> {
    let none = || "<none>".to_owned();
    let split = |name: &String, at: char| name.rsplit_once(at).map(|(a, b)| (a.to_owned(), b.to_owned()));
    let mut names: Vec<_> = image.repo_tags.iter().filter_map(|name| split(name, ':')).collect();
    if names.is_empty() {
        names = image.repo_digests.iter().filter_map(|name| Some((split(name, '@')?.0, none()))).collect();
        names.dedup();
    }
    if names.is_empty() { vec![(none(), none())] } else { names }
}

fn created(image: &Image, now: u64) -> String {
    let built = image.created.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    match built.map(Timestamp::as_second) {
        // Builds that are the same every time say 1970.
        None | Some(..=0) => "-".into(),
        Some(built) => ago((now / 1_000_000_000).saturating_sub(built.unsigned_abs())),
    }
}

/// Columns as wide as they need to be.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// What `ls`, `pull` and `import` tell of an image; documented in the README, so keys are only ever added.
pub(super) fn summary(image: &Image, last_used: u64) -> Value {
    json!({
        "id": image.id,
        "manifest": image.manifest.to_string(),
        "repoTags": image.repo_tags,
        "repoDigests": image.repo_digests,
        "size": image.size,
        "pinned": image.pinned,
        "artifactType": image.artifact,
        "created": image.created,
        "storedAt": rfc3339(image.stored_at),
        "lastUsedAt": rfc3339(last_used),
    })
}

/// One layer, for `inspect`.
pub(super) fn layer(layer: &LayerInfo) -> Value {
    json!({"digest": layer.digest.to_string(), "size": layer.size, "diffId": layer.diff_id.to_string(), "file": layer.file})
}

pub(super) fn pretty(value: &Value) -> String {
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
        assert_eq!((percent(1, 3), percent(0, 0), percent(7, 7)), ("33%".into(), "0%".into(), "100%".into()));
    }

    #[test]
    fn ages() {
        for (seconds, text) in [
            (0, "less than a second ago"),
            (59, "59 seconds ago"),
            (60, "about a minute ago"),
            (3599, "59 minutes ago"),
            (3600, "about an hour ago"),
            (47 * 3600, "47 hours ago"),
            (48 * 3600, "2 days ago"),
            (15 * 86400, "2 weeks ago"),
            (65 * 86400, "2 months ago"),
            (800 * 86400, "2 years ago"),
        ] {
            assert_eq!(ago(seconds), text);
        }
    }

    fn image(tags: &[&str], digests: &[&str]) -> Arc<Image> {
        Arc::new(Image {
            id: Digest::of(b"x").to_string(),
            manifest: Digest::of(b"m"),
            repo_tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            repo_digests: digests.iter().map(|tag| (*tag).to_owned()).collect(),
            size: 1_500_000,
            config: Default::default(),
            pinned: false,
            artifact: None,
            created: Some("2026-01-02T03:04:05.123Z".into()),
            stored_at: 1_767_323_045_000_000_000,
        })
    }

    #[test]
    fn a_table_of_images() {
        let images = [
            image(&["docker.io/library/a:1", "127.0.0.1:5000/a:latest"], &[]),
            image(&[], &["quay.io/b@sha256:00", "quay.io/b@sha256:11"]),
            image(&[], &[]),
        ];
        let now = 1_767_323_045_000_000_000 + 3 * 86_400_000_000_000;
        let expect = "REPOSITORY           TAG     IMAGE ID      CREATED     SIZE\n\
                      docker.io/library/a  1       2d711642b726  3 days ago  1.5 MB\n\
                      127.0.0.1:5000/a     latest  2d711642b726  3 days ago  1.5 MB\n\
                      quay.io/b            <none>  2d711642b726  3 days ago  1.5 MB\n\
                      <none>               <none>  2d711642b726  3 days ago  1.5 MB\n";
        assert_eq!(list(&images, Style { now, ..Style::default() }), expect);
        let wide = list(&images[..1], Style { digests: true, full: true, now });
        assert!(wide.contains(&format!("  {}  {}  ", images[0].manifest, images[0].id)), "{wide}");
        assert_eq!(list(&[], Style::default()), "REPOSITORY  TAG  IMAGE ID  CREATED  SIZE\n");
    }

    #[test]
    fn a_summary_for_programs() {
        let expect = json!({
            "id": Digest::of(b"x").to_string(), "manifest": Digest::of(b"m").to_string(),
            "repoTags": ["docker.io/library/a:1"], "repoDigests": [], "size": 1500000, "pinned": false,
            "artifactType": null, "created": "2026-01-02T03:04:05.123Z", "storedAt": "2026-01-02T03:04:05Z",
            "lastUsedAt": "2026-01-02T03:04:06Z",
        });
        assert_eq!(summary(&image(&["docker.io/library/a:1"], &[]), 1_767_323_046_000_000_000), expect);
    }
}
