//! The road of an image without a network: layout, import, root filesystem, removal; and the same after a restart.

#![allow(clippy::unwrap_used)]

mod support;

use gantry_images::{Kind, Store};
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
