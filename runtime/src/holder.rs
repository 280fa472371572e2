//! The lock on a container's directory: waiting for it, within bounds, and naming who has it.

use std::fs::{File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Kind, Result};

/// How long an operation waits for the one before it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Takes the lock, waiting up to `patience`. Free, it costs one system call.
///
/// # Errors
/// `WrongState`, naming the process that holds it.
pub(crate) fn lock(dir: &File, path: &Path, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_micros(200);
    loop {
        match dir.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(why)) => return Err(why).context(|| format!("lock {}", path.display())),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return Err(busy(dir, path, patience)),
            Err(TryLockError::WouldBlock) => {}
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn busy(dir: &File, path: &Path, patience: Duration) -> Error {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let pid = dir.metadata().ok().and_then(|about| holder(&locks, about.dev(), about.ino()));
    let who = pid.map_or("another process".to_owned(), |pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        format!("process {pid} ({})", words.join(" ").trim())
    });
    let what = format!(
        "{who} {}, and holds {}; try again, or end that process",
        match patience.as_secs() {
            0 => "is at work on it".to_owned(),
            waited => format!("has been at work on it for {waited} s and more"),
        },
        path.display()
    );
    Error::new(Kind::WrongState, what)
}

/// The process with a flock(2) on this file, by the lines of `/proc/locks` (proc_locks(5)); a process of another pid
/// namespace is shown as 0 or -1, which is nobody.
fn holder(locks: &str, device: u64, inode: u64) -> Option<i32> {
    let file = format!("{:02x}:{:02x}:{inode}", libc::major(device), libc::minor(device));
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let held = words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&file.as_str());
        words.get(4).filter(|_| held)?.parse().ok().filter(|pid| *pid > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_locks() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:19:44 0 EOF\n2: FLOCK  ADVISORY  WRITE 8 00:19:44 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 9 00:19:45 0 EOF\n3: FLOCK  ADVISORY  WRITE -1 00:19:46 0 EOF\n";
        let device = libc::makedev(0, 0x19);
        assert_eq!(holder(locks, device, 44), Some(8));
        assert_eq!(holder(locks, device, 45), None, "it waits, too");
        assert_eq!(holder(locks, device, 46), None);
    }

    #[test]
    fn a_lock_that_is_held_is_waited_for_within_bounds_and_its_holder_named() {
        let path = std::env::temp_dir().join(format!("gantry-holder-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let (ours, theirs) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        lock(&theirs, &path, Duration::ZERO).unwrap();
        let why = lock(&ours, &path, Duration::from_millis(5)).unwrap_err();
        assert_eq!(why.kind(), Kind::WrongState);
        assert!(why.to_string().contains(&format!("process {} (", std::process::id())), "{why}");
        drop(theirs);
        lock(&ours, &path, Duration::ZERO).unwrap();
        std::fs::remove_dir_all(&path).unwrap();
    }
}
