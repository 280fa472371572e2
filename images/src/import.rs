//! DECIDE which entries of a layout become images, and under which names. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Kind, Result};
use crate::manifest::{self, Descriptor, INDEXES};
use crate::options::Platform;
use crate::reference::Reference;

/// Where writers put a name, the most telling first: containerd and docker write a full name into theirs; the OCI key
/// holds a full name or only a tag.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// The entries to import with their tags. Entries of one name are one image for several platforms.
///
/// # Errors
/// [`Kind::InvalidArgument`] if `name` is given and the layout holds several images; [`Kind::Unsupported`] without one
/// for `platform`.
pub(crate) fn choose(
    entries: &[Descriptor],
    name: Option<&Reference>,
    platform: &Platform,
) -> Result<Vec<(Descriptor, BTreeSet<String>)>> {
    let mut groups: BTreeMap<&str, Vec<Descriptor>> = BTreeMap::new();
    for entry in entries {
        groups.entry(written(entry)).or_default().push(entry.clone());
    }
    if groups.is_empty() {
        return Err(Error::new(Kind::NotFound, "the layout holds no image"));
    }
    if name.is_some() && groups.len() > 1 {
        let there: Vec<&str> = groups.into_keys().collect();
        let why = format!("the layout holds several images ({}): none can be given the one name", there.join(", "));
        return Err(Error::new(Kind::InvalidArgument, why));
    }
    let chosen = groups.into_iter().map(|(written, entries)| {
        let tag = name.and_then(Reference::tagged).or_else(|| full_name(written));
        Ok((of_platform(entries, platform)?, tag.into_iter().collect()))
    });
    chosen.collect()
}

fn written(entry: &Descriptor) -> &str {
    NAMES.iter().find_map(|key| entry.annotations.get(*key)).map_or("", String::as_str)
}

/// A name with a host, a path or a tag; a bare word is only a tag of an image that the layout does not name.
fn full_name(written: &str) -> Option<String> {
    written.contains(['/', ':']).then(|| written.parse::<Reference>().ok()).flatten().and_then(|name| name.tagged())
}

fn of_platform(entries: Vec<Descriptor>, platform: &Platform) -> Result<Descriptor> {
    let single = |entry: &Descriptor| entries.len() == 1 || INDEXES.contains(&entry.media_type.as_str());
    match entries.iter().find(|entry| single(entry)) {
        Some(entry) => Ok(entry.clone()),
        None => manifest::choose(&entries, platform).cloned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn entry(content: &str, media_type: &str, names: &[(&str, &str)], platform: Option<&str>) -> Descriptor {
        let mut entry = Descriptor::plain(&Digest::of(content.as_bytes()), content.len() as u64);
        entry.media_type = media_type.into();
        entry.annotations = names.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        entry.platform =
            platform.map(|a| manifest::Target { os: "linux".into(), architecture: a.into(), ..Default::default() });
        entry
    }

    fn said(entries: &[Descriptor], name: Option<&str>) -> String {
        let name = name.map(|name| name.parse().unwrap());
        match choose(entries, name.as_ref(), &"linux/amd64".parse().unwrap()) {
            Ok(chosen) => chosen
                .iter()
                .map(|(entry, tags)| format!("{}={}", entry.size, tags.iter().cloned().collect::<Vec<_>>().join("+")))
                .collect::<Vec<_>>()
                .join(" "),
            Err(why) => format!("{:?}", why.kind()),
        }
    }

    #[test]
    fn names_and_platforms() {
        let (manifest, index) = (manifest::MANIFESTS[0], INDEXES[0]);
        let [full, short] = NAMES;
        let one = entry("1", manifest, &[(short, "web:1")], None);
        let bare = entry("22", manifest, &[(short, "latest")], None);
        let both = entry("333", manifest, &[(short, "v1"), (full, "quay.io/a/b:v1")], None);
        let none = entry("4444", index, &[], None);
        assert_eq!(said(std::slice::from_ref(&one), None), "1=docker.io/library/web:1");
        assert_eq!(said(std::slice::from_ref(&one), Some("other")), "1=docker.io/library/other:latest");
        assert_eq!(said(std::slice::from_ref(&bare), None), "2=");
        assert_eq!(said(std::slice::from_ref(&bare), Some("x:1")), "2=docker.io/library/x:1");
        assert_eq!(said(std::slice::from_ref(&none), None), "4=");
        assert_eq!(said(&[one.clone(), both.clone()], None), "3=quay.io/a/b:v1 1=docker.io/library/web:1");
        assert_eq!(said(&[one, both], Some("x")), "InvalidArgument");
        assert_eq!(said(&[], None), "NotFound");
        let arm = entry("5", manifest, &[], Some("arm64"));
        let amd = entry("66", manifest, &[], Some("amd64"));
        assert_eq!(said(&[arm.clone(), amd], Some("x:1")), "2=docker.io/library/x:1");
        assert_eq!(said(&[arm.clone(), entry("77", manifest, &[], Some("s390x"))], None), "Unsupported");
    }
}
