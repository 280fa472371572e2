//! A layer's blob decompressed, counted, digested and read as an archive, into whatever it is written as.

use std::io::{BufReader, Read};

use crate::config::Limits;
use crate::digest::Hasher;
use crate::error::{Context, Error, Kind, Result, through_io};
use crate::layers::Position;
use crate::unpack::target::Target;
use crate::unpack::{self, Summary, tar::Archive};

/// Reads `input`, of `size` bytes as transferred, to its end.
pub(crate) fn pour<T: Target>(
    input: &mut dyn Read,
    size: u64,
    position: &Position,
    limits: &Limits,
    target: &mut T,
) -> Result<Summary> {
    const BUFFER: usize = 256 << 10;
    let plain = unpack::packing::decompress(BufReader::with_capacity(BUFFER, input), limits.zstd_window)?;
    let checked = Checked {
        inner: plain,
        hasher: Hasher::new(position.diff_id.algorithm()),
        count: 0,
        most: limits.unpacked_bytes.min(size.saturating_mul(limits.ratio).max(64 << 20)),
    };
    let mut archive = Archive::new(BufReader::with_capacity(BUFFER, checked));
    let options = unpack::Options { lowest: position.lowest, entries: limits.entries };
    let summary = unpack::write(&mut archive, target, options)?;
    let mut rest = archive.into_source();
    std::io::copy(&mut rest, &mut std::io::sink()).context(|| "read the layer to its end")?;
    let found = rest.into_inner().hasher.finish();
    match found == position.diff_id {
        true => Ok(summary),
        false => {
            let why = format!("layer: its content is {found}, the image says {}", position.diff_id);
            Err(Error::new(Kind::Invalid, why))
        }
    }
}

/// Digests what passes and ends it at a limit.
struct Checked<R> {
    inner: R,
    hasher: Hasher,
    count: u64,
    most: u64,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer).map_err(|why| match why.kind() {
            std::io::ErrorKind::Interrupted => why,
            _ if why.get_ref().is_some_and(|inner| inner.is::<Error>()) => why,
            _ => through_io(Error::caused(Kind::Invalid, "decompress the layer", why)),
        })?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        if self.count > self.most {
            let why = format!("layer: more than {} bytes unpacked", self.most);
            return Err(through_io(Error::new(Kind::TooLarge, why)));
        }
        Ok(count)
    }
}
