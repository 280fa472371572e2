//! The record of a container's exit, on disk before the process is reaped.
//!
//! While the record is not there the zombie is, so whoever looks finds one or the other: an exit code is never lost
//! between the two, and never invented.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use super::protocol::Exit;
use super::{clock, exit_path};
use crate::error::{Context, Result};

/// An exit as it is told to clients and written down.
pub(super) fn exit(how: crate::sys::clone::Exit, oom: bool, started_at: i64) -> Exit {
    let signal = match how {
        crate::sys::clone::Exit::Code(_) => None,
        crate::sys::clone::Exit::Signal(signal) => Some(signal),
    };
    Exit { code: how.shell_code(), signal, oom, started_at, finished_at: clock::now() }
}

/// Writes the record: to a new file, synced, renamed, and its directory synced, so that a reader sees all of it or
/// nothing, after a power failure as well.
pub(super) fn record(dir: &Path, id: &str, exit: &Exit) -> Result<()> {
    let path = exit_path(dir, id);
    let new = path.with_extension("json.new");
    let text = serde_json::to_vec(exit).expect("an exit is plain JSON");
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        // The new name, too, has to be on disk before the zombie goes.
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().context(|| format!("record the exit of {id} in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::super::exit_record;
    use super::*;

    #[test]
    fn a_record_is_read_back_and_looks_like_this() {
        let dir = std::env::temp_dir().join(format!("gantry-exit-{}", std::process::id()));
        fs::create_dir_all(dir.join("containers/web")).unwrap();
        assert_eq!(exit_record(&dir, "web").unwrap(), None);
        let killed = exit(crate::sys::clone::Exit::Signal(9), true, 5);
        record(&dir, "web", &killed).unwrap();
        assert_eq!(exit_record(&dir, "web").unwrap(), Some(killed));
        let text = fs::read_to_string(exit_path(&dir, "web")).unwrap();
        assert_eq!(
            text,
            format!(r#"{{"code":137,"signal":9,"oom":true,"started_at":5,"finished_at":{}}}"#, killed.finished_at)
        );
        assert_eq!(fs::read_dir(dir.join("containers/web")).unwrap().count(), 1, "nothing else is left");
        fs::write(exit_path(&dir, "web"), "{").unwrap();
        assert!(exit_record(&dir, "web").is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
