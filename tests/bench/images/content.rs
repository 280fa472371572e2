//! The files of the measured images: made up, the same on every machine, and as compressible as what they stand for.
//!
//! A layer is a list of entries decided by a seed; its bytes are drawn while the tar is written, so that an image of any
//! size needs no memory and no disk of its own.

use std::io::{self, Write};

/// What the bytes of a file look like.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Look {
    /// Words and repeated lines, as sources and configuration: gzip leaves about a quarter.
    Text,
    /// Instructions out of a small set with operands, as programs and libraries: gzip leaves about two fifths.
    Binary,
    /// Packed already, as archives and pictures.
    Packed,
}

/// One entry of a layer.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// A directory.
    Directory(String),
    /// A regular file.
    File {
        /// Below the root, without a leading slash, at most 100 bytes.
        path: String,
        /// In bytes.
        size: u64,
        /// Its bytes.
        look: Look,
    },
    /// A symbolic link: path, target.
    Link(String, String),
    /// A whiteout of that path's last name.
    Gone(String),
}

/// Numbers that are the same everywhere (splitmix64, public domain, by Sebastiano Vigna).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, small ones more often by the power `skew`.
    fn skewed(&mut self, end: usize, skew: i32) -> usize {
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        ((unit.powi(skew) * end as f64) as usize).min(end - 1)
    }

    /// Sizes of real files: most of some KiB, few large (log-uniform between the two).
    fn size(&mut self, from: u64, to: u64) -> u64 {
        let unit = (self.next() >> 11) as f64 / (1u64 << 53) as f64;
        ((from as f64).ln() + unit * ((to as f64).ln() - (from as f64).ln())).exp() as u64
    }
}

/// A layer of `files` files below `top`, in directories of about twenty.
pub(crate) fn tree(top: &str, files: usize, sizes: (u64, u64), looks: &[Look], seed: u64) -> Vec<Item> {
    let mut random = Random(seed);
    let mut items = Vec::with_capacity(files + files / 16);
    let mut so_far = String::new();
    for part in top.split('/') {
        so_far = if so_far.is_empty() { part.to_owned() } else { format!("{so_far}/{part}") };
        items.push(Item::Directory(so_far.clone()));
    }
    let mut dir = top.to_owned();
    for at in 0..files {
        if at % 20 == 0 {
            // Every fifth lies deeper.
            let parent = if at % 100 == 0 { top.to_owned() } else { dir.split("/d").next().unwrap_or(top).to_owned() };
            dir = format!("{parent}/d{:05}", at / 20);
            items.push(Item::Directory(dir.clone()));
        }
        let look = looks[random.skewed(looks.len(), 1)];
        let path = format!("{dir}/file-{at:06}.{}", random.next() % 1000);
        items.push(Item::File { path, size: random.size(sizes.0, sizes.1), look });
        if at % 40 == 39 {
            items.push(Item::Link(format!("{dir}/link-{at}"), format!("file-{at:06}")));
        }
    }
    items
}

/// Files of the same size, few and large.
pub(crate) fn large(top: &str, files: usize, size: u64, look: Look) -> Vec<Item> {
    let file = |at| Item::File { path: format!("{top}/large-{at}"), size, look };
    [Item::Directory(top.to_owned())].into_iter().chain((0..files).map(file)).collect()
}

/// A supply of bytes of each look, drawn once; a file is pieces of it, so that making an image costs little.
pub(crate) struct Supply {
    text: Vec<u8>,
    binary: Vec<u8>,
}

const SUPPLY: usize = 24 << 20;

impl Supply {
    pub(crate) fn new() -> Self {
        let mut random = Random(42);
        Self { text: text(&mut random), binary: binary(&mut random) }
    }

    /// Writes the bytes of a file.
    pub(crate) fn write(&self, out: &mut impl Write, size: u64, look: Look, random: &mut Random) -> io::Result<()> {
        let mut left = size;
        let mut packed = [0u8; 4096];
        while left > 0 {
            let piece = match look {
                Look::Text => part(&self.text, random),
                Look::Binary => part(&self.binary, random),
                Look::Packed => {
                    packed.chunks_exact_mut(8).for_each(|eight| eight.copy_from_slice(&random.next().to_le_bytes()));
                    &packed[..]
                }
            };
            let count = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            out.write_all(&piece[..count])?;
            left -= count as u64;
        }
        Ok(())
    }
}

/// Somewhere in the supply, as long as compressors do not find it again: their windows are smaller.
fn part<'a>(supply: &'a [u8], random: &mut Random) -> &'a [u8] {
    const LONGEST: usize = 1 << 20;
    let at = random.skewed(supply.len() - LONGEST, 1);
    &supply[at..at + LONGEST]
}

fn text(random: &mut Random) -> Vec<u8> {
    let word = |random: &mut Random| -> Vec<u8> {
        (0..3 + random.next() % 9).map(|_| b'a' + random.skewed(26, 2) as u8).collect()
    };
    let words: Vec<Vec<u8>> = (0..6000).map(|_| word(random)).collect();
    let (mut all, mut lines) = (Vec::with_capacity(SUPPLY + 200), vec![0usize]);
    while all.len() < SUPPLY {
        let start = all.len();
        if random.next().is_multiple_of(3) && lines.len() > 100 {
            // A line that stood a little above.
            let back = lines.len() - 2 - random.skewed(90, 1);
            let again = all[lines[back]..lines[back + 1]].to_vec();
            all.extend_from_slice(&again);
        } else {
            (0..random.next() % 4).for_each(|_| all.extend_from_slice(b"    "));
            for _ in 0..3 + random.next() % 9 {
                all.extend_from_slice(&words[random.skewed(words.len(), 4)]);
                all.push(b" .,(;="[random.skewed(6, 2)]);
            }
            all.push(b'\n');
        }
        debug_assert!(all.len() > start);
        lines.push(all.len());
    }
    all
}

fn binary(random: &mut Random) -> Vec<u8> {
    let instruction = |random: &mut Random| -> Vec<u8> {
        (0..2 + random.next() % 5).map(|_| (random.next() & random.next()) as u8).collect()
    };
    let set: Vec<Vec<u8>> = (0..1200).map(|_| instruction(random)).collect();
    let mut all = Vec::with_capacity(SUPPLY + 200);
    while all.len() < SUPPLY {
        if all.len() > 10_000 && random.next().is_multiple_of(8) {
            // A sequence that a compiler makes again and again.
            let (at, length) = (all.len() - 100 - random.skewed(8000, 1), 8 + random.skewed(48, 1));
            all.extend_from_within(at..at + length);
        }
        all.extend_from_slice(&set[random.skewed(set.len(), 5)]);
        if random.next().is_multiple_of(5) {
            all.extend_from_slice(&[random.next() as u8, random.skewed(16, 2) as u8, 0, 0]);
        }
    }
    all
}

/// Writes the layer as a ustar archive.
pub(crate) fn tar(out: &mut impl Write, items: &[Item], supply: &Supply, seed: u64) -> io::Result<()> {
    let mut random = Random(seed);
    for item in items {
        match item {
            Item::Directory(path) => header(out, &format!("{path}/"), 0o755, 0, b'5', "")?,
            Item::Link(path, to) => header(out, path, 0o777, 0, b'2', to)?,
            Item::Gone(path) => header(out, path, 0o644, 0, b'0', "")?,
            Item::File { path, size, look } => {
                header(out, path, if *look == Look::Binary { 0o755 } else { 0o644 }, *size, b'0', "")?;
                supply.write(out, *size, *look, &mut random)?;
                let padding = (512 - size % 512) % 512;
                out.write_all(&[0; 512][..usize::try_from(padding).unwrap_or(0)])?;
            }
        }
    }
    out.write_all(&[0; 1024])
}

/// POSIX.1-2017, pax, "ustar Interchange Format".
fn header(out: &mut impl Write, path: &str, mode: u32, size: u64, kind: u8, link: &str) -> io::Result<()> {
    let mut block = [0u8; 512];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    assert!(path.len() <= 100 && link.len() <= 100, "{path} is too long for this header");
    put(0, path.as_bytes());
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"14000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.write_all(&block)
}
