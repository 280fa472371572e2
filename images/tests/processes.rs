//! Several processes on one store at the same time, as the daemon and `gantry image` are: nothing that one has done is lost
//! by another, no collection takes what another is pulling, and everything is whole at the end.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gantry_images::{Config, PullOptions, Reference, Store, Verify, Watch, quiet};
use support::content::Content;
use support::http::{Answer, Server};
use support::tape::{self, Packing, Tape};
use support::{House, may_mount};

const JOB: &str = "GANTRY_IMAGES_PROCESS_JOB";
const ROUNDS: usize = 6;

/// Not a test of its own: what each process does. Runs only with a job in the environment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the tests in this file"]
async fn child() {
    let job = std::env::var(JOB).unwrap();
    let words: Vec<&str> = job.split('|').collect();
    let (store, name) = (Store::open(Config::at(words[1])).unwrap(), words[2]);
    let reference: Reference = name.parse().unwrap();
    if words[0] == "once" {
        store.pull(&reference, &PullOptions::default(), quiet()).await.unwrap();
        return;
    }
    for round in 0..ROUNDS {
        match words[0] {
            // Comes and goes, and runs in between.
            "churn" => {
                let image = store.pull(&reference, &PullOptions::default(), quiet()).await.unwrap();
                let key = format!("churn-{round}");
                // Somebody else may have removed the image by now: then that is said, and nothing else.
                if let Ok(rootfs) = store.rootfs(&image.id, &key).await {
                    assert_eq!(std::fs::read_to_string(rootfs.path.join("shared/1")).unwrap().len(), 4000);
                }
                store.release_rootfs(&key).await.unwrap();
                store.remove(name).await.unwrap();
            }
            // Only adds.
            "tag" => {
                let image = store.pull(&reference, &PullOptions::default(), quiet()).await.unwrap();
                let tag: Reference = format!("tag-{}:{round}", words[3]).parse().unwrap();
                store.tag(&image.id, &tag).await.unwrap();
            }
            // Only collects.
            _ => {
                for _ in 0..10 {
                    store.collect().await.unwrap();
                }
            }
        }
    }
}

fn start(store: &Path, job: &str, name: &str, own: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--ignored", "--test-threads=1", "--nocapture"]);
    command.env(JOB, format!("{job}|{}|{name}|{own}", store.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Images `one` and `two`, which share a layer, behind one registry.
fn registry(house: &House) -> Server {
    let layer = |name: &str| {
        let tape = (0..20)
            .fold(Tape::new().dir(name, 0o755), |tape, n| tape.file(&format!("{name}/{n}"), &name[..1].repeat(4000)));
        tape.end()
    };
    let layouts = house.path("layouts");
    for name in ["one", "two"] {
        let layers = [(layer("shared"), Packing::Gzip), (layer(name), Packing::Zstd)];
        tape::layout(&layouts.join(name), "x:1", &layers);
    }
    Server::start(move |asked| {
        let words: Vec<&str> = asked.path.split('?').next().unwrap().split('/').collect();
        let ["", "v2", name, what, wanted] = words[..] else { return Answer::status(404) };
        let layout = layouts.join(name);
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
        let digest = if what == "manifests" { index["manifests"][0]["digest"].as_str().unwrap() } else { wanted };
        match std::fs::read(layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))) {
            Ok(body) => Answer::ok(body),
            Err(_) => Answer::status(404),
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_between_processes() {
    if !may_mount("nothing_is_lost_between_processes") {
        return;
    }
    let house = House::new("processes");
    let server = registry(&house);
    let root = house.path("store");
    let (one, two) = (format!("{}/one:1", server.address), format!("{}/two:1", server.address));
    let jobs = [("churn", &one, ""), ("tag", &two, "a"), ("tag", &two, "b"), ("collect", &one, "")];
    let children: Vec<Child> = jobs.iter().map(|(job, name, own)| start(&root, job, name, own)).collect();
    for (child, (job, ..)) in children.into_iter().zip(jobs) {
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{job}: {}", String::from_utf8_lossy(&done.stderr));
    }
    let store = house.store();
    let tags: BTreeSet<String> = store.images().iter().flat_map(|image| image.repo_tags.clone()).collect();
    let each = |own: &str| (0..ROUNDS).map(|n| format!("docker.io/library/tag-{own}:{n}")).collect::<Vec<_>>();
    let expect: BTreeSet<String> = each("a").into_iter().chain(each("b")).chain([two]).collect();
    assert_eq!(tags, expect, "the index has lost a change");
    let watch: Watch = Arc::new(|_| {});
    let report = store.verify(&Verify::default(), watch).await.unwrap();
    assert!(report.faults.is_empty(), "{report}");
    store.collect().await.unwrap().unwrap();
    let count = |dir: &str| std::fs::read_dir(root.join(dir)).unwrap().count();
    assert_eq!((count("layers"), count("unpack"), count("rootfs"), count("ingest")), (2, 0, 0, 0));
}

/// Somebody waits for the lock on a file in `dir`: a line `1: -> FLOCK … major:minor:inode …` of proc_locks(5).
fn is_awaited(dir: &Path) -> bool {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let inodes: Vec<String> = files.filter_map(|file| Some(format!(":{} ", file.metadata().ok()?.ino()))).collect();
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    locks.lines().any(|line| line.contains("-> FLOCK") && inodes.iter().any(|inode| line.contains(inode)))
}

/// The registry holds the first download back until the other process waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_one_download() {
    if !may_mount("two_processes_share_one_download") {
        return;
    }
    let house = House::new("two-pulls");
    let content = Content::new(&house);
    let (ingest, awaited) = (house.path("store/ingest"), Arc::new(AtomicBool::new(false)));
    let (served, seen) = (content.clone(), awaited.clone());
    let server = Server::start(move |asked| {
        let end = Instant::now() + Duration::from_secs(30);
        while served.is_layer(asked) && !seen.load(Ordering::SeqCst) && Instant::now() < end {
            seen.store(is_awaited(&ingest), Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(5));
        }
        served.answer(asked)
    });
    let name = format!("{}/app:1", server.address);
    let children: Vec<Child> = (0..2).map(|_| start(&house.path("store"), "once", &name, "")).collect();
    for child in children {
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    assert!(awaited.load(Ordering::SeqCst), "the second process did not wait for the first");
    let asked = server.asked.lock().unwrap().iter().filter(|asked| content.is_layer(asked)).count();
    assert_eq!(asked, 1, "the layer was asked for more than once");
    let store = house.store();
    let report = store.verify(&Verify::default(), Arc::new(|_| {})).await.unwrap();
    assert!(report.faults.is_empty(), "{report}");
    let count = |dir: &str| std::fs::read_dir(house.path("store").join(dir)).unwrap().count();
    assert_eq!((store.images().len(), count("layers"), count("unpack"), count("ingest")), (1, 1, 0, 0));
}
