//! A file that can be read anywhere, out of one that may be compressed or a pipe: archives are read in place, and what
//! cannot be is first written out, decompressed, into a file without a name.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Context, Error, Kind, Result, through_io};

const CHUNK: usize = 256 << 10;

/// How an archive is compressed, by its first bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Packing {
    None,
    Gzip,
    Zstd,
    Other(&'static str),
}

fn packing(head: &[u8]) -> Packing {
    match head {
        [0x1f, 0x8b, ..] => Packing::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Packing::Zstd,
        [b'B', b'Z', b'h', ..] => Packing::Other("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Packing::Other("xz"),
        [0x5d, 0, 0, ..] => Packing::Other("lzma"),
        _ => Packing::None,
    }
}

/// `file` itself if it can be read in place; else what it holds, decompressed, in a file below `spool` that disappears
/// with its last descriptor. More than `limit` bytes are refused.
///
/// # Errors
/// [`Kind::Unsupported`] for other compressions, [`Kind::TooLarge`], [`Kind::Invalid`] for a damaged stream.
pub(crate) fn readable(file: File, spool: &Path, limit: u64) -> Result<File> {
    let regular = file.metadata().context(|| "stat")?.is_file();
    let mut head = [0; 6];
    if regular {
        let count = file.read_at(&mut head, 0).context(|| "read")?;
        if packing(&head[..count]) == Packing::None {
            return Ok(file);
        }
    }
    let mut input = BufReader::with_capacity(CHUNK, file);
    let start = input.fill_buf().context(|| "read")?;
    let mut out = nameless(spool)?;
    let read: Box<dyn Read + '_> = match packing(start) {
        Packing::None => Box::new(input),
        Packing::Gzip | Packing::Zstd => crate::unpack::packing::decompress(input, crate::unpack::packing::WINDOW)?,
        Packing::Other(name) => {
            let why =
                format!("the archive is compressed with {name}; decompress it first: {name} -dc FILE | … import -");
            return Err(Error::new(Kind::Unsupported, why));
        }
    };
    copy(read, &mut out, limit)?;
    Ok(out)
}

fn copy(mut from: impl Read, to: &mut File, limit: u64) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut sum = 0;
    loop {
        let count = from.read(&mut buffer).map_err(|why| match why.kind() {
            std::io::ErrorKind::Interrupted => why,
            _ => through_io(Error::caused(Kind::Invalid, "decompress the archive", why)),
        });
        let count = match count {
            Err(why) if why.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.context(|| "read the archive")?,
        };
        sum += count as u64;
        if count == 0 {
            return Ok(());
        }
        if sum > limit {
            return Err(Error::new(Kind::TooLarge, format!("the archive has more than {limit} bytes")));
        }
        to.write_all(&buffer[..count]).context(|| "write the archive out")?;
    }
}

/// A file that nobody else can open.
fn nameless(dir: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = dir.join(format!(".archive-{}-{count}", std::process::id()));
    let what = || format!("write {}", path.display());
    let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path).context(what)?;
    std::fs::remove_file(&path).context(what)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn read(dir: &Scratch, content: &[u8], limit: u64) -> Result<Vec<u8>> {
        let path = dir.path().join("in");
        std::fs::write(&path, content).unwrap();
        let file = readable(File::open(&path).unwrap(), dir.path(), limit)?;
        let mut all = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut all, 0).unwrap();
        Ok(all)
    }

    #[test]
    fn every_packing() {
        let dir = Scratch::new("archive");
        let text = b"hello ".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(&text[..], 1).unwrap();
        for packed in [&text, &gzip, &zstd, &[&gzip[..], &gzip].concat()] {
            let got = read(&dir, packed, 1 << 20).unwrap();
            assert!(got == text || got == text.repeat(2));
        }
        assert_eq!(read(&dir, &gzip, 5999).unwrap_err().kind(), Kind::TooLarge);
        assert_eq!(read(&dir, &gzip[..gzip.len() - 9], 1 << 20).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(read(&dir, &zstd[..zstd.len() - 9], 1 << 20).unwrap_err().kind(), Kind::Invalid);
        let why = read(&dir, b"\xfd7zXZ\0....", 1 << 20).unwrap_err();
        assert!(why.kind() == Kind::Unsupported && why.to_string().contains("xz"), "{why}");
        assert_eq!(read(&dir, b"", 1 << 20).unwrap(), b"");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "only the input has a name");
    }

    #[test]
    fn a_pipe() {
        let dir = Scratch::new("archive-pipe");
        let (read, mut write) = std::io::pipe().unwrap();
        let writer = std::thread::spawn(move || write.write_all(&[7; 300_000]).unwrap());
        let file = readable(File::from(std::os::fd::OwnedFd::from(read)), dir.path(), 1 << 20).unwrap();
        writer.join().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 300_000);
    }
}
