//! Errors, warnings and steps: for people (standard error) and for the caller (`--log`, which containerd, podman and
//! CRI-O read). The file has runc's shape, which is logrus': text or one JSON object a line.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::output;
use super::parse::{Call, Given};
use super::table::NAME;
use crate::{clock, trace};

/// A line of the file; the order of the fields is logrus'.
#[derive(Serialize)]
struct Line<'a> {
    level: &'a str,
    msg: &'a str,
    time: &'a str,
}

/// Where lines go beside standard error.
struct Log {
    path: PathBuf,
    json: bool,
}

impl Log {
    fn of(given: &Given) -> Option<Log> {
        let path = given.value("log").filter(|path| !path.is_empty()).map(Path::new)?;
        Some(Log { path: path.to_owned(), json: given.value("log-format").is_some_and(|format| format == "json") })
    }

    /// A log that cannot be written must not keep a container from running: the failure goes to standard error.
    fn append(&self, level: &str, msg: &str) {
        let text = line(self.json, level, msg, &clock::rfc3339(SystemTime::now()));
        let opened = OpenOptions::new().create(true).append(true).open(&self.path);
        if let Err(why) = opened.and_then(|mut file| file.write_all(text.as_bytes())) {
            output::say(&format!("{NAME}: warning: write {}: {why}", self.path.display()));
        }
    }
}

fn line(json: bool, level: &str, msg: &str, time: &str) -> String {
    if json {
        serde_json::to_string(&Line { level, msg, time }).unwrap_or_default() + "\n"
    } else {
        format!("time={time:?} level={level} msg={msg:?}\n")
    }
}

/// Tells of the failure that ends the command. The word `error` stands in it for those who look for it, as in what
/// runc and crun print.
pub(super) fn error(given: &Given, sentence: &str) {
    output::say(&format!("{NAME}: error: {sentence}"));
    if let Some(log) = Log::of(given) {
        log.append("error", sentence);
    }
}

/// Tells of something that is missing but does not end the command.
pub(super) fn warnings(call: &Call, warnings: &[String]) {
    for text in warnings {
        match Log::of(&call.given) {
            Some(log) => log.append("warning", text),
            None => output::say(&format!("{NAME}: warning: {text}")),
        }
    }
}

/// `--debug`: every step, to the file or else to standard error.
pub(super) fn steps(call: &Call) {
    if !call.has("debug") {
        return;
    }
    match Log::of(&call.given) {
        Some(log) => trace::listen(move |text| log.append("debug", text)),
        None => trace::listen(|text| output::say(&format!("{NAME}: debug: {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::line;

    const TIME: &str = "2026-11-23T18:34:49Z";

    #[test]
    fn a_line_of_json_as_logrus_writes_it() {
        let text = line(true, "error", "mount \"a\\b\":\nno", TIME);
        let json = "{\"level\":\"error\",\"msg\":\"mount \\\"a\\\\b\\\":\\nno\",\"time\":\"2026-11-23T18:34:49Z\"}\n";
        assert_eq!(text, json);
    }

    #[test]
    fn a_line_of_text_as_logrus_writes_it() {
        let text = line(false, "warning", "mount \"a\"", TIME);
        assert_eq!(text, "time=\"2026-11-23T18:34:49Z\" level=warning msg=\"mount \\\"a\\\"\"\n");
    }
}
