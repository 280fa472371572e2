//! The road of an image without a network: layout, import, root filesystem, removal; and the same after a restart.

#![allow(clippy::unwrap_used)]

mod support;

use gantry_images::{Kind, Store};
use support::tape::{self, Packing, Tape};
use support::{House, may_mount, mounts};

const FILES: &[(&str, &str)] = &[("bin/sh", "#!shell"), ("etc/hostname", "box"), ("var/empty/", "")];

#[tokio::test]
async fn import_mount_write_release_remove() {
    if !may_mount("import_mount_write_release_remove") {
        return;
    }
    let house = House::new("road");
    let store = house.store();
    let images = store.import(&house.layout("demo", FILES), None).await.unwrap();
    let image = &images[0];
    assert_eq!(image.repo_tags, ["docker.io/library/demo:1"]);
    assert_eq!(image.config.config().as_ref().unwrap().cmd().as_deref(), Some(&["/bin/sh".to_owned()][..]));
    assert_eq!(store.image("demo:1").unwrap().id, image.id);

    let one = store.rootfs(&image.id, "c1").await.unwrap();
    let two = store.rootfs(&image.id, "c2").await.unwrap();
    assert_eq!(std::fs::read_to_string(one.path.join("bin/sh")).unwrap(), "#!shell");
    std::fs::write(one.path.join("etc/hostname"), "changed").unwrap();
    std::fs::remove_file(one.path.join("bin/sh")).unwrap();
    assert_eq!(std::fs::read_to_string(two.path.join("etc/hostname")).unwrap(), "box", "containers share writes");
    assert!(two.path.join("bin/sh").exists());
    let usage = store.rootfs_usage("c1").await.unwrap();
    assert_eq!(usage.inodes, 5, "root, etc, hostname, bin, a whiteout: {usage:?}");

    // The daemon is killed and comes back: the same mount, with what was written.
    drop(store);
    let store = Store::open(house.config()).unwrap();
    assert_eq!(store.rootfs_keys().unwrap().into_iter().collect::<Vec<_>>(), ["c1", "c2"]);
    let again = store.rootfs(&image.id, "c1").await.unwrap();
    assert_eq!(std::fs::read_to_string(again.path.join("etc/hostname")).unwrap(), "changed");
    assert_eq!(mounts(&house.path("store")).len(), 2);
    // The machine reboots: mounts are gone, writes are not.
    rustix::mount::unmount(&again.path, rustix::mount::UnmountFlags::empty()).unwrap();
    let again = store.rootfs(&image.id, "c1").await.unwrap();
    assert_eq!(std::fs::read_to_string(again.path.join("etc/hostname")).unwrap(), "changed");

    // Removing the image leaves what stands under containers.
    assert!(store.remove("demo:1").await.unwrap());
    assert!(!store.remove("demo:1").await.unwrap());
    assert!(store.images().is_empty());
    assert_eq!(std::fs::read_to_string(two.path.join("bin/sh")).unwrap(), "#!shell");
    assert_eq!(store.rootfs("sha256:00", "c1").await.unwrap_err().kind(), Kind::NotFound);
    for key in ["c1", "c2", "c1", "never"] {
        store.release_rootfs(key).await.unwrap();
    }
    assert!(store.rootfs_keys().unwrap().is_empty());
    store.collect().await.unwrap().unwrap();
    assert_eq!(std::fs::read_dir(house.path("store/layers")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(house.path("store/blobs/sha256")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_hundred_layers_under_a_long_path() {
    if !may_mount("a_hundred_layers_under_a_long_path") {
        return;
    }
    let house = House::new("many-layers");
    let layer = |n: usize| {
        let tape = Tape::new().file(&format!("f{n}"), &n.to_string());
        (if n > 0 { tape.file(&format!(".wh.f{}", n - 1), "") } else { tape }.end(), Packing::Plain)
    };
    let layers: Vec<_> = (0..100).map(layer).collect();
    let layout = tape::layout(&house.path("oci"), "x:1", &layers);
    // Commas and colons separate the options of a mount.
    let root = house.path(&format!("a,b:c\\d/{}", "long/".repeat(30)));
    let store = Store::open(gantry_images::Config::at(&root)).unwrap();
    let image = store.import(&layout, None).await.unwrap().remove(0);
    let rootfs = store.rootfs(&image.id, "c").await.unwrap();
    let names: Vec<_> = std::fs::read_dir(&rootfs.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["f99"]);
    store.release_rootfs("c").await.unwrap();
}

#[tokio::test]
async fn a_tree_deeper_than_a_path_is_removed() {
    if !may_mount("a_tree_deeper_than_a_path_is_removed") {
        return;
    }
    let house = House::new("deep");
    let store = house.store();
    let image = store.import(&house.layout("demo", FILES), None).await.unwrap().remove(0);
    let rootfs = store.rootfs(&image.id, "c").await.unwrap();
    let mode = rustix::fs::Mode::from(0o700);
    let flags = rustix::fs::OFlags::DIRECTORY;
    let mut dir = rustix::fs::open(&rootfs.path, flags, mode).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&dir, "d", mode).unwrap();
        dir = rustix::fs::openat(&dir, "d", flags, mode).unwrap();
    }
    rustix::fs::symlinkat("/etc", &dir, "etc").unwrap();
    drop(dir);
    assert!(store.rootfs_usage("c").await.unwrap().inodes > 1000);
    store.release_rootfs("c").await.unwrap();
    assert!(store.rootfs_keys().unwrap().is_empty());
    assert!(std::path::Path::new("/etc/passwd").exists());
}

/// SECURITY_CASES 12: what an image brings, setuid files among it, is out of reach for users of the host.
#[tokio::test]
async fn case_12_nobody_reaches_the_store() {
    use std::os::unix::fs::PermissionsExt as _;
    if !may_mount("case_12_nobody_reaches_the_store") {
        return;
    }
    let house = House::new("private");
    let store = house.store();
    let image = store.import(&house.layout("demo", FILES), None).await.unwrap().remove(0);
    store.rootfs(&image.id, "c").await.unwrap();
    for dir in
        ["store", "store/layers", "store/blobs", "store/rootfs", "store/rootfs/c", "store/unpack", "store/ingest"]
    {
        let mode = std::fs::metadata(house.path(dir)).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o700, "{dir}");
    }
    let mut cat = std::process::Command::new("cat");
    std::os::unix::process::CommandExt::uid(&mut cat, 65534);
    let seen = cat.arg(house.path("store/rootfs/c/merged/etc/hostname")).output().unwrap();
    assert!(!seen.status.success() && seen.stdout.is_empty());
    store.release_rootfs("c").await.unwrap();
}
