//! Is everything still what it was when it was committed? And if not: fetched or unpacked again, only what is damaged.
//!
//! ```text
//! blob ──> its digest
//!   └─> decompress ─> tar ─> a tree without data (unpack::skeleton) ──compare──> layers/KEY/diff, every entry and byte
//! ```
//! Nothing is remembered at commit for this: the blob itself says what its layer looks like, read once for both. The tree
//! without data takes inodes and no blocks, and is removed like any unfinished layer.
//!
//! Repair removes a damaged blob and fetches it from a registry that the image's names tell; a damaged layer is unpacked
//! from its blob. A layer under a running container is moved aside, so that the container keeps what it has open.

pub(crate) mod compare;
pub(crate) mod content;
mod examine;
mod layer;
mod repair;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) use repair::set_aside;

use crate::digest::Digest;
use crate::error::Result;
use crate::options::Auth;
use crate::sharing::Lease;
use crate::store::{Store, blocking, positions};

/// What a verification does beside looking.
#[derive(Clone, Debug, Default)]
pub struct Verify {
    /// Brings back what is damaged or missing.
    pub repair: bool,
    /// Credentials for fetching; none for registries that ask for none.
    pub auth: Option<Auth>,
}

/// A piece of content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Part {
    /// A manifest, configuration or layer as transferred.
    Blob(Digest),
    /// A layer as unpacked.
    Layer {
        /// The digest of its uncompressed archive.
        diff_id: Digest,
        /// The blob that it is unpacked from.
        blob: Digest,
    },
}

/// What became of a fault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It was only reported.
    Reported,
    /// It is whole again.
    Repaired,
    /// It could not be repaired, and why; pull or import the image again.
    Lost(String),
}

/// Something that is not as it was committed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Fault {
    /// What.
    pub part: Part,
    /// What is wrong, in a sentence; for a layer its first differences, `/PATH: what`.
    pub why: Vec<String>,
    /// The images that need it: their names, or the id of one without a name. Empty for rubbish.
    pub images: Vec<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a verification found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Report {
    /// Blobs read.
    pub blobs: u64,
    /// Unpacked layers compared.
    pub layers: u64,
    /// Layers that could not be compared: no image has their blob any more, or it is damaged.
    pub unchecked: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What is damaged or missing.
    pub faults: Vec<Fault>,
}

impl Report {
    /// Nothing is wrong, or not any more.
    pub fn is_good(&self) -> bool {
        self.faults.iter().all(|fault| fault.outcome == Outcome::Repaired)
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for fault in &self.faults {
            writeln!(f, "{fault}")?;
        }
        let bad = self.faults.iter().filter(|fault| fault.outcome != Outcome::Repaired).count();
        write!(f, "{} blobs and {} unpacked layers read, ", self.blobs, self.layers)?;
        if self.unchecked > 0 {
            write!(f, "{} layers could not be compared, ", self.unchecked)?;
        }
        match (bad, self.faults.len()) {
            (0, 0) => writeln!(f, "all are as they should be"),
            (0, some) => writeln!(f, "{some} were damaged or missing and are repaired"),
            (bad, _) => writeln!(f, "{bad} are damaged or missing"),
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.part {
            Part::Blob(digest) => write!(f, "blob {digest}")?,
            Part::Layer { blob, .. } => write!(f, "layer {blob}")?,
        }
        match self.images.is_empty() {
            true => f.write_str(", of no image")?,
            false => write!(f, " of {}", self.images.join(", "))?,
        }
        write!(f, ": {}", self.why.join("; "))?;
        match &self.outcome {
            Outcome::Reported => Ok(()),
            Outcome::Repaired => f.write_str(" (repaired)"),
            Outcome::Lost(why) => write!(f, " (not repaired: {why})"),
        }
    }
}

/// How far a verification is.
#[derive(Clone, Debug)]
pub struct Verifying {
    /// What is being read: a blob's digest.
    pub blob: Digest,
    /// Bytes of blobs read so far.
    pub bytes: u64,
    /// Bytes of all blobs.
    pub total: u64,
}

/// Where progress goes: called from any thread, must not block.
pub type Watch = Arc<dyn Fn(Verifying) + Send + Sync>;

/// Ends the work when the future that waits for it is dropped.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Store {
    /// Compares every blob with its digest and every unpacked layer with its blob. With `repair` only what is damaged or
    /// missing is fetched or unpacked again; images, other layers and running containers stay. Dropping the future ends
    /// it. Pulls may go on meanwhile, other processes' garbage collections wait.
    ///
    /// # Errors
    /// [`Kind::System`](crate::Kind::System) for a disk that cannot be worked on; damage is no error but in the report.
    pub async fn verify(&self, options: &Verify, watch: Watch) -> Result<Report> {
        let _lease = self.lease_all()?;
        let first = self.examine(watch.clone()).await?;
        if !options.repair || first.faults.is_empty() {
            return Ok(first);
        }
        let mut known = first.faults;
        let mut report;
        let mut failed = self.repair(&known, options).await?;
        // A second round, because layers whose blobs were damaged can be compared only now.
        for round in 0..2 {
            report = self.examine(watch.clone()).await?;
            let new: Vec<Fault> = report.faults.iter().filter(|fault| !has(&known, fault)).cloned().collect();
            let last = new.is_empty() || round == 1;
            known.extend(new);
            if last {
                report.faults = judged(known, &report.faults, &failed);
                return Ok(report);
            }
            failed.extend(self.repair(&report.faults, options).await?);
        }
        self.examine(watch).await
    }

    async fn examine(&self, watch: Watch) -> Result<Report> {
        let (shared, flag) = (self.shared().clone(), Arc::new(AtomicBool::new(false)));
        let _cancel = Cancel(flag.clone());
        blocking(move || examine::run(&shared, flag, watch)).await.map_err(|why| self.advised(why))
    }

    /// Protects what all images have from garbage collection.
    fn lease_all(&self) -> Result<Lease> {
        let shared = self.shared();
        let mut lease = shared.leases.begin()?;
        for entry in &shared.index.load()?.0.images {
            entry.documents.iter().chain([&entry.config]).for_each(|digest| lease.blob(digest));
            for (layer, position) in entry.layers.iter().zip(positions(entry)) {
                lease.blob(&layer.digest);
                position.keys().iter().for_each(|key| lease.layer(key));
            }
        }
        Ok(lease)
    }
}

fn has(faults: &[Fault], fault: &Fault) -> bool {
    faults.iter().any(|known| known.part == fault.part)
}

/// All faults that were ever seen: those that are still `left` are lost, and `failed` says why.
fn judged(known: Vec<Fault>, left: &[Fault], failed: &[(Digest, String)]) -> Vec<Fault> {
    let judge = |mut fault: Fault| {
        fault.outcome = match has(left, &fault) {
            false => Outcome::Repaired,
            true => {
                let (Part::Blob(blob) | Part::Layer { blob, .. }) = &fault.part;
                let why = failed.iter().find(|(digest, _)| digest == blob).map(|(_, why)| why.clone());
                Outcome::Lost(why.unwrap_or_else(|| "it is damaged again; is the disk failing?".into()))
            }
        };
        fault
    };
    known.into_iter().map(judge).collect()
}
