//! Errors and warnings for people (standard error) and for the caller (`--log`, which containerd reads).

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use super::parse::{Call, Given};
use crate::clock;

#[derive(Serialize)]
struct Line<'a> {
    level: &'a str,
    msg: &'a str,
    time: &'a str,
}

/// Tells of the failure that ends the command.
pub(super) fn error(given: &Given, sentence: &str) {
    eprintln!("gantry-runtime: {sentence}");
    append(given, "error", sentence);
}

/// Tells of something that is missing but does not end the command.
pub(super) fn warnings(call: &Call, warnings: &[String]) {
    for text in warnings {
        if call.value("log").is_none() {
            eprintln!("gantry-runtime: warning: {text}");
        }
        append(&call.given, "warning", text);
    }
}

/// A log that cannot be written must not keep a container from running: the failure goes to standard error.
fn append(given: &Given, level: &str, msg: &str) {
    let Some(path) = given.value("log").filter(|path| !path.is_empty()).map(Path::new) else { return };
    let time = clock::rfc3339(SystemTime::now());
    let json = given.value("log-format").is_some_and(|format| format == "json");
    let line = Line { level, msg, time: &time };
    let text = if json {
        serde_json::to_string(&line).unwrap_or_default() + "\n"
    } else {
        format!("time={time:?} level={level} msg={msg:?}\n")
    };
    let opened = OpenOptions::new().create(true).append(true).open(path);
    if let Err(why) = opened.and_then(|mut file| file.write_all(text.as_bytes())) {
        eprintln!("gantry-runtime: write {}: {why}", path.display());
    }
}
