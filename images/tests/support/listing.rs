//! A tree as text: one line an entry with everything that an image determines.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// `path type mode uid:gid mtime …` of everything below `root`, sorted. Hard links name their first path.
pub fn of(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut first = HashMap::new();
    walk(root, Path::new(""), &mut first, &mut lines);
    lines
}

/// An unpacked layer: as [`of`], without the times of whiteouts, which no image determines.
pub fn of_layer(root: &Path) -> Vec<String> {
    let timeless = |line: String| match line.split_once(" node 2 0 ") {
        Some((name, _)) => format!("{name} whiteout"),
        None => line,
    };
    of(root).into_iter().map(timeless).collect()
}

/// A layer's home: what its directory holds, or the digest of its image, which the layer alone determines.
pub fn of_either(home: &Path) -> Vec<String> {
    match std::fs::read(home.join("image.erofs")) {
        Ok(image) => vec![format!("image {} {}", image.len(), gantry_images::Digest::of(&image).hex())],
        Err(_) => of_layer(&home.join("diff")),
    }
}

fn walk(root: &Path, relative: &Path, first: &mut HashMap<u64, String>, lines: &mut Vec<String>) {
    let path = root.join(relative);
    let meta = std::fs::symlink_metadata(&path).unwrap();
    let name = format!("/{}", relative.display());
    let what = match meta.mode() & 0o170_000 {
        0o040_000 => "dir".to_owned(),
        0o120_000 => format!("-> {}", std::fs::read_link(&path).unwrap().display()),
        0o100_000 => format!("file {} {}", meta.len(), gantry_images::Digest::of(&std::fs::read(&path).unwrap()).hex()),
        _ => format!("node {:o} {:x}", meta.mode() >> 12, meta.rdev()),
    };
    // The number of links counts names that an overlay hides; what is seen is which names are one file.
    let link = match first.get(&meta.ino()) {
        Some(other) => format!(" = {other}"),
        None => String::new(),
    };
    if !meta.is_dir() {
        first.entry(meta.ino()).or_insert_with(|| name.clone());
    }
    let mode = if meta.is_symlink() { 0 } else { meta.mode() & 0o7777 };
    let time = (meta.mtime(), meta.mtime_nsec());
    lines.push(format!(
        "{name} {what} {mode:04o} {}:{} {}.{:09}{link}{}",
        meta.uid(),
        meta.gid(),
        time.0,
        time.1,
        xattrs(&path)
    ));
    if meta.is_dir() {
        let mut names: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
        names.iter().for_each(|name| walk(root, &relative.join(name), first, lines));
    }
}

fn xattrs(path: &Path) -> String {
    let mut names = vec![0u8; 64 << 10];
    let count = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let mut found: Vec<String> = names[..count]
        .split(|b| *b == 0)
        .filter(|name| {
            name.starts_with(b"user.") && !name.starts_with(b"user.umoci")
                || *name == b"security.capability"
                || name.starts_with(b"system.posix_acl_")
                || *name == b"trusted.note"
        })
        .map(|name| {
            let mut value = vec![0u8; 64 << 10];
            let count = rustix::fs::lgetxattr(path, name, &mut value).unwrap();
            format!(" {}={:?}", String::from_utf8_lossy(name), &value[..count])
        })
        .collect();
    found.sort();
    found.concat()
}
