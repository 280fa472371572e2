//! The content of a file as a number, whether it came out of an archive or stands on disk, however many holes either has.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use crate::digest::{Algorithm, Hasher};

const BLOCK: usize = 4096;

/// Digests the blocks of a file that are not all zeros, each with its place. Offsets grow.
pub(crate) struct Content {
    hasher: Hasher,
    block: Box<[u8; BLOCK]>,
    at: u64,
    dirty: bool,
}

impl Content {
    pub(crate) fn new() -> Self {
        Self { hasher: Hasher::new(Algorithm::Sha256), block: Box::new([0; BLOCK]), at: 0, dirty: false }
    }

    /// `data` stands at `offset`.
    pub(crate) fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        while !data.is_empty() {
            let at = offset / BLOCK as u64;
            if at != self.at {
                self.flush();
                self.at = at;
            }
            let within = (offset % BLOCK as u64) as usize;
            let count = data.len().min(BLOCK - within);
            self.block[within..within + count].copy_from_slice(&data[..count]);
            self.dirty = true;
            data = &data[count..];
            offset += count as u64;
        }
    }

    fn flush(&mut self) {
        if self.dirty && self.block[..] != [0; BLOCK] {
            self.hasher.update(&self.at.to_le_bytes());
            self.hasher.update(&self.block[..]);
            self.block.fill(0);
        }
        self.dirty = false;
    }

    /// Half of the digest: damage is no adversary.
    pub(crate) fn finish(mut self) -> u128 {
        self.flush();
        let digest = self.hasher.finish();
        digest.hex().bytes().take(32).fold(0, |number, digit| {
            let digit = char::from(digit).to_digit(16).unwrap_or(0);
            number << 4 | u128::from(digit)
        })
    }
}

/// Of an open file; holes are skipped. `go_on` is asked now and then and may end it.
///
/// # Errors
/// Those of the disk, and of `go_on`.
pub(crate) fn of(file: &File, go_on: &mut dyn FnMut(u64) -> std::io::Result<()>) -> std::io::Result<u128> {
    let mut content = Content::new();
    let mut buffer = vec![0; 256 << 10];
    let size = file.metadata()?.len();
    let mut at = 0;
    while at < size {
        at = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            // A filesystem that cannot tell has data everywhere.
            Err(_) => at,
        };
        let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(at)).unwrap_or(size).min(size);
        let mut from = file;
        from.seek(SeekFrom::Start(at))?;
        while at < end {
            let most = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let count = from.read(&mut buffer[..most])?;
            if count == 0 {
                return Ok(content.finish());
            }
            content.write(at, &buffer[..count]);
            at += count as u64;
            go_on(count as u64)?;
        }
    }
    Ok(content.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn holes_and_pieces_make_no_difference() {
        let dir = Scratch::new("content");
        let mut data = vec![0; 100_000];
        data[5000..9000].fill(7);
        data[70_001] = 1;
        std::fs::write(dir.path().join("plain"), &data).unwrap();
        let sparse = File::create_new(dir.path().join("sparse")).unwrap();
        use std::os::unix::fs::FileExt as _;
        sparse.write_all_at(&data[5000..9000], 5000).unwrap();
        sparse.write_all_at(&[1], 70_001).unwrap();
        sparse.set_len(100_000).unwrap();
        let of = |name: &str| super::of(&File::open(dir.path().join(name)).unwrap(), &mut |_| Ok(())).unwrap();
        assert_eq!(of("plain"), of("sparse"));
        let mut pieces = Content::new();
        data.chunks(777).enumerate().for_each(|(n, piece)| pieces.write(n as u64 * 777, piece));
        assert_eq!(pieces.finish(), of("plain"));
        let mut fragments = Content::new();
        fragments.write(5000, &data[5000..9000]);
        fragments.write(70_001, &[1]);
        assert_eq!(fragments.finish(), of("plain"));
        data[70_002] = 1;
        std::fs::write(dir.path().join("plain"), &data).unwrap();
        assert_ne!(of("plain"), of("sparse"));
        assert_eq!(Content::new().finish(), Content::new().finish());
    }

    #[test]
    fn a_block_of_zeros_between_is_a_hole() {
        let mut with = Content::new();
        with.write(0, &[1; 4096]);
        with.write(4096, &[0; 4096]);
        with.write(8192, &[2; 10]);
        let mut without = Content::new();
        without.write(0, &[1; 4096]);
        without.write(8192, &[2; 10]);
        assert_eq!(with.finish(), without.finish());
    }
}
