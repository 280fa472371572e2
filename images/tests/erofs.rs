//! Layers as EROFS images: the same trees as layers of files, entry by entry; one mount a layer; nothing left mounted.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_images::{Config, LayerForm, Store};
use support::tape::{self, Head, Packing, Tape, head};
use support::{House, forms::may_mount_images, listing, mounts};

fn open(house: &House, form: LayerForm) -> Store {
    Store::open(Config { layers: form, ..Config::at(house.path(&format!("{form:?}"))) }).unwrap()
}

fn images(store: &Store) -> Vec<PathBuf> {
    let layers = std::fs::read_dir(store.root().join("layers")).unwrap();
    layers.map(|layer| layer.unwrap().path().join("image.erofs")).filter(|image| image.exists()).collect()
}

/// Capability version 2, cap_net_raw permitted and effective.
const NET_RAW: &[u8] = &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn lowest() -> Vec<u8> {
    let long_link = "t/".repeat(2040);
    // What chmod 0755 makes of it: a real file's mode and list agree.
    let acl: Vec<u8> = [
        2u32.to_le_bytes().to_vec(),
        vec![1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0],
        vec![4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 5, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255],
    ]
    .concat();
    let big: String = (0..70_001u32).map(|n| char::from(b'a' + (n % 23) as u8)).collect();
    let mut tape = Tape::new()
        .pax(&[("SCHILY.xattr.user.root", b"yes"), ("mtime", b"5.000000006")])
        .header(&Head { mode: 0o751, owner: (3, 4), ..head("./", b'5') })
        .dir("etc/", 0o755)
        .file("etc/keep", "keep")
        .file("etc/gone", "gone")
        .dir("tmp/", 0o1777)
        .dir("full/", 0o750)
        .file("full/a", "a")
        .file("empty", "")
        .file("block", &big[..4096])
        .file("inline", &big[..4032])
        .file("not-inline", &big[..4033])
        .file("tail", &big[..8193])
        .file("big", &big)
        .header(&Head { mode: 0o4755, owner: (0, 42), ..head("suid", b'0') })
        .header(&Head { owner: (70_000, 1_000_001), link: "etc/keep", ..head("link", b'2') })
        .pax(&[("linkpath", long_link.as_bytes())])
        .header(&Head { mode: 0o777, ..head("long-link", b'2') })
        .hard_link("etc/keep2", "etc/keep")
        .hard_link("full/keep3", "etc/keep2")
        .pax(&[
            ("SCHILY.xattr.user.note", &[b'n'; 3000]),
            ("SCHILY.xattr.user.empty", b""),
            ("SCHILY.xattr.trusted.mine", b"t"),
            ("SCHILY.xattr.system.posix_acl_access", &acl),
            ("SCHILY.xattr.security.capability", NET_RAW),
            ("mtime", b"-12.000000034"),
        ])
        .header(&Head { mode: 0o755, size: 3, ..head("ping", b'0') })
        .data(b"ELF")
        .header(&Head { device: (1, 3), mode: 0o666, ..head("null", b'3') })
        .header(&Head { device: (259, 70_000), mode: 0o660, ..head("disk", b'4') })
        .header(&head("pipe", b'6'))
        .symlink("lib", "usr/lib")
        .file("usr/lib/real", "r")
        .file("lib/through-link", "l")
        .file("twice", "first")
        .file("twice", "second")
        .dir("was-dir/", 0o755)
        .file("was-dir/in", "x")
        .file("was-dir", "file now");
    for n in 0..700 {
        tape = tape.file(&format!("many/a-name-that-takes-some-room-{n:04}"), &n.to_string());
    }
    // Two pieces of data, at 1 MiB and at 3 MiB and 100 bytes, in a file of 4 MiB.
    let map = b"1048576,5000,3145828,10";
    tape.pax(&[("GNU.sparse.size", b"4194304"), ("GNU.sparse.numblocks", b"2"), ("GNU.sparse.map", map)])
        .header(&Head { size: 5010, ..head("sparse", b'0') })
        .data(&[b'd'; 5010])
        .end()
}

fn second() -> Vec<u8> {
    Tape::new()
        .file("etc/.wh.gone", "")
        .file("tmp/added", "t")
        .file("full/.wh..wh..opq", "")
        .file("full/only", "o")
        .file("many/.wh.a-name-that-takes-some-room-0007", "")
        .file("late/.wh.nothing", "")
        .file("etc/.wh.keep2", "")
        .file("deep/er/still/file", "d")
        .end()
}

fn third() -> Vec<u8> {
    Tape::new()
        .hard_link("borrowed", "etc/keep")
        .file("usr/lib/third", "3")
        .dir("full/", 0o711)
        .file("full/.wh.only", "")
        .end()
}

fn all_kinds(house: &House) -> PathBuf {
    let layers = [(lowest(), Packing::Gzip), (second(), Packing::Zstd), (third(), Packing::Plain)];
    tape::layout(&house.path("oci"), "all:1", &layers)
}

async fn tree(store: &Store, layout: &Path, key: &str) -> Vec<String> {
    let image = store.import(layout, None).await.unwrap().remove(0);
    let rootfs = store.rootfs(&image.id, key).await.unwrap().path;
    let mut lines = listing::of(&rootfs);
    // What a container does to files of its image reads them through the overlay.
    std::fs::OpenOptions::new()
        .append(true)
        .open(rootfs.join("etc/keep"))
        .and_then(|mut file| std::io::Write::write_all(&mut file, b" more"))
        .unwrap();
    lines.push(std::fs::read_to_string(rootfs.join("etc/keep")).unwrap());
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_entry_is_the_same_in_both_forms() {
    if !may_mount_images("every_kind_of_entry_is_the_same_in_both_forms") {
        return;
    }
    let house = House::new("erofs-kinds");
    let layout = all_kinds(&house);
    let (files, image) = (open(&house, LayerForm::Directories), open(&house, LayerForm::Erofs));
    let wanted = tree(&files, &layout, "c").await;
    let found = tree(&image, &layout, "c").await;
    let differ: Vec<_> = wanted.iter().zip(&found).filter(|(wanted, found)| wanted != found).collect();
    assert!(differ.is_empty() && wanted.len() == found.len(), "{differ:#?}");
    assert!(wanted.len() > 720 && wanted.iter().any(|line| line.starts_with("/borrowed ")));
    // A layer that borrows a file is files, the others are images.
    assert_eq!((images(&files).len(), images(&image).len()), (0, 2));
    for store in [&files, &image] {
        store.release_rootfs("c").await.unwrap();
        assert!(store.remove("all:1").await.unwrap());
        assert_eq!(std::fs::read_dir(store.root().join("layers")).unwrap().count(), 0);
    }
    assert!(mounts(&house.path("")).is_empty());
}

/// One archive gives one image, byte by byte, whenever and wherever it is written: a damaged one is found by writing it
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_layer_gives_the_same_bytes() {
    if !may_mount_images("the_same_layer_gives_the_same_bytes") {
        return;
    }
    let house = House::new("erofs-bytes");
    let layout = all_kinds(&house);
    let mut written = Vec::new();
    for name in ["one", "two/deeper"] {
        let config = Config { layers: LayerForm::Erofs, ..Config::at(house.path(name)) };
        let store = Store::open(Config { parallel_downloads: 1 + written.len(), ..config }).unwrap();
        store.import(&layout, None).await.unwrap();
        let all: BTreeMap<String, Vec<u8>> = images(&store)
            .iter()
            .map(|image| {
                let key = image.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned();
                (key, std::fs::read(image).unwrap())
            })
            .collect();
        written.push(all);
    }
    assert_eq!(written[0].len(), 2);
    assert_eq!(written[0].keys().collect::<Vec<_>>(), written[1].keys().collect::<Vec<_>>());
    for (key, one) in &written[0] {
        let other = &written[1][key];
        let differ = one.iter().zip(other).position(|(one, other)| one != other);
        assert!(one.len() == other.len() && differ.is_none(), "{key} differs at byte {differ:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_stay_holes() {
    if !may_mount_images("holes_stay_holes") {
        return;
    }
    let house = House::new("erofs-holes");
    let store = open(&house, LayerForm::Erofs);
    let huge = format!("{}", 10u64 << 30);
    let layer = Tape::new()
        .pax(&[
            ("GNU.sparse.size", huge.as_bytes()),
            ("GNU.sparse.numblocks", b"1"),
            ("GNU.sparse.map", b"5368709125,3"),
        ])
        .header(&Head { size: 3, ..head("huge", b'0') })
        .data(b"abc")
        .end();
    let image = store
        .import(&tape::layout(&house.path("oci"), "holes:1", &[(layer, Packing::Plain)]), None)
        .await
        .unwrap()
        .remove(0);
    let rootfs = store.rootfs(&image.id, "c").await.unwrap().path;
    let file = std::fs::File::open(rootfs.join("huge")).unwrap();
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert!((5_368_000_000..=5_368_709_125).contains(&data), "data begins at {data}");
    let mut found = [0; 5];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut found, 5_368_709_124).unwrap();
    assert_eq!((&found, file.metadata().unwrap().len()), (b"\0abc\0", 10 << 30));
    let kept = std::fs::metadata(&images(&store)[0]).unwrap().blocks() * 512;
    assert!(kept < 2 << 20, "{kept} bytes for three");
    store.release_rootfs("c").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checker_of_erofs_utils_has_no_objection() {
    let test = "the_checker_of_erofs_utils_has_no_objection";
    if !may_mount_images(test) {
        return;
    }
    if !Path::new("/usr/bin/fsck.erofs").exists() {
        eprintln!("SKIPPED {test}: needs fsck.erofs (apt install erofs-utils)");
        return;
    }
    let house = House::new("erofs-fsck");
    let store = open(&house, LayerForm::Erofs);
    store.import(&all_kinds(&house), None).await.unwrap();
    for image in images(&store) {
        let checked = Command::new("/usr/bin/fsck.erofs").args(["-d3".as_ref(), image.as_os_str()]).output().unwrap();
        let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
        assert!(
            checked.status.success() && said.contains("No errors found"),
            "{}: {:?} {said}",
            image.display(),
            checked.status
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_mounted_once_and_until_its_last_user_goes() {
    if !may_mount_images("a_layer_is_mounted_once_and_until_its_last_user_goes") {
        return;
    }
    let house = House::new("erofs-mounts");
    let layer = |n: usize| (Tape::new().file(&format!("f{n}"), &n.to_string()).end(), Packing::Plain);
    let layout = tape::layout(&house.path("oci"), "x:1", &(0..100).map(layer).collect::<Vec<_>>());
    let store = open(&house, LayerForm::Erofs);
    let image = store.import(&layout, None).await.unwrap().remove(0);
    let count = || mounts(store.root()).len();
    assert_eq!(count(), 0, "an import leaves nothing mounted");
    let one = store.rootfs(&image.id, "one").await.unwrap();
    assert_eq!(count(), 101);
    // Another process starts a container of the same image.
    let other = Store::open(Config { layers: LayerForm::Erofs, ..Config::at(store.root()) }).unwrap();
    let two = other.rootfs(&image.id, "two").await.unwrap();
    assert_eq!(count(), 102);
    assert_eq!(std::fs::read_dir(&one.path).unwrap().count(), 100);
    store.release_rootfs("one").await.unwrap();
    assert_eq!(count(), 101);
    assert_eq!(std::fs::read_to_string(two.path.join("f42")).unwrap(), "42");
    // The machine reboots: nothing is mounted, and the container comes back.
    for point in mounts(store.root()).iter().rev() {
        rustix::mount::unmount(point.as_str(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    let two = other.rootfs(&image.id, "two").await.unwrap();
    assert_eq!(std::fs::read_to_string(two.path.join("f42")).unwrap(), "42");
    assert!(store.remove("x:1").await.unwrap());
    other.release_rootfs("two").await.unwrap();
    assert_eq!(count(), 0);
    store.collect().await.unwrap();
    assert_eq!(std::fs::read_dir(store.root().join("layers")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_setting_affects_new_layers_only() {
    if !may_mount_images("a_change_of_the_setting_affects_new_layers_only") {
        return;
    }
    let house = House::new("erofs-mixed");
    let lower = (Tape::new().dir("d/", 0o750).file("d/lower", "1").end(), Packing::Plain);
    let upper = (Tape::new().file("d/upper", "2").file("d/.wh.lower", "").end(), Packing::Plain);
    let below = tape::layout(&house.path("below"), "below:1", std::slice::from_ref(&lower));
    let both = tape::layout(&house.path("both"), "both:1", &[lower, upper]);
    for (first, then) in [(LayerForm::Erofs, LayerForm::Directories), (LayerForm::Directories, LayerForm::Erofs)] {
        let root = house.path(&format!("{first:?}-then"));
        let with = |form| Store::open(Config { layers: form, ..Config::at(&root) }).unwrap();
        with(first).import(&below, None).await.unwrap();
        let store = with(then);
        let image = store.import(&both, None).await.unwrap().remove(0);
        assert_eq!(images(&store).len(), 1, "one layer of each form");
        let rootfs = store.rootfs(&image.id, "c").await.unwrap().path;
        let lines = listing::of(&rootfs);
        assert_eq!(lines.len(), 3, "{lines:#?}");
        // The upper layer says nothing about `d`: it looks as below.
        assert_eq!(std::fs::metadata(rootfs.join("d")).unwrap().mode() & 0o7777, 0o750);
        store.release_rootfs("c").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_has_mounted_is_found() {
    if !may_mount_images("what_a_killed_process_has_mounted_is_found") {
        return;
    }
    let house = House::new("erofs-killed");
    let store = open(&house, LayerForm::Erofs);
    let image = store.import(&all_kinds(&house), None).await.unwrap().remove(0);
    store.rootfs(&image.id, "c").await.unwrap();
    // As if killed after the layers were mounted, before the overlay was: and then the record is lost as well.
    let merged = store.root().join("rootfs/c/merged");
    rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::empty()).unwrap();
    assert_eq!(mounts(store.root()).len(), 2);
    store.release_rootfs("c").await.unwrap();
    assert_eq!(mounts(store.root()).len(), 0, "released without its overlay");
    store.rootfs(&image.id, "c").await.unwrap();
    rustix::mount::unmount(&merged, rustix::mount::UnmountFlags::empty()).unwrap();
    std::fs::remove_dir_all(store.root().join("rootfs/c")).unwrap();
    drop(store);
    assert_eq!(mounts(&house.path("")).len(), 2);
    let store = open(&house, LayerForm::Directories);
    assert_eq!(mounts(&house.path("")).len(), 2, "another store is none of its business");
    drop(store);
    let store = open(&house, LayerForm::Erofs);
    assert_eq!(mounts(store.root()).len(), 0, "opening unmounts what nobody needs");
}
