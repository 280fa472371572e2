//! Container output -> log lines in the CRI format: `2026-11-23T15:00:00.000000000Z stdout F text`.
//!
//! `F` ends a line, `P` is a part of one that goes on in the next entry of the same stream: lines longer than 16 KiB are
//! cut, and output that ends without a newline ends with `P`, so that a reader puts back exactly what was written.
//! Format: kubernetes/kubernetes, design of the CRI logs; cutting as containerd does it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::clock::STAMP;
use crate::error::{Context, Result};

/// The longest content of one log line.
pub(super) const LONGEST_LINE: usize = 16 << 10;

/// The stream that a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(super) const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];

    pub(super) fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }
}

/// Cuts one stream into log lines. Pure: bytes in, lines out.
#[derive(Debug)]
pub(super) struct Lines {
    stream: Stream,
    /// The beginning of a line whose end has not come yet; at most [`LONGEST_LINE`] bytes.
    begun: Vec<u8>,
}

/// What every line of one batch begins with; the tag is filled in.
struct Prefix([u8; STAMP + 10]);

impl Prefix {
    fn new(stamp: &[u8; STAMP], stream: Stream) -> Self {
        let mut bytes = [0; STAMP + 10];
        bytes[..STAMP].copy_from_slice(stamp);
        bytes[STAMP..].copy_from_slice(match stream {
            Stream::Stdout => b" stdout F ",
            Stream::Stderr => b" stderr F ",
        });
        Self(bytes)
    }

    fn tagged(&mut self, tag: u8) -> &[u8] {
        self.0[STAMP + 8] = tag;
        &self.0
    }
}

impl Lines {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, begun: Vec::new() }
    }

    /// Appends the lines that `bytes` complete to `log`, all with one time; keeps the rest.
    pub(super) fn format(&mut self, mut bytes: &[u8], stamp: &[u8; STAMP], log: &mut Vec<u8>) {
        let mut prefix = Prefix::new(stamp, self.stream);
        if !self.begun.is_empty() {
            bytes = self.complete(bytes, &mut prefix, log);
        }
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            let line = cut(line, &mut prefix, log);
            emit(prefix.tagged(b'F'), &[line], log);
        }
        if !bytes.is_empty() {
            let rest = cut(bytes, &mut prefix, log);
            self.begun.extend_from_slice(rest);
        }
    }

    /// The output has ended: what was begun is written as a part without an end.
    pub(super) fn finish(&mut self, stamp: &[u8; STAMP], log: &mut Vec<u8>) {
        if !self.begun.is_empty() {
            emit(Prefix::new(stamp, self.stream).tagged(b'P'), &[&self.begun], log);
            self.begun = Vec::new();
        }
    }

    /// Goes on with the line that was begun; returns what follows its end.
    fn complete<'a>(&mut self, bytes: &'a [u8], prefix: &mut Prefix, log: &mut Vec<u8>) -> &'a [u8] {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let mut line = &bytes[..end.unwrap_or(bytes.len())];
        if self.begun.len() + line.len() > LONGEST_LINE {
            let (head, tail) = line.split_at(LONGEST_LINE - self.begun.len());
            emit(prefix.tagged(b'P'), &[&self.begun, head], log);
            self.begun.clear();
            line = cut(tail, prefix, log);
        }
        match end {
            Some(end) => {
                emit(prefix.tagged(b'F'), &[&self.begun, line], log);
                // The buffer goes, too: most streams end their lines, and there may be many of them.
                self.begun = Vec::new();
                &bytes[end + 1..]
            }
            None => {
                self.begun.extend_from_slice(line);
                &[]
            }
        }
    }
}

/// Emits all of a line but its last part of at most [`LONGEST_LINE`] bytes, and returns that.
fn cut<'a>(mut line: &'a [u8], prefix: &mut Prefix, log: &mut Vec<u8>) -> &'a [u8] {
    while line.len() > LONGEST_LINE {
        let (head, tail) = line.split_at(LONGEST_LINE);
        emit(prefix.tagged(b'P'), &[head], log);
        line = tail;
    }
    line
}

fn emit(prefix: &[u8], parts: &[&[u8]], log: &mut Vec<u8>) {
    log.extend_from_slice(prefix);
    for part in parts {
        log.extend_from_slice(part);
    }
    log.push(b'\n');
}

/// A container's log file.
///
/// A file that cannot be written (a full disk) never stops the container: lines are lost then, but none is torn. What
/// the kernel took only a part of is finished first.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    torn: Vec<u8>,
}

impl LogFile {
    /// Opens the log for appending; it is made with mode 0640 if it is not there.
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), file: open(path)?, torn: Vec::new() })
    }

    /// Writes whole lines. `false` if they, or a part of them, are lost or still to be written.
    pub(super) fn write(&mut self, lines: &[u8]) -> bool {
        if !self.torn.is_empty() {
            let torn = std::mem::take(&mut self.torn);
            let done = self.put(&torn);
            self.torn = torn[done..].to_vec();
            if !self.torn.is_empty() {
                return false;
            }
        }
        let done = self.put(lines);
        if done == lines.len() {
            return true;
        }
        // The line that was cut off in the middle is kept, those after it are lost.
        let inside = done > 0 && lines[done - 1] != b'\n';
        if inside {
            let end = lines[done..].iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| done + end + 1);
            self.torn = lines[done..end].to_vec();
        }
        false
    }

    /// Goes on in a new file at the same path, since the old one was renamed.
    ///
    /// # Errors
    /// `System`, if there is none to be had: the old one is kept.
    pub(super) fn reopen(&mut self) -> Result<()> {
        self.write(&[]);
        self.file = open(&self.path)?;
        // What could not be finished belongs to a line of the old file.
        self.torn = Vec::new();
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.write(&bytes[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        done
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    // A named pipe or a terminal in place of the file must neither block nor become ours.
    options.append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options.open(path).context(|| format!("open the log {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: [u8; STAMP] = *b"2026-11-23T15:00:00.000000000Z";

    fn show(log: &[u8]) -> String {
        String::from_utf8_lossy(log).replace("2026-11-23T15:00:00.000000000Z ", "")
    }

    #[test]
    fn lines_look_like_this() {
        let mut log = Vec::new();
        let mut lines = Lines::new(Stream::Stderr);
        lines.format(b"one\n\ntwo", &AT, &mut log);
        assert_eq!(
            std::str::from_utf8(&log).unwrap(),
            "2026-11-23T15:00:00.000000000Z stderr F one\n2026-11-23T15:00:00.000000000Z stderr F \n"
        );
        lines.format(b" and a half\nthree", &AT, &mut log);
        lines.finish(&AT, &mut log);
        lines.finish(&AT, &mut log);
        assert_eq!(show(&log), "stderr F one\nstderr F \nstderr F two and a half\nstderr P three\n");
    }

    #[test]
    fn long_lines_are_cut_at_16_kib_and_not_before() {
        for (length, expected) in
            [(LONGEST_LINE, vec!["F"]), (LONGEST_LINE + 1, vec!["P", "F"]), (3 * LONGEST_LINE, vec!["P", "P", "F"])]
        {
            let mut log = Vec::new();
            let mut lines = Lines::new(Stream::Stdout);
            let mut text = vec![b'x'; length];
            text.push(b'\n');
            lines.format(&text, &AT, &mut log);
            let tags: Vec<String> = show(&log).lines().map(|line| line[7..8].to_owned()).collect();
            assert_eq!(tags, expected, "{length}");
            assert!(show(&log).lines().all(|line| line.len() <= 9 + LONGEST_LINE));
        }
    }

    /// Puts a log back together as a reader does.
    fn restore(log: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        for line in log.split_inclusive(|byte| *byte == b'\n') {
            let content = &line[STAMP + 10..line.len() - 1];
            text.extend_from_slice(content);
            if line[STAMP + 8] == b'F' {
                text.push(b'\n');
            }
        }
        text
    }

    #[test]
    fn any_bytes_in_any_pieces_come_back_the_same() {
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..60 {
            let mut text = Vec::new();
            for _ in 0..random(12) {
                let longest = [10, 100, 20_000, 40_000][random(4)];
                let line = random(longest);
                text.extend((0..line).map(|_| [0, 255, b'\r', b'a', 0xc3][random(5)]));
                text.push(b'\n');
            }
            text.extend((0..random(3) * random(20_000)).map(|_| b'z'));
            let (mut log, mut lines, mut rest) = (Vec::new(), Lines::new(Stream::Stdout), text.as_slice());
            while !rest.is_empty() {
                let (now, later) = rest.split_at((1 + random(30_000)).min(rest.len()));
                lines.format(now, &AT, &mut log);
                assert!(lines.begun.len() <= LONGEST_LINE);
                rest = later;
            }
            lines.finish(&AT, &mut log);
            assert_eq!(restore(&log), text);
        }
    }

    #[test]
    fn nothing_is_held_between_lines() {
        let mut lines = Lines::new(Stream::Stdout);
        lines.format(&[b'x'; 9000], &AT, &mut Vec::new());
        lines.format(b"\n", &AT, &mut Vec::new());
        assert_eq!(lines.begun.capacity(), 0);
    }

    #[test]
    fn a_full_disk_loses_whole_lines_only() {
        let path = std::env::temp_dir().join(format!("gantry-log-{}", std::process::id()));
        let mut log = LogFile::open(&path).unwrap();
        assert!(log.write(b"one\n"));
        // As after a write of which the kernel took "tw".
        log.file.write_all(b"tw").unwrap();
        log.torn = b"o\n".to_vec();
        let good = std::mem::replace(&mut log.file, File::open("/dev/null").unwrap());
        assert!(!log.write(b"three\n"), "not open for writing, as good as full");
        log.file = good;
        assert!(log.write(b"four\n"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nfour\n");
        std::fs::remove_file(path).unwrap();
    }
}
