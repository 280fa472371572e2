//! The file that an image is written to: data in order, inodes in segments that are reserved ahead of them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::erofs::format::{BLOCK, SLOT};
use crate::error::{Context, Error, Kind, Result};
use crate::fault;

/// Bytes of data that are gathered before they are written.
const BUFFER: usize = 256 << 10;
/// Bytes of the largest segment of inodes; what it does not use stays a hole.
const MOST_SEGMENT: usize = 512 << 10;
/// Block numbers have 32 bits, and the highest marks a hole.
const MOST_BYTES: u64 = (u32::MAX as u64 - 1) * BLOCK;

/// Writes an image front to back.
pub(crate) struct Out {
    file: File,
    /// The next block that is free.
    end: u64,
    data: Vec<u8>,
    data_at: u64,
    segment: Vec<u8>,
    segment_at: u64,
    segment_end: u64,
    next_segment: usize,
}

impl Out {
    /// An empty image; block 0 is left for the superblock.
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            end: BLOCK,
            data: Vec::with_capacity(BUFFER),
            data_at: 0,
            segment: Vec::new(),
            segment_at: 0,
            segment_end: 0,
            next_segment: 0,
        }
    }

    /// The file, with everything written that was given.
    pub(crate) fn file(&mut self) -> Result<&File> {
        self.flush_data()?;
        self.flush_segment()?;
        Ok(&self.file)
    }

    /// The end of what is in use, in whole blocks.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Takes the next `bytes`, in whole blocks; where they start.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<u64> {
        let at = self.end;
        let end = bytes.checked_next_multiple_of(BLOCK).and_then(|bytes| at.checked_add(bytes));
        match end.filter(|end| *end <= MOST_BYTES) {
            Some(end) => self.end = end,
            None => return Err(Error::new(Kind::TooLarge, "a layer beyond 16 TiB")),
        }
        Ok(at)
    }

    /// Writes data inside what was reserved. What is left out reads as zeros.
    pub(crate) fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let expected = self.data_at + self.data.len() as u64;
        // Up to a block of padding is written along with what follows.
        if at >= expected && at - expected < BLOCK && !self.data.is_empty() {
            self.data.resize(self.data.len() + (at - expected) as usize, 0);
        } else {
            self.flush_data()?;
            self.data_at = at;
        }
        if self.data.is_empty() && bytes.len() >= BUFFER / 2 {
            self.put(bytes, at)?;
            self.data_at = at + bytes.len() as u64;
            return Ok(());
        }
        self.data.extend_from_slice(bytes);
        if self.data.len() >= BUFFER {
            self.flush_data()?;
        }
        Ok(())
    }

    fn put(&self, bytes: &[u8], at: u64) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let write = fault::point("write an image").and_then(|()| self.file.write_all_at(bytes, at));
        write.context(|| "write the image")
    }

    fn flush_data(&mut self) -> Result<()> {
        self.put(&self.data, self.data_at)?;
        self.data_at += self.data.len() as u64;
        self.data.clear();
        Ok(())
    }

    /// Puts an inode with what follows it somewhere; its number. The last `tail` bytes stand in one block.
    pub(crate) fn inode(&mut self, bytes: &[u8], tail: usize) -> Result<u64> {
        let mut start = place(self.segment_at + self.segment.len() as u64, bytes.len() - tail, tail);
        if start + bytes.len() as u64 > self.segment_end {
            self.flush_segment()?;
            self.next_segment = (self.next_segment * 2).clamp(32 << 10, MOST_SEGMENT);
            let size = self.next_segment.max(bytes.len()).next_multiple_of(BLOCK as usize) as u64;
            start = self.reserve(size)?;
            (self.segment_at, self.segment_end) = (start, start + size);
        }
        self.segment.resize((start - self.segment_at) as usize, 0);
        self.segment.extend_from_slice(bytes);
        Ok(start / SLOT)
    }

    fn flush_segment(&mut self) -> Result<()> {
        self.put(&self.segment, self.segment_at)?;
        self.segment_at += self.segment.len() as u64;
        self.segment.clear();
        Ok(())
    }
}

/// Where an inode of `head` bytes goes that has `tail` bytes in one block behind it, not before `free`.
pub(crate) fn place(free: u64, head: usize, tail: usize) -> u64 {
    let start = free.next_multiple_of(SLOT);
    let from = start + head as u64;
    match tail > 0 && from / BLOCK != (from + tail as u64 - 1) / BLOCK {
        true => start.next_multiple_of(BLOCK),
        false => start,
    }
}
