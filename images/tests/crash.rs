//! SIGKILL at many moments of a pull, of mounting and of a removal: the store always opens, shows only what is whole, and
//! the next attempt ends well. The victim is this test program, run again with a job in its environment.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gantry_images::{Config, Digest, PullOptions, Reference, Store, quiet};
use support::http::Server;
use support::tape::{self, Packing, Tape};
use support::{House, listing, may_mount, mounts};

const JOB: &str = "GANTRY_IMAGES_CRASH_JOB";
const ROUNDS: u32 = 9;

/// Not a test of its own: what the child does. Runs only with a job in the environment.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of the tests in this file"]
async fn child() {
    let job = std::env::var(JOB).unwrap();
    let words: Vec<&str> = job.split('|').collect();
    let store = Store::open(Config::at(words[1])).unwrap();
    let name: Reference = words[2].parse().unwrap();
    match words[0] {
        "pull" => {
            let image = store.pull(&name, &PullOptions::default(), quiet()).await.unwrap();
            store.rootfs(&image.id, "c").await.unwrap();
        }
        _ => {
            store.release_rootfs("c").await.unwrap();
            store.remove(&name.to_string()).await.unwrap();
        }
    }
}

fn start(job: &str, store: &Path, name: &Reference) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--test-threads=1"]);
    command.env(JOB, format!("{job}|{}|{name}", store.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// How long the job takes when nobody interferes.
fn undisturbed(job: &str, store: &Path, name: &Reference) -> Duration {
    let begin = Instant::now();
    assert!(start(job, store, name).wait().unwrap().success(), "{job} fails by itself");
    begin.elapsed()
}

fn kill_after(wait: Duration, job: &str, store: &Path, name: &Reference) {
    let mut child = start(job, store, name);
    std::thread::sleep(wait);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn image(house: &House) -> PathBuf {
    let layer = |seed: u32| {
        let mut state = seed;
        let mut noise = |count: usize| -> String {
            let step = |_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                char::from(b'!' + (state >> 24) as u8 % 90)
            };
            (0..count).map(step).collect()
        };
        let tape = Tape::new().dir("d", 0o755);
        let tape = (0..60).fold(tape, |tape, n| tape.file(&format!("d/{seed}-{n}"), &noise(8000)));
        tape.file(&format!("implied{seed}/x"), "x").file(&format!("d/.wh.{}-0", seed - 1), "").end()
    };
    let layers = [(layer(1), Packing::Gzip), (layer(2), Packing::Zstd), (layer(3), Packing::Gzip)];
    tape::layout(&house.path("oci"), "app:1", &layers)
}

/// What can be seen in the store is whole: blobs are what their names say, images have all their layers.
fn check(store: &Path) {
    for entry in std::fs::read_dir(store.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(Digest::of(&std::fs::read(&path).unwrap()).hex(), name, "a blob is not what its name says");
    }
    for entry in std::fs::read_dir(store.join("layers")).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.join("layer.json").is_file() && path.join("diff").is_dir(), "{} is half a layer", path.display());
    }
}

async fn finish(store: &Path, name: &Reference, whole: &[String]) {
    check(store);
    let open = Store::open(Config::at(store)).unwrap();
    assert_eq!(std::fs::read_dir(store.join("unpack")).unwrap().count(), 0, "stray directories after opening");
    let image = open.pull(name, &PullOptions::default(), quiet()).await.unwrap();
    let rootfs = open.rootfs(&image.id, "c").await.unwrap();
    let seen = listing::of(&rootfs.path);
    assert!(seen == whole, "the image is not what it was: {} of {} entries", seen.len(), whole.len());
}

async fn clear(store: &Path, name: &Reference) {
    let open = Store::open(Config::at(store)).unwrap();
    for key in open.rootfs_keys().unwrap() {
        open.release_rootfs(&key).await.unwrap();
    }
    open.remove(&name.to_string()).await.unwrap();
    open.collect().await.unwrap().unwrap();
    for dir in ["blobs/sha256", "layers", "unpack", "rootfs", "ingest"] {
        let left: Vec<_> = std::fs::read_dir(store.join(dir)).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty(), "left in {dir}: {left:?}");
    }
    assert!(mounts(store).is_empty());
    let beside = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let strays: Vec<String> = beside.filter(|name| name.starts_with('.')).collect();
    assert!(strays.is_empty(), "stray files beside the index: {strays:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment() {
    if !may_mount("killed_at_any_moment") {
        return;
    }
    let house = House::new("crash");
    let layout = image(&house);
    let server = Server::of_layout(&layout, "app");
    let name: Reference = format!("{}/app:1", server.address).parse().unwrap();
    let store = house.path("store");
    let pull = undisturbed("pull", &store, &name);
    let whole = listing::of(&store.join("rootfs/c/merged"));
    assert!(whole.len() > 180);
    let remove = undisturbed("remove", &store, &name);
    clear(&store, &name).await;
    for round in 0..ROUNDS {
        kill_after(pull * round / (ROUNDS - 1), "pull", &store, &name);
        finish(&store, &name, &whole).await;
        // The other way: killed while everything is taken down, then completed.
        kill_after(remove * round / (ROUNDS - 1), "remove", &store, &name);
        check(&store);
        if round % 2 == 0 {
            finish(&store, &name, &whole).await;
        }
        clear(&store, &name).await;
    }
}
