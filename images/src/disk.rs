//! Durable changes of the disk: replace a file, publish a name, sync a directory or a whole filesystem.
//!
//! A new name is safe after a power cut only if the data was synced before the rename and the directory after it
//! (ext4 and xfs; containerd#8973 shows what happens otherwise).

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};

use crate::error::{Context, Error, Kind, Result};
use crate::fault;

/// Makes a directory with mode 0700 if it is missing.
pub(crate) fn private_dir(path: &Path) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Ok(()) => Ok(()),
        Err(why) => Err(why).context(|| format!("make directory {}", path.display())),
    }
}

/// Opens a directory to work below it.
pub(crate) fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).context(|| format!("open directory {}", path.display()))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    let what = || format!("sync directory {}", path.display());
    let dir = open_dir(path)?;
    fault::point("sync a directory").context(what)?;
    match fault::syncs() {
        true => rustix::fs::fsync(dir).context(what),
        false => Ok(()),
    }
}

/// Makes the data of a file durable.
pub(crate) fn sync_file(file: &File) -> std::io::Result<()> {
    fault::point("sync a file")?;
    match fault::syncs() {
        true => file.sync_all(),
        false => Ok(()),
    }
}

/// Gives a file or directory its final name, all that `from` holds being synced; the directory's own sync is the
/// caller's.
pub(crate) fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    fault::point("rename")?;
    std::fs::rename(from, to)
}

/// Replaces a file: whoever reads it, now or after a power cut, sees the old content or the new.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}.{count}", std::process::id()));
    let what = || format!("write {}", path.display());
    let write = || -> Result<()> {
        let mut options = File::options();
        fault::point("create a file").context(what)?;
        let mut file = options.write(true).create_new(true).mode(0o600).open(&temporary).context(what)?;
        fault::point("write a file").context(what)?;
        file.write_all(content).context(what)?;
        sync_file(&file).context(what)?;
        rename(&temporary, path).context(what)
    };
    write().inspect_err(|_| drop(std::fs::remove_file(&temporary)))?;
    match path.parent() {
        Some(dir) => sync_dir(dir),
        None => Ok(()),
    }
}

/// Reads a whole file that should be small; `None` if it does not exist.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    let what = || format!("read {}", path.display());
    // O_NONBLOCK: a pipe by that name must not stop us; what is no regular file is refused below.
    let file =
        match File::options().read(true).custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed()).open(path) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.context(what)?,
        };
    if !file.metadata().context(what)?.is_file() {
        return Err(Error::new(Kind::Invalid, format!("{} is no regular file", path.display())));
    }
    let mut content = Vec::new();
    file.take(limit + 1).read_to_end(&mut content).context(what)?;
    if content.len() as u64 > limit {
        return Err(Error::new(Kind::TooLarge, format!("{} is larger than {limit} bytes", path.display())));
    }
    Ok(Some(content))
}

/// Group commit for a filesystem: any number of callers share one `syncfs` that began after they asked.
#[derive(Default)]
pub(crate) struct GroupSync {
    asked: AtomicU64,
    served: Mutex<u64>,
}

impl GroupSync {
    /// Everything written to `on`'s filesystem before this call is on disk when it returns.
    pub(crate) fn sync(&self, on: impl AsFd) -> Result<()> {
        let ticket = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let mut served = self.served.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *served >= ticket {
            return Ok(());
        }
        let covers = self.asked.load(Ordering::SeqCst);
        fault::point("sync the filesystem").context(|| "sync the filesystem")?;
        if fault::syncs() {
            rustix::fs::syncfs(on).context(|| "sync the filesystem")?;
        }
        *served = covers;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn replace_leaves_one_file() {
        let dir = Scratch::new("replace");
        let path = dir.path().join("index.json");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(read_small(&path, 3).unwrap().unwrap(), b"two");
        assert_eq!(read_small(&path, 2).unwrap_err().kind(), Kind::TooLarge);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(read_small(&dir.path().join("none"), 9).unwrap().is_none());
        assert_eq!(read_small(dir.path(), 9).unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn group_sync_serves_all() {
        let dir = Scratch::new("group-sync");
        let sync = GroupSync::default();
        let fd = open_dir(dir.path()).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| sync.sync(&fd).unwrap());
            }
        });
        assert_eq!(*sync.served.lock().unwrap(), 4);
    }
}
