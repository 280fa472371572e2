//! What an entry's name means: a file, a whiteout of something below, or a trick (OCI image-spec, layer.md
//! "Whiteouts"). Pure; paths come out relative, without `.`, and never with `..`.

use crate::error::{Error, Kind, Result};

/// A checked path: its components, none empty, `.`, `..` or with NUL. Empty for the layer's root itself.
pub type Components<'a> = Vec<&'a [u8]>;

/// The meaning of a name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Meaning<'a> {
    /// An entry of this layer.
    Entry(Components<'a>),
    /// `.wh.NAME`: the path of what disappears from the layers below.
    Whiteout(Components<'a>),
    /// `.wh..wh..opq`: the directory whose content below disappears.
    Opaque(Components<'a>),
    /// `.wh..wh.*`: book-keeping of aufs, not content.
    Skip,
}

const PREFIX: &[u8] = b".wh.";

/// A path for a sentence: an archive may bring a megabyte of it.
pub fn show(path: &[u8]) -> String {
    const MOST: usize = 256;
    match path.len() > MOST {
        true => format!("{:?}... ({} bytes)", String::from_utf8_lossy(&path[..MOST]), path.len()),
        false => format!("{:?}", String::from_utf8_lossy(path)),
    }
}

/// The components of a stored path. A leading slash means the layer's root, as in every peer.
///
/// # Errors
/// [`Kind::Invalid`] for `..` or NUL, [`Kind::TooLarge`] beyond PATH_MAX or NAME_MAX.
pub fn components(path: &[u8]) -> Result<Components<'_>> {
    let refuse = |why: &str| Err(Error::new(Kind::Invalid, format!("path {}: {why}", show(path))));
    if path.len() > 4095 {
        return Err(Error::new(Kind::TooLarge, format!("a path of {} bytes, more than 4095", path.len())));
    }
    if path.contains(&0) {
        return refuse("contains NUL");
    }
    let parts: Components<'_> = path.split(|b| *b == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if let Some(long) = parts.iter().find(|part| part.len() > 255) {
        return Err(Error::new(Kind::TooLarge, format!("a name of {} bytes, more than 255", long.len())));
    }
    match parts.contains(&&b".."[..]) {
        true => refuse("contains .."),
        false => Ok(parts),
    }
}

/// What an entry with this stored path means.
///
/// # Errors
/// As [`components`]; [`Kind::Invalid`] for a whiteout of nothing, of `.` or `..`, or used as a directory.
pub fn meaning(path: &[u8]) -> Result<Meaning<'_>> {
    let mut parts = components(path)?;
    let refuse = |why: &str| Err(Error::new(Kind::Invalid, format!("path {}: {why}", show(path))));
    let Some(last) = parts.pop() else {
        return Ok(Meaning::Entry(parts));
    };
    // aufs keeps a directory `.wh..wh.plnk` with hard links of its own; nothing in it is content.
    if last.starts_with(b".wh..wh.") && last != b".wh..wh..opq" || parts.iter().any(|p| p.starts_with(b".wh..wh.")) {
        return Ok(Meaning::Skip);
    }
    if parts.iter().any(|part| part.starts_with(PREFIX)) {
        return refuse("a whiteout is used as a directory");
    }
    if last == b".wh..wh..opq" {
        return Ok(Meaning::Opaque(parts));
    }
    match last.strip_prefix(PREFIX) {
        Some(b"" | b"." | b"..") => refuse("a whiteout of nothing"),
        Some(name) => {
            parts.push(name);
            Ok(Meaning::Whiteout(parts))
        }
        None => {
            parts.push(last);
            Ok(Meaning::Entry(parts))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str) -> String {
        let join = |parts: Components<'_>| String::from_utf8(parts.join(&b'/')).unwrap();
        match meaning(path.as_bytes()) {
            Ok(Meaning::Entry(parts)) => format!("entry {}", join(parts)),
            Ok(Meaning::Whiteout(parts)) => format!("whiteout {}", join(parts)),
            Ok(Meaning::Opaque(parts)) => format!("opaque {}", join(parts)),
            Ok(Meaning::Skip) => "skip".into(),
            Err(why) => format!("refused: {}", why.to_string().split_once("\": ").unwrap().1),
        }
    }

    #[test]
    fn names() {
        for (path, expect) in [
            ("./", "entry "),
            ("/", "entry "),
            ("a/b", "entry a/b"),
            ("./a//b/", "entry a/b"),
            ("/etc/passwd", "entry etc/passwd"),
            ("a/.wh.b", "whiteout a/b"),
            (".wh.b", "whiteout b"),
            (".wh..b", "whiteout .b"),
            ("a/.wh..wh..opq", "opaque a"),
            (".wh..wh..opq", "opaque "),
            (".wh..wh.plnk", "skip"),
            (".wh..wh.plnk/1.2", "skip"),
            ("a/.wh..wh.aufs", "skip"),
            ("a/.wh.", "refused: a whiteout of nothing"),
            ("a/.wh..", "refused: a whiteout of nothing"),
            ("a/.wh...", "refused: a whiteout of nothing"),
            ("a/.wh.b/c", "refused: a whiteout is used as a directory"),
            ("../a", "refused: contains .."),
            ("a/../../b", "refused: contains .."),
            ("a/..", "refused: contains .."),
            ("a\0b", "refused: contains NUL"),
            ("a/..b/b..", "entry a/..b/b.."),
        ] {
            assert_eq!(said(path), expect, "{path:?}");
        }
        for (path, why) in [
            ("x/".repeat(2048), "a path of 4096 bytes, more than 4095"),
            ("n".repeat(256), "a name of 256 bytes, more than 255"),
        ] {
            let said = meaning(path.as_bytes()).unwrap_err();
            assert_eq!((said.kind(), said.to_string().as_str()), (Kind::TooLarge, why));
        }
        assert!(meaning("n".repeat(255).as_bytes()).is_ok());
    }
}
