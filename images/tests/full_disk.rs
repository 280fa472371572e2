//! A disk that is full for real, ext4 and tmpfs of a few megabytes: what does not fit ends with an error that says so and
//! what to do, leaves nothing half behind, and hurts nothing that is there; images can be removed to make room; and with
//! room the same pull succeeds.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gantry_images::garbage::Rules;
use gantry_images::{Config, Error, Kind, LayerForm, PullOptions, Reference, Store, Verify, quiet};
use support::http::{Answer, Server};
use support::tape::{self, Packing, Tape};
use support::{House, may_mount};

const MIB: usize = 1 << 20;

/// A small filesystem below the test's own directory; unmounted when dropped.
struct Disk {
    at: PathBuf,
}

impl Disk {
    /// `None`, said loudly, where this machine has no such thing.
    fn new(test: &str, house: &House, kind: &str) -> Option<Self> {
        let at = house.path(kind);
        std::fs::create_dir_all(&at).unwrap();
        let image = house.path("disk.img");
        let mount = match kind {
            "tmpfs" => run("mount", &["-t", "tmpfs", "-o", "size=24m", "none", &at.display().to_string()]),
            _ => {
                std::fs::File::create(&image).unwrap().set_len(24 << 20).unwrap();
                let image = image.display().to_string();
                // Nothing kept for root, who runs this test.
                run("mkfs.ext4", &["-q", "-F", "-m", "0", &image])
                    .and_then(|()| run("mount", &["-o", "loop", &image, &at.display().to_string()]))
            }
        };
        match mount {
            Ok(()) => Some(Self { at }),
            Err(why) => {
                eprintln!("SKIPPED {test} on {kind}: {why}");
                None
            }
        }
    }

    fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(&self.at).unwrap();
        found.f_bavail * found.f_frsize
    }

    /// Fills the disk to the last block with a file of its own.
    fn fill(&self) -> PathBuf {
        let path = self.at.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        for size in [MIB, 4096, 512, 1] {
            let piece = vec![1; size];
            while std::io::Write::write_all(&mut file, &piece).is_ok() {}
        }
        drop(file.sync_all());
        path
    }
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let done = Command::new(program).args(args).stdin(Stdio::null()).output();
    let done = done.map_err(|why| format!("{program}: {why}"))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&done.stderr).trim())),
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The loop device goes with its mount.
        let _ = rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::empty())
            .or_else(|_| rustix::mount::unmount(&self.at, rustix::mount::UnmountFlags::DETACH));
    }
}

/// Text that no packing makes smaller than four fifths.
fn noise(seed: u32, count: usize) -> String {
    let mut state = seed;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + (state >> 24) as u8 % 90)
    };
    (0..count).map(step).collect()
}

/// Images `small` (1 MiB), `other` (3 MiB) and `large` (two layers, 9 MiB each way), and the bytes of layers sent.
struct World {
    server: Server,
    sent: Arc<AtomicU64>,
}

impl World {
    fn new(house: &House) -> Self {
        let layouts = house.path("layouts");
        let layer = |seed, size| (Tape::new().file(&format!("f{seed}"), &noise(seed, size)).end(), Packing::Plain);
        tape::layout(&layouts.join("small"), "x:1", &[layer(1, MIB)]);
        tape::layout(&layouts.join("other"), "x:1", &[layer(2, 3 * MIB)]);
        tape::layout(&layouts.join("large"), "x:1", &[layer(3, 3 * MIB), layer(4, 6 * MIB)]);
        let sent = Arc::new(AtomicU64::new(0));
        let count = sent.clone();
        let server = Server::start(move |asked| {
            let words: Vec<&str> = asked.path.split('?').next().unwrap().split('/').collect();
            let ["", "v2", name, what, wanted] = words[..] else { return Answer::status(404) };
            let layout = layouts.join(name);
            let index = std::fs::read(layout.join("index.json")).unwrap();
            let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
            let digest = if what == "manifests" { index["manifests"][0]["digest"].as_str().unwrap() } else { wanted };
            let Ok(body) = std::fs::read(layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))) else {
                return Answer::status(404);
            };
            let from = asked.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
            let from: usize = from.map_or(0, |from| from.parse().unwrap());
            let answer = match from {
                0 => Answer::ok(body.clone()),
                _ => Answer { status: 206, ..Answer::ok(&body[from..]) }
                    .header("content-range", format!("bytes {from}-{}/{}", body.len() - 1, body.len())),
            };
            count.fetch_add(answer.body.len() as u64, Ordering::SeqCst);
            answer
        });
        Self { server, sent }
    }

    fn name(&self, image: &str) -> Reference {
        format!("{}/{image}:1", self.server.address).parse().unwrap()
    }

    async fn pull(&self, store: &Store, image: &str) -> Result<String, Error> {
        let pulled = store.pull(&self.name(image), &PullOptions::default(), quiet()).await?;
        Ok(pulled.id.clone())
    }
}

fn says_full(why: &Error) {
    let text = why.to_string();
    assert_eq!(why.kind(), Kind::System, "{text}");
    assert!(text.contains(" is full (make room there, for example with `gantry image prune`"), "{text}");
    assert!(text.contains("No space left on device"), "{text}");
}

fn are(store: &Store, names: &[Reference]) {
    let mut expect: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut found: Vec<String> = store.images().iter().flat_map(|image| image.repo_tags.clone()).collect();
    expect.sort();
    found.sort();
    assert_eq!(found, expect);
}

async fn whole(store: &Store, names: &[Reference]) {
    are(store, names);
    let report = store.verify(&Verify::default(), Arc::new(|_| {})).await.unwrap();
    assert!(report.faults.is_empty(), "{report}");
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// Bytes kept for continuing, once nobody works on anything any more: a layer beside the one that failed ends on its own.
fn ingested(root: &Path) -> u64 {
    let busy = |dir: &str| {
        let files = std::fs::read_dir(root.join(dir)).unwrap().flatten();
        files.filter_map(|file| std::fs::File::open(file.path()).ok()).any(|file| file.try_lock().is_err())
    };
    let end = Instant::now() + Duration::from_secs(20);
    while busy("ingest") || busy("unpack") {
        assert!(Instant::now() < end, "somebody still works on what has failed");
        std::thread::sleep(Duration::from_millis(5));
    }
    let files = std::fs::read_dir(root.join("ingest")).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

async fn too_large_for(test: &str, kind: &str, layers: LayerForm) {
    if !may_mount(test) {
        return;
    }
    let house = House::new(&format!("full-{kind}-{layers:?}"));
    let world = World::new(&house);
    let Some(disk) = Disk::new(test, &house, kind) else { return };
    let root = disk.at.join("store");
    let store = match Store::open(Config { layers, ..Config::at(&root) }) {
        Ok(store) => store,
        Err(why) => {
            assert_eq!(why.kind(), Kind::Unsupported, "{why}");
            return eprintln!("SKIPPED {test} on {kind}: {why}");
        }
    };
    let small = world.pull(&store, "small").await.unwrap();
    let mounted = store.rootfs(&small, "c").await.unwrap();
    world.pull(&store, "other").await.unwrap();
    let (blobs, unpacked) = (entries(&root.join("blobs/sha256")), entries(&root.join("layers")));

    says_full(&world.pull(&store, "large").await.unwrap_err());
    let kept = ingested(&root);
    whole(&store, &[world.name("small"), world.name("other")]).await;
    assert_eq!(entries(&root.join("unpack")), 0, "half a layer stays");
    // At most the documents and the lower layer, which are whole, and what can be continued.
    assert!(entries(&root.join("blobs/sha256")) <= blobs + 3 && entries(&root.join("layers")) <= unpacked + 1);

    // What was kept for continuing does not keep the disk full: whoever prunes has that room again.
    assert!(kept > 0, "nothing is kept for continuing");
    let free = disk.free();
    let done = store.carry_out(store.plan(&Rules { downloads: true, ..Rules::default() }, true).await.unwrap()).await;
    assert!(done.unwrap().freed.bytes >= kept);
    assert_eq!(ingested(&root), 0);
    assert!(disk.free() >= free + kept, "{} bytes free, {free} before {kept} were given up", disk.free());
    whole(&store, &[world.name("small"), world.name("other")]).await;

    // With room the same request succeeds, and goes on where the one before had to end.
    says_full(&world.pull(&store, "large").await.unwrap_err());
    let kept = ingested(&root);
    assert!(store.remove(&world.name("other").to_string()).await.unwrap());
    let (sent, continued) = (world.sent.load(Ordering::SeqCst), ingested(&root));
    assert!(continued <= kept, "{continued} of {kept}");
    world.pull(&store, "large").await.unwrap();
    assert!(world.sent.load(Ordering::SeqCst) - sent < 10 * MIB as u64 - continued);
    whole(&store, &[world.name("small"), world.name("large")]).await;
    assert_eq!(entries(&root.join("unpack")) + entries(&root.join("ingest")), 0);
    assert_eq!(std::fs::read_to_string(mounted.path.join("f1")).unwrap(), noise(1, MIB));
    store.release_rootfs("c").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_on_ext4() {
    too_large_for("what_does_not_fit_on_ext4", "ext4", LayerForm::Directories).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_on_ext4_as_images() {
    too_large_for("what_does_not_fit_on_ext4_as_images", "ext4", LayerForm::Erofs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_on_tmpfs() {
    too_large_for("what_does_not_fit_on_tmpfs", "tmpfs", LayerForm::Directories).await;
}

/// Not a byte is left: nothing is lost, the store opens, and images can be removed, which needs a new index.
async fn not_a_byte_left(test: &str, kind: &str) {
    if !may_mount(test) {
        return;
    }
    let house = House::new(&format!("full-to-the-end-{kind}"));
    let world = World::new(&house);
    let Some(disk) = Disk::new(test, &house, kind) else { return };
    let root = disk.at.join("store");
    let store = Store::open(Config::at(&root)).unwrap();
    let small = world.pull(&store, "small").await.unwrap();
    world.pull(&store, "other").await.unwrap();
    let mut names = vec![world.name("small"), world.name("other")];
    let filler = disk.fill();

    // Sooner or later an index does not fit: that is said, the one that is there stays, and so does what was acknowledged.
    let mut refused = None;
    for number in 0..200 {
        let name: Reference = format!("{}:{number}", "another".repeat(10)).parse().unwrap();
        match store.tag(&small, &name).await {
            Ok(_) => names.push(name),
            Err(why) => {
                refused = Some(why);
                break;
            }
        }
    }
    says_full(&refused.unwrap());
    says_full(&world.pull(&store, "large").await.unwrap_err());
    are(&store, &names);
    drop(store);
    let store = Store::open(Config::at(&root)).unwrap();
    are(&store, &names);

    // What makes room needs none.
    assert!(store.remove(&names.remove(1).to_string()).await.unwrap());
    whole(&store, &names).await;
    assert!(disk.free() > 5 * MIB as u64, "{} bytes free", disk.free());
    names.push("further:1".parse().unwrap());
    store.tag(&small, &names[names.len() - 1]).await.unwrap();
    // And so again: the room for the index is kept once more.
    std::fs::remove_file(filler).unwrap();
    world.pull(&store, "other").await.unwrap();
    disk.fill();
    assert!(store.remove(&world.name("other").to_string()).await.unwrap());
    whole(&store, &names).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn not_a_byte_left_on_ext4() {
    not_a_byte_left("not_a_byte_left_on_ext4", "ext4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn not_a_byte_left_on_tmpfs() {
    not_a_byte_left("not_a_byte_left_on_tmpfs", "tmpfs").await;
}
