//! Every step that changes the disk, one after the other: the process is killed before it, or the disk refuses it. After
//! each the store opens and shows only what is whole, and the same request again ends well and leaves nothing behind.
//! Which steps there are the store says itself (`src/fault.rs`); the victim is this test program, run again.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use gantry_images::{Config, Digest, LayerForm, PullOptions, Reference, Store, quiet};
use support::http::Server;
use support::tape::{self, Packing, Tape};
use support::{House, forms::may_mount_images, listing, may_mount, mounts};

const JOB: &str = "GANTRY_IMAGES_FAULT_JOB";
const FAULT: &str = "GANTRY_IMAGE_FAULT";
/// No flow has so many steps: beyond it the walk would not end.
const MOST: u32 = 400;

/// Not a test of its own: what the child does. Runs only with a job in the environment.
#[tokio::test]
#[ignore = "the child of the tests in this file"]
async fn child() {
    let job = std::env::var(JOB).unwrap();
    let words: Vec<&str> = job.split('|').collect();
    // An error is what the test wants to see, in one line and without the noise of a panic.
    let layers = if words[3] == "erofs" { LayerForm::Erofs } else { LayerForm::Directories };
    if let Err(why) = carry_out(words[0], Config { layers, ..Config::at(words[1]) }, words[2]).await {
        eprintln!("error: {why}");
        std::process::exit(3);
    }
}

async fn carry_out(job: &str, config: Config, argument: &str) -> gantry_images::Result<()> {
    let store = Store::open(Config { parallel_downloads: 1, ..config })?;
    match job {
        "pull" => {
            let image = store.pull(&argument.parse()?, &PullOptions::default(), quiet()).await?;
            store.rootfs(&image.id, "c").await?;
        }
        "import" => drop(store.import(Path::new(argument), Some("imported:1".parse()?)).await?),
        "tag" => drop(store.tag(argument, &"further:2".parse()?).await?),
        "remove" => {
            store.release_rootfs("c").await?;
            store.remove(argument).await?;
        }
        other => panic!("no job {other}"),
    }
    Ok(())
}

/// One flow of the store with what the test needs to repeat it.
struct Flow {
    house: House,
    server: Server,
    name: Reference,
    layout: PathBuf,
    form: LayerForm,
    /// What every layer's directory holds when it is whole, by its name.
    layers: BTreeMap<String, Vec<String>>,
}

impl Flow {
    async fn new(name: &str, form: LayerForm) -> Self {
        let house = House::new(name);
        let layer = |seed: u32| {
            let tape =
                Tape::new().dir("./", 0o755).dir("d", 0o755).file(&format!("d/{seed}"), &"content ".repeat(2000));
            let tape = tape.file(&format!("implied{seed}/x"), "x").symlink("l", "d");
            tape.hard_link("h", &format!("d/{seed}")).file(&format!("d/.wh.{}", seed - 1), "").end()
        };
        let layers = [(layer(1), Packing::Gzip), (layer(2), Packing::Zstd)];
        let layout = tape::layout(&house.path("oci"), "app:1", &layers);
        let server = Server::of_layout(&layout, "app");
        let name = format!("{}/app:1", server.address).parse().unwrap();
        let mut flow = Self { house, server, name, layout, form, layers: BTreeMap::new() };
        flow.prepare(&["pull"]);
        for entry in std::fs::read_dir(flow.store().join("layers")).unwrap() {
            let path = entry.unwrap().path();
            let key = path.file_name().unwrap().to_string_lossy().into_owned();
            flow.layers.insert(key, listing::of_either(&path));
        }
        assert_eq!(flow.layers.len(), 2);
        flow
    }

    fn store(&self) -> PathBuf {
        self.house.path("store")
    }

    fn open(&self) -> Store {
        Store::open(Config { layers: self.form, ..Config::at(self.store()) }).unwrap()
    }

    fn argument(&self, job: &str) -> String {
        match job {
            "import" => self.layout.display().to_string(),
            _ => self.name.to_string(),
        }
    }

    fn run(&self, job: &str, fault: Option<&str>) -> Output {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child", "--ignored", "--test-threads=1", "--nocapture"]);
        let form = if self.form == LayerForm::Erofs { "erofs" } else { "directories" };
        command.env(JOB, format!("{job}|{}|{}|{form}", self.store().display(), self.argument(job)));
        if let Some(fault) = fault {
            command.env(FAULT, fault);
        }
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn prepare(&self, jobs: &[&str]) {
        for job in jobs {
            let said = self.run(job, None);
            assert!(said.status.success(), "{job} by itself: {}", String::from_utf8_lossy(&said.stderr));
        }
    }

    /// What can be seen is whole, whatever happened.
    fn check(&self, when: &str) {
        for entry in std::fs::read_dir(self.store().join("blobs/sha256")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert_eq!(
                Digest::of(&std::fs::read(&path).unwrap()).hex(),
                name,
                "{when}: a blob is not what it should be"
            );
        }
        for entry in std::fs::read_dir(self.store().join("layers")).unwrap() {
            let path = entry.unwrap().path();
            let key = path.file_name().unwrap().to_string_lossy().into_owned();
            assert_eq!(listing::of_either(&path), self.layers[&key], "{when}: layer {key} is not whole");
        }
    }

    /// Everything is taken away, and then nothing is left.
    async fn clear(&self, when: &str) {
        let open = self.open();
        for key in open.rootfs_keys().unwrap() {
            open.release_rootfs(&key).await.unwrap();
        }
        for image in open.images() {
            open.remove(&image.id).await.unwrap();
        }
        open.collect().await.unwrap().unwrap();
        for dir in ["blobs/sha256", "layers", "unpack", "rootfs", "ingest"] {
            let left: Vec<_> =
                std::fs::read_dir(self.store().join(dir)).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert!(left.is_empty(), "{when}: left in {dir}: {left:?}");
        }
        let strays: Vec<_> = std::fs::read_dir(self.store()).unwrap().map(|e| e.unwrap().file_name()).collect();
        let strays: Vec<_> = strays.iter().filter(|name| name.to_string_lossy().starts_with('.')).collect();
        assert!(strays.is_empty(), "{when}: left beside the index: {strays:?}");
        assert!(mounts(&self.store()).is_empty(), "{when}");
    }

    /// Walks through all steps of `job` with `effect`, each time out of the state that `before` makes; `after` sees
    /// the store once the job has been repeated without a fault. How many steps there were.
    async fn walk(&self, before: &[&str], job: &str, effect: &str, after: impl AsyncFn(&Store)) -> u32 {
        for number in 1..MOST {
            self.clear("before").await;
            self.prepare(before);
            let said = self.run(job, Some(&format!("{number}{effect}")));
            let stderr = String::from_utf8_lossy(&said.stderr).into_owned();
            let when = format!("{job} at step {number}{effect}, {}", stderr.trim());
            if !stderr.contains("fault: ") {
                assert!(said.status.success(), "{when}");
                self.clear("at the end").await;
                return number - 1;
            }
            match effect {
                "" => assert!(!said.status.success(), "{when}: was not killed"),
                // A step that may fail without harm, as removing rubbish, may be logged and passed over.
                _ => assert!(said.status.success() || stderr.contains("error: "), "{when}: no clear error"),
            }
            self.check(&when);
            self.prepare(&[job]);
            self.check(&when);
            let store = self.open();
            assert_eq!(std::fs::read_dir(self.store().join("unpack")).unwrap().count(), 0, "{when}: stray directories");
            after(&store).await;
        }
        panic!("{job} does not end");
    }
}

async fn walk_all(name: &str, effect: &str) {
    if !may_mount(name) {
        return;
    }
    let flow = Flow::new(name, LayerForm::Directories).await;
    assert!(flow.server.address.port() > 0);
    let whole = listing::of(&flow.store().join("rootfs/c/merged"));
    let names = |store: &Store| store.images().iter().map(|image| image.repo_tags.join(" ")).collect::<Vec<_>>();
    let pulled = flow.name.to_string();
    let mut steps = BTreeMap::new();
    let seen = async |store: &Store| {
        assert_eq!(names(store), std::slice::from_ref(&pulled));
        assert!(listing::of(&flow.store().join("rootfs/c/merged")) == whole, "the root filesystem differs");
    };
    steps.insert("pull", flow.walk(&[], "pull", effect, seen).await);
    let seen = async |store: &Store| assert_eq!(names(store), ["docker.io/library/imported:1"]);
    steps.insert("import", flow.walk(&[], "import", effect, seen).await);
    let seen = async |store: &Store| assert_eq!(names(store), [format!("{pulled} docker.io/library/further:2")]);
    steps.insert("tag", flow.walk(&["pull"], "tag", effect, seen).await);
    let seen = async |store: &Store| assert!(names(store).is_empty());
    steps.insert("remove", flow.walk(&["pull"], "remove", effect, seen).await);
    eprintln!("{name}: {steps:?}");
    assert!(steps["pull"] > 40 && steps["import"] > 30 && steps["tag"] > 4 && steps["remove"] > 10, "{steps:?}");
}

#[tokio::test]
async fn killed_before_every_step() {
    walk_all("killed_before_every_step", "").await;
}

#[tokio::test]
async fn the_disk_fails_at_every_step() {
    walk_all("the_disk_fails_at_every_step", ":EIO").await;
}

#[tokio::test]
async fn the_disk_is_full_at_every_step() {
    walk_all("the_disk_is_full_at_every_step", ":ENOSPC").await;
}

/// The same for layers that are EROFS images: written, synced, mounted, looked into by the layer above, unmounted.
async fn walk_images(name: &str, effect: &str) {
    if !may_mount_images(name) {
        return;
    }
    let flow = Flow::new(name, LayerForm::Erofs).await;
    let whole = listing::of(&flow.store().join("rootfs/c/merged"));
    assert_eq!(mounts(&flow.store()).len(), 3, "two layers and the root filesystem are mounted");
    let pulled = async |store: &Store| {
        assert_eq!(store.images().len(), 1);
        assert!(listing::of(&flow.store().join("rootfs/c/merged")) == whole, "the root filesystem differs");
    };
    let pull = flow.walk(&[], "pull", effect, pulled).await;
    let removed = async |store: &Store| assert!(store.images().is_empty() && mounts(store.root()).is_empty());
    let remove = flow.walk(&["pull"], "remove", effect, removed).await;
    eprintln!("{name}: pull {pull}, remove {remove}");
    assert!(pull > 40 && remove > 10, "pull {pull}, remove {remove}");
}

#[tokio::test]
async fn killed_before_every_step_with_images() {
    walk_images("killed_before_every_step_with_images", "").await;
}

#[tokio::test]
async fn the_disk_fails_at_every_step_with_images() {
    walk_images("the_disk_fails_at_every_step_with_images", ":EIO").await;
}

#[tokio::test]
async fn the_disk_is_full_at_every_step_with_images() {
    walk_images("the_disk_is_full_at_every_step_with_images", ":ENOSPC").await;
}
