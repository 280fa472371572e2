//! Every kind of damage that a disk or a person does to a store: it is found, told, and only what is damaged is fetched
//! or unpacked again.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gantry_images::{Fault, Outcome, Part, PullOptions, Reference, Report, Store, Verify, Watch, quiet};
use support::http::Server;
use support::tape::{self, Packing, Tape, head};
use support::{House, listing, may_mount};

struct Shop {
    house: House,
    server: Server,
    store: Store,
    name: Reference,
    id: String,
}

fn unwatched() -> Watch {
    Arc::new(|_| {})
}

/// Layers with everything that a verification compares.
fn layers() -> Vec<(Vec<u8>, Packing)> {
    let text = "some text that is long enough to be cut ".repeat(500);
    let low = Tape::new().dir("./", 0o755).dir("etc", 0o755).file("etc/passwd", &text).file("etc/shadow", "secret");
    let low = low.symlink("etc/link", "passwd").hard_link("etc/hard", "etc/passwd").dir("gone", 0o700);
    let low = low.header(&tape::Head { device: (1, 3), ..head("null", b'3') });
    let low = low.pax(&[("SCHILY.xattr.user.key", b"value")]).file("attributed", "x");
    let low = low.file("twice", "first").file("twice", "second").file("gone/x", "x").end();
    // Whiteouts, one of which hides nothing, an implied directory, an opaque one, a file over a hard link.
    let high = Tape::new().file("etc/.wh.shadow", "").file("nowhere/.wh.x", "").file("etc/new", "new");
    let high = high.file("gone/.wh..wh..opq", "").file("made/by/path", "deep").end();
    vec![(low, Packing::Gzip), (high, Packing::Zstd), (Tape::new().file("top", "top").end(), Packing::Plain)]
}

impl Shop {
    async fn new(name: &str) -> Self {
        let house = House::new(name);
        let layout = tape::layout(&house.path("oci"), "app:1", &layers());
        let server = Server::of_layout(&layout, "app");
        let store = house.store();
        let name: Reference = format!("{}/app:1", server.address).parse().unwrap();
        let id = store.pull(&name, &PullOptions::default(), quiet()).await.unwrap().id.clone();
        Self { house, server, store, name, id }
    }

    async fn verify(&self, repair: bool) -> Report {
        self.store.verify(&Verify { repair, auth: None }, unwatched()).await.unwrap()
    }

    /// The unpacked layer that has this path.
    fn layer_with(&self, path: &str) -> PathBuf {
        let layers = std::fs::read_dir(self.house.path("store/layers")).unwrap();
        let mut homes = layers.map(|entry| entry.unwrap().path());
        homes.find(|home| home.join("diff").join(path).symlink_metadata().is_ok()).unwrap()
    }

    fn blobs(&self) -> Vec<PathBuf> {
        let blobs = std::fs::read_dir(self.house.path("store/blobs/sha256")).unwrap();
        blobs.map(|entry| entry.unwrap().path()).collect()
    }
}

fn told(report: &Report) -> String {
    report.faults.iter().map(|fault| fault.why.join("; ")).collect::<Vec<_>>().join(" | ")
}

fn only(report: &Report) -> &Fault {
    assert_eq!(report.faults.len(), 1, "{report}");
    &report.faults[0]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_store_is_good() {
    if !may_mount("a_whole_store_is_good") {
        return;
    }
    let shop = Shop::new("verify-good").await;
    let seen = Arc::new(AtomicU64::new(0));
    let (noted, watch) = (seen.clone(), Verify::default());
    let note: Watch = Arc::new(move |progress| {
        assert!(progress.bytes <= progress.total);
        noted.store(progress.bytes, Ordering::Relaxed);
    });
    let report = shop.store.verify(&watch, note).await.unwrap();
    assert_eq!((report.blobs, report.layers, report.unchecked), (5, 3, 0), "{report}");
    assert!(report.faults.is_empty(), "{report}");
    assert!(seen.load(Ordering::Relaxed) > 0, "no progress was told");
    assert_eq!(std::fs::read_dir(shop.house.path("store/unpack")).unwrap().count(), 0, "skeletons are left");
}

/// A file, what is told once the function has harmed it, and the function.
type Harm = (&'static str, &'static str, fn(&Path));

const HARMS: [Harm; 14] = [
    ("etc/passwd", "/etc/passwd: has 0 bytes", |path| std::fs::write(path, "").unwrap()),
    ("etc/passwd", ": has other content", flip),
    ("etc/passwd", "/etc/passwd: is missing", |path| std::fs::remove_file(path).unwrap()),
    ("attributed", "/attributed: has mode 0777", |path| set_mode(path, 0o777)),
    ("attributed", "/attributed: belongs to 5:6", |path| std::os::unix::fs::chown(path, Some(5), Some(6)).unwrap()),
    ("attributed", "/attributed: has another time", |path| set_time(path, std::time::UNIX_EPOCH)),
    ("etc/link", "/etc/link: links elsewhere", |path| {
        std::fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink("shadow", path).unwrap();
    }),
    ("etc/hard", "hard links", |path| {
        let content = std::fs::read(path).unwrap();
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, content).unwrap();
    }),
    ("null", "/null: is of another kind", |path| {
        std::fs::remove_file(path).unwrap();
        std::fs::write(path, "").unwrap();
    }),
    ("attributed", "/attributed: has other extended attributes", |path| {
        rustix::fs::lsetxattr(path, "user.key", b"other", rustix::fs::XattrFlags::empty()).unwrap();
    }),
    ("etc/passwd", "/etc/extra: does not belong here", |path| {
        std::fs::write(path.with_file_name("extra"), "").unwrap();
    }),
    ("etc/new", "/etc/shadow: is missing", |path| std::fs::remove_file(path.with_file_name("shadow")).unwrap()),
    ("made/by/path", "/made: has mode 0700", |path| set_mode(path.ancestors().nth(2).unwrap(), 0o700)),
    ("gone/x", "/gone: is missing", |path| std::fs::remove_dir_all(path.parent().unwrap()).unwrap()),
];

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

fn set_time(path: &Path, time: std::time::SystemTime) {
    std::fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// One bit, and everything else as it was.
fn flip(path: &Path) {
    let before = std::fs::metadata(path).unwrap().modified().unwrap();
    let mut content = std::fs::read(path).unwrap();
    content[7000] ^= 1;
    std::fs::write(path, content).unwrap();
    set_time(path, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_of_a_layer_is_found_and_repaired() {
    if !may_mount("every_damage_of_a_layer_is_found_and_repaired") {
        return;
    }
    let shop = Shop::new("verify-layer").await;
    for (path, expect, harm) in HARMS {
        harm(&shop.layer_with(path).join("diff").join(path));
        let report = shop.verify(false).await;
        assert!(told(&report).contains(expect), "{path}: expected {expect:?}: {report}");
        let fault = only(&report);
        assert!(matches!(fault.part, Part::Layer { .. }), "{report}");
        assert_eq!(fault.images, [shop.name.to_string()]);
        assert_eq!(fault.outcome, Outcome::Reported);
        let asked = shop.server.asked.lock().unwrap().len();
        let report = shop.verify(true).await;
        assert_eq!(only(&report).outcome, Outcome::Repaired, "{report}");
        assert_eq!(shop.server.asked.lock().unwrap().len(), asked, "the blob was here and yet something was fetched");
        let report = shop.verify(false).await;
        assert!(report.faults.is_empty(), "{path}: {report}");
    }
    // The record of a layer, and the whole layer.
    let record = shop.layer_with("etc/passwd").join("layer.json");
    std::fs::write(&record, "").unwrap();
    assert!(told(&shop.verify(false).await).contains("its record is lost"));
    assert!(shop.verify(true).await.is_good());
    std::fs::remove_dir_all(shop.layer_with("top")).unwrap();
    assert_eq!(told(&shop.verify(false).await), "is not unpacked");
    assert!(shop.verify(true).await.is_good());
    assert!(shop.verify(false).await.faults.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_blob_is_fetched_again_and_no_other() {
    if !may_mount("every_damaged_blob_is_fetched_again_and_no_other") {
        return;
    }
    let shop = Shop::new("verify-blob").await;
    let blobs = shop.blobs();
    assert_eq!(blobs.len(), 5, "manifest, configuration and three layers");
    for (number, blob) in blobs.iter().enumerate() {
        let good = std::fs::read(blob).unwrap();
        match number % 3 {
            0 => std::fs::write(blob, "").unwrap(),
            1 => std::fs::remove_file(blob).unwrap(),
            _ => std::fs::write(blob, vec![0; good.len()]).unwrap(),
        }
        // Another process, so that nothing is remembered.
        let store = shop.house.store();
        let report = store.verify(&Verify::default(), unwatched()).await.unwrap();
        assert!(matches!(only(&report).part, Part::Blob(_)), "{report}");
        let before = shop.server.asked.lock().unwrap().len();
        let report = store.verify(&Verify { repair: true, auth: None }, unwatched()).await.unwrap();
        assert!(report.is_good() && !report.faults.is_empty(), "{report}");
        assert_eq!(std::fs::read(blob).unwrap(), good);
        let asked = shop.server.asked.lock().unwrap()[before..].to_vec();
        let hex = blob.file_name().unwrap().to_string_lossy().into_owned();
        let content: Vec<_> = asked.iter().filter(|asked| asked.path.contains("sha256:")).collect();
        assert!(content.len() == 1 && content[0].path.ends_with(&hex), "{content:?}");
        assert!(store.image(&shop.name.to_string()).is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_and_layer_damaged_at_once() {
    if !may_mount("blob_and_layer_damaged_at_once") {
        return;
    }
    let shop = Shop::new("verify-both").await;
    for blob in shop.blobs() {
        std::fs::write(blob, "").unwrap();
    }
    // Only the content, which no look from outside shows.
    let file = shop.layer_with("etc/passwd").join("diff/attributed");
    let before = std::fs::metadata(&file).unwrap().modified().unwrap();
    std::fs::write(&file, "y").unwrap();
    std::fs::File::open(&file).unwrap().set_modified(before).unwrap();
    let store = shop.house.store();
    let report = store.verify(&Verify { repair: true, auth: None }, unwatched()).await.unwrap();
    assert!(report.is_good(), "{report}");
    assert_eq!(report.faults.len(), 6, "five blobs, and the layer that could be compared only afterwards: {report}");
    assert!(store.verify(&Verify::default(), unwatched()).await.unwrap().faults.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_fetched_is_told_and_the_rest_repaired() {
    if !may_mount("what_cannot_be_fetched_is_told_and_the_rest_repaired") {
        return;
    }
    let house = House::new("verify-lost");
    let layout = house.layout("alone", &[("a", "a")]);
    let store = house.store();
    // Nothing listens there.
    let nowhere: Reference = "127.0.0.1:1/alone:1".parse().unwrap();
    let image = store.import(&layout, Some(nowhere.clone())).await.unwrap().remove(0);
    let rootfs = store.rootfs(&image.id, "c").await.unwrap();
    for entry in std::fs::read_dir(house.path("store/blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        if std::fs::read(&path).unwrap().starts_with(&[0x1f, 0x8b]) {
            std::fs::write(&path, "").unwrap();
        }
    }
    let report = store.verify(&Verify { repair: true, auth: None }, unwatched()).await.unwrap();
    let Outcome::Lost(why) = &only(&report).outcome else { panic!("{report}") };
    assert!(why.contains("error sending request"), "{report}");
    assert!(!report.is_good());
    assert_eq!(std::fs::read_to_string(rootfs.path.join("a")).unwrap(), "a", "a running container was disturbed");
    store.import(&layout, Some(nowhere)).await.unwrap();
    assert!(store.verify(&Verify::default(), unwatched()).await.unwrap().faults.is_empty());
    store.release_rootfs("c").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_keeps_its_files() {
    if !may_mount("a_running_container_keeps_its_files") {
        return;
    }
    let shop = Shop::new("verify-running").await;
    let old = shop.store.rootfs(&shop.id, "old").await.unwrap();
    let whole = listing::of(&old.path);
    let damaged = shop.layer_with("etc/passwd");
    let time = std::fs::metadata(damaged.join("diff/etc")).unwrap().modified().unwrap();
    std::fs::remove_file(damaged.join("diff/etc/shadow")).unwrap();
    std::fs::File::open(damaged.join("diff/etc")).unwrap().set_modified(time).unwrap();
    std::fs::write(damaged.join("diff/attributed"), "damaged").unwrap();
    assert!(shop.verify(true).await.is_good());
    // The old one still runs over what it had, the new one over what is whole; both survive a collection.
    shop.store.collect().await.unwrap().unwrap();
    assert_eq!(std::fs::read_to_string(old.path.join("attributed")).unwrap(), "damaged");
    assert_eq!(std::fs::read_to_string(old.path.join("twice")).unwrap(), "second");
    let new = shop.store.rootfs(&shop.id, "new").await.unwrap();
    assert!(listing::of(&new.path) == whole);
    let count = || std::fs::read_dir(shop.house.path("store/layers")).unwrap().count();
    assert_eq!(count(), 4, "the damaged layer is kept beside the new one");
    shop.store.release_rootfs("old").await.unwrap();
    shop.store.collect().await.unwrap().unwrap();
    assert_eq!(count(), 3, "the damaged layer stays after its last user");
    shop.store.release_rootfs("new").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_can_be_given_up() {
    if !may_mount("a_verification_can_be_given_up") {
        return;
    }
    let shop = Shop::new("verify-cancel").await;
    let (send, begun) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let watch: Watch = Arc::new(move |_| {
        let _ = send.send(());
        let _ = wait.lock().unwrap().recv();
    });
    let store = shop.store.clone();
    let task = tokio::spawn(async move { store.verify(&Verify::default(), watch).await });
    begun.recv().unwrap();
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    drop(go);
    // It ends soon, and leaves nothing.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while shop.store.collect().await.unwrap().is_none()
        || std::fs::read_dir(shop.house.path("store/unpack")).unwrap().count() > 0
    {
        assert!(std::time::Instant::now() < end, "the verification goes on");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(shop.verify(false).await.faults.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_index_is_made_again() {
    if !may_mount("a_lost_index_is_made_again") {
        return;
    }
    let shop = Shop::new("verify-index").await;
    let (root, name) = (shop.house.path("store"), shop.name.to_string());
    std::fs::write(root.join("index.json"), "").unwrap();
    std::fs::remove_file(root.join("index.old.json")).unwrap();
    let store = shop.house.store();
    let images = store.images();
    assert_eq!((images.len(), images[0].id.as_str(), images[0].repo_tags.len()), (1, shop.id.as_str(), 0));
    assert_eq!(std::fs::read(root.join("index.damaged.json")).unwrap(), b"");
    store.collect().await.unwrap().unwrap();
    let before = shop.server.asked.lock().unwrap().len();
    let image = store.pull(&shop.name, &PullOptions::default(), quiet()).await.unwrap();
    assert_eq!(image.repo_tags, [name]);
    let asked = shop.server.asked.lock().unwrap()[before..].to_vec();
    assert!(asked.iter().all(|asked| asked.path.contains("/manifests/")), "content was fetched again: {asked:?}");
    assert!(store.verify(&Verify::default(), unwatched()).await.unwrap().faults.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_reboot_a_damaged_layer_is_noticed_before_it_is_used() {
    if !may_mount("after_a_reboot_a_damaged_layer_is_noticed_before_it_is_used") {
        return;
    }
    let shop = Shop::new("verify-boot").await;
    let whole = {
        let rootfs = shop.store.rootfs(&shop.id, "first").await.unwrap();
        let whole = listing::of(&rootfs.path);
        shop.store.release_rootfs("first").await.unwrap();
        whole
    };
    let harms: [&dyn Fn(&Path); 4] = [
        &|home| std::fs::write(home.join("diff/etc/passwd"), "").unwrap(),
        &|home| std::fs::remove_file(home.join("diff/attributed")).unwrap(),
        &|home| std::fs::write(home.join("layer.json"), "").unwrap(),
        &|home| std::fs::remove_file(home.join("layer.json")).unwrap(),
    ];
    for (number, harm) in harms.iter().enumerate() {
        let home = shop.layer_with("etc/passwd");
        harm(&home);
        // As after a reboot: the boot that the layer knows is another, and no process remembers anything.
        std::fs::write(home.join("boot"), "another\n").unwrap();
        std::fs::write(shop.house.path("store/boot"), "another\n").unwrap();
        let asked = shop.server.asked.lock().unwrap().len();
        let store = shop.house.store();
        let rootfs = store.rootfs(&shop.id, "c").await.unwrap();
        assert!(listing::of(&rootfs.path) == whole, "harm {number}");
        store.release_rootfs("c").await.unwrap();
        assert_eq!(shop.server.asked.lock().unwrap().len(), asked, "something was fetched");
        assert!(store.verify(&Verify::default(), unwatched()).await.unwrap().faults.is_empty(), "harm {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_empty_file_survives_a_second_pull() {
    if !may_mount("no_empty_file_survives_a_second_pull") {
        return;
    }
    let shop = Shop::new("verify-again").await;
    for blob in shop.blobs() {
        std::fs::write(blob, "").unwrap();
    }
    std::fs::write(shop.layer_with("etc/passwd").join("diff/etc/passwd"), "").unwrap();
    std::fs::write(shop.layer_with("etc/new").join("diff/etc/new"), "").unwrap();
    let store = shop.house.store();
    store.pull(&shop.name, &PullOptions::default(), quiet()).await.unwrap();
    let report = store.verify(&Verify::default(), unwatched()).await.unwrap();
    assert!(report.faults.is_empty(), "{report}");
    assert_eq!((report.blobs, report.layers), (5, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_as_images_are_compared_as_well() {
    if !may_mount("layers_as_images_are_compared_as_well") {
        return;
    }
    let house = House::new("verify-erofs");
    let layout = tape::layout(&house.path("oci"), "app:1", &layers());
    let config = gantry_images::Config { layers: gantry_images::LayerForm::Erofs, ..house.config() };
    let store = match Store::open(config) {
        Err(why) if why.kind() == gantry_images::Kind::Unsupported => {
            eprintln!("SKIPPED layers_as_images_are_compared_as_well: {why}");
            return;
        }
        other => other.unwrap(),
    };
    store.import(&layout, None).await.unwrap();
    let report = store.verify(&Verify::default(), unwatched()).await.unwrap();
    assert_eq!((report.faults.len(), report.layers, report.unchecked), (0, 3, 0), "{report}");
    let images = std::fs::read_dir(house.path("store/layers")).unwrap().map(|entry| entry.unwrap().path());
    let mut images: Vec<PathBuf> = images.map(|home| home.join("image.erofs")).filter(|image| image.exists()).collect();
    images.sort_by_key(|image| std::fs::metadata(image).unwrap().len());
    let image = images.pop().unwrap();
    let mut content = std::fs::read(&image).unwrap();
    let at = content.windows(9).position(|part| part == b"some text").unwrap();
    content[at] ^= 1;
    // A new file: pages of the mounted one may still be known.
    std::fs::remove_file(&image).unwrap();
    std::fs::write(&image, content).unwrap();
    let report = store.verify(&Verify::default(), unwatched()).await.unwrap();
    assert!(told(&report).contains("has other content"), "{report}");
    assert!(store.verify(&Verify { repair: true, auth: None }, unwatched()).await.unwrap().is_good());
    assert!(store.verify(&Verify::default(), unwatched()).await.unwrap().faults.is_empty());
}
