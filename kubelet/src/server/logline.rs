//! One line of a CRI log: `2026-11-23T15:00:00.000000000Z stdout F text`. A line whose tag has `P` goes on
//! in the next line of its stream.

/// A line taken apart; the text has no line break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line<'a> {
    pub time: &'a str,
    pub stderr: bool,
    pub partial: bool,
    pub text: &'a [u8],
}

/// `None` for what is no line of such a log.
pub(crate) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stderr = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let tags = parts.next()?;
    let partial = tags.split(|b| *b == b':').next() == Some(b"P");
    Some(Line { time, stderr, partial, text: parts.next().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line = parse(b"2026-11-23T15:00:00.000000000Z stderr P:x a b \n").expect("a line");
        assert_eq!(
            (line.time, line.stderr, line.partial, line.text),
            ("2026-11-23T15:00:00.000000000Z", true, true, &b"a b "[..])
        );
        assert_eq!(parse(b"t stdout F\n").expect("empty").text, b"");
        for bad in [&b""[..], b"t", b"t stdlog F x", b"\xff stdout F x"] {
            assert_eq!(parse(bad), None);
        }
    }
}
