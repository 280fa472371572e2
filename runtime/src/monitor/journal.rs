//! The monitor's own log, `DIR/monitor.log`: it has no terminal and no standard error. Opened at the first line.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::clock;

/// What is written; each level holds those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing at all.
    Off,
    /// What went wrong and was gone around.
    #[default]
    Warn,
    /// What was done, too.
    Debug,
}

impl Level {
    /// By its name on the command line; names of other programs' levels count as the nearest.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "off" => Some(Self::Off),
            "error" | "warn" | "warning" | "info" => Some(Self::Warn),
            "debug" | "trace" => Some(Self::Debug),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    level: Level,
    file: Option<File>,
}

impl Journal {
    pub(super) fn new(dir: &Path, level: Level) -> Self {
        Self { path: dir.join("monitor.log"), level, file: None }
    }

    pub(super) fn warn(&mut self, text: &str) {
        self.note(Level::Warn, "warning", text);
    }

    pub(super) fn debug(&mut self, text: &str) {
        self.note(Level::Debug, "debug", text);
    }

    /// There is nobody to tell that telling failed.
    fn note(&mut self, level: Level, name: &str, text: &str) {
        if level > self.level {
            return;
        }
        if self.file.is_none() {
            self.file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path).ok();
        }
        if let Some(file) = &mut self.file {
            let stamp = clock::stamp(clock::now());
            let _ = writeln!(file, "{} {name}: {text}", String::from_utf8_lossy(&stamp));
        }
    }
}
