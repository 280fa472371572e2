//! A layer's blob decompressed, counted, digested and read as an archive, into whatever it is written as.
//!
//! ```text
//! a thread:       input (blob digest, ingest file) ──> decompress ──┐ some buffers, which come back when read
//! the caller's:                                                     └──> count, diff id ──> tar ──> target
//! ```
//! Two threads, because an image often has one layer that is larger than all others together.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use crate::config::Limits;
use crate::digest::{Digest, Hasher};
use crate::error::{Context, Error, Kind, Result, through_io};
use crate::layers::Position;
use crate::unpack::target::Target;
use crate::unpack::{self, Summary, tar::Archive};

const BUFFER: usize = 256 << 10;
/// Buffers that the decompressor may be ahead.
const AHEAD: usize = 4;

/// Reads `input`, of `size` bytes as transferred, to its end.
pub(crate) fn pour<T: Target>(
    input: &mut (dyn Read + Send),
    size: u64,
    position: &Position,
    limits: &Limits,
    target: &mut T,
) -> Result<Summary> {
    let plain = unpack::packing::decompress(BufReader::with_capacity(BUFFER, input), limits.zstd_window)?;
    let (full, arriving) = sync_channel(AHEAD);
    let (spent, empty) = channel();
    let checked = Checked {
        arriving,
        spent,
        buffer: Vec::new(),
        at: 0,
        hasher: Hasher::new(position.diff_id.algorithm()),
        count: 0,
        most: limits.unpacked_bytes.min(size.saturating_mul(limits.ratio).max(64 << 20)),
    };
    let options = unpack::Options { lowest: position.lowest, entries: limits.entries };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("decompress".into());
        thread.spawn_scoped(scope, move || run_ahead(plain, &full, &empty)).context(|| "start a thread")?;
        let (summary, found) = read(checked, target, options)?;
        match found == position.diff_id {
            true => Ok(summary),
            false => {
                let why = format!("layer: its content is {found}, the image says {}", position.diff_id);
                Err(Error::new(Kind::Invalid, why))
            }
        }
    })
}

/// Carries out the archive. Whatever ends this drops `checked`, and that ends the other thread.
fn read<T: Target>(checked: Checked, target: &mut T, options: unpack::Options) -> Result<(Summary, Digest)> {
    let mut archive = Archive::new(checked);
    let summary = unpack::write(&mut archive, target, options)?;
    let mut rest = archive.into_source();
    io::copy(&mut rest, &mut io::sink()).context(|| "read the layer to its end")?;
    Ok((summary, rest.hasher.finish()))
}

/// Decompresses into buffers until the end, a failure, or until nobody reads any more.
fn run_ahead(mut plain: impl Read, full: &SyncSender<io::Result<Vec<u8>>>, empty: &Receiver<Vec<u8>>) {
    loop {
        let mut buffer = empty.try_recv().unwrap_or_default();
        buffer.resize(BUFFER, 0);
        let (count, failed) = fill(&mut plain, &mut buffer);
        buffer.truncate(count);
        let ends = count < BUFFER;
        if count > 0 && full.send(Ok(buffer)).is_err() {
            return;
        }
        if let Some(why) = failed {
            drop(full.send(Err(why)));
            return;
        }
        if ends {
            return;
        }
    }
}

/// Reads until the buffer is full, at the end, or until a failure; the count of bytes, and the failure.
fn fill(plain: &mut impl Read, buffer: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut count = 0;
    while count < buffer.len() {
        match plain.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return (count, Some(why)),
        }
    }
    (count, None)
}

/// Digests what arrives and ends it at a limit.
struct Checked {
    arriving: Receiver<io::Result<Vec<u8>>>,
    spent: Sender<Vec<u8>>,
    buffer: Vec<u8>,
    at: usize,
    hasher: Hasher,
    count: u64,
    most: u64,
}

impl Checked {
    /// The next buffer; at the end the last one stays, and is read.
    fn refill(&mut self) -> io::Result<()> {
        let arrived = match self.arriving.recv() {
            Err(_) => return Ok(()),
            Ok(arrived) => arrived,
        };
        let buffer = arrived.map_err(|why| match why.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            true => why,
            false => through_io(Error::caused(Kind::Invalid, "decompress the layer", why)),
        })?;
        self.hasher.update(&buffer);
        self.count += buffer.len() as u64;
        if self.count > self.most {
            let why = format!("layer: more than {} bytes unpacked", self.most);
            return Err(through_io(Error::new(Kind::TooLarge, why)));
        }
        // Nobody takes it back once the other thread is at its end.
        drop(self.spent.send(std::mem::replace(&mut self.buffer, buffer)));
        self.at = 0;
        Ok(())
    }
}

impl BufRead for Checked {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() {
            self.refill()?;
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for Checked {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives `content` in pieces of odd sizes, then fails, if told to.
    struct Odd<'a>(&'a [u8], usize, Option<io::ErrorKind>);

    impl Read for Odd<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return self.2.take().map_or(Ok(0), |kind| Err(kind.into()));
            }
            self.1 = self.1 * 7 % 100_003 + 1;
            let most = self.1.min(into.len());
            self.0.read(&mut into[..most])
        }
    }

    /// What comes out on the other side, its digest, and the failure at its end.
    fn passed(content: &[u8], failure: Option<io::ErrorKind>, most: u64) -> (Vec<u8>, Digest, Option<Kind>) {
        let (full, arriving) = sync_channel(AHEAD);
        let (spent, empty) = channel();
        let hasher = Hasher::new(crate::digest::Algorithm::Sha256);
        let checked = Checked { arriving, spent, buffer: Vec::new(), at: 0, hasher, count: 0, most };
        std::thread::scope(|scope| {
            // Dropped before the other thread is waited for, as in `pour`.
            let mut checked = checked;
            scope.spawn(move || run_ahead(Odd(content, 1, failure), &full, &empty));
            let mut all = Vec::new();
            let failed = checked.read_to_end(&mut all).context(|| "read").err();
            (all, checked.hasher.clone().finish(), failed.map(|why| why.kind()))
        })
    }

    #[test]
    fn all_arrives_in_order() {
        let content: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();
        for length in [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, content.len()] {
            let content = &content[..length];
            assert_eq!(passed(content, None, u64::MAX), (content.to_vec(), Digest::of(content), None), "{length}");
        }
    }

    #[test]
    fn a_failure_comes_after_what_was_before_it() {
        let content = vec![7; BUFFER + 5];
        let (all, _, kind) = passed(&content, Some(io::ErrorKind::InvalidData), u64::MAX);
        assert_eq!((all.len(), kind), (content.len(), Some(Kind::Invalid)));
    }

    #[test]
    fn what_swells_is_stopped() {
        let content = vec![7; 40 * BUFFER];
        let (all, _, kind) = passed(&content, None, 3 * BUFFER as u64);
        assert_eq!((all.len(), kind), (3 * BUFFER, Some(Kind::TooLarge)));
    }
}
