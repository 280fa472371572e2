//! Termination messages: the file that a container wrote, or the end of its log where it failed and asked
//! for that. At most 4 KiB of the file; 80 lines or 2 KiB of the log.

use std::io::{Read, Seek, SeekFrom};

use k8s_openapi::api::core::v1::Pod;

use super::make;
use super::seen::{State, View};
use crate::pod;
use crate::shared::Shared;

const MOST: u64 = 4096;
const MOST_OF_LOG: u64 = 2048;
const MOST_LINES: usize = 80;

/// Reads the messages of containers that are over and have none yet.
pub(crate) fn read_terminations(shared: &Shared, of: &Pod, view: &mut View) {
    for seen in view.containers.iter_mut().filter(|c| c.state == State::Exited && c.said.is_empty()) {
        let policy = pod::container(of, &seen.name).and_then(|(_, c)| c.termination_message_policy);
        let file = make::termination_log(&shared.config.root_dir, pod::uid(of), &seen.name, seen.restarts);
        let data = crate::files::read_capped(&file, MOST).unwrap_or_default();
        seen.said = String::from_utf8_lossy(&data).into_owned();
        if seen.said.is_empty() && seen.exit_code != 0 && policy.as_deref() == Some("FallbackToLogsOnError") {
            seen.said = tail(std::path::Path::new(&seen.log_path)).unwrap_or_default();
        }
    }
}

/// The end of a CRI log, without its timestamps.
fn tail(path: &std::path::Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    // Each line carries about 45 bytes of timestamp and tags.
    file.seek(SeekFrom::Start(length.saturating_sub(MOST_OF_LOG + 45 * MOST_LINES as u64)))?;
    let mut data = Vec::new();
    file.take(64 * 1024).read_to_end(&mut data)?;
    let text = String::from_utf8_lossy(&data);
    let mut out = String::new();
    for line in text.lines().rev().take(MOST_LINES) {
        let Some(parsed) = crate::server::logline::parse(line.as_bytes()) else { continue };
        let piece = format!("{}{}", String::from_utf8_lossy(parsed.text), if parsed.partial { "" } else { "\n" });
        if (out.len() + piece.len()) as u64 > MOST_OF_LOG {
            break;
        }
        out.insert_str(0, &piece);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn the_end_of_a_log_is_cut_to_lines_and_bytes() {
        let dir = TempDir::new("tail");
        let file = dir.path().join("0.log");
        let line = |n: usize| format!("2026-11-23T15:00:00.000000000Z stderr F line {n}\n");
        std::fs::write(&file, (0..200).map(line).collect::<String>()).expect("log");
        let said = tail(&file).expect("tail");
        assert!(said.ends_with("line 199\n") && said.lines().count() == 80, "{said}");
        let long = format!("2026-11-23T15:00:00.000000000Z stderr F {}\n", "x".repeat(900));
        std::fs::write(&file, long.repeat(10)).expect("log");
        assert_eq!(tail(&file).expect("tail").lines().count(), 2);
    }
}
