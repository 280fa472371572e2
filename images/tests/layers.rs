//! What several layers mean together, seen through the mounted overlay, and compared with what umoci makes of them.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use gantry_images::Kind;
use support::tape::{self, Head, Packing, Tape, head};
use support::{House, listing, may_mount};

/// Capability version 2, cap_net_raw permitted and effective.
const NET_RAW: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn lowest() -> Vec<u8> {
    Tape::new()
        .dir("./", 0o755)
        .dir("etc/", 0o755)
        .file("etc/keep", "keep")
        .file("etc/gone", "gone")
        .file("etc/changed", "old")
        .dir("tmp/", 0o1777)
        .dir("full/", 0o750)
        .file("full/a", "a")
        .dir("full/sub/", 0o755)
        .file("full/sub/b", "b")
        .dir("tree/", 0o755)
        .file("tree/x", "x")
        .file("becomes-dir", "file")
        .dir("becomes-file/", 0o755)
        .file("becomes-file/in", "in")
        .header(&Head { mode: 0o4755, owner: (0, 42), ..head("suid", b'0') })
        .header(&Head { owner: (1000, 1001), link: "etc/keep", ..head("link", b'2') })
        .hard_link("etc/keep2", "etc/keep")
        .hard_link("full/keep3", "etc/keep")
        .hard_link("tmp/keep4", "etc/keep")
        .pax(&[
            ("SCHILY.xattr.user.note", b"hello"),
            ("SCHILY.xattr.security.capability", NET_RAW),
            ("mtime", b"12.000000034"),
        ])
        .header(&Head { mode: 0o755, size: 3, ..head("ping", b'0') })
        .data(b"ELF")
        .header(&Head { device: (1, 3), mode: 0o666, ..head("null", b'3') })
        .header(&head("pipe", b'6'))
        .end()
}

fn second() -> Vec<u8> {
    let long = format!("deep/{}/file", "n".repeat(150));
    Tape::new()
        .file("etc/.wh.gone", "")
        .file("etc/changed", "new")
        .file("tmp/added", "t")
        .file("full/.wh..wh..opq", "")
        .file("full/only", "o")
        .file(".wh.tree", "")
        .dir("becomes-dir", 0o700)
        .file("becomes-dir/in", "1")
        .file("becomes-file", "2")
        .pax(&[("path", long.as_bytes())])
        .header(&Head { size: 1, ..head("short", b'0') })
        .data(b"d")
        .end()
}

fn third() -> Vec<u8> {
    Tape::new()
        .dir("tree/", 0o711)
        .file("tree/y", "y")
        .file("etc/.wh.keep2", "")
        .file("late/.wh.nothing", "")
        // Names for what lies two layers down, one layer down, and for one of these names.
        .hard_link("bin/suid2", "suid")
        .hard_link("ping2", "/ping")
        .hard_link("ping3", "./ping2")
        .hard_link("null2", "null")
        .hard_link("link2", "link")
        .hard_link("tmp/added2", "tmp/added")
        .end()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|why| format!("{why}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn whiteouts_attributes_and_packings() {
    if !may_mount("whiteouts_attributes_and_packings") {
        return;
    }
    let house = House::new("layers");
    let layers = [(lowest(), Packing::Gzip), (second(), Packing::Zstd), (third(), Packing::Plain)];
    let layout = tape::layout(&house.path("oci"), "all:1", &layers);
    let store = house.store();
    let image = &store.import(&layout, None).await.unwrap()[0];
    let rootfs = store.rootfs(&image.id, "c").await.unwrap().path;
    let at = |name: &str| rootfs.join(name);
    let meta = |name: &str| std::fs::symlink_metadata(at(name)).unwrap();
    assert_eq!((read(&at("etc/keep")), read(&at("etc/changed"))), ("keep".into(), "new".into()));
    for gone in ["etc/gone", "etc/keep2", "full/a", "full/sub", "tree/x", "becomes-file/in", "late/nothing"] {
        assert!(!at(gone).exists(), "{gone} is still there");
    }
    assert_eq!((read(&at("full/only")), read(&at("tree/y"))), ("o".into(), "y".into()));
    assert_eq!((read(&at("becomes-dir/in")), read(&at("becomes-file"))), ("1".into(), "2".into()));
    assert_eq!(read(&at(&format!("deep/{}/file", "n".repeat(150)))), "d");
    // `tmp` is implied by the second layer: it must not lose the mode that the first gave it.
    assert_eq!(meta("tmp").mode() & 0o7777, 0o1777);
    assert_eq!(meta("full").mode() & 0o7777, 0o750);
    assert_eq!(meta("suid").mode() & 0o7777, 0o4755);
    assert_eq!((meta("suid").gid(), meta("link").uid(), meta("link").gid()), (42, 1000, 1001));
    assert_eq!((meta("ping").mtime(), meta("ping").mtime_nsec()), (12, 34));
    assert_eq!(meta("null").rdev(), rustix::fs::makedev(1, 3));
    // No marker of ours is visible in any listing, whichever directory it is in.
    let lines = listing::of(&rootfs);
    assert!(!lines.iter().any(|line| line.contains(".wh.") || line.contains("node 2 0 ")), "{lines:#?}");
    assert!(
        lines.iter().any(|line| line.starts_with("/ping ") && line.contains("user.note") && line.contains("capab"))
    );
    store.release_rootfs("c").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_is_the_one_that_umoci_makes() {
    let test = "the_tree_is_the_one_that_umoci_makes";
    if !may_mount(test) {
        return;
    }
    if !Path::new("/usr/bin/umoci").exists() {
        return eprintln!("SKIPPED {test}: needs umoci (apt install umoci)");
    }
    let house = House::new("umoci");
    let layers = [(lowest(), Packing::Gzip), (second(), Packing::Gzip), (third(), Packing::Gzip)];
    let layout = tape::layout(&house.path("oci"), "v1", &layers);
    let store = house.store();
    let image = &store.import(&layout, Some("x:1".parse().unwrap())).await.unwrap()[0];
    let ours = listing::of(&store.rootfs(&image.id, "c").await.unwrap().path);
    let bundle = house.path("bundle");
    let image = format!("{}:v1", layout.display());
    assert!(ours.iter().any(|line| line.starts_with("/ping3 ") && line.contains(" = /ping")), "{ours:#?}");
    let output = Command::new("umoci").args(["unpack", "--image", &image]).arg(&bundle).output().unwrap();
    assert!(output.status.success(), "umoci: {}", String::from_utf8_lossy(&output.stderr));
    let theirs = listing::of(&bundle.join("rootfs"));
    // Directories that no layer describes have no time of their own, and umoci does not restore that of the root.
    let comparable = |lines: Vec<String>| -> Vec<String> {
        let implied = |line: &str| {
            ["/ ", "/late ", "/deep", "/bin "].iter().any(|p| line.starts_with(p)) && line.contains(" dir ")
        };
        lines.into_iter().filter(|line| !implied(line)).collect()
    };
    let (ours, theirs) = (comparable(ours), comparable(theirs));
    let only = |a: &[String], b: &[String]| a.iter().filter(|line| !b.contains(line)).cloned().collect::<Vec<_>>();
    assert_eq!(ours, theirs, "only ours: {:#?}\nonly umoci's: {:#?}", only(&ours, &theirs), only(&theirs, &ours));
    store.release_rootfs("c").await.unwrap();
}

/// Layers made by tools that compare two trees: a hard link whose file did not change is in another layer.
#[tokio::test(flavor = "multi_thread")]
async fn hard_links_reach_down_only_to_what_is_seen() {
    let test = "hard_links_reach_down_only_to_what_is_seen";
    if !may_mount(test) {
        return;
    }
    let house = House::new("borrow");
    let base = || {
        let usr = Tape::new()
            .dir("usr", 0o755)
            .dir("usr/lib", 0o751)
            .file("usr/lib/x.so", "library")
            .symlink("lib", "/usr/lib");
        usr.file("gone", "g").dir("full", 0o755).file("full/in", "i").end()
    };
    let import = async |name: &str, top: Tape| {
        let layers = [
            (base(), Packing::Gzip),
            (Tape::new().file(".wh.gone", "").end(), Packing::Gzip),
            (top.end(), Packing::Gzip),
        ];
        let layout = tape::layout(&house.path(name), &format!("{name}:1"), &layers);
        house.store().import(&layout, None).await.map(|mut images| images.remove(0))
    };
    let refused = [
        ("hidden", Tape::new().hard_link("new", "gone")),
        ("nowhere", Tape::new().hard_link("new", "usr/lib/none")),
        ("directory", Tape::new().hard_link("new", "usr/lib")),
        ("outside", Tape::new().symlink("lib", "/etc").hard_link("new", "lib/passwd")),
        ("opaque", Tape::new().file("full/.wh..wh..opq", "").hard_link("new", "full/in")),
        ("whited", Tape::new().file("usr/.wh.lib", "").hard_link("new", "usr/lib/x.so")),
        ("replaced", Tape::new().file("full", "a file").hard_link("new", "full/in")),
    ];
    for (name, top) in refused {
        let why = import(name, top).await.unwrap_err();
        assert!(why.kind() == Kind::Invalid && why.to_string().contains("hard link"), "{name}: {why}");
    }
    // Through a link of a lower layer; beside a later whiteout of its source; and a link that gives way again.
    let top = Tape::new()
        .hard_link("a", "lib/x.so")
        .hard_link("b", "full/in")
        .file("full/.wh.in", "")
        .hard_link("c", "full/in2")
        .file("full/in2", "2")
        .hard_link("d", "lib/x.so")
        .file("d", "own");
    assert!(import("late", top).await.is_err(), "a link to what comes later is a link to nothing");
    let top = Tape::new()
        .hard_link("a", "lib/x.so")
        .hard_link("b", "full/in")
        .file("full/.wh.in", "")
        .hard_link("d", "lib/x.so")
        .file("d", "own");
    let image = import("good", top).await.unwrap();
    let store = house.store();
    let rootfs = store.rootfs(&image.id, "c").await.unwrap().path;
    let meta = |name: &str| std::fs::symlink_metadata(rootfs.join(name)).unwrap();
    assert_eq!(meta("a").ino(), meta("usr/lib/x.so").ino(), "both names are one file");
    assert_eq!((read(&rootfs.join("a")), read(&rootfs.join("b"))), ("library".into(), "i".into()));
    assert_eq!((read(&rootfs.join("d")), rootfs.join("full/in").exists()), ("own".into(), false));
    assert_eq!(meta("usr/lib").mode() & 0o7777, 0o751, "the directory above the copy looks as it did");
    assert!(meta("lib").is_symlink());
    store.release_rootfs("c").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_shared_and_collected() {
    if !may_mount("layers_are_shared_and_collected") {
        return;
    }
    let house = House::new("shared");
    let base = Tape::new().dir("./", 0o755).file("base", "b").end();
    let app = |name: &str| Tape::new().file(name, name).end();
    let image = |name: &str| {
        let layers = [(base.clone(), Packing::Gzip), (app(name), Packing::Gzip)];
        tape::layout(&house.path(name), &format!("{name}:1"), &layers)
    };
    let store = house.store();
    let one = store.import(&image("one"), None).await.unwrap().remove(0);
    store.import(&image("two"), None).await.unwrap();
    let count = |dir: &str| std::fs::read_dir(house.path("store").join(dir)).unwrap().count();
    assert_eq!((count("layers"), count("blobs/sha256")), (3, 7), "the base is kept once");
    let usage = store.usage().await.unwrap();
    assert_eq!((usage.inodes, usage.bytes), (7 + 4, (7 + 4) * 4096), "seven blobs, four entries, a block each");
    store.rootfs(&one.id, "c").await.unwrap();
    assert!(store.remove("one:1").await.unwrap());
    assert_eq!((count("layers"), count("blobs/sha256")), (3, 4), "layers under a container stay");
    store.release_rootfs("c").await.unwrap();
    store.collect().await.unwrap();
    assert_eq!((count("layers"), count("blobs/sha256")), (2, 4));
    assert!(store.remove("two:1").await.unwrap());
    assert_eq!((count("layers"), count("blobs/sha256"), count("unpack")), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_lies_is_refused_and_leaves_nothing() {
    let house = House::new("lies");
    let tar = Tape::new().file("a", "1").end();
    let layout = tape::layout(&house.path("oci"), "x:1", &[(tar, Packing::Plain)]);
    let find = |text: &[u8]| {
        let blobs = std::fs::read_dir(layout.join("blobs/sha256")).unwrap();
        let mut paths = blobs.map(|entry| entry.unwrap().path());
        paths.find(|path| std::fs::read(path).unwrap().windows(text.len()).any(|w| w == text)).unwrap()
    };
    let layer = find(b"ustar");
    let good = std::fs::read(&layer).unwrap();
    for wrong in [[&good[..good.len() - 1], b"x"].concat(), vec![0; good.len()]] {
        std::fs::write(&layer, wrong).unwrap();
        let store = house.store();
        let why = store.import(&layout, None).await.unwrap_err();
        assert_eq!(why.kind(), Kind::Invalid, "{why}");
        assert!(why.to_string().contains("its digest"), "{why}");
        for dir in ["layers", "unpack", "ingest"] {
            assert_eq!(std::fs::read_dir(house.path("store").join(dir)).unwrap().count(), 0, "left in {dir}");
        }
    }
    std::fs::write(&layer, &good[..100]).unwrap();
    assert_eq!(house.store().import(&layout, None).await.unwrap_err().kind(), Kind::Invalid);
    std::fs::write(&layer, good).unwrap();
    house.store().import(&layout, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_lies_about_its_layers_is_refused() {
    let house = House::new("diff-id");
    let layers = [(Tape::new().file("a", "1").end(), Packing::Gzip)];
    for (at, diff_ids) in
        [vec![gantry_images::Digest::of(b"other")], vec![], vec![gantry_images::Digest::of(b"x"); 2]].iter().enumerate()
    {
        let layout = tape::layout_that_says(&house.path(&format!("oci{at}")), "x:1", &layers, diff_ids.clone());
        let why = house.store().import(&layout, None).await.unwrap_err();
        assert_eq!(why.kind(), Kind::Invalid, "{why}");
        assert!(house.store().images().is_empty());
    }
    assert_eq!(std::fs::read_dir(house.path("store/layers")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_stopped() {
    let house = House::new("bomb");
    let mut config = house.config();
    config.limits.unpacked_bytes = 8 << 20;
    let zeros = "\0".repeat(9 << 20);
    let layout = tape::layout(&house.path("oci"), "x:1", &[(Tape::new().file("zeros", &zeros).end(), Packing::Zstd)]);
    let store = gantry_images::Store::open(config).unwrap();
    let why = store.import(&layout, None).await.unwrap_err();
    assert_eq!(why.kind(), Kind::TooLarge, "{why}");
    assert!(why.to_string().contains("more than 8388608 bytes unpacked"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_and_mended() {
    if !may_mount("damage_is_found_and_mended") {
        return;
    }
    let house = House::new("damage");
    let layers = [(Tape::new().file("a", "1").end(), Packing::Gzip), (Tape::new().file("b", "2").end(), Packing::Gzip)];
    let layout = tape::layout(&house.path("oci"), "x:1", &layers);
    let store = house.store();
    let image = store.import(&layout, None).await.unwrap().remove(0);
    // A lost layer is unpacked again from its blob.
    for entry in std::fs::read_dir(house.path("store/layers")).unwrap() {
        std::fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    let rootfs = store.rootfs(&image.id, "c").await.unwrap();
    assert_eq!((read(&rootfs.path.join("a")), read(&rootfs.path.join("b"))), ("1".into(), "2".into()));
    // Also under a container, after a reboot that cost a layer.
    rustix::mount::unmount(&rootfs.path, rustix::mount::UnmountFlags::empty()).unwrap();
    let layer = std::fs::read_dir(house.path("store/layers")).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_dir_all(layer).unwrap();
    let rootfs = store.rootfs(&image.id, "c").await.unwrap();
    assert_eq!((read(&rootfs.path.join("a")), read(&rootfs.path.join("b"))), ("1".into(), "2".into()));
    store.release_rootfs("c").await.unwrap();
    // A damaged blob under an unpacked layer is found by verify, and only that is fetched again.
    let largest = |dir: &str| {
        let blobs = std::fs::read_dir(house.path(dir)).unwrap().map(|entry| entry.unwrap().path());
        blobs.filter(|path| std::fs::read(path).unwrap().starts_with(&[0x1f, 0x8b])).max().unwrap()
    };
    let blob = largest("store/blobs/sha256");
    let mut content = std::fs::read(&blob).unwrap();
    content[20] ^= 1;
    std::fs::write(&blob, content).unwrap();
    let verify = async |repair| {
        let watch: gantry_images::Watch = std::sync::Arc::new(|_| {});
        store.verify(&gantry_images::Verify { repair, auth: None }, watch).await.unwrap().faults.len()
    };
    assert_eq!(verify(true).await, 1);
    assert!(!blob.exists());
    store.import(&layout, None).await.unwrap();
    assert!(blob.exists() && verify(false).await == 0);
    // Files emptied as a power cut would: every blob. The image must come back whole.
    for dir in ["store/layers", "store/blobs/sha256"] {
        for entry in std::fs::read_dir(house.path(dir)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::write(path, "").unwrap() }
        }
    }
    drop(store);
    let store = house.store();
    assert!(store.images().is_empty(), "an image without its configuration is listed");
    let image = store.import(&layout, None).await.unwrap().remove(0);
    let rootfs = store.rootfs(&image.id, "c").await.unwrap();
    assert_eq!(read(&rootfs.path.join("a")), "1");
    store.release_rootfs("c").await.unwrap();
}

/// What `docker save` wrote before it wrote OCI layouts.
#[tokio::test(flavor = "multi_thread")]
async fn docker_archives_are_imported() {
    let house = House::new("docker");
    let (one, two) = (Tape::new().file("a", "1").end(), Tape::new().file("b", "2").end());
    let diff_ids = [&one, &two, &one].map(|tar| gantry_images::Digest::of(tar).to_string());
    let config = serde_json::json!({"architecture": "amd64", "os": "linux", "config": {"Env": null},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}})
    .to_string();
    let id = gantry_images::Digest::of(config.as_bytes());
    let manifest = serde_json::json!([{"Config": format!("{}.json", id.hex()), "RepoTags": ["app:1", "quay.io/app:2"],
        "Layers": ["x/layer.tar", "y/layer.tar", "z/layer.tar"]}])
    .to_string();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let archive = Tape::new()
        .file(&format!("{}.json", id.hex()), &config)
        .file("x/layer.tar", &text(&one))
        .file("y/layer.tar", &text(&two))
        .symlink("z/layer.tar", "../x/layer.tar")
        .file("manifest.json", &manifest)
        .end();
    let path = house.path("saved.tar");
    std::fs::write(&path, &archive).unwrap();
    let images = house.store().import(&path, None).await.unwrap();
    assert!(images.iter().all(|image| image.id == id.to_string()));
    let image = house.store().image(&id.to_string()).unwrap();
    assert_eq!(image.repo_tags, ["docker.io/library/app:1", "quay.io/app:2"]);
    let missing = Tape::new().file("manifest.json", &manifest).end();
    std::fs::write(&path, missing).unwrap();
    let why = house.store().import(&path, None).await.unwrap_err();
    assert!(why.kind() == Kind::Invalid && why.to_string().contains("not in the archive"), "{why}");
}
