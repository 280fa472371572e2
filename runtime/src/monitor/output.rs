//! Container output -> log lines in the CRI format: `2026-11-23T15:00:00.000000000Z stdout F text`.
//!
//! `F` ends a line, `P` is a part of one that goes on in the next entry of the same stream: lines longer than 16 KiB are
//! cut, and output that ends without a newline ends with `P`, so that a reader puts back exactly what was written.
//! Format: kubernetes/kubernetes, design of the CRI logs; cutting as containerd does it.

use super::clock::STAMP;

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

/// What a line says, and of which stream. The line is one that was made here, with its newline.
pub(super) fn parts(line: &[u8]) -> (Stream, &[u8]) {
    let stream = if line.get(STAMP + 4) == Some(&b'e') { Stream::Stderr } else { Stream::Stdout };
    (stream, line.get(STAMP + 10..line.len() - 1).unwrap_or_default())
}

fn emit(prefix: &[u8], parts: &[&[u8]], log: &mut Vec<u8>) {
    log.extend_from_slice(prefix);
    for part in parts {
        log.extend_from_slice(part);
    }
    log.push(b'\n');
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
        let said: Vec<_> = log.split_inclusive(|byte| *byte == b'\n').map(parts).collect();
        assert_eq!(said[2..], [(Stream::Stderr, &b"two and a half"[..]), (Stream::Stderr, b"three")]);
        log.clear();
        Lines::new(Stream::Stdout).format(b"\n", &AT, &mut log);
        assert_eq!(parts(&log), (Stream::Stdout, &b""[..]));
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
}
