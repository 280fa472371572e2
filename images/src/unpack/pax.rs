//! Pax extended headers: `length key=value\n` records (IEEE 1003.1, pax, "pax Header Format").
//!
//! A record that means nothing to us is skipped; one that does and is malformed refuses the archive.

use crate::error::{Error, Kind, Result};

/// What the records of one `x` header change about the next entry.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pax {
    /// `path`, or `GNU.sparse.name`.
    pub path: Option<Vec<u8>>,
    /// `linkpath`.
    pub link: Option<Vec<u8>>,
    /// `size`: bytes of data that follow.
    pub size: Option<u64>,
    /// `uid`.
    pub uid: Option<u64>,
    /// `gid`.
    pub gid: Option<u64>,
    /// `mtime`: seconds and nanoseconds.
    pub mtime: Option<(i64, u32)>,
    /// `SCHILY.xattr.*`, and of `LIBARCHIVE.xattr.*` what is not said by the former.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// `GNU.sparse.*`.
    pub sparse: Sparse,
}

/// The three pax forms of a GNU sparse file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Sparse {
    /// `GNU.sparse.major`; 1 means that the map leads the data.
    pub major: Option<u64>,
    /// Size with the holes: `GNU.sparse.realsize` or `GNU.sparse.size`.
    pub real_size: Option<u64>,
    /// (offset, length) pairs of forms 0.0 and 0.1.
    pub map: Vec<(u64, u64)>,
    name: Option<Vec<u8>>,
    offset: Option<u64>,
}

const XATTR: &[u8] = b"SCHILY.xattr.";
/// The name escaped as in a URL, the value in base64 without padding; bsdtar writes both forms.
const ENCODED: &[u8] = b"LIBARCHIVE.xattr.";
/// Attributes of one entry; the kernel lists 64 KiB of names.
const MAX_XATTRS: usize = 1024;
/// XATTR_NAME_MAX of the kernel.
const MAX_XATTR_NAME: usize = 255;
/// Keys that change what an archive lists. In a global header readers disagree about them.
const LISTED: [&[u8]; 7] = [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"hdrcharset"];

fn refuse(why: &str) -> Error {
    Error::new(Kind::Invalid, format!("pax header: {why}"))
}

/// Splits the data of a header into (key, value) records.
///
/// # Errors
/// [`Kind::Invalid`] for a record whose length is wrong.
pub fn records(mut data: &[u8]) -> Result<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    while !data.is_empty() {
        let space = data.iter().take(20).position(|b| *b == b' ').ok_or_else(|| refuse("record without a length"))?;
        let length = usize::try_from(decimal(&data[..space])?).map_err(|_| refuse("record too long"))?;
        if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
            return Err(refuse("the length of a record is wrong"));
        }
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|b| *b == b'=').ok_or_else(|| refuse("record without ="))?;
        if equals == 0 {
            return Err(refuse("record without a key"));
        }
        found.push((&record[..equals], &record[equals + 1..]));
        data = &data[length..];
    }
    Ok(found)
}

/// Reads the records of an `x` header.
///
/// # Errors
/// [`Kind::Invalid`] for malformed values.
pub fn parse(data: &[u8]) -> Result<Pax> {
    let mut listed = std::collections::BTreeSet::new();
    let (mut pax, mut encoded) = (Pax::default(), Vec::new());
    for (key, value) in records(data)? {
        // The last one counts to some readers, the first one to others.
        if LISTED.contains(&key) && !listed.insert(key) {
            return Err(refuse(&format!("{} twice", String::from_utf8_lossy(key))));
        }
        match key.strip_prefix(ENCODED) {
            Some(name) => {
                encoded.push((unescaped(name)?, decoded(value)?));
                check_xattrs(name, encoded.len())?;
            }
            None => pax.take(key, value)?,
        }
    }
    for (name, value) in encoded {
        if !pax.xattrs.iter().any(|(known, _)| *known == name) {
            pax.xattrs.push((name, value));
        }
    }
    // GNU writes a made-up `path` beside the real name of a sparse file.
    if let Some(name) = pax.sparse.name.take() {
        pax.path = Some(name);
    }
    if pax.sparse.offset.is_some() {
        return Err(refuse("sparse offset without a length"));
    }
    Ok(pax)
}

/// A global header may hold comments and vendor keys, nothing that changes entries.
///
/// # Errors
/// [`Kind::Invalid`] if it does.
pub fn check_global(data: &[u8]) -> Result<()> {
    let changes = |key: &[u8]| {
        LISTED.contains(&key) || key.starts_with(b"GNU.sparse.") || key.starts_with(XATTR) || key.starts_with(ENCODED)
    };
    match records(data)?.into_iter().find(|(key, _)| changes(key)) {
        Some((key, _)) => Err(refuse(&format!("{} in a global header", String::from_utf8_lossy(key)))),
        None => Ok(()),
    }
}

impl Pax {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match key {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(time(value)?),
            b"hdrcharset" if value != b"ISO-IR 10646 2000 UTF-8" && value != b"BINARY" => {
                return Err(refuse("unknown hdrcharset"));
            }
            b"GNU.sparse.major" => self.sparse.major = Some(decimal(value)?),
            b"GNU.sparse.name" => self.sparse.name = name(value)?,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = Some(decimal(value)?),
            b"GNU.sparse.offset" => {
                if self.sparse.offset.replace(decimal(value)?).is_some() {
                    return Err(refuse("sparse offset without a length"));
                }
            }
            b"GNU.sparse.numbytes" => match self.sparse.offset.take() {
                Some(offset) => self.sparse.map.push((offset, decimal(value)?)),
                None => return Err(refuse("sparse length without an offset")),
            },
            b"GNU.sparse.map" => self.sparse.map = map(value)?,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    // The last record of a name counts, as for every other key.
                    self.xattrs.retain(|(seen, _)| seen != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                    check_xattrs(name, self.xattrs.len())?;
                }
            }
        }
        Ok(())
    }
}

fn check_xattrs(name: &[u8], count: usize) -> Result<()> {
    if name.len() > MAX_XATTR_NAME {
        let why = format!("pax header: an attribute's name of {} bytes, more than {MAX_XATTR_NAME}", name.len());
        return Err(Error::new(Kind::TooLarge, why));
    }
    match count <= MAX_XATTRS {
        true => Ok(()),
        false => Err(Error::new(Kind::TooLarge, format!("pax header: more than {MAX_XATTRS} attributes of one entry"))),
    }
}

fn decoded(value: &[u8]) -> Result<Vec<u8>> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    let bare = value.iter().rposition(|b| *b != b'=').map_or(&b""[..], |last| &value[..=last]);
    STANDARD_NO_PAD.decode(bare).map_err(|_| refuse("an attribute is not base64"))
}

/// `%20` and the like undone.
fn unescaped(name: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        let hex = |b: u8| (b as char).to_digit(16).ok_or_else(|| refuse("the name of an attribute is malformed"));
        rest = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                plain.push((hex(*high)? << 4 | hex(*low)?) as u8);
                after
            }
            (b'%', _) => return Err(refuse("the name of an attribute is malformed")),
            _ => {
                plain.push(*first);
                after
            }
        };
    }
    Ok(plain)
}

/// An empty value takes back an earlier one; a NUL would be cut off by some readers and not by others.
fn name(value: &[u8]) -> Result<Option<Vec<u8>>> {
    match value {
        [] => Ok(None),
        _ if value.contains(&0) => Err(refuse("a name contains NUL")),
        _ => Ok(Some(value.to_vec())),
    }
}

fn map(value: &[u8]) -> Result<Vec<(u64, u64)>> {
    let numbers = value.split(|b| *b == b',').map(decimal).collect::<Result<Vec<u64>>>()?;
    match numbers.len() % 2 {
        0 => Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()),
        _ => Err(refuse("sparse map with an odd number of numbers")),
    }
}

/// Decimal digits only: no sign, no space.
pub(super) fn decimal(text: &[u8]) -> Result<u64> {
    let digits = std::str::from_utf8(text).ok().filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()));
    digits.and_then(|t| t.parse().ok()).ok_or_else(|| refuse("a number is malformed"))
}

/// `[-]seconds[.fraction]`; digits beyond nanoseconds are cut off.
fn time(text: &[u8]) -> Result<(i64, u32)> {
    let wrong = || refuse("a time is malformed");
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, &b""[..]),
    };
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(wrong());
    }
    let seconds = i64::try_from(decimal(whole)?).map_err(|_| wrong())?;
    let digits = (0..9).map(|at| fraction.get(at).map_or(0, |b| u32::from(b - b'0')));
    let nanos = digits.fold(0, |value, digit| value * 10 + digit);
    Ok(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        // Before 1970 the nanoseconds still count upwards.
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        crate::layout::pax_record(key, value)
    }

    #[test]
    fn reads_records() {
        let data = [
            record("path", b"a/b"),
            record("mtime", b"1.5"),
            record("SCHILY.xattr.user.x", b"\0\n="),
            record("size", b"8589934592"),
            record("whatever", b"1"),
        ]
        .concat();
        let pax = parse(&data).unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(pax.mtime, Some((1, 500_000_000)));
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), b"\0\n=".to_vec())]);
        assert_eq!(pax.size, Some(8 << 30));
    }

    #[test]
    fn attributes_as_libarchive_writes_them() {
        let encoded = |value: &[u8]| record("LIBARCHIVE.xattr.user.a%20b%3d", value);
        let plain = record("SCHILY.xattr.user.c", b"1");
        let pax = parse(&[plain, encoded(b"AAEC/w"), record("LIBARCHIVE.xattr.user.c", b"Mg")].concat()).unwrap();
        let expect = [(b"user.c".to_vec(), b"1".to_vec()), (b"user.a b=".to_vec(), vec![0, 1, 2, 255])];
        assert_eq!(pax.xattrs, expect);
        assert_eq!(parse(&encoded(b"AAE=")).unwrap().xattrs[0].1, [0, 1]);
        for bad in [encoded(b"%%"), record("LIBARCHIVE.xattr.a%2", b"AA"), record("LIBARCHIVE.xattr.a%zz", b"AA")] {
            assert!(parse(&bad).is_err(), "{:?}", String::from_utf8_lossy(&bad));
        }
    }

    #[test]
    fn refuses_malformed_records() {
        for bad in [
            &b"5 a=b\n"[..],
            b"7 a=b\n",
            b"6 a=b ",
            b"a=b\n",
            b"-6 a=b\n",
            b"4 =\n\n",
            b"5 ab\n",
            b"99999999999999999999999 a=b\n",
            b"10 size=-1\n",
            b"10 size=+1\n",
            b"11 path=a\0b\n",
            b"20 GNU.sparse.map=1\n",
            b"10 size=1\n10 size=1\n",
        ] {
            assert!(parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
        assert!(parse(b"6 a=b\n").is_ok());
    }

    #[test]
    fn times() {
        assert_eq!(time(b"0").unwrap(), (0, 0));
        assert_eq!(time(b"1.123456789999").unwrap(), (1, 123_456_789));
        assert_eq!(time(b"-1.25").unwrap(), (-2, 750_000_000));
        assert_eq!(time(b"-3").unwrap(), (-3, 0));
        for bad in [&b""[..], b".5", b"1.x", b"--1", b"1e3"] {
            assert!(time(bad).is_err());
        }
    }

    #[test]
    fn global_headers_may_only_comment() {
        assert!(check_global(&record("comment", b"git")).is_ok());
        assert!(check_global(&record("size", b"1")).is_err());
        assert!(check_global(&record("GNU.sparse.name", b"x")).is_err());
    }
}
