//! What a disk was told, in order: the log of qemu's `blklogwrites` filter, in the format of the kernel's dm-log-writes
//! (Documentation/admin-guide/device-mapper/log-writes.rst; drivers/md/dm-log-writes.c).
//!
//! ```text
//! sector 0: magic, version, number of entries, sector size
//! then, entry after entry: one sector { sector, sectors, flags, length of data }, and the data of a write
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;

/// One thing that the disk was told.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Where on the disk, in bytes.
    pub at: u64,
    /// How many bytes.
    pub length: u64,
    /// Where in the log the data stands.
    pub data: u64,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// May be lost or torn until a flush follows.
    Write,
    /// On the medium when it was answered.
    Fua,
    /// Everything before is on the medium.
    Flush,
    Discard,
}

/// A recorded run.
pub struct Log {
    file: File,
    pub entries: Vec<Entry>,
}

impl Log {
    pub fn read(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let mut head = [0; 28];
        file.read_exact_at(&mut head, 0).unwrap();
        let word = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(word(&head, 0), MAGIC, "no log of writes");
        let sector = u64::from(u32::from_le_bytes(head[24..28].try_into().unwrap()));
        let (mut entries, mut at) = (Vec::new(), sector);
        for _ in 0..word(&head, 16) {
            let mut entry = [0; 32];
            file.read_exact_at(&mut entry, at).unwrap();
            at += sector;
            let (start, count, flags) = (word(&entry, 0) * sector, word(&entry, 8) * sector, word(&entry, 16));
            // A flush that comes with a write concerns what was before it.
            if flags & FLUSH != 0 {
                entries.push(Entry { at: 0, length: 0, data: 0, kind: Kind::Flush });
            }
            let kind = match flags {
                flags if flags & DISCARD != 0 => Kind::Discard,
                flags if flags & FUA != 0 => Kind::Fua,
                _ => Kind::Write,
            };
            if count > 0 {
                entries.push(Entry { at: start, length: count, data: at, kind });
            }
            if kind != Kind::Discard {
                at += count;
            }
        }
        Self { file, entries }
    }

    /// The data of a write.
    pub fn data(&self, entry: &Entry) -> Vec<u8> {
        let mut data = vec![0; usize::try_from(entry.length).unwrap()];
        self.file.read_exact_at(&mut data, entry.data).unwrap();
        data
    }

    /// Does to `disk` what `entry` says, but for a write no more than its first `most` bytes.
    pub fn apply(&self, entry: &Entry, most: u64, disk: &File) {
        match entry.kind {
            Kind::Flush => {}
            Kind::Discard => {
                // What is read where something was discarded is anything; zeros, as most disks give.
                let piece = vec![0; 1 << 20];
                let (mut at, end) = (entry.at, entry.at + entry.length);
                while at < end {
                    let count = usize::try_from(end - at).unwrap().min(piece.len());
                    disk.write_all_at(&piece[..count], at).unwrap();
                    at += count as u64;
                }
            }
            Kind::Write | Kind::Fua => {
                let data = self.data(entry);
                let most = data.len().min(usize::try_from(most).unwrap_or(usize::MAX));
                disk.write_all_at(&data[..most], entry.at).unwrap();
            }
        }
    }
}
