//! An OCI image layout (image-spec image-layout.md): a directory, or a tar archive of one, read in place. What
//! `docker save` wrote before it wrote layouts is shown as one (see [`super::docker`]).

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Deserialize;

use crate::config::Limits;
use crate::digest::Digest;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::manifest::{self, Descriptor, Document};
use crate::options::Progress;
use crate::source::{Content, Served, Source};
use crate::unpack::tar::{Archive, Type};
use crate::unpack::whiteout;

const CHUNK: usize = 256 << 10;
/// Files of an archived layout; each is a blob.
const MAX_FILES: usize = 100_000;

/// An open layout.
#[derive(Clone, Debug)]
pub struct Layout {
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Directory(PathBuf),
    Archive(Arc<File>, Arc<Contents>),
}

/// Where the data of each file of an archive is: offset and size.
pub(super) type Files = HashMap<Vec<u8>, (u64, u64)>;

/// What an archive holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) files: Files,
    /// Symbolic links, name to target, both from the archive's root.
    pub(super) links: HashMap<Vec<u8>, Vec<u8>>,
    /// Documents that the archive lacks and that follow from it.
    pub(super) made: HashMap<Vec<u8>, Vec<u8>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

impl Layout {
    /// Opens a directory or a tar archive and checks its `oci-layout` file. A compressed archive is decompressed into a
    /// nameless file below `spool`, up to `most` bytes. Blocking.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without such a path, [`Kind::Unsupported`] or [`Kind::Invalid`] if it is no layout.
    pub fn open(path: &Path, spool: &Path, most: u64) -> Result<Self> {
        let what = || format!("image layout {}", path.display());
        let meta = match std::fs::metadata(path) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::caused(Kind::NotFound, what(), why));
            }
            other => other.context(what)?,
        };
        let kind = meta.file_type();
        let layout = match meta.is_dir() {
            true => Self { place: Place::Directory(path.to_owned()) },
            false if meta.is_file() || kind.is_fifo() => {
                return Self::of_archive(File::open(path).context(what)?, spool, most).context(what);
            }
            false => return Err(Error::new(Kind::Invalid, format!("{}: neither a directory nor a file", what()))),
        };
        layout.check_marker().context(what)?;
        Ok(layout)
    }

    /// The same for an open archive, which may also be a pipe.
    ///
    /// # Errors
    /// As [`Layout::open`].
    pub fn of_archive(file: File, spool: &Path, most: u64) -> Result<Self> {
        let file = Arc::new(super::archive::readable(file, spool, most)?);
        let mut contents = list(&file)?;
        super::docker::complete(&file, &mut contents)?;
        let layout = Self { place: Place::Archive(file, Arc::new(contents)) };
        layout.check_marker()?;
        Ok(layout)
    }

    /// The entries of `index.json`: at most one of each, with their names in the annotations. Blocking.
    ///
    /// # Errors
    /// As [`manifest::parse`].
    pub fn entries(&self, limits: &Limits) -> Result<Vec<Descriptor>> {
        let missing = || Error::new(Kind::Invalid, "the layout has no index.json");
        let body = self.read("index.json", limits.manifest_bytes)?.ok_or_else(missing)?;
        match manifest::parse(&body, None, limits).context(|| "index.json")? {
            Document::Index(entries) => Ok(entries),
            Document::Manifest(_) => Err(Error::new(Kind::Invalid, "index.json is a manifest")),
        }
    }

    fn check_marker(&self) -> Result<()> {
        let Some(body) = self.read("oci-layout", 1 << 16)? else {
            let why = "neither an OCI layout (oci-layout) nor a docker archive (manifest.json)";
            return Err(Error::new(Kind::Unsupported, why));
        };
        let marker: Marker =
            serde_json::from_slice(&body).map_err(|why| Error::caused(Kind::Invalid, "oci-layout", why))?;
        match marker.image_layout_version.starts_with("1.") {
            true => Ok(()),
            false => {
                let why = format!("layout version {:?} is not 1.x", marker.image_layout_version);
                Err(Error::new(Kind::Unsupported, why))
            }
        }
    }

    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        match &self.place {
            Place::Directory(dir) => disk::read_small(&dir.join(name), limit),
            Place::Archive(file, contents) => match contents.made.get(name.as_bytes()) {
                Some(body) => Ok(Some(body.clone())),
                None => read(file, &contents.files, name, limit),
            },
        }
    }

    /// The file that holds a blob, where in it, and how long it is.
    fn locate(&self, digest: &Digest) -> Result<(Arc<File>, u64, u64)> {
        let missing = || Error::new(Kind::NotFound, format!("the layout has no blob {digest}"));
        let name = blob_name(digest);
        match &self.place {
            Place::Directory(dir) => {
                let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
                let opened = File::options().read(true).custom_flags(flags).open(dir.join(&name));
                let file = match opened {
                    Err(why) if why.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
                    other => other.context(|| format!("blob {digest}"))?,
                };
                let meta = file.metadata().context(|| format!("blob {digest}"))?;
                match meta.is_file() {
                    true => Ok((Arc::new(file), 0, meta.len())),
                    false => Err(Error::new(Kind::Invalid, format!("blob {digest} is no regular file"))),
                }
            }
            Place::Archive(file, contents) => {
                let (offset, size) = contents.files.get(name.as_bytes()).copied().ok_or_else(missing)?;
                Ok((file.clone(), offset, size))
            }
        }
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

impl Source for Layout {
    async fn document(&self, wanted: &str, limit: u64) -> Result<Served> {
        let digest: Digest = wanted.parse()?;
        let layout = self.clone();
        let read = move || {
            let missing = || Error::new(Kind::NotFound, format!("the layout has no blob {digest}"));
            let body = layout.read(&blob_name(&digest), limit)?.ok_or_else(missing)?;
            match digest.matches(&body) {
                true => Ok(Served { body, digest, media_type: None }),
                false => {
                    Err(Error::new(Kind::Invalid, format!("blob {digest}: its content is not what its digest says")))
                }
            }
        };
        crate::store::blocking(read).await
    }

    async fn blob(&self, wanted: &Descriptor, offset: u64, _progress: &Progress) -> Result<Content> {
        let (file, start, size) = self.locate(&wanted.digest)?;
        if size != wanted.size {
            let why = format!("blob {} has {size} bytes, its descriptor says {}", wanted.digest, wanted.size);
            return Err(Error::new(Kind::Invalid, why));
        }
        let pieces = futures_util::stream::unfold((file, offset), move |(file, at)| async move {
            let count = usize::try_from(size.saturating_sub(at)).unwrap_or(usize::MAX).min(CHUNK);
            if count == 0 {
                return None;
            }
            let from = file.clone();
            let read = move || {
                let mut piece = vec![0; count];
                from.read_exact_at(&mut piece, start + at).context(|| "read the layout")?;
                Ok(Bytes::from(piece))
            };
            Some((crate::store::blocking(read).await, (file, at + count as u64)))
        });
        Ok(pieces.boxed())
    }
}

/// A small file of an archive; `None` if it has none by that name.
pub(super) fn read(file: &File, files: &Files, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let Some((offset, size)) = files.get(name.as_bytes()).copied() else { return Ok(None) };
    if size > limit {
        return Err(Error::new(Kind::TooLarge, format!("{name} is larger than {limit} bytes")));
    }
    let mut body = vec![0; size as usize];
    file.read_exact_at(&mut body, offset).context(|| format!("read {name}"))?;
    Ok(Some(body))
}

/// Where everything in an archive is.
fn list(file: &File) -> Result<Contents> {
    let mut source = BufReader::with_capacity(CHUNK, file);
    source.rewind().context(|| "rewind")?;
    let mut archive = Archive::new(Counted { inner: source, at: 0 });
    let mut contents = Contents::default();
    while let Some(entry) = archive.next_entry()? {
        let name = whiteout::components(&entry.path)?.join(&b'/');
        if entry.kind == Type::Symlink {
            contents.links.insert(name, entry.link);
            continue;
        }
        if entry.kind != Type::File || entry.fragments.is_some() {
            continue;
        }
        if contents.files.insert(name, (archive.source().at, entry.size)).is_some() {
            let name = String::from_utf8_lossy(&entry.path).into_owned();
            return Err(Error::new(Kind::Invalid, format!("the archive has {name:?} twice")));
        }
        if contents.files.len() + contents.links.len() > MAX_FILES {
            return Err(Error::new(Kind::TooLarge, format!("more than {MAX_FILES} files")));
        }
    }
    Ok(contents)
}

/// Knows how much was read.
struct Counted<R> {
    inner: R,
    at: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.inner.consume(count);
        self.at += count as u64;
    }
}
