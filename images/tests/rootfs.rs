//! Root filesystems other than the usual overlay, and images mounted elsewhere: the same tree by copy, parts of images,
//! garbage that waits for a mount, and what is left after a reboot.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use gantry_images::{Config, Kind, LayerForm, MountRequest, RootfsDriver, Store};
use support::tape::{self, Head, Packing, Tape, head};
use support::{House, listing, may_mount, mounts};

fn layers() -> Vec<(Vec<u8>, Packing)> {
    let noise: String = (0..50_000u32).map(|n| char::from(b' ' + (n * n % 89) as u8)).collect();
    let map = b"1048576,5000,3145828,10";
    let lowest = Tape::new()
        .header(&Head { mode: 0o751, owner: (3, 4), ..head("./", b'5') })
        .dir("etc/", 0o755)
        .file("etc/keep", "keep")
        .file("etc/gone", "gone")
        .hard_link("etc/keep2", "etc/keep")
        .dir("full/", 0o750)
        .file("full/a", &noise)
        .symlink("link", "/etc/keep")
        .symlink("out", "../../../../etc")
        .dir("becomes-file/", 0o755)
        .file("becomes-file/in", "in")
        .file("becomes-dir", "file")
        .header(&Head { device: (1, 3), mode: 0o666, owner: (0, 5), ..head("null", b'3') })
        .header(&head("pipe", b'6'))
        .pax(&[("SCHILY.xattr.user.note", b"hello"), ("mtime", b"12.000000034")])
        .header(&Head { mode: 0o4755, owner: (1000, 1000), size: 3, ..head("ping", b'0') })
        .data(b"ELF")
        .pax(&[("GNU.sparse.size", b"4194304"), ("GNU.sparse.numblocks", b"2"), ("GNU.sparse.map", map)])
        .header(&Head { size: 5010, ..head("sparse", b'0') })
        .data(&[b'd'; 5010])
        .end();
    let second = Tape::new()
        .file("etc/.wh.gone", "")
        .file("full/.wh..wh..opq", "")
        .file("full/only", "o")
        .file("becomes-file", "now")
        .dir("becomes-dir/", 0o711)
        .file("becomes-dir/in", "1")
        .end();
    vec![(lowest, Packing::Gzip), (second, Packing::Zstd)]
}

async fn image(store: &Store, house: &House) -> String {
    let layout = tape::layout(&house.path("oci"), "all:1", &layers());
    store.import(&layout, None).await.unwrap()[0].id.clone()
}

fn with(house: &House, name: &str, driver: RootfsDriver) -> Store {
    Store::open(Config { rootfs: driver, ..Config::at(house.path(name)) }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_the_tree_that_an_overlay_shows() {
    if !may_mount("a_copy_is_the_tree_that_an_overlay_shows") {
        return;
    }
    let house = House::new("rootfs-copy");
    let (overlay, copy) = (with(&house, "overlay", RootfsDriver::Overlay), with(&house, "copy", RootfsDriver::Copy));
    let (id, same) = (image(&overlay, &house).await, image(&copy, &house).await);
    assert_eq!(id, same);
    let shown = overlay.rootfs(&id, "c").await.unwrap().path;
    let copied = copy.rootfs(&id, "c").await.unwrap();
    assert_eq!(listing::of(&copied.path), listing::of(&shown));
    assert!(mounts(copy.root()).is_empty(), "a copy needs no mount");
    let sparse = std::fs::metadata(copied.path.join("sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 100_000, "{} blocks", sparse.blocks());
    // A second copy is one of its own; the first keeps what was written over a restart.
    std::fs::write(copied.path.join("etc/keep"), "changed").unwrap();
    drop(copy);
    let copy = with(&house, "copy", RootfsDriver::Copy);
    let again = copy.rootfs(&id, "c").await.unwrap();
    assert_eq!(std::fs::read_to_string(again.path.join("etc/keep2")).unwrap(), "changed", "links hold together");
    let other = copy.rootfs(&id, "d").await.unwrap();
    assert_eq!(std::fs::read_to_string(other.path.join("etc/keep")).unwrap(), "keep");
    let usage = copy.rootfs_usage("c").await.unwrap();
    assert_eq!(usage.inodes, listing::of(&again.path).len() as u64 - 1, "all is its own, two names are one file");
    for key in ["c", "d"] {
        copy.release_rootfs(key).await.unwrap();
    }
    assert!(copy.rootfs_keys().unwrap().is_empty());
    overlay.release_rootfs("c").await.unwrap();
}

/// overlayfs refuses an upper directory on another overlay.
#[tokio::test(flavor = "multi_thread")]
async fn where_overlays_are_refused_the_image_is_copied() {
    if !may_mount("where_overlays_are_refused_the_image_is_copied") {
        return;
    }
    let house = House::new("rootfs-refused");
    // One layer without whiteouts, which an overlay does not let anybody make.
    let layout = tape::layout(&house.path("oci"), "all:1", &layers()[..1]);
    let outer = with(&house, "outer", RootfsDriver::Auto);
    let id = outer.import(&layout, None).await.unwrap()[0].id.clone();
    let shown = outer.rootfs(&id, "outer").await.unwrap().path;
    let root = shown.join("store");
    let at = |driver| Store::open(Config { rootfs: driver, ..Config::at(&root) }).unwrap();
    let inner = at(RootfsDriver::Auto);
    assert_eq!(inner.import(&layout, None).await.unwrap()[0].id, id);
    let copied = inner.rootfs(&id, "c").await.unwrap();
    let mut wanted = listing::of(&shown);
    wanted.retain(|line| !line.starts_with("/store") && !line.starts_with("/ "));
    let mut found = listing::of(&copied.path);
    found.retain(|line| !line.starts_with("/ "));
    assert_eq!(found, wanted);
    let refused = at(RootfsDriver::Overlay).rootfs(&id, "d").await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
    for key in ["c", "d"] {
        inner.release_rootfs(key).await.unwrap();
    }
    drop(inner);
    outer.release_rootfs("outer").await.unwrap();
}

fn request(id: &str, at: &Path) -> MountRequest {
    MountRequest { image_id: id.into(), at: at.into(), writable: false, sub_path: PathBuf::new(), shift: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_protect_their_image_and_go_without_a_trace() {
    let test = "mounts_protect_their_image_and_go_without_a_trace";
    if !may_mount(test) {
        return;
    }
    for (driver, form) in [
        (RootfsDriver::Overlay, LayerForm::Directories),
        (RootfsDriver::Overlay, LayerForm::Erofs),
        (RootfsDriver::Copy, LayerForm::Directories),
    ] {
        let house = House::new("rootfs-mount");
        let config = Config { rootfs: driver, layers: form, ..house.config() };
        let store = match Store::open(config.clone()) {
            Err(why) => {
                eprintln!("SKIPPED {test}, {form:?}: {why}");
                continue;
            }
            other => other.unwrap(),
        };
        let id = image(&store, &house).await;
        let at = house.path("at");
        let mounted = store.mount(&request(&id, &at)).await.unwrap();
        assert_eq!(store.mount(&request(&id, &at)).await.unwrap(), mounted, "the same again");
        assert_eq!(std::fs::read_to_string(at.join("etc/keep")).unwrap(), "keep");
        assert_eq!(std::fs::metadata(&at).unwrap().mode() & 0o7777, 0o751, "the root looks as the image says");
        assert_eq!(std::fs::write(at.join("new"), "x").unwrap_err().kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(store.mounts().unwrap(), std::slice::from_ref(&mounted));
        let writable = MountRequest { writable: true, ..request(&id, &at) };
        assert_eq!(store.mount(&writable).await.unwrap_err().kind(), Kind::Conflict);
        // Nobody's container: no key of a root filesystem, but a user of the image.
        assert!(store.rootfs_keys().unwrap().is_empty());
        assert_eq!(store.users(&id).unwrap(), [format!("the mount on {}", at.display())]);
        assert!(store.remove("all:1").await.unwrap());
        assert_eq!(std::fs::read_to_string(at.join("etc/keep")).unwrap(), "keep", "its layers stay");
        // Somebody unmounts it by hand; another process sees that and mounts it again.
        rustix::mount::unmount(&at, rustix::mount::UnmountFlags::empty()).unwrap();
        let other = Store::open(config).unwrap();
        assert!(!other.mounts().unwrap()[0].live);
        other.mount(&request(&id, &at)).await.unwrap();
        assert!(other.unmount(&at).await.unwrap());
        assert!(!other.unmount(&at).await.unwrap());
        assert!(store.mounts().unwrap().is_empty() && mounts(&house.path("")).is_empty());
        store.collect().await.unwrap().unwrap();
        assert_eq!(std::fs::read_dir(store.root().join("layers")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(store.root().join("mounts")).unwrap().count(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_an_image_is_mounted_and_nothing_outside_of_it() {
    if !may_mount("a_part_of_an_image_is_mounted_and_nothing_outside_of_it") {
        return;
    }
    let house = House::new("rootfs-part");
    let store = house.store();
    let id = image(&store, &house).await;
    let part = |sub: &str, at: &str| MountRequest { sub_path: sub.into(), ..request(&id, &house.path(at)) };
    store.mount(&part("becomes-dir", "dir")).await.unwrap();
    assert_eq!(std::fs::read_to_string(house.path("dir/in")).unwrap(), "1");
    store.mount(&part("/link", "file")).await.unwrap();
    assert_eq!(std::fs::read_to_string(house.path("file")).unwrap(), "keep", "a link of the image, inside the image");
    // SECURITY_CASES 17: neither a link of the image nor the caller's dots reach the host.
    store.mount(&part("out", "inside")).await.unwrap();
    assert!(!house.path("inside/passwd").exists() && house.path("inside/keep").exists());
    store.mount(&part("../../etc", "dots")).await.unwrap();
    assert!(!house.path("dots/passwd").exists() && house.path("dots/keep").exists());
    for (sub, kind) in [("none", Kind::NotFound), ("ping/x", Kind::NotFound), ("null", Kind::InvalidArgument)] {
        let refused = store.mount(&part(sub, "refused")).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{refused}");
    }
    assert_eq!(store.mount(&part("ping", "dir2/x")).await.unwrap_err().kind(), Kind::System, "no parent");
    std::fs::create_dir(house.path("is-dir")).unwrap();
    assert_eq!(store.mount(&part("ping", "is-dir")).await.unwrap_err().kind(), Kind::InvalidArgument);
    std::os::unix::fs::symlink("/tmp", house.path("is-link")).unwrap();
    assert_eq!(store.mount(&part("etc", "is-link")).await.unwrap_err().kind(), Kind::InvalidArgument);
    assert_eq!(store.mount(&request(&id, Path::new("relative"))).await.unwrap_err().kind(), Kind::InvalidArgument);
    let writable = MountRequest { writable: true, ..request(&id, &house.path("rw")) };
    store.mount(&writable).await.unwrap();
    std::fs::write(house.path("rw/etc/keep"), "mine").unwrap();
    assert_eq!(store.mounts().unwrap().len(), 5);
    assert_eq!(mounts(&house.path("")).len(), 5, "one mount each, and none in the store");
    for mounted in store.mounts().unwrap() {
        assert!(store.unmount(&mounted.at).await.unwrap());
    }
}
