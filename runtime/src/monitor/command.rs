//! `gantry-runtime monitor`: its flags.

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::{Arg, Parser};

use super::daemon::{Config, start};
use super::journal::Level;
use crate::error::{Error, Kind, Result};
use crate::sys::{Solo, process};

/// How the command is called.
pub const USAGE: &str = "\
usage: gantry-runtime monitor --dir DIR [--root ROOT] [--log-level off|warn|debug]

Starts the monitor of one pod in the background; returns once it listens on DIR/monitor.sock.

  --dir DIR          the pod's directory
  --root ROOT        where the runtime keeps its state (default: DIR/runtime)
  --log-level LEVEL  what goes to DIR/monitor.log (default: warn)
";

/// Runs the command with the arguments after `monitor`.
///
/// # Errors
/// `Invalid` for wrong flags; what [`start`] says otherwise.
pub fn command(arguments: impl IntoIterator<Item = OsString>) -> Result<()> {
    let config = parse(arguments)?;
    // Whatever the starter left open is none of the monitor's business; nothing of ours is open yet.
    let _ = process::close_from(3);
    // A daemon starts it from a sealed copy; whoever else does gets the same protection.
    crate::seal::protect(&Solo::prove()?)?;
    start(&config)
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Config> {
    let invalid = |why: lexopt::Error| Error::new(Kind::Invalid, format!("monitor: {why}"));
    let (mut dir, mut root, mut level) = (None, None, Level::default());
    let mut parser = Parser::from_args(arguments);
    while let Some(argument) = parser.next().map_err(invalid)? {
        match argument {
            Arg::Long("dir") => dir = Some(PathBuf::from(parser.value().map_err(invalid)?)),
            Arg::Long("root") => root = Some(PathBuf::from(parser.value().map_err(invalid)?)),
            Arg::Long("log-level") => {
                let name = parser.value().map_err(invalid)?;
                let named = name.to_str().and_then(Level::named);
                level = named
                    .ok_or_else(|| Error::new(Kind::Invalid, format!("monitor: there is no log level {name:?}")))?;
            }
            other => return Err(invalid(other.unexpected())),
        }
    }
    let dir = dir.ok_or_else(|| Error::new(Kind::Invalid, "monitor: --dir is missing"))?;
    Ok(Config { dir, root, level })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &str) -> Result<Config> {
        parse(arguments.split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags() {
        let plain = config("--dir /run/pod").unwrap();
        assert_eq!((plain.dir, plain.root, plain.level), (PathBuf::from("/run/pod"), None, Level::Warn));
        let full = config("--root=/r --log-level debug --dir d").unwrap();
        assert_eq!((full.dir, full.root, full.level), (PathBuf::from("d"), Some(PathBuf::from("/r")), Level::Debug));
        for (wrong, says) in [
            ("", "--dir is missing"),
            ("--dir a --fast", "--fast"),
            ("--dir a --log-level loud", "loud"),
            ("--dir", ""),
        ] {
            let error = config(wrong).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
