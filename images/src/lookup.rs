//! DECIDE which image a name means. Pure.

use std::sync::Arc;

use crate::digest::Digest;
use crate::reference::Reference;
use crate::store::Image;

/// The image that `name` finds: see [`Store::image`](crate::Store::image). A tag wins over an id prefix that looks
/// the same, as in docker.
pub(crate) fn find(images: &[Arc<Image>], name: &str) -> Option<Arc<Image>> {
    by_reference(images, name).or_else(|| by_digest(images, name)).or_else(|| by_prefix(images, name)).cloned()
}

fn by_reference<'a>(images: &'a [Arc<Image>], name: &str) -> Option<&'a Arc<Image>> {
    let reference: Reference = name.parse().ok()?;
    match reference.digest() {
        Some(digest) => {
            let full = reference.digested(digest);
            let manifest = |image: &&Arc<Image>| {
                // The manifest below a multi-platform index is served by the same repository.
                image.manifest == *digest
                    && image.repo_digests.iter().chain(&image.repo_tags).any(|n| belongs(n, &reference.repository()))
            };
            let listed = images.iter().find(|image| image.repo_digests.contains(&full));
            listed.or_else(|| images.iter().find(manifest))
        }
        None => {
            let full = reference.to_string();
            images.iter().find(|image| image.repo_tags.contains(&full))
        }
    }
}

fn belongs(name: &str, repository: &str) -> bool {
    name.strip_prefix(repository).is_some_and(|rest| rest.starts_with([':', '@']))
}

fn by_digest<'a>(images: &'a [Arc<Image>], name: &str) -> Option<&'a Arc<Image>> {
    let digest: Digest = name.parse().ok()?;
    let by_id = images.iter().find(|image| image.id == name);
    by_id.or_else(|| images.iter().find(|image| image.manifest == digest))
}

fn by_prefix<'a>(images: &'a [Arc<Image>], name: &str) -> Option<&'a Arc<Image>> {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    if hex.is_empty() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut fits = images.iter().filter(|image| image.id.strip_prefix("sha256:").is_some_and(|id| id.starts_with(hex)));
    let first = fits.next()?;
    fits.next().is_none().then_some(first)
}

/// Shell patterns: `*` is any text, `?` any character.
pub(crate) fn like(text: &str, pattern: &str) -> bool {
    let (text, pattern): (Vec<char>, Vec<char>) = (text.chars().collect(), pattern.chars().collect());
    // Row by row over the pattern: which prefixes of the text fit so far.
    let mut fits = vec![false; text.len() + 1];
    fits[0] = true;
    for wanted in pattern {
        let before = fits.clone();
        fits[0] = wanted == '*' && before[0];
        for at in 1..=text.len() {
            fits[at] = match wanted {
                '*' => before[at] || fits[at - 1],
                '?' => before[at - 1],
                same => before[at - 1] && text[at - 1] == same,
            };
        }
    }
    fits[text.len()]
}

/// Whether the word is an image's id or the beginning of it.
pub(crate) fn is(image: &Image, name: &str) -> bool {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    !hex.is_empty() && image.id.strip_prefix("sha256:").is_some_and(|id| id.starts_with(hex))
}

/// How many images have ids that begin so.
pub(crate) fn fitting(images: &[Arc<Image>], name: &str) -> usize {
    let hex = name.strip_prefix("sha256:").unwrap_or(name);
    let begins = |image: &&Arc<Image>| image.id.strip_prefix("sha256:").is_some_and(|id| id.starts_with(hex));
    if hex.is_empty() { 0 } else { images.iter().filter(begins).count() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(content: &str, tags: &[&str], digests: &[&str]) -> Arc<Image> {
        Arc::new(Image {
            id: Digest::of(content.as_bytes()).to_string(),
            manifest: Digest::of(format!("manifest of {content}").as_bytes()),
            repo_tags: tags.iter().map(|s| (*s).to_owned()).collect(),
            repo_digests: digests.iter().map(|s| (*s).to_owned()).collect(),
            size: 0,
            config: Default::default(),
            pinned: false,
            artifact: None,
            created: None,
            stored_at: 0,
        })
    }

    #[test]
    fn every_spelling() {
        let index = Digest::of(b"index");
        let listed = format!("docker.io/library/busybox@{index}");
        let images =
            [image("a", &["docker.io/library/busybox:1"], &[&listed]), image("b", &["127.0.0.1:5000/x/y:latest"], &[])];
        let found = |name: &str| find(&images, name).map(|image| image.id == images[0].id);
        let id = &images[0].id;
        let own = &images[0].manifest;
        for name in [
            "busybox:1",
            "library/busybox:1",
            "docker.io/busybox:1",
            &format!("busybox@{index}"),
            &format!("busybox:whatever@{index}"),
            &format!("docker.io/library/busybox@{own}"),
            &own.to_string(),
            id,
            &id["sha256:".len()..],
            &id["sha256:".len()..][..12],
            &id[.."sha256:".len() + 6],
        ] {
            assert_eq!(found(name), Some(true), "{name}");
        }
        assert_eq!(found("127.0.0.1:5000/x/y"), Some(false));
        for name in
            ["busybox", "", "sha256:", "other@sha256:00", &format!("quay.io/x@{index}"), &format!("quay.io/x@{own}")]
        {
            assert_eq!(found(name), None, "{name}");
        }
    }

    #[test]
    fn a_prefix_of_two_finds_none() {
        let images: Vec<_> = (0..40).map(|n| image(&n.to_string(), &[], &[])).collect();
        let firsts: Vec<char> = images.iter().map(|image| image.id.as_bytes()[7] as char).collect();
        let twice = firsts.iter().find(|c| firsts.iter().filter(|d| d == c).count() > 1).unwrap();
        assert!(find(&images, &twice.to_string()).is_none());
        assert!(fitting(&images, &twice.to_string()) > 1);
        assert_eq!((fitting(&images, ""), fitting(&images, "xyz"), fitting(&images, &images[0].id)), (0, 0, 1));
    }

    #[test]
    fn patterns() {
        for (text, pattern, fits) in [
            ("busybox", "busybox", true),
            ("busybox", "busy*", true),
            ("busybox", "*box", true),
            ("busybox", "b?syb*x", true),
            ("busybox", "busy", false),
            ("busybox", "*", true),
            ("", "*", true),
            ("", "?", false),
            ("docker.io/library/a:1", "*/a:?", true),
            ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", "*a*a*a*a*a*a*a*a*c", false),
        ] {
            assert_eq!(like(text, pattern), fits, "{text} {pattern}");
        }
    }
}
