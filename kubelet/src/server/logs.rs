//! Reading a container's log: the last lines, since a time, with timestamps, up to a number of bytes, and
//! following it through rotation until the container ends. Waiting is inotify's, never a timer's.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;

use super::logline;
use crate::dirwatch::DirWatch;
use crate::error::{Error, Result};

/// What of a log is wanted; PodLogOptions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    pub tail: Option<usize>,
    pub since: Option<Timestamp>,
    pub limit: Option<u64>,
    /// `Stdout`, `Stderr`; `None`: both.
    pub stream: Option<bool>,
}

impl Options {
    /// Reads the query of a containerLogs request.
    ///
    /// # Errors
    /// `Kind::Pod` naming the parameter that cannot be read.
    pub(crate) fn parse(query: &[(String, String)], now: Timestamp) -> Result<Self> {
        let mut out = Self::default();
        let flag = |v: &str| matches!(v, "true" | "1" | "");
        for (key, value) in query {
            let bad = || Error::pod(format!("invalid {key}: {value:?}"));
            match key.as_str() {
                "follow" => out.follow = flag(value),
                "previous" => out.previous = flag(value),
                "timestamps" => out.timestamps = flag(value),
                "tailLines" => out.tail = Some(value.parse().map_err(|_| bad())?),
                "limitBytes" => out.limit = Some(value.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?),
                "sinceTime" => out.since = Some(value.parse().map_err(|_| bad())?),
                "sinceSeconds" => {
                    let seconds: i64 = value.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?;
                    out.since = Some(crate::clock::plus(now, -seconds));
                }
                "stream" => {
                    out.stream = match value.as_str() {
                        "All" | "" => None,
                        "Stdout" => Some(false),
                        "Stderr" => Some(true),
                        _ => return Err(bad()),
                    }
                }
                _ => {}
            }
        }
        Ok(out)
    }
}

/// Turns lines of the file into what the reader gets.
struct Printer {
    options: Options,
    left: Option<u64>,
    /// Per stream: the line before was partial, so that this one continues it.
    midline: [bool; 2],
}

impl Printer {
    fn new(options: Options) -> Self {
        Self { left: options.limit, midline: [false; 2], options }
    }

    /// The output of one line; `None` when nothing more may come.
    fn print(&mut self, raw: &[u8]) -> Option<Bytes> {
        let Some(line) = logline::parse(raw) else { return Some(Bytes::new()) };
        let stream = usize::from(line.stderr);
        let continues = std::mem::replace(&mut self.midline[stream], line.partial);
        if self.options.stream.is_some_and(|wanted| wanted != line.stderr) {
            return Some(Bytes::new());
        }
        if let Some(since) = self.options.since
            && line.time.parse::<Timestamp>().is_ok_and(|at| at < since)
        {
            return Some(Bytes::new());
        }
        let mut out = Vec::with_capacity(line.text.len() + 40);
        if self.options.timestamps && !continues {
            out.extend_from_slice(line.time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(line.text);
        if !line.partial {
            out.push(b'\n');
        }
        if let Some(left) = &mut self.left {
            if *left == 0 {
                return None;
            }
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        Some(out.into())
    }

    fn is_full(&self) -> bool {
        self.left == Some(0)
    }
}

/// The rotated files of `log` (oldest first, uncompressed) and `log` itself.
pub(crate) fn with_rotated(log: &Path) -> Vec<PathBuf> {
    let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries = log.parent().and_then(|d| std::fs::read_dir(d).ok());
    let mut all: Vec<PathBuf> = entries
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .filter(|p| {
            let file = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            file.strip_prefix(&name)
                .is_some_and(|rest| rest.starts_with('.') && !rest.ends_with(".gz") && !rest.ends_with(".tmp"))
        })
        .collect();
    all.sort();
    all.push(log.to_path_buf());
    all
}

const BLOCK: u64 = 64 * 1024;

/// The offset in `file` from which the last `lines` whole lines begin, and how many there are before it.
fn tail_offset(file: &mut File, lines: usize) -> std::io::Result<(u64, usize)> {
    let length = file.metadata()?.len();
    if lines == 0 {
        return Ok((length, 0));
    }
    let (mut at, mut found) = (length, 0usize);
    let mut block = Vec::new();
    while at > 0 {
        let start = at.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        Read::by_ref(file).take(at - start).read_to_end(&mut block)?;
        for (index, byte) in block.iter().enumerate().rev() {
            let position = start + index as u64;
            // The break that ends the last line begins none.
            if *byte == b'\n' && position + 1 != length {
                found += 1;
                if found == lines {
                    return Ok((position + 1, found));
                }
            }
        }
        at = start;
    }
    Ok((0, found + usize::from(length > 0)))
}

/// Sends the log at `path`. With `follow`, until `alive` says that the container is over and all was read,
/// or nobody reads any more. Runs as a task of its own.
///
/// # Errors
/// `Kind::Io` where the log cannot be read.
pub(crate) async fn send<A: Future<Output = bool> + Send>(
    path: PathBuf,
    options: Options,
    out: mpsc::Sender<Bytes>,
    alive: impl Fn() -> A + Send,
) -> Result<()> {
    let broken = |e: std::io::Error| Error::io(format!("read log {}", path.display()), e);
    let mut printer = Printer::new(options.clone());
    let mut files: VecDeque<PathBuf> = start(&path, options.tail).map_err(broken)?;
    let mut offset = 0;
    if let (Some(lines), Some(first)) = (options.tail, files.front()) {
        offset = tail_start(first, &files, lines).map_err(broken)?;
    }
    // Watched before it is read: what is written in between is an event.
    let dir = path.parent().unwrap_or(Path::new("/"));
    let watch = if options.follow { Some(DirWatch::new(dir)?) } else { None };
    let Some(mut current) = files.pop_front() else { return Ok(()) };
    loop {
        let mut reader = BufReader::with_capacity(BLOCK as usize, File::open(&current).map_err(broken)?);
        reader.seek(SeekFrom::Start(offset)).map_err(broken)?;
        let inode = reader.get_ref().metadata().map_err(broken)?.ino();
        offset = 0;
        let mut rest = Vec::new();
        loop {
            if !drain(&mut reader, &mut rest, &mut printer, &out).await.map_err(broken)? {
                return Ok(());
            }
            if !files.is_empty() {
                break;
            }
            let Some(watch) = &watch else { return Ok(()) };
            // Rotated: the old file was read to its end, go on in the new one.
            let now = std::fs::metadata(&path).map(|m| m.ino());
            if now.as_ref().is_ok_and(|i| *i != inode) {
                break;
            }
            if !alive().await {
                // It may have written between the last read and its end.
                drain(&mut reader, &mut rest, &mut printer, &out).await.map_err(broken)?;
                return Ok(());
            }
            tokio::select! {
                changed = watch.changed() => changed?,
                () = tokio::time::sleep(ASK_AGAIN) => {}
                () = out.closed() => return Ok(()),
            }
        }
        current = files.pop_front().unwrap_or_else(|| path.clone());
    }
}

/// The files to read, by how many lines are wanted.
fn start(path: &Path, tail: Option<usize>) -> std::io::Result<VecDeque<PathBuf>> {
    let all = with_rotated(path);
    let Some(lines) = tail else { return Ok(all.into()) };
    let mut chosen = VecDeque::new();
    let mut missing = lines;
    for file in all.into_iter().rev() {
        let (_, found) = tail_offset(&mut File::open(&file)?, missing)?;
        chosen.push_front(file);
        missing -= found.min(missing);
        if missing == 0 {
            break;
        }
    }
    Ok(chosen)
}

fn tail_start(first: &Path, files: &VecDeque<PathBuf>, lines: usize) -> std::io::Result<u64> {
    let mut missing = lines;
    for file in files.iter().skip(1).rev() {
        missing -= tail_offset(&mut File::open(file)?, missing)?.1.min(missing);
    }
    Ok(tail_offset(&mut File::open(first)?, missing)?.0)
}

/// Reads whole lines to the end of the file as it is; false when nothing more is wanted.
async fn drain(
    reader: &mut BufReader<File>,
    rest: &mut Vec<u8>,
    printer: &mut Printer,
    out: &mpsc::Sender<Bytes>,
) -> std::io::Result<bool> {
    let mut batch = Vec::new();
    loop {
        // A line that is only half written is kept for the next time.
        let read = reader.read_until(b'\n', rest)?;
        let whole = rest.last() == Some(&b'\n');
        if whole {
            let printed = printer.print(rest);
            rest.clear();
            match printed {
                Some(text) => batch.extend_from_slice(&text),
                None => return flush(&mut batch, out).await.map(|()| false),
            }
            if printer.is_full() {
                return flush(&mut batch, out).await.map(|()| false);
            }
        }
        if batch.len() >= BLOCK as usize || (!whole && !batch.is_empty()) {
            flush(&mut batch, out).await?;
        }
        if !whole {
            return Ok(!out.is_closed());
        }
        if read == 0 {
            return Ok(true);
        }
    }
}

async fn flush(batch: &mut Vec<u8>, out: &mpsc::Sender<Bytes>) -> std::io::Result<()> {
    // A reader that went away is noticed by the caller.
    let _ = out.send(std::mem::take(batch).into()).await;
    Ok(())
}

/// A runtime that keeps the log of an ended container open is asked again after this long.
const ASK_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
