//! Writes a directory tree as a tar stream: ustar headers, pax records where ustar falls short.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Kind, Result};
use crate::unpack::header::BLOCK;

/// One header's content. Of trees that become images the times are zero, so that they can be made again.
#[derive(Default)]
pub(crate) struct Item<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) flag: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
    /// Modification time: seconds, nanoseconds.
    pub(crate) mtime: (i64, u32),
    /// Further pax records.
    pub(crate) more: &'a [(&'a str, Vec<u8>)],
}

/// Writes everything below `tree`, sorted by name, and the end of the archive. The root itself is the entry `./`.
///
/// # Errors
/// [`Kind::System`] for the disk; [`Kind::Unsupported`] for a socket.
pub fn write(tree: &Path, out: &mut dyn Write) -> Result<()> {
    let mut links = HashMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(relative) = todo.pop() {
        let path = tree.join(&relative);
        let what = || format!("{}", path.display());
        let meta = std::fs::symlink_metadata(&path).context(what)?;
        if meta.is_dir() {
            let entries =
                std::fs::read_dir(&path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).context(what)?;
            let mut names: Vec<PathBuf> = entries.into_iter().map(|entry| relative.join(entry.file_name())).collect();
            // The stack is taken from its end.
            names.sort_by(|a, b| b.cmp(a));
            todo.extend(names);
        }
        write_entry(&path, &relative, &meta, &mut links, out).context(what)?;
    }
    out.write_all(&[0; 2 * BLOCK]).context(|| "write the archive")
}

fn write_entry(
    path: &Path,
    relative: &Path,
    meta: &Metadata,
    links: &mut HashMap<(u64, u64), Vec<u8>>,
    out: &mut dyn Write,
) -> Result<()> {
    let kind = meta.file_type();
    let name = match meta.is_dir() {
        true => [relative.as_os_str().as_bytes(), b"/"].concat(),
        false => relative.as_os_str().as_bytes().to_vec(),
    };
    let name = if name == b"/" { b"./".to_vec() } else { name };
    let xattrs = xattrs(path)?;
    let device = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    let target = if kind.is_symlink() { std::fs::read_link(path).context(|| "read a link")? } else { PathBuf::new() };
    let mut item = Item {
        path: &name,
        link: target.as_os_str().as_bytes(),
        flag: b'0',
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        size: 0,
        device: (0, 0),
        xattrs: &xattrs,
        ..Item::default()
    };
    if !meta.is_dir() && meta.nlink() > 1 {
        if let Some(first) = links.get(&(meta.dev(), meta.ino())).cloned() {
            (item.flag, item.link, item.xattrs) = (b'1', &first, &[]);
            return write_header(&item, out);
        }
        links.insert((meta.dev(), meta.ino()), name.clone());
    }
    item.flag = match () {
        () if kind.is_file() => {
            item.size = meta.len();
            write_header(&item, out)?;
            return write_data(path, meta.len(), out);
        }
        () if kind.is_dir() => b'5',
        () if kind.is_symlink() => b'2',
        () if kind.is_char_device() => b'3',
        () if kind.is_block_device() => b'4',
        () if kind.is_fifo() => b'6',
        () => return Err(Error::new(Kind::Unsupported, "a socket cannot be in an image")),
    };
    if matches!(item.flag, b'3' | b'4') {
        item.device = device;
    }
    write_header(&item, out)
}

fn write_data(path: &Path, size: u64, out: &mut dyn Write) -> Result<()> {
    let file = File::open(path).context(|| "open")?;
    let copied = std::io::copy(&mut file.take(size), out).context(|| "read")?;
    if copied != size {
        return Err(Error::new(Kind::System, "the file became shorter while it was read"));
    }
    let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    out.write_all(&[0; BLOCK][..padding as usize]).context(|| "write the archive")
}

/// Attributes that belong into an image, sorted.
fn xattrs(path: &Path) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = Vec::with_capacity(64 << 10);
    match rustix::fs::llistxattr(path, rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => {}
        Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        Err(why) => return Err(why).context(|| "list attributes"),
    }
    let mut found = Vec::new();
    for name in names.split(|b| *b == 0) {
        if name.starts_with(b"user.") || name == b"security.capability" {
            let mut value = Vec::with_capacity(64 << 10);
            rustix::fs::lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value))
                .context(|| "read an attribute")?;
            found.push((name.to_vec(), value));
        }
    }
    found.sort();
    Ok(found)
}

/// One pax record; its length counts itself.
pub(crate) fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

/// Writes the header of an entry, with a pax header before it where the fields do not suffice.
pub(crate) fn write_header(item: &Item<'_>, out: &mut dyn Write) -> Result<()> {
    const OCTAL7: u64 = 0o7777777;
    const OCTAL11: u64 = 0o77777777777;
    let mut records = Vec::new();
    if item.path.len() > 100 {
        records.extend(pax_record("path", item.path));
    }
    if item.link.len() > 100 {
        records.extend(pax_record("linkpath", item.link));
    }
    for (key, value, most) in
        [("uid", u64::from(item.uid), OCTAL7), ("gid", u64::from(item.gid), OCTAL7), ("size", item.size, OCTAL11)]
    {
        if value > most {
            records.extend(pax_record(key, value.to_string().as_bytes()));
        }
    }
    if item.mtime.1 != 0 || !(0..=OCTAL11.cast_signed()).contains(&item.mtime.0) {
        records.extend(pax_record("mtime", seconds(item.mtime).as_bytes()));
    }
    for (key, value) in item.more {
        records.extend(pax_record(key, value));
    }
    for (name, value) in item.xattrs {
        records.extend(pax_record(&format!("SCHILY.xattr.{}", String::from_utf8_lossy(name)), value));
    }
    if !records.is_empty() {
        let extension = Item { path: b"pax", flag: b'x', mode: 0o644, size: records.len() as u64, ..Item::default() };
        let padding = (BLOCK - records.len() % BLOCK) % BLOCK;
        records.resize(records.len() + padding, 0);
        out.write_all(&block(&extension)).and_then(|()| out.write_all(&records)).context(|| "write the archive")?;
    }
    out.write_all(&block(item)).context(|| "write the archive")
}

/// A time as pax has it: a decimal number, its fraction counting away from zero.
fn seconds((whole, nanos): (i64, u32)) -> String {
    match whole < 0 && nanos > 0 {
        true => format!("-{}.{:09}", (whole + 1).unsigned_abs(), 1_000_000_000 - nanos),
        false => format!("{whole}.{nanos:09}"),
    }
}

fn block(item: &Item<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    // What does not fit stands in a pax record.
    let octal = |value: u64, width: usize| {
        let most = (1u64 << (3 * width)) - 1;
        format!("{:0width$o}\0", if value > most { 0 } else { value }).into_bytes()
    };
    put(0, &item.path[..item.path.len().min(100)]);
    put(100, &octal(u64::from(item.mode), 7));
    put(108, &octal(u64::from(item.uid), 7));
    put(116, &octal(u64::from(item.gid), 7));
    put(124, &octal(item.size, 11));
    put(136, &octal(u64::try_from(item.mtime.0).unwrap_or(0), 11));
    put(148, b"        ");
    put(156, &[item.flag]);
    put(157, &item.link[..item.link.len().min(100)]);
    put(257, b"ustar\x0000");
    put(329, &octal(u64::from(item.device.0), 7));
    put(337, &octal(u64::from(item.device.1), 7));
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
