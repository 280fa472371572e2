//! Looks at everything, changes nothing.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::digest::{Digest, Hasher};
use crate::error::{Context, Error, Kind, Result};
use crate::index::{Entry, Layer};
use crate::layers::{Key, Position};
use crate::store::{Shared, positions};
use crate::verify::compare::{self, Differences};
use crate::verify::{Fault, Outcome, Part, Report, Verifying, Watch};

/// Progress is told once in so many bytes.
const TELL_EACH: u64 = 1 << 20;

struct Examiner<'a> {
    shared: &'a Shared,
    cancelled: Arc<AtomicBool>,
    watch: Watch,
    report: Report,
    total: u64,
    /// Names of the images that need a blob.
    users: HashMap<Digest, Vec<String>>,
    blobs: BTreeSet<Digest>,
    layers: BTreeSet<Key>,
    /// Layers that are not what they should be.
    bad: BTreeSet<Key>,
}

/// All images of the index, and then whatever else is there.
pub(super) fn run(shared: &Shared, cancelled: Arc<AtomicBool>, watch: Watch) -> Result<Report> {
    let record = shared.index.load()?.0;
    let listed = shared.blobs.list()?;
    let mut examiner = Examiner {
        shared,
        cancelled,
        watch,
        report: Report::default(),
        total: listed.iter().map(|(_, bytes)| bytes).sum(),
        users: users(&record.images),
        blobs: BTreeSet::new(),
        layers: BTreeSet::new(),
        bad: BTreeSet::new(),
    };
    for entry in &record.images {
        for digest in entry.documents.iter().chain([&entry.config]) {
            examiner.blob(digest)?;
        }
        examiner.layers(entry)?;
    }
    for (digest, _) in &listed {
        examiner.blob(digest)?;
    }
    let unknown = shared.layers.list()?.into_iter().filter(|key| !examiner.layers.contains(key)).count();
    examiner.report.unchecked += unknown as u64;
    Ok(examiner.report)
}

fn users(images: &[Entry]) -> HashMap<Digest, Vec<String>> {
    let mut users: HashMap<Digest, Vec<String>> = HashMap::new();
    for entry in images {
        let names = if entry.tags.is_empty() { &entry.digests } else { &entry.tags };
        let mut names: Vec<String> = names.iter().cloned().collect();
        if names.is_empty() {
            names.push(entry.config.to_string());
        }
        let layers = entry.layers.iter().map(|layer| &layer.digest);
        for digest in entry.documents.iter().chain([&entry.config]).chain(layers).collect::<BTreeSet<_>>() {
            users.entry(digest.clone()).or_default().extend(names.iter().cloned());
        }
    }
    users
}

impl Examiner<'_> {
    fn fault(&mut self, part: Part, why: Vec<String>) {
        let (Part::Blob(blob) | Part::Layer { blob, .. }) = &part;
        let images = self.users.get(blob).cloned().unwrap_or_default();
        self.report.faults.push(Fault { part, why, images, outcome: Outcome::Reported });
    }

    /// Opens a blob to be judged; `None`, and a fault, if it is not there.
    fn open(&mut self, digest: &Digest) -> Result<Option<Reading>> {
        self.report.blobs += 1;
        match self.shared.blobs.read(digest) {
            Ok(file) => Ok(Some(Reading {
                file,
                hasher: Hasher::new(digest.algorithm()),
                digest: digest.clone(),
                bytes: self.report.bytes,
                total: self.total,
                told: self.report.bytes,
                watch: self.watch.clone(),
                cancelled: self.cancelled.clone(),
                failure: None,
            })),
            Err(_) if !self.shared.blobs.exists(digest) => {
                self.fault(Part::Blob(digest.clone()), vec!["is missing".into()]);
                Ok(None)
            }
            Err(why) => Err(why),
        }
    }

    /// Reads the rest of a blob and judges it.
    fn close(&mut self, mut reading: Reading) -> Result<bool> {
        drop(std::io::copy(&mut reading, &mut std::io::sink()));
        self.report.bytes = reading.bytes;
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::System, "the verification was cancelled"));
        }
        let why = match reading.failure {
            Some(why) => format!("cannot be read: {why}"),
            None if reading.hasher.finish() == reading.digest => return Ok(true),
            None => {
                let size = reading.file.metadata().map_or(0, |meta| meta.len());
                format!("is not what its digest says; it has {size} bytes")
            }
        };
        self.fault(Part::Blob(reading.digest), vec![why]);
        Ok(false)
    }

    fn blob(&mut self, digest: &Digest) -> Result<()> {
        if self.blobs.insert(digest.clone())
            && let Some(reading) = self.open(digest)?
        {
            self.close(reading)?;
        }
        Ok(())
    }

    fn layers(&mut self, entry: &Entry) -> Result<()> {
        let mut below = Some(Vec::new());
        for (layer, position) in entry.layers.iter().zip(positions(entry)) {
            let key = self.shared.layers.find(&position);
            match &key {
                None => {
                    self.blob(&layer.digest)?;
                    let why = match self.shared.layers.traces(&position) {
                        true => "cannot be used: its record is lost",
                        false => "is not unpacked",
                    };
                    self.fault(part(layer, &position), vec![why.into()]);
                }
                Some(key) if self.layers.insert(key.clone()) => {
                    self.layer(layer, &position, key, below.as_deref())?;
                }
                Some(_) => self.blob(&layer.digest)?,
            }
            below = below.zip(key.filter(|key| !self.bad.contains(key))).map(|(mut below, key)| {
                below.push(key);
                below
            });
        }
        Ok(())
    }

    /// A layer and its blob, read once for both.
    fn layer(&mut self, layer: &Layer, position: &Position, key: &Key, below: Option<&[Key]>) -> Result<()> {
        let alone = *key == position.keys()[0];
        let Some(below) = below.or(alone.then_some(&[])) else {
            // What it should look like depends on layers that are not there, or not as they should be.
            self.report.unchecked += 1;
            return self.blob(&layer.digest);
        };
        self.blobs.insert(layer.digest.clone());
        let Some(mut reading) = self.open(&layer.digest)? else {
            self.report.unchecked += 1;
            return Ok(());
        };
        let limits = &self.shared.config.limits;
        let skeleton = self.shared.layers.skeleton(&mut reading, layer.size, position, limits, below);
        if !self.close(reading)? {
            self.report.unchecked += 1;
            return Ok(());
        }
        let (wanted, contents) = skeleton.context(|| format!("verify layer {}", layer.digest))?;
        let Some(tree) = wanted.content() else { return Ok(()) };
        let (cancelled, bytes) = (self.cancelled.clone(), &mut self.report.bytes);
        let mut go_on = |count| {
            *bytes += count;
            match cancelled.load(Ordering::Relaxed) {
                true => Err(std::io::Error::other("the verification was cancelled")),
                false => Ok(()),
            }
        };
        let found = self.shared.layers.below(std::slice::from_ref(key));
        if found.as_ref().is_err_and(|why| why.kind() == Kind::Unsupported) {
            // The kernel that made this image could mount it, this one cannot.
            self.report.unchecked += 1;
            return Ok(());
        }
        let compared = found.and_then(|(_mounted, views)| {
            let found = views.first().ok_or_else(|| Error::new(Kind::System, "a layer without a view"))?;
            compare::trees(&tree, found, &contents, wanted.says_root(), &mut go_on)
        });
        self.report.layers += 1;
        let differences = match compared {
            Err(why) if self.cancelled.load(Ordering::Relaxed) => return Err(why),
            // A directory that cannot be read is damage, too.
            Err(why) => Differences { told: vec![format!("cannot be read: {why}")], count: 1 },
            Ok(differences) => differences,
        };
        if differences.count > 0 {
            let more = differences.count - differences.told.len() as u64;
            let mut why = differences.told;
            self.bad.insert(key.clone());
            why.extend((more > 0).then(|| format!("and {more} more")));
            self.fault(part(layer, position), why);
        }
        Ok(())
    }
}

fn part(layer: &Layer, position: &Position) -> Part {
    Part::Layer { diff_id: position.diff_id.clone(), blob: layer.digest.clone() }
}

/// A blob that is digested while something else reads it.
struct Reading {
    file: File,
    hasher: Hasher,
    digest: Digest,
    bytes: u64,
    total: u64,
    told: u64,
    watch: Watch,
    cancelled: Arc<AtomicBool>,
    failure: Option<std::io::Error>,
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.failure.is_some() || self.cancelled.load(Ordering::Relaxed) {
            return Ok(0);
        }
        match self.file.read(buffer) {
            Ok(count) => {
                self.hasher.update(&buffer[..count]);
                self.bytes += count as u64;
                if self.bytes - self.told >= TELL_EACH || count == 0 {
                    self.told = self.bytes;
                    let total = self.total.max(self.bytes);
                    (self.watch)(Verifying { blob: self.digest.clone(), bytes: self.bytes, total });
                }
                Ok(count)
            }
            Err(why) if why.kind() == std::io::ErrorKind::Interrupted => Err(why),
            Err(why) => {
                let seen = std::io::Error::new(why.kind(), "the blob cannot be read");
                self.failure = Some(why);
                Err(seen)
            }
        }
    }
}
