//! A container's log file, which loses nothing unsaid.
//!
//! A file that cannot be written (a full disk) never stops the container: what it says meanwhile is lost, but no line is
//! torn, and what was lost is counted. As soon as the file takes writes again one line tells of it, before anything else:
//!
//! ```text
//! 2026-11-23T15:00:00.000000000Z stderr F gantry: 12 lines (345 bytes) of this log were lost
//!     (10 of stdout, 2 of stderr): No space left on device                 (all in one line)
//! ```

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::clock;
use super::output::{Stream, parts};
use crate::error::{Context, Result};

/// How long a log that could not be written is left alone, unless its container says more.
const PAUSE: Duration = Duration::from_secs(1);

/// A log file that is open for appending.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// The rest of a line that the kernel took only a part of; it is written before anything else.
    torn: Vec<u8>,
    lost: Lost,
    tried: Option<Instant>,
}

/// What could not be written and was not told yet.
#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    /// Entries of stdout and of stderr.
    lines: [u64; 2],
    /// Of their contents.
    bytes: u64,
    /// Number of the last error.
    errno: i32,
}

impl Lost {
    fn add(&mut self, lines: &[u8]) {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let (stream, content) = parts(line);
            self.lines[stream.index()] += 1;
            self.bytes += content.len() as u64;
        }
    }

    fn is_any(&self) -> bool {
        self.lines != [0, 0]
    }

    fn sentence(&self) -> String {
        let [out, err] = self.lines;
        let why = Errno::from_raw(self.errno).desc();
        let (count, bytes) = (out + err, self.bytes);
        format!("gantry: {count} lines ({bytes} bytes) of this log were lost ({out} of stdout, {err} of stderr): {why}")
    }
}

impl LogFile {
    /// Opens the log for appending; it is made with mode 0640 if it is not there.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = open(path)?;
        Ok(Self { path: path.to_owned(), file, torn: Vec::new(), lost: Lost::default(), tried: None })
    }

    /// Writes whole lines. What cannot be written is counted as lost.
    pub(super) fn write(&mut self, lines: &[u8]) {
        if !self.is_whole() && !self.catch_up() {
            return self.lost.add(lines);
        }
        let done = self.put(lines);
        let rest = &lines[done..];
        // The line that was cut off in the middle is kept, those after it are lost.
        let inside = done > 0 && lines[done - 1] != b'\n';
        let end = rest.iter().position(|byte| *byte == b'\n').filter(|_| inside).map_or(0, |end| end + 1);
        self.torn = rest[..end].to_vec();
        self.lost.add(&rest[end..]);
    }

    /// Whether everything that was said is in the file, or the file tells that it is not.
    pub(super) fn is_whole(&self) -> bool {
        self.torn.is_empty() && !self.lost.is_any()
    }

    /// Tries again what could not be written, if the last try is some time ago.
    pub(super) fn mend(&mut self) {
        if !self.is_whole() && self.tried.is_none_or(|tried| tried.elapsed() >= PAUSE) {
            self.catch_up();
        }
    }

    /// What was lost and could not be told in the log itself, in the same words.
    pub(super) fn untold(&mut self) -> Option<String> {
        (!self.is_whole() && !self.catch_up()).then(|| self.lost.sentence())
    }

    /// Goes on in a new file at the same path, since the old one was renamed. What was lost is told in the one that can
    /// be written first.
    ///
    /// # Errors
    /// `System`, if there is none to be had: the old one is kept.
    pub(super) fn reopen(&mut self) -> Result<()> {
        if !self.is_whole() {
            self.catch_up();
        }
        self.file = open(&self.path)?;
        // It is the rest of a line in the old file: that line is lost, and ends there without its end.
        if !std::mem::take(&mut self.torn).is_empty() {
            self.lost.lines[Stream::Stdout.index()] += 1;
        }
        Ok(())
    }

    /// Ends the line that was cut off, then tells what was lost. `false` if the file still does not take that.
    fn catch_up(&mut self) -> bool {
        self.tried = Some(Instant::now());
        let torn = std::mem::take(&mut self.torn);
        let done = self.put(&torn);
        self.torn = torn[done..].to_vec();
        if !self.torn.is_empty() {
            return false;
        }
        if self.lost.is_any() {
            let stamp = clock::stamp(clock::now());
            let line = format!("{} stderr F {}\n", String::from_utf8_lossy(&stamp), self.lost.sentence());
            let done = self.put(line.as_bytes());
            if done > 0 {
                // It is told: what is missing of the telling is a line like any other.
                self.lost = Lost { errno: self.lost.errno, ..Lost::default() };
                self.torn = line.as_bytes()[done..].to_vec();
            }
        }
        self.is_whole()
    }

    fn put(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.write(&bytes[done..]) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) => {
                    self.lost.errno = why.raw_os_error().unwrap_or(libc::EIO);
                    break;
                }
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

    const AT: &str = "2026-11-23T15:00:00.000000000Z";

    fn line(rest: &str) -> Vec<u8> {
        format!("{AT} {rest}\n").into_bytes()
    }

    /// A log in a file of its own, which is removed in the end.
    struct Scratch(PathBuf, LogFile);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("gantry-log-{name}-{}", std::process::id()));
            let log = LogFile::open(&path).unwrap();
            Self(path, log)
        }

        /// Does something while the disk is full.
        fn while_full(&mut self, act: impl FnOnce(&mut LogFile)) {
            let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            let good = std::mem::replace(&mut self.1.file, full);
            act(&mut self.1);
            self.1.file = good;
        }

        fn text(&self) -> String {
            let text = std::fs::read_to_string(&self.0).unwrap();
            text.lines().map(|line| format!("{}\n", line.split_once(' ').map_or(line, |(_, rest)| rest))).collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn what_a_full_disk_did_not_take_is_counted_and_told_once() {
        let mut scratch = Scratch::new("full");
        scratch.1.write(&line("stdout F one"));
        scratch.while_full(|log| {
            log.write(&[line("stdout F 123"), line("stdout F 4567")].concat());
            log.write(&line("stderr P x"));
            log.mend();
            assert!(!log.is_whole());
        });
        scratch.1.write(&line("stdout F two"));
        scratch.1.mend();
        assert!(scratch.1.is_whole() && scratch.1.untold().is_none());
        let told =
            "gantry: 3 lines (8 bytes) of this log were lost (2 of stdout, 1 of stderr): No space left on device";
        assert_eq!(scratch.text(), format!("stdout F one\nstderr F {told}\nstdout F two\n"));
    }

    #[test]
    fn a_line_that_was_cut_off_is_ended_before_anything_else() {
        let mut scratch = Scratch::new("torn");
        let whole = line("stdout F cut off");
        scratch.1.put(&whole[..40]);
        scratch.1.torn = whole[40..].to_vec();
        scratch.while_full(|log| log.write(&line("stdout F gone")));
        scratch.1.mend();
        assert!(!scratch.1.is_whole(), "it was tried a moment ago");
        scratch.1.tried = None;
        scratch.1.mend();
        let told =
            "gantry: 1 lines (4 bytes) of this log were lost (1 of stdout, 0 of stderr): No space left on device";
        assert_eq!(scratch.text(), format!("stdout F cut off\nstderr F {told}\n"));
    }

    #[test]
    fn a_loss_is_told_after_a_rotation_and_at_the_end() {
        let mut scratch = Scratch::new("rotated");
        scratch.while_full(|log| {
            log.torn = b"end of a line\n".to_vec();
            log.write(&line("stderr F gone"));
            let untold = log.untold();
            assert!(untold.is_some_and(|told| told.contains("1 lines (4 bytes)") && told.ends_with("left on device")));
            log.reopen().unwrap();
        });
        scratch.1.write(&line("stdout F later"));
        let told =
            "gantry: 2 lines (4 bytes) of this log were lost (1 of stdout, 1 of stderr): No space left on device";
        assert_eq!(scratch.text(), format!("stderr F {told}\nstdout F later\n"));
    }
}
