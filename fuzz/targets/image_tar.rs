//! Any bytes as a layer: what our reader lists, the `tar` crate, which shares no line with it, lists as well; or one of the
//! two refuses (CVE-2025-62518: two readers, two lists). Names are then given their meaning.
//!
//! Sums of header blocks are put right first, or nothing would come past them. Left out is what that crate is known to
//! read unlike GNU tar, Python and Go do: pax sparse files, data behind hard links, NUL inside of a GNU long name, a
//! prefix in headers of another version.

#![no_main]

use std::io::{BufReader, Read as _};

use gantry_images::unpack::tar::{Archive, Type};
use gantry_images::unpack::whiteout;
use libfuzzer_sys::fuzz_target;

/// Kind, path, link target, mode, owner, size, sum of the data.
type Item = (char, Vec<u8>, Vec<u8>, u32, u64, u64, u64);

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    for block in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let (Some(ours), Some(theirs)) = (ours(&bytes), theirs(&bytes)) else { return };
    assert_eq!(ours, theirs);
});

/// `None` if it is refused or cannot be compared.
fn ours(bytes: &[u8]) -> Option<Vec<Item>> {
    let mut archive = Archive::new(BufReader::new(bytes));
    let (mut items, mut comparable) = (Vec::new(), true);
    while let Some(entry) = archive.next_entry().ok()? {
        if let Ok(whiteout::Meaning::Entry(parts) | whiteout::Meaning::Whiteout(parts)) = whiteout::meaning(&entry.path) {
            assert!(parts.iter().all(|part| !part.is_empty() && *part != b"." && *part != b".." && !part.contains(&b'/')));
        }
        comparable &= entry.fragments.is_none();
        let kind = match entry.kind {
            Type::File => 'f',
            Type::HardLink => 'h',
            Type::Symlink => 'l',
            Type::Directory => 'd',
            Type::Char(..) => 'c',
            Type::Block(..) => 'b',
            Type::Fifo => 'p',
        };
        let mut sum = 0u64;
        loop {
            let piece = archive.data().ok()?;
            if piece.is_empty() {
                break;
            }
            sum += piece.iter().map(|b| u64::from(*b)).sum::<u64>();
            let count = piece.len();
            archive.consume(count);
        }
        let link = if matches!(kind, 'h' | 'l') { entry.link } else { Vec::new() };
        items.push((kind, entry.path, link, entry.mode, entry.uid, entry.size, sum));
    }
    comparable.then_some(items)
}

fn theirs(bytes: &[u8]) -> Option<Vec<Item>> {
    let mut archive = tar::Archive::new(bytes);
    let mut items = Vec::new();
    for entry in archive.entries().ok()? {
        let mut entry = entry.ok()?;
        let header = entry.header().clone();
        let path = entry.path_bytes().into_owned();
        let kind = match header.entry_type() {
            tar::EntryType::XGlobalHeader => continue,
            tar::EntryType::Regular | tar::EntryType::Continuous if path.ends_with(b"/") => 'd',
            tar::EntryType::Regular | tar::EntryType::Continuous => 'f',
            tar::EntryType::Link => 'h',
            tar::EntryType::Symlink => 'l',
            tar::EntryType::Directory => 'd',
            tar::EntryType::Char => 'c',
            tar::EntryType::Block => 'b',
            tar::EntryType::Fifo => 'p',
            _ => return None,
        };
        let link = entry.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default();
        let odd_version = header.as_bytes()[257..263] == *b"ustar\0" && header.as_bytes()[263..265] != *b"00";
        if kind == 'h' && entry.size() > 0 || path.contains(&0) || link.contains(&0) || odd_version {
            return None;
        }
        let link = if matches!(kind, 'h' | 'l') { link } else { Vec::new() };
        let (mode, uid, size) = (header.mode().ok()? & 0o7777, header.uid().ok()?, entry.size());
        let mut data = Vec::new();
        entry.read_to_end(&mut data).ok()?;
        if data.len() as u64 != size {
            return None;
        }
        items.push((kind, path, link, mode, uid, size, data.iter().map(|b| u64::from(*b)).sum()));
    }
    Some(items)
}
