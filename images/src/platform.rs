//! DECIDE which platform an image is for, and which entries of an index suit the one that is wanted. Pure.
//!
//! Spellings and order of preference are those of containerd's `platforms` package (`normalizeArch`, `platformVector`):
//! the exact variant, then older ones that the same processor runs, then its 32-bit mode. `os.version` and `os.features`
//! say something about Windows only and are not looked at for Linux, as there.

use crate::manifest::{Descriptor, INDEXES, MANIFESTS, Target};
use crate::options::Platform;

/// Where BuildKit says that an entry is a signed statement about another one and no image.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// The architectures that have more than one spelling or any variant; all others stand for themselves.
fn architecture(written: &str, variant: &str) -> (Option<&'static str>, String) {
    let number = variant.strip_prefix('v').unwrap_or(variant);
    let leveled = |default: &str| match number {
        "" => String::new(),
        same if same == default => String::new(),
        other if other.starts_with(|c: char| c.is_ascii_digit()) => format!("v{other}"),
        _ => variant.to_owned(),
    };
    match written.to_ascii_lowercase().as_str() {
        "amd64" | "x86_64" | "x86-64" => (Some("amd64"), leveled("1")),
        "386" | "i386" => (Some("386"), String::new()),
        "arm64" | "aarch64" => (Some("arm64"), leveled("8")),
        "armhf" => (Some("arm"), "v7".into()),
        "armel" => (Some("arm"), "v6".into()),
        "arm" if number.is_empty() => (Some("arm"), "v7".into()),
        "arm" => (Some("arm"), leveled("")),
        _ => (None, variant.to_ascii_lowercase()),
    }
}

/// Operating system, architecture and variant in their one spelling; a default variant is empty, except for `arm`.
pub(crate) fn normal(os: &str, written: &str, variant: &str) -> (String, String, String) {
    let os = match os.to_ascii_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        other => other.to_owned(),
    };
    let (known, variant) = architecture(written, variant);
    (os, known.map_or_else(|| written.to_ascii_lowercase(), str::to_owned), variant)
}

/// What a machine of the platform `wanted` runs, the best first.
fn runs(wanted: &Platform) -> Vec<(String, String, String)> {
    let (os, architecture, variant) = normal(&wanted.os, &wanted.architecture, wanted.variant.as_deref().unwrap_or(""));
    let one = |architecture: &str, variant: String| (os.clone(), architecture.to_owned(), variant);
    let mut all = vec![one(&architecture, variant.clone())];
    let level = |variant: &str| variant.strip_prefix('v').and_then(|n| n.parse::<u32>().ok());
    let arm = |from: u32| (5..=from.min(16)).rev().map(|n| one("arm", format!("v{n}")));
    match (architecture.as_str(), level(&variant)) {
        ("amd64", level) => {
            let older = (2..level.unwrap_or(1).min(16)).rev().map(|n| one("amd64", format!("v{n}")));
            all.extend(older);
            all.extend(level.map(|_| one("amd64", String::new())));
            all.push(one("386", String::new()));
        }
        ("arm", Some(level)) => all.extend(arm(level.saturating_sub(1))),
        ("arm64", _) => {
            all.extend(arm64_below(&variant).into_iter().map(|variant| one("arm64", variant)));
            all.extend(arm(8));
        }
        _ => {}
    }
    all
}

/// Arm v9.N runs what v8.(N+5) does, and each minor version what those before it do.
fn arm64_below(variant: &str) -> Vec<String> {
    let numbers = variant.strip_prefix('v').unwrap_or("8");
    let (major, minor) = numbers.split_once('.').unwrap_or((numbers, "0"));
    let (Ok(major), Ok(minor)) = (major.parse::<u32>(), minor.parse::<u32>()) else { return Vec::new() };
    let spell = |major: u32, minor: u32| match (major, minor) {
        (8, 0) => String::new(),
        (major, 0) => format!("v{major}"),
        (major, minor) => format!("v{major}.{minor}"),
    };
    let mut all: Vec<String> = (0..minor.min(16)).rev().map(|minor| spell(major, minor)).collect();
    if major == 9 {
        all.extend((0..=(minor + 5).min(16)).rev().map(|minor| spell(8, minor)));
    }
    all
}

/// How well a platform suits: 0 is best; `None` if it does not run.
fn rank(runs: &[(String, String, String)], os: &str, architecture: &str, variant: &str) -> Option<usize> {
    let there = normal(os, architecture, variant);
    runs.iter().position(|one| *one == there)
}

/// Whether the platform in an image's configuration runs where `wanted` does. An empty one is not held against it.
pub(crate) fn suits(wanted: &Platform, os: &str, architecture: &str, variant: &str) -> bool {
    os.is_empty() || architecture.is_empty() || rank(&runs(wanted), os, architecture, variant).is_some()
}

/// The entries that may hold the image, the best first; the first of equals comes first, as the specification says. An
/// entry without a platform may be for any: it comes last, and its configuration has to be asked.
pub(crate) fn candidates<'a>(entries: &'a [Descriptor], wanted: &Platform) -> Vec<&'a Descriptor> {
    let runs = runs(wanted);
    let mut found: Vec<(usize, &Descriptor)> = Vec::new();
    for entry in entries.iter().filter(|entry| is_image(entry)) {
        let place = match &entry.platform {
            Some(target) if is_said(entry) => rank(&runs, &target.os, &target.architecture, &target.variant),
            _ => Some(runs.len()),
        };
        found.extend(place.map(|place| (place, entry)));
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, entry)| entry).collect()
}

/// Whether the entry tells its platform.
pub(crate) fn is_said(entry: &Descriptor) -> bool {
    entry.platform.as_ref().is_some_and(|target| !target.os.is_empty() || !target.architecture.is_empty())
}

/// Neither a statement about another entry nor a document of another kind.
pub(crate) fn is_image(entry: &Descriptor) -> bool {
    let known = MANIFESTS.contains(&entry.media_type.as_str()) || INDEXES.contains(&entry.media_type.as_str());
    let unknown = |target: &Target| target.os == "unknown" && target.architecture == "unknown";
    known && !entry.annotations.contains_key(REFERENCE_TYPE) && !entry.platform.as_ref().is_some_and(unknown)
}

/// The platforms of an index as people write them, for an error.
pub(crate) fn listed(entries: &[Descriptor]) -> String {
    let mut all: Vec<String> = Vec::new();
    for target in entries.iter().filter(|entry| is_image(entry)).filter_map(|entry| entry.platform.as_ref()) {
        let (os, architecture, variant) = normal(&target.os, &target.architecture, &target.variant);
        let version = if target.os_version.is_empty() { String::new() } else { format!("({})", target.os_version) };
        let text = format!("{os}{version}/{architecture}{}{variant}", if variant.is_empty() { "" } else { "/" });
        if !all.contains(&text) {
            all.push(text);
        }
    }
    if all.is_empty() { "no image at all".into() } else { all.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn entry(number: u64, platform: &str) -> Descriptor {
        let mut entry = Descriptor::plain(&Digest::of(b"x"), number);
        entry.media_type = MANIFESTS[0].into();
        let mut parts = platform.split('/');
        let mut next = || parts.next().unwrap_or_default().to_owned();
        let target = Target { os: next(), architecture: next(), variant: next(), os_version: String::new() };
        entry.platform = (!platform.is_empty()).then_some(target);
        entry
    }

    /// The order in which the entries of an index are tried for each platform, as text.
    fn order(index: &[&str], wanted: &str) -> String {
        let entries: Vec<Descriptor> =
            index.iter().zip(0..).map(|(platform, number)| entry(number, platform)).collect();
        let found = candidates(&entries, &wanted.parse().unwrap());
        found.iter().map(|entry| index[entry.size as usize]).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn orders_of_preference() {
        let index = [
            "unknown/unknown",
            "linux/arm/v5",
            "linux/arm/v6",
            "linux/arm/v7",
            "linux/386",
            "linux/amd64",
            "linux/amd64/v2",
            "linux/amd64/v3",
            "linux/amd64/v4",
            "linux/arm64/v8",
            "linux/arm64/v8.2",
            "linux/arm64/v9",
            "linux/ppc64le",
            "windows/amd64",
        ];
        for (wanted, expect) in [
            ("linux/amd64", "linux/amd64 linux/386"),
            ("linux/amd64/v1", "linux/amd64 linux/386"),
            ("linux/x86_64", "linux/amd64 linux/386"),
            ("linux/amd64/v3", "linux/amd64/v3 linux/amd64/v2 linux/amd64 linux/386"),
            ("linux/amd64/v4", "linux/amd64/v4 linux/amd64/v3 linux/amd64/v2 linux/amd64 linux/386"),
            ("linux/386", "linux/386"),
            ("linux/arm", "linux/arm/v7 linux/arm/v6 linux/arm/v5"),
            ("linux/armhf", "linux/arm/v7 linux/arm/v6 linux/arm/v5"),
            ("linux/arm/6", "linux/arm/v6 linux/arm/v5"),
            ("linux/arm/v5", "linux/arm/v5"),
            ("linux/arm/v8", "linux/arm/v7 linux/arm/v6 linux/arm/v5"),
            ("linux/arm64", "linux/arm64/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5"),
            ("linux/aarch64/v8.2", "linux/arm64/v8.2 linux/arm64/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5"),
            ("linux/arm64/v9", "linux/arm64/v9 linux/arm64/v8.2 linux/arm64/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5"),
            ("linux/ppc64le", "linux/ppc64le"),
            ("linux/riscv64", ""),
        ] {
            assert_eq!(order(&index, wanted), expect, "{wanted}");
        }
    }

    #[test]
    fn the_first_of_equals_and_the_nameless_last() {
        assert_eq!(order(&["", "linux/amd64", "Linux/x86-64/v1"], "linux/amd64"), "linux/amd64 Linux/x86-64/v1 ");
        assert!(suits(&"linux/amd64".parse().unwrap(), "linux", "386", ""));
        assert!(suits(&"linux/amd64".parse().unwrap(), "", "", ""));
        assert!(!suits(&"linux/amd64".parse().unwrap(), "linux", "arm64", ""));
    }

    #[test]
    fn statements_and_strangers_are_no_images() {
        let mut statement = entry(1, "linux/amd64");
        statement.annotations.insert(REFERENCE_TYPE.into(), "attestation-manifest".into());
        let mut stranger = entry(2, "linux/amd64");
        stranger.media_type = "application/vnd.example+json".into();
        let mut nested = entry(3, "linux/amd64");
        nested.media_type = INDEXES[0].into();
        let entries = [statement, stranger, entry(4, "unknown/unknown"), nested, entry(5, "linux/arm/7")];
        let wanted = "linux/amd64".parse().unwrap();
        assert_eq!(candidates(&entries, &wanted).iter().map(|entry| entry.size).collect::<Vec<_>>(), [3]);
        assert_eq!(listed(&entries), "linux/amd64, linux/arm/v7");
        assert_eq!(listed(&entries[..1]), "no image at all");
        let mut windows = entry(6, "windows/amd64");
        windows.platform.as_mut().unwrap().os_version = "10.0.17763.1".into();
        assert_eq!(listed(&[windows]), "windows(10.0.17763.1)/amd64");
    }
}
