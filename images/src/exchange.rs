//! Images in and out of the store as files: OCI layouts, OCI archives and docker archives, plain or compressed, by path or
//! through standard input and output.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::digest::Digest;
use crate::error::{Context, Error, Kind, Result};
use crate::fetch::{self, Wanted};
use crate::import;
use crate::layout::export::{self, Form, One, Place};
use crate::options::{Platform, Progress, quiet};
use crate::reference::Reference;
use crate::source::Source as _;
use crate::source::layout::Layout;
use crate::store::{Image, Store, blocking, now};

/// Where images are read from.
#[derive(Debug)]
pub enum Input {
    /// A layout directory or an archive.
    Path(PathBuf),
    /// An archive that is read from its beginning to its end, as standard input is.
    Stream(File),
}

/// What is to be imported, and as what.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The name for the one image; else names come from the layout.
    pub name: Option<Reference>,
    /// Another platform than the host's.
    pub platform: Option<Platform>,
}

/// One layer of an image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LayerInfo {
    /// As transferred.
    pub digest: Digest,
    /// Bytes as transferred.
    pub size: u64,
    /// Unpacked.
    pub diff_id: Digest,
    /// The layer of an artifact: the name of its file.
    pub file: Option<String>,
}

impl Image {
    /// What stands for all its layers together (image-spec config.md "Layer ChainID"); `None` without layers.
    pub fn chain_id(&self) -> Option<Digest> {
        let diff_ids = self.config.rootfs().diff_ids().iter().map(|text| text.parse()).collect::<Result<Vec<Digest>>>();
        crate::layers::chain_ids(&diff_ids.ok()?).pop()
    }
}

/// Where images are written to.
#[derive(Debug)]
pub enum Output {
    /// A file that must not exist; for [`Form::OciDir`] a directory that must be empty or missing.
    Path(PathBuf),
    /// An open file, as standard output is.
    Stream(File),
}

impl Store {
    /// Reads an OCI layout directory, or a tar archive of one, into the store. `name` names the image if the
    /// layout holds exactly one; otherwise names come from its `org.opencontainers.image.ref.name` annotations.
    ///
    /// # Errors
    /// As [`Store::pull`], for the content.
    pub async fn import(&self, path: &Path, name: Option<Reference>) -> Result<Vec<Arc<Image>>> {
        let options = ImportOptions { name, platform: None };
        self.import_from(Input::Path(path.to_owned()), options, quiet()).await
    }

    /// Reads all images of a layout or archive: OCI or docker, compressed or not.
    ///
    /// # Errors
    /// As [`Store::import`]; [`Kind::Unsupported`] for what is neither.
    pub async fn import_from(
        &self,
        input: Input,
        options: ImportOptions,
        progress: Progress,
    ) -> Result<Vec<Arc<Image>>> {
        let label = match &input {
            Input::Path(path) => format!("import {}", path.display()),
            Input::Stream(_) => "import from a stream".into(),
        };
        let what = || label.clone();
        let (limits, spool) = (self.shared().config.limits.clone(), self.root().join("ingest"));
        let open = move || {
            let most = limits.unpacked_bytes;
            let layout = match input {
                Input::Path(path) => Layout::open(&path, &spool, most)?,
                Input::Stream(file) => Layout::of_archive(file, &spool, most)?,
            };
            let entries = layout.entries(&limits)?;
            Ok((layout, entries))
        };
        let (layout, entries) = blocking(open).await.map_err(|why| self.advised(why)).context(what)?;
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let mut images = Vec::new();
        for (entry, tags) in import::choose(&entries, options.name.as_ref(), &platform).context(what)? {
            let one = async {
                let limit = self.shared().config.limits.manifest_bytes;
                let mut served = layout.document(&entry.digest.to_string(), limit).await?;
                served.media_type = (!entry.media_type.is_empty()).then(|| entry.media_type.clone());
                let (digests, platform) = (BTreeSet::new(), platform.clone());
                let wanted = Wanted { tags, digests, platform, pinned: false, now: now() };
                fetch::image(self.shared(), &layout, served, wanted, &progress).await
            };
            images.push(self.by_id(&one.await.map_err(|why| self.advised(why)).context(what)?)?);
        }
        Ok(images)
    }

    /// Writes an image as an OCI archive to the file `path`, which must not exist, under its tags.
    ///
    /// # Errors
    /// As [`Store::export_to`].
    pub async fn export(&self, image: &str, path: &Path) -> Result<()> {
        self.export_to(&[image.to_owned()], Form::OciArchive, Output::Path(path.to_owned())).await
    }

    /// Writes images into one archive or layout: each under the tag that it was asked for by, else under all its tags.
    /// Only what the store has of them is written: of a multi-platform image that is one platform.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without such an image or if a blob is lost; [`Kind::Conflict`] if there is something at the
    /// path; [`Kind::System`] for the disk. A file that could not be written to its end is removed.
    pub async fn export_to(&self, names: &[String], form: Form, to: Output) -> Result<()> {
        let images = self.to_export(names)?;
        let store = self.clone();
        blocking(move || {
            let blobs = &store.shared().blobs;
            match to {
                Output::Path(path) if form == Form::OciDir => {
                    let what = || format!("export to {}", path.display());
                    check_empty(&path).context(what)?;
                    export::write(&images, form, blobs, &mut Place::Directory(path.clone())).context(what)
                }
                Output::Path(path) => {
                    let what = || format!("export to {}", path.display());
                    let file = File::create_new(&path).map_err(|why| match why.kind() {
                        std::io::ErrorKind::AlreadyExists => {
                            Error::new(Kind::Conflict, "there is a file already: remove it or choose another name")
                        }
                        _ => Error::caused(Kind::System, "create", why),
                    });
                    let written = file.and_then(|file| {
                        archive(&images, form, blobs, file).inspect_err(|_| drop(std::fs::remove_file(&path)))
                    });
                    written.context(what)
                }
                Output::Stream(_) if form == Form::OciDir => {
                    Err(Error::new(Kind::InvalidArgument, "a directory cannot be written to a stream"))
                }
                Output::Stream(file) => archive(&images, form, blobs, file).context(|| "export"),
            }
        })
        .await
    }

    /// The layers of an image, lowest first.
    ///
    /// # Errors
    /// [`Kind::NotFound`] without such an id.
    pub fn content_of(&self, image_id: &str) -> Result<Vec<LayerInfo>> {
        let record = self.shared().index.load()?.0;
        let gone = || Error::new(Kind::NotFound, format!("image {image_id} is not here"));
        let entry = record.images.iter().find(|entry| entry.config.to_string() == image_id).ok_or_else(gone)?;
        let one = |layer: &crate::index::Layer| LayerInfo {
            digest: layer.digest.clone(),
            size: layer.size,
            diff_id: layer.diff_id.clone(),
            file: layer.file.clone(),
        };
        Ok(entry.layers.iter().map(one).collect())
    }

    fn to_export(&self, names: &[String]) -> Result<Vec<One>> {
        let record = self.shared().index.load()?.0;
        let mut all: Vec<One> = Vec::new();
        for name in names {
            let image = self.require(name)?;
            let gone = || Error::new(Kind::NotFound, format!("image {name:?} was removed meanwhile"));
            let entry = record.images.iter().find(|e| e.config.to_string() == image.id).ok_or_else(gone)?;
            let asked = name.parse::<Reference>().ok().and_then(|reference| reference.tagged());
            let under = match asked.filter(|tag| entry.tags.contains(tag)) {
                Some(tag) => BTreeSet::from([tag]),
                None => entry.tags.clone(),
            };
            match all.iter_mut().find(|one| one.entry.config == entry.config) {
                Some(one) => one.names.extend(under),
                None => all.push(One { entry: entry.clone(), names: under }),
            }
        }
        Ok(all)
    }

    /// The image that `name` finds ([`Store::image`]).
    ///
    /// # Errors
    /// [`Kind::NotFound`], also if it is the beginning of several ids; what to do is said.
    pub fn require(&self, name: &str) -> Result<Arc<Image>> {
        let images = self.images();
        match (crate::lookup::find(&images, name), crate::lookup::fitting(&images, name)) {
            (Some(image), _) => Ok(image),
            (None, 0) => {
                let why = format!("image {name:?} is not here; `gantry image ls` lists what is");
                Err(Error::new(Kind::NotFound, why))
            }
            (None, many) => {
                let why = format!("{name:?} is the beginning of {many} image ids; write more of it");
                Err(Error::new(Kind::NotFound, why))
            }
        }
    }
}

fn check_empty(dir: &Path) -> Result<()> {
    match std::fs::read_dir(dir) {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => match other.context(|| "read")?.next() {
            None => Ok(()),
            Some(_) => Err(Error::new(Kind::Conflict, "the directory is not empty")),
        },
    }
}

fn archive(images: &[One], form: Form, blobs: &crate::blobs::Blobs, file: File) -> Result<()> {
    let mut out = std::io::BufWriter::with_capacity(256 << 10, file);
    export::write(images, form, blobs, &mut Place::Archive(&mut out))?;
    out.flush().context(|| "write the archive")
}
