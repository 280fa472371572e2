//! The content-addressed part of the store: `blobs/ALGORITHM/HEX`, and `ingest/` where downloads grow.
//!
//! ```text
//! ingest(digest) ── flock ──> append … append ──> commit: size and digest right? fsync, rename, fsync directory
//!                                        └─ crash: the file stays, and the next ingest of the digest continues it
//! ```
//! Invariant: a file below `blobs/` has the content that its name says; nothing ever writes to it again.

use std::fs::{File, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::digest::{Algorithm, Digest, Hasher};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::fault;

/// Unfinished downloads older than this are not worth continuing.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// The blobs of one store.
#[derive(Clone, Debug)]
pub(crate) struct Blobs {
    root: PathBuf,
}

impl Blobs {
    /// Opens the directories below the store's root, making them where they are missing.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            disk::private_dir(&root.join("blobs").join(algorithm.name()))?;
        }
        disk::private_dir(&root.join("ingest"))?;
        let blobs = Self { root: root.to_owned() };
        blobs.clear_ingest()?;
        Ok(blobs)
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// The blob is here with this size. A wrong size (a disk that lost data) counts as absent and is removed, so that
    /// it is fetched again.
    pub(crate) fn has(&self, digest: &Digest, size: u64) -> bool {
        let path = self.path(digest);
        match std::fs::symlink_metadata(&path) {
            Ok(found) if found.is_file() && found.len() == size => true,
            Ok(found) => {
                tracing::warn!(%digest, size, found = found.len(), "a damaged blob is removed");
                drop(std::fs::remove_file(&path));
                false
            }
            Err(_) => false,
        }
    }

    /// There is something with the blob's name.
    pub(crate) fn exists(&self, digest: &Digest) -> bool {
        std::fs::symlink_metadata(self.path(digest)).is_ok()
    }

    /// Opens a blob for reading.
    pub(crate) fn read(&self, digest: &Digest) -> Result<File> {
        File::open(self.path(digest)).context(|| format!("blob {digest}"))
    }

    /// A whole blob that should be small, its content checked against its name; `None` if it is absent or damaged.
    pub(crate) fn read_small(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>> {
        let content = disk::read_small(&self.path(digest), limit)?;
        Ok(content.filter(|content| {
            let good = digest.matches(content);
            if !good {
                tracing::warn!(%digest, "a damaged blob is removed");
                drop(std::fs::remove_file(self.path(digest)));
            }
            good
        }))
    }

    /// Stores a small blob. Blocking.
    pub(crate) fn put(&self, digest: &Digest, content: &[u8]) -> Result<()> {
        match digest.matches(content) {
            true if self.has(digest, content.len() as u64) => Ok(()),
            true => {
                let mut ingest = self.ingest(digest, content.len() as u64)?;
                if ingest.is_here {
                    return Ok(());
                }
                ingest.restart()?;
                ingest.append(content)?;
                ingest.commit()
            }
            false => Err(mismatch(digest, None)),
        }
    }

    /// Deletes a blob; the bytes on disk that this freed.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<u64> {
        let path = self.path(digest);
        let bytes = std::fs::symlink_metadata(&path).map_or(0, |found| found.blocks() * 512);
        match fault::point("remove a blob").and_then(|()| std::fs::remove_file(&path)) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(0),
            other => other.context(|| format!("remove blob {digest}")).map(|()| bytes),
        }
    }

    /// Every blob with its bytes on disk.
    pub(crate) fn list(&self) -> Result<Vec<(Digest, u64)>> {
        let mut found = Vec::new();
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let dir = self.root.join("blobs").join(algorithm.name());
            for entry in std::fs::read_dir(&dir).context(|| format!("read {}", dir.display()))? {
                let entry = entry.context(|| format!("read {}", dir.display()))?;
                let name = format!("{}:{}", algorithm.name(), entry.file_name().to_string_lossy());
                if let (Ok(digest), Ok(meta)) = (name.parse(), entry.metadata()) {
                    found.push((digest, meta.blocks() * 512));
                }
            }
        }
        Ok(found)
    }

    /// Opens the growing file of a blob and waits until no one else, in this or another process, owns it; if that one has
    /// committed the blob, it is all that there is to read. Blocking.
    pub(crate) fn ingest(&self, digest: &Digest, size: u64) -> Result<Ingest> {
        let path = self.ingest_path(digest);
        let what = || format!("open {}", path.display());
        loop {
            fault::point("open an ingest").context(what)?;
            let mut options = File::options();
            let file =
                options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).context(what)?;
            file.lock().context(what)?;
            // The former owner may have committed or discarded the file while we waited for its lock.
            let ours = file.metadata().context(what)?;
            if !std::fs::metadata(&path).is_ok_and(|now| now.ino() == ours.ino()) {
                continue;
            }
            if self.has(digest, size) {
                drop(std::fs::remove_file(&path));
                let file = self.read(digest)?;
                return Ok(self.arriving(digest, file, size, size, true));
            }
            let mut have = ours.len();
            if have > size {
                file.set_len(0).context(what)?;
                have = 0;
            }
            return Ok(self.arriving(digest, file, size, have, false));
        }
    }

    fn arriving(&self, digest: &Digest, file: File, size: u64, have: u64, is_here: bool) -> Ingest {
        let hasher = Hasher::new(digest.algorithm());
        Ingest { blobs: self.clone(), digest: digest.clone(), file, size, have, is_here, hasher, hashed: 0 }
    }

    fn ingest_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("ingest").join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
    }

    /// Unfinished downloads that nobody owns and nobody has continued for so long: file name and bytes on disk.
    pub(crate) fn leftovers(&self, idle: Duration) -> Result<Vec<(String, u64)>> {
        let dir = self.root.join("ingest");
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&dir).context(|| format!("read {}", dir.display()))?.flatten() {
            let (Ok(name), Ok(file)) = (entry.file_name().into_string(), File::open(entry.path())) else { continue };
            if let (Ok(()), Ok(meta)) = (file.try_lock(), file.metadata())
                && is_older(&meta, idle)
            {
                found.push((name, meta.blocks() * 512));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes an unfinished download unless somebody owns it by now; whether it did.
    pub(crate) fn remove_leftover(&self, name: &str) -> bool {
        let path = self.root.join("ingest").join(name);
        let Ok(file) = File::open(&path) else { return false };
        !name.contains('/') && file.try_lock().is_ok() && std::fs::remove_file(&path).is_ok()
    }

    /// Removes unfinished downloads that nobody owns and that are empty or old.
    fn clear_ingest(&self) -> Result<()> {
        let dir = self.root.join("ingest");
        for entry in std::fs::read_dir(&dir).context(|| format!("read {}", dir.display()))?.flatten() {
            let Ok(file) = File::open(entry.path()) else { continue };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock | TryLockError::Error(_)) => continue,
            }
            if file.metadata().is_ok_and(|meta| meta.len() == 0 || is_older(&meta, STALE)) {
                drop(std::fs::remove_file(entry.path()));
            }
        }
        Ok(())
    }
}

fn is_older(meta: &std::fs::Metadata, than: Duration) -> bool {
    meta.modified().is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age > than))
}

fn mismatch(wanted: &Digest, found: Option<&Digest>) -> Error {
    let found = found.map(|d| format!(", it is {d}")).unwrap_or_default();
    Error::new(Kind::Invalid, format!("the content is not what its digest {wanted} says{found}"))
}

/// A blob that is arriving. What an earlier owner left is read back with [`Ingest::earlier`] before anything is
/// appended, because the digest needs every byte.
pub(crate) struct Ingest {
    blobs: Blobs,
    digest: Digest,
    file: File,
    size: u64,
    have: u64,
    /// The file is the blob itself: somebody else has committed it.
    is_here: bool,
    hasher: Hasher,
    hashed: u64,
}

impl Ingest {
    /// Bytes that are here already: where the download continues.
    pub(crate) fn have(&self) -> u64 {
        self.have
    }

    /// Forgets what an earlier owner left.
    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).context(|| format!("write blob {}", self.digest))?;
        self.have = 0;
        Ok(())
    }

    /// Reads the next bytes that an earlier owner left; 0 when there are no more.
    pub(crate) fn earlier(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.have - self.hashed).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..most], self.hashed)?;
        self.hasher.update(&buffer[..count]);
        self.hashed += count as u64;
        if self.hashed == self.have {
            self.file.seek(SeekFrom::Start(self.have))?;
        }
        Ok(count)
    }

    /// Adds bytes that have arrived.
    ///
    /// # Errors
    /// [`Kind::Invalid`] beyond the size that the descriptor promised.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        debug_assert_eq!(self.hashed, self.have, "earlier bytes are read first");
        if self.have + bytes.len() as u64 > self.size {
            let why = format!("more than the {} bytes that its descriptor promised", self.size);
            return Err(Error::new(Kind::Invalid, format!("blob {}: {why}", self.digest)));
        }
        let write = fault::point("append to a blob").and_then(|()| self.file.write_all(bytes));
        write.context(|| format!("write blob {}", self.digest))?;
        self.hasher.update(bytes);
        self.have += bytes.len() as u64;
        self.hashed = self.have;
        Ok(())
    }

    /// Checks size and digest, syncs, and makes the blob visible. A file with wrong content is deleted.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] if bytes are missing (the file stays), [`Kind::Invalid`] if they are wrong.
    pub(crate) fn commit(self) -> Result<()> {
        if self.have != self.size {
            let why = format!("blob {}: {} of {} bytes arrived", self.digest, self.have, self.size);
            return Err(Error::new(Kind::Unavailable, why));
        }
        let found = self.hasher.clone().finish();
        if found != self.digest {
            let why = mismatch(&self.digest, Some(&found));
            self.discard();
            return Err(why);
        }
        if self.is_here {
            return Ok(());
        }
        let what = || format!("commit blob {}", self.digest);
        disk::sync_file(&self.file).context(what)?;
        let path = self.blobs.path(&self.digest);
        disk::rename(&self.blobs.ingest_path(&self.digest), &path).context(what)?;
        disk::sync_dir(path.parent().unwrap_or(&self.blobs.root))
    }

    /// Deletes what has arrived.
    pub(crate) fn discard(self) {
        let path = match self.is_here {
            true => self.blobs.path(&self.digest),
            false => self.blobs.ingest_path(&self.digest),
        };
        drop(std::fs::remove_file(path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn read_back(ingest: &mut Ingest) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 3];
        loop {
            match ingest.earlier(&mut buffer).unwrap() {
                0 => return all,
                n => all.extend_from_slice(&buffer[..n]),
            }
        }
    }

    #[test]
    fn a_download_is_continued_and_committed() {
        let dir = Scratch::new("ingest");
        let blobs = Blobs::open(dir.path()).unwrap();
        let digest = Digest::of(b"hello world");
        let mut first = blobs.ingest(&digest, 11).unwrap();
        first.append(b"hello ").unwrap();
        drop(first);
        assert!(!blobs.has(&digest, 11));
        // A new process opens the store.
        let blobs = Blobs::open(dir.path()).unwrap();
        let mut second = blobs.ingest(&digest, 11).unwrap();
        assert_eq!(second.have(), 6);
        assert_eq!(read_back(&mut second), b"hello ");
        second.append(b"world").unwrap();
        second.commit().unwrap();
        assert!(blobs.has(&digest, 11));
        assert_eq!(blobs.read_small(&digest, 99).unwrap().unwrap(), b"hello world");
        assert_eq!(std::fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
    }

    #[test]
    fn wrong_content_never_gets_its_name() {
        let dir = Scratch::new("wrong");
        let blobs = Blobs::open(dir.path()).unwrap();
        let digest = Digest::of(b"hello");
        let mut ingest = blobs.ingest(&digest, 5).unwrap();
        ingest.append(b"hellO").unwrap();
        assert_eq!(ingest.commit().unwrap_err().kind(), Kind::Invalid);
        assert!(!blobs.has(&digest, 5));
        assert_eq!(blobs.ingest(&digest, 5).unwrap().have(), 0, "the wrong bytes are kept");
        let mut short = blobs.ingest(&digest, 5).unwrap();
        short.append(b"hell").unwrap();
        assert!(short.append(b"oo").is_err(), "more bytes than promised");
        assert_eq!(short.commit().unwrap_err().kind(), Kind::Unavailable);
        assert!(blobs.put(&digest, b"other").is_err());
    }

    #[test]
    fn who_waited_finds_the_blob_of_the_other() {
        let dir = Scratch::new("waited");
        let blobs = Blobs::open(dir.path()).unwrap();
        let digest = Digest::of(b"hello");
        blobs.put(&digest, b"hello").unwrap();
        let mut late = blobs.ingest(&digest, 5).unwrap();
        assert_eq!((late.have(), read_back(&mut late)), (5, b"hello".to_vec()));
        late.commit().unwrap();
        assert_eq!(std::fs::read_dir(dir.path().join("ingest")).unwrap().count(), 0);
        // Damaged in the meantime: it goes, as a download with wrong content does.
        std::fs::write(blobs.path(&digest), b"hellO").unwrap();
        let mut late = blobs.ingest(&digest, 5).unwrap();
        read_back(&mut late);
        assert_eq!(late.commit().unwrap_err().kind(), Kind::Invalid);
        assert!(!blobs.exists(&digest));
    }

    #[test]
    fn damage_is_noticed() {
        let dir = Scratch::new("damage");
        let blobs = Blobs::open(dir.path()).unwrap();
        let digest = Digest::of(b"hello");
        blobs.put(&digest, b"hello").unwrap();
        std::fs::write(blobs.path(&digest), b"hellO").unwrap();
        assert!(blobs.read_small(&digest, 9).unwrap().is_none());
        blobs.put(&digest, b"hello").unwrap();
        std::fs::write(blobs.path(&digest), b"").unwrap();
        assert!(!blobs.has(&digest, 5), "an empty file left by a power cut counts as the blob");
        assert!(blobs.list().unwrap().is_empty());
    }

    #[test]
    fn one_owner_at_a_time() {
        let dir = Scratch::new("owner");
        let blobs = Blobs::open(dir.path()).unwrap();
        let digest = Digest::of(b"hello");
        let mut first = blobs.ingest(&digest, 5).unwrap();
        let (send, receive) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| send.send(blobs.ingest(&digest, 5).unwrap().have()).unwrap());
            assert!(receive.recv_timeout(Duration::from_millis(50)).is_err(), "two owners");
            first.append(b"hello").unwrap();
            first.commit().unwrap();
            assert_eq!(receive.recv().unwrap(), 5, "the second owner does not see what the first has committed");
        });
        assert!(blobs.has(&digest, 5));
    }
}
