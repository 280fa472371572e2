//! What is done to the store while the disk is recorded, and which images there must be after each step.
//!
//! A mark goes to the disk itself, behind the file system, before and after each step: so the log says what had been
//! acknowledged at any point of it. A mark is one direct write; it flushes nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use gantry_images::{Config, LayerForm, PullOptions, Reference, Store, quiet};

use super::disk::FILES;
use super::log::{Kind, Log};
use super::support::http::{Answer, Server};
use super::support::tape::{self, Packing, Tape};

const WORD: &[u8; 16] = b"gantry-mark-0001";

/// What is done, in order: verb and argument.
pub const STEPS: [(&str, &str); 14] = [
    ("pull", "a:1"),
    ("mount", "a:1"),
    ("pull", "b:1"),
    ("import", "c:1"),
    ("tag", "c:1 d:2"),
    ("unmount", ""),
    ("remove", "a:1"),
    ("prune", ""),
    ("pull", "a:1"),
    ("mount", "a:1"),
    ("untag", "d:2"),
    ("remove", "c:1"),
    ("unmount", ""),
    ("remove", "b:1"),
];

/// The images' names once the first `steps` steps are done.
pub fn names_after(steps: usize) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (verb, argument) in &STEPS[..steps] {
        match *verb {
            "pull" | "import" => drop(names.insert((*argument).to_owned())),
            "tag" => drop(names.insert(argument.split_once(' ').unwrap().1.to_owned())),
            "remove" | "untag" => drop(names.remove(*argument)),
            _ => {}
        }
    }
    names
}

/// Layouts `a`, `b` and `c` below `dir`: layers of their own, one that they share, whiteouts, links, many small files.
fn images(dir: &Path) {
    let shared = layer(1);
    for (name, own) in [("a", 2), ("b", 3), ("c", 4)] {
        let layers = [(shared.clone(), Packing::Gzip), (layer(own), Packing::Zstd), (layer(own + 10), Packing::Gzip)];
        tape::layout(&dir.join(name), &format!("{name}:1"), &layers);
    }
}

fn layer(seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut noise = |count: usize| -> String {
        let step = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(b'!' + (state >> 24) as u8 % 90)
        };
        (0..count).map(step).collect()
    };
    let tape = Tape::new().dir("./", 0o755).dir("d", 0o755);
    let tape = (0..40).fold(tape, |tape, n| tape.file(&format!("d/{seed}-{n}"), &noise(100 + 300 * n)));
    let tape = tape.file("d/big", &noise(200_000)).file(&format!("implied{seed}/x"), "x").symlink("l", "d/big");
    tape.hard_link(&format!("h{seed}"), "d/big").file("d/.wh.1-0", "").end()
}

/// Where images come from: a registry for `a` and `b`, of which the store knows only the name, and a layout for `c`.
pub struct World {
    layouts: PathBuf,
    hosts: PathBuf,
    /// What layers are kept as.
    form: LayerForm,
    _server: Server,
}

impl World {
    /// Makes the images below `dir`, and serves them.
    pub fn new(dir: &Path, form: LayerForm) -> Self {
        let (layouts, hosts) = (dir.join("layouts"), dir.join("hosts"));
        images(&layouts);
        let served = layouts.clone();
        let server = Server::start(move |asked| answer(&served, &asked.path));
        let host = hosts.join("registry.test");
        std::fs::create_dir_all(&host).unwrap();
        std::fs::write(host.join("hosts.toml"), format!("server = \"http://{}\"\n", server.address)).unwrap();
        Self { layouts, hosts, form, _server: server }
    }

    /// Opens the store at `root`.
    pub fn open(&self, root: &Path) -> gantry_images::Result<Store> {
        Store::open(Config { hosts_dir: Some(self.hosts.clone()), layers: self.form, ..Config::at(root) })
    }

    /// Brings an image in; its id.
    pub async fn fetch(&self, store: &Store, name: &str) -> gantry_images::Result<String> {
        let wanted = full(name);
        match name.starts_with('c') {
            true => Ok(store.import(&self.layouts.join("c"), Some(wanted)).await?[0].id.clone()),
            false => Ok(store.pull(&wanted, &PullOptions::default(), quiet()).await?.id.clone()),
        }
    }

    /// Does all steps to the store at `root`. Marks go to `device`.
    pub async fn run(&self, root: &Path, device: &Path) -> gantry_images::Result<()> {
        let store = self.open(root)?;
        let marks = Marks::open(device);
        for (number, (verb, argument)) in STEPS.iter().enumerate() {
            marks.write(2 * number);
            self.step(&store, verb, argument).await?;
            marks.write(2 * number + 1);
        }
        Ok(())
    }

    async fn step(&self, store: &Store, verb: &str, argument: &str) -> gantry_images::Result<()> {
        match verb {
            "pull" | "import" => drop(self.fetch(store, argument).await?),
            "mount" => {
                let image = store.image(&full(argument).to_string()).unwrap();
                let rootfs = store.rootfs(&image.id, "c").await?;
                std::fs::write(rootfs.path.join("d/written"), "by the container").unwrap();
                assert!(std::fs::read(rootfs.path.join("d/big")).unwrap().len() == 200_000);
            }
            "unmount" => store.release_rootfs("c").await?,
            "remove" => assert!(store.remove(&full(argument).to_string()).await?, "{argument} was not there"),
            "untag" => assert!(store.untag(&full(argument)).await?),
            "prune" => drop(store.collect().await?),
            "tag" => {
                let (image, name) = argument.split_once(' ').unwrap();
                store.tag(&full(image).to_string(), &full(name)).await?;
            }
            other => panic!("no step {other}"),
        }
        Ok(())
    }
}

/// A registry as small as can be: `/v2/a/manifests/…`, `/v2/a/blobs/…` out of the layout `a`.
fn answer(layouts: &Path, path: &str) -> Answer {
    // A mirror is told for whom it stands: `?ns=registry.test`.
    let path = path.split('?').next().unwrap();
    let words: Vec<&str> = path.split('/').collect();
    let ["", "v2", name, what, wanted] = words[..] else { return Answer::status(404) };
    let layout = layouts.join(name);
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let digest = if what == "manifests" { index["manifests"][0]["digest"].as_str().unwrap() } else { wanted };
    match std::fs::read(layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))) {
        Ok(body) => Answer::ok(body),
        Err(_) => Answer::status(404),
    }
}

/// The name under which an image of the flow is in the store.
pub fn full(name: &str) -> Reference {
    match name.starts_with(['a', 'b']) {
        true => format!("registry.test/{name}").parse().unwrap(),
        false => name.parse().unwrap(),
    }
}

/// The place for marks.
struct Marks(File);

impl Marks {
    fn open(device: &Path) -> Self {
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        Self(File::options().write(true).custom_flags(direct).open(device).unwrap())
    }

    fn write(&self, number: usize) {
        // A direct write wants aligned memory.
        let room = vec![0u8; 8192];
        let skip = room.as_ptr().align_offset(4096);
        let mut room = room;
        let sector = &mut room[skip..skip + 512];
        sector[..16].copy_from_slice(WORD);
        sector[16..24].copy_from_slice(&(number as u64).to_le_bytes());
        self.0.write_all_at(sector, FILES).unwrap();
    }
}

/// Where in the log the marks are: (position, number).
pub fn marks(log: &Log) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (at, entry) in log.entries.iter().enumerate() {
        if matches!(entry.kind, Kind::Write | Kind::Fua) && entry.at == FILES {
            let data = log.data(entry);
            assert_eq!(&data[..16], WORD, "something else is written where the marks are");
            found.push((at, usize::try_from(u64::from_le_bytes(data[16..24].try_into().unwrap())).unwrap()));
        }
    }
    found
}

/// Which states of the image list are right when the power is cut after the first `cut` entries of the log: that after
/// the last acknowledged step, and that after the one that had begun.
pub fn allowed(marks: &[(usize, usize)], cut: usize) -> Vec<BTreeSet<String>> {
    let passed = marks.iter().filter(|(at, _)| *at < cut).count();
    let done = passed / 2;
    let begun = passed.div_ceil(2);
    (done..=begun).map(names_after).collect()
}
