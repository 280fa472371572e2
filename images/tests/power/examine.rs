//! Makes the disk as it may look after a power cut, and examines the store on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use gantry_images::{Digest, Store};

use super::disk::{FILES, Mounted, sparse};
use super::flow::{self, World};
use super::log::{Kind, Log};
use super::support::listing;

/// One way in which the power may go: after the first `cut` entries of the log, and of those after the last flush only
/// what `seed` says.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub cut: usize,
    /// 0: nothing after the last flush; 1: all of it; else a random part.
    pub seed: u64,
}

/// What was wrong.
#[derive(Debug)]
#[allow(dead_code, reason = "printed")]
pub struct Damage {
    pub point: Point,
    pub what: String,
}

/// A recorded run, and what its store should hold.
pub struct Examination<'a> {
    kind: String,
    log: Log,
    marks: Vec<(usize, usize)>,
    /// What each layer's directory holds when it is whole.
    layers: BTreeMap<String, Vec<String>>,
    /// What each image's root filesystem looks like, by the image's name.
    trees: BTreeMap<String, Vec<String>>,
    dir: PathBuf,
    world: &'a World,
}

/// Numbers that are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

impl<'a> Examination<'a> {
    pub async fn new(kind: &str, log: &Path, dir: &Path, world: &'a World) -> Self {
        let log = Log::read(log);
        let marks = flow::marks(&log);
        assert_eq!(marks.len(), 2 * flow::STEPS.len(), "the flow did not come to its end");
        let (mut layers, mut trees) = (BTreeMap::new(), BTreeMap::new());
        let root = dir.join("undisturbed");
        let store = world.open(&root).unwrap();
        for name in ["a:1", "b:1", "c:1"] {
            let id = world.fetch(&store, name).await.unwrap();
            let rootfs = store.rootfs(&id, "x").await.unwrap();
            trees.insert(name.to_owned(), listing::of(&rootfs.path));
            store.release_rootfs("x").await.unwrap();
        }
        for entry in std::fs::read_dir(root.join("layers")).unwrap() {
            let path = entry.unwrap().path();
            layers.insert(name_of(&path), listing::of_either(&path));
        }
        Self { kind: kind.into(), log, marks, layers, trees, dir: dir.to_owned(), world }
    }

    pub fn length(&self) -> usize {
        self.log.entries.len()
    }

    /// Where to cut: at flushes, as far apart as it takes to have half of `count`, and at random points between.
    pub fn points(&self, count: usize) -> Vec<Point> {
        let first = self.marks[0].0;
        let flushes: Vec<usize> =
            (first..self.length()).filter(|at| self.log.entries[*at].kind == Kind::Flush).collect();
        let wanted = (count / 2).clamp(1, flushes.len());
        // Before a flush is answered, everything that it is to keep may still be lost.
        let mut points: Vec<Point> =
            (0..wanted).map(|n| Point { cut: flushes[n * flushes.len() / wanted], seed: n as u64 % 3 }).collect();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        while points.len() < count {
            let cut = first + usize::try_from(random.below((self.length() - first) as u64)).unwrap() + 1;
            points.push(Point { cut, seed: random.next() | 2 });
        }
        points.sort_by_key(|point| point.cut);
        points
    }

    /// The disk as it may be at this point.
    fn disk(&self, point: &Point, path: &Path) {
        sparse(path, FILES);
        let disk = File::options().read(true).write(true).open(path).unwrap();
        let entries = &self.log.entries[..point.cut.min(self.length())];
        let kept = entries.iter().rposition(|entry| entry.kind == Kind::Flush).map_or(0, |at| at + 1);
        let mut random = Random(point.seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1);
        for (at, entry) in entries.iter().enumerate() {
            if entry.at >= FILES {
                continue;
            }
            let certain = at < kept || matches!(entry.kind, Kind::Fua | Kind::Flush) || point.seed == 1;
            let most = match (certain, point.seed) {
                (true, _) => u64::MAX,
                (false, 0) => continue,
                (false, _) => match random.below(4) {
                    0 => continue,
                    // Torn: some sectors of it, of 4 KiB as disks have them; ext4's superblock does not survive less.
                    1 => random.below(entry.length.div_ceil(4096)) * 4096,
                    _ => u64::MAX,
                },
            };
            self.log.apply(entry, most, &disk);
        }
    }

    /// What is wrong when the power goes at this point.
    pub async fn at(&self, point: &Point) -> Option<Damage> {
        let image = self.dir.join("disk");
        self.disk(point, &image);
        let what = match Mounted::image(&self.kind, &image, &self.dir.join("at")) {
            Err(why) => Err(format!("the file system does not mount: {why}")),
            Ok(_mounted) => self.store(point, &self.dir.join("at/store")).await,
        };
        std::fs::remove_file(&image).unwrap();
        what.err().map(|what| Damage { point: *point, what })
    }

    async fn store(&self, point: &Point, root: &Path) -> Result<(), String> {
        let store = self.world.open(root).map_err(|why| format!("the store does not open: {why}"))?;
        self.content(root)?;
        let allowed = flow::allowed(&self.marks, point.cut);
        let short = |name: &String| name.trim_start_matches("registry.test/").replace("docker.io/library/", "");
        let names: BTreeSet<String> =
            store.images().iter().flat_map(|image| image.repo_tags.iter().map(short).collect::<Vec<_>>()).collect();
        if !allowed.contains(&names) {
            return Err(format!("the images are {names:?}, allowed: {allowed:?}"));
        }
        // What is in the list can be used as it is; what was under way or removed can be had again.
        for (name, tree) in &self.trees {
            let id = match store.image(&flow::full(name).to_string()) {
                Some(image) => image.id.clone(),
                None => {
                    self.world.fetch(&store, name).await.map_err(|why| format!("{name} cannot be fetched: {why}"))?
                }
            };
            let rootfs =
                store.rootfs(&id, "examined").await.map_err(|why| format!("{name} cannot be mounted: {why}"))?;
            let same = listing::of(&rootfs.path) == *tree;
            store.release_rootfs("examined").await.map_err(|why| why.to_string())?;
            if !same {
                return Err(format!("{name} is not what it should be"));
            }
        }
        self.content(root)?;
        clear(&store, root).await
    }

    /// Every blob and every layer that can be seen is whole.
    fn content(&self, root: &Path) -> Result<(), String> {
        for path in below(&root.join("blobs/sha256")) {
            let content = std::fs::read(&path).map_err(|why| format!("read {}: {why}", path.display()))?;
            if Digest::of(&content).hex() != name_of(&path) {
                return Err(format!("blob {} is wrong and {} bytes long", name_of(&path), content.len()));
            }
        }
        for path in below(&root.join("layers")) {
            let whole = self.layers.get(&name_of(&path)).ok_or_else(|| format!("{} is no layer", path.display()))?;
            let is_here = path.join("diff").is_dir() || path.join("image.erofs").is_file();
            let found = is_here.then(|| listing::of_either(&path));
            if found.as_ref() != Some(whole) || !path.join("layer.json").is_file() {
                let wrong = found.iter().flatten().find(|line| !whole.contains(line)).cloned().unwrap_or_default();
                return Err(format!("layer {} is not whole: {wrong}", name_of(&path)));
            }
        }
        Ok(())
    }
}

/// Everything can be removed, and nothing is left.
async fn clear(store: &Store, root: &Path) -> Result<(), String> {
    let text = |why: gantry_images::Error| why.to_string();
    for key in store.rootfs_keys().map_err(text)? {
        store.release_rootfs(&key).await.map_err(text)?;
    }
    for image in store.images() {
        store.remove(&image.id).await.map_err(text)?;
    }
    store.collect().await.map_err(text)?;
    for dir in ["blobs/sha256", "layers", "unpack", "rootfs"] {
        let left = below(&root.join(dir));
        if !left.is_empty() {
            return Err(format!("left at the end: {left:?}"));
        }
    }
    Ok(())
}

fn below(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}
