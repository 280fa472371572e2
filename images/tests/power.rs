//! Power cuts: every write and flush to a disk is recorded while the store pulls, mounts, imports, tags and removes; then
//! the disk is made again as it may look when the power had gone at some point, and examined.
//!
//! What may be on such a disk: everything before the last flush, and of what came after it any subset, each write whole,
//! torn or not at all, because disks cache and reorder. What has to be true of the store there: the file system mounts,
//! the store opens, every image whose arrival had been acknowledged is in the list and every removed one is not, each
//! blob and each file of each layer is what it should be, and what was under way can be asked for again.
//!
//! `make power-cut` does it at hundreds of points on ext4, xfs and btrfs; `make test` at some.

#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "power/disk.rs"]
mod disk;
#[path = "power/examine.rs"]
mod examine;
#[path = "power/flow.rs"]
mod flow;
#[path = "power/log.rs"]
mod log;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use disk::{Mounted, Recorded};
use examine::{Damage, Examination};
use flow::World;
use gantry_images::LayerForm;
use support::forms::may_mount_images;
use support::{House, may_mount};

const JOB: &str = "GANTRY_IMAGES_POWER_JOB";
/// How many points each run tries; `make power-cut` says more.
const CUTS: &str = "GANTRY_POWER_CUTS";

/// Not a test of its own: what is done while the disk is recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the tests in this file"]
async fn child() {
    let job = std::env::var(JOB).unwrap();
    let words: Vec<&str> = job.split('|').collect();
    let form = if words[3] == "erofs" { LayerForm::Erofs } else { LayerForm::Directories };
    let world = World::new(Path::new(words[2]), form);
    world.run(Path::new(words[0]), Path::new(words[1])).await.unwrap();
}

fn cuts(otherwise: usize) -> usize {
    std::env::var(CUTS).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// The tools that recording takes; says so where one is missing.
fn may_record(test: &str, kind: &str) -> bool {
    let tools = ["qemu-storage-daemon", "losetup", "mount", &format!("mkfs.{kind}")].map(str::to_owned);
    let here =
        |tool: &String| ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|dir| Path::new(dir).join(tool).exists());
    if let Some(missing) = tools.iter().find(|tool| !here(tool)) {
        eprintln!("SKIPPED {test}: {missing} is not installed");
        return false;
    }
    if !Path::new("/dev/fuse").exists() || !Path::new("/dev/loop-control").exists() {
        eprintln!("SKIPPED {test}: needs /dev/fuse and /dev/loop-control");
        return false;
    }
    may_mount(test)
}

/// Does the flow on a recorded disk; the log of it.
fn record(house: &House, kind: &str, form: LayerForm, syncs: bool) -> PathBuf {
    let dir = house.path("recorded");
    let disk = Recorded::new(&dir);
    let args: &[&str] = match kind {
        "ext4" => &["-q", "-F"],
        "xfs" => &["-q", "-f"],
        _ => &["-q", "-f"],
    };
    let size = (disk::FILES >> 10).to_string();
    // The file system ends where the marks begin.
    let device = disk.device();
    match kind {
        "ext4" => disk::tool("mkfs.ext4", &[args, &[device, &size]].concat()),
        "xfs" => disk::tool("mkfs.xfs", &[args, &["-d", &format!("size={size}k"), device]].concat()),
        _ => disk::tool("mkfs.btrfs", &[args, &["-b", &format!("{size}k"), device]].concat()),
    };
    let at = dir.join("at");
    // What is not synced reaches the disk within a second and not only after the test.
    let often = if kind == "xfs" { "rw" } else { "commit=1" };
    let mounted = Mounted::device(kind, device, &at, often);
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child", "--ignored", "--test-threads=1", "--nocapture"]);
    let layers = if form == LayerForm::Erofs { "erofs" } else { "directories" };
    child.env(JOB, format!("{}|{device}|{}|{layers}", at.join("store").display(), house.path("child").display()));
    if !syncs {
        child.env("GANTRY_IMAGE_NOSYNC", "1");
    }
    let done = child.stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "the flow by itself: {}", String::from_utf8_lossy(&done.stderr));
    drop(mounted);
    disk.finish()
}

/// What is examined: the filesystem, and what layers are kept as.
#[derive(Clone, Copy)]
struct Run<'a> {
    test: &'a str,
    kind: &'a str,
    form: LayerForm,
}

async fn examine(run: &Run<'_>, log: &Path, house: &House, cuts: usize) -> (usize, Vec<Damage>) {
    let Run { test, kind, form } = *run;
    let world = World::new(&house.path("world"), form);
    let examination = Examination::new(kind, log, &house.path("examined"), &world).await;
    let points = examination.points(cuts);
    let mut damaged = Vec::new();
    for point in &points {
        damaged.extend(examination.at(point).await);
    }
    println!("{test}: power cut at {} points of {}, {} corrupt", points.len(), examination.length(), damaged.len());
    (points.len(), damaged)
}

async fn no_corruption(run: Run<'_>, otherwise: usize) {
    let Run { test, kind, form } = run;
    if !may_record(test, kind) {
        return;
    }
    let house = House::new(&format!("power-{kind}-{form:?}"));
    let log = record(&house, kind, form, true);
    let (tried, damaged) = examine(&run, &log, &house, cuts(otherwise)).await;
    assert_eq!(tried, cuts(otherwise));
    assert!(damaged.is_empty(), "{test}: {damaged:#?}");
}

#[tokio::test]
async fn power_cut_on_ext4() {
    no_corruption(Run { test: "power_cut_on_ext4", kind: "ext4", form: LayerForm::Directories }, 24).await;
}

#[tokio::test]
async fn power_cut_on_ext4_with_images() {
    let test = "power_cut_on_ext4_with_images";
    if may_mount_images(test) {
        no_corruption(Run { test, kind: "ext4", form: LayerForm::Erofs }, 8).await;
    }
}

#[tokio::test]
async fn power_cut_on_xfs() {
    no_corruption(Run { test: "power_cut_on_xfs", kind: "xfs", form: LayerForm::Directories }, 8).await;
}

#[tokio::test]
async fn power_cut_on_btrfs() {
    no_corruption(Run { test: "power_cut_on_btrfs", kind: "btrfs", form: LayerForm::Directories }, 8).await;
}

/// The test can fail: a store that syncs nothing is found corrupt.
#[tokio::test]
async fn without_syncs_corruption_is_found() {
    let test = "without_syncs_corruption_is_found";
    if !may_record(test, "ext4") || !cfg!(debug_assertions) {
        return;
    }
    let house = House::new("power-nosync");
    let run = Run { test, kind: "ext4", form: LayerForm::Directories };
    let log = record(&house, run.kind, run.form, false);
    let (_, damaged) = examine(&run, &log, &house, 24).await;
    assert!(!damaged.is_empty(), "a store without syncs came through");
    let torn = |damage: &&Damage| damage.what.contains(" is wrong and ") || damage.what.contains(" is not whole");
    let torn = damaged.iter().filter(torn).count();
    println!("{test}: {torn} of them with damaged content, not only with lost steps");
}
