//! What a container has changed, written as a layer and unpacked over the image again, is the container's tree.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use gantry_images::{Config, Kind, LayerForm, RootfsDriver, Store};
use support::tape::{self, Head, Packing, Tape, head};
use support::{House, listing, may_mount};

fn image() -> Vec<(Vec<u8>, Packing)> {
    let mut lowest = Tape::new()
        .header(&Head { mode: 0o755, owner: (0, 7), ..head("./", b'5') })
        .dir("etc/", 0o755)
        .file("etc/keep", "keep")
        .file("etc/gone", "gone")
        .file("etc/changed", "old")
        .file("etc/mode", "mode")
        .hard_link("etc/keep2", "etc/keep")
        .dir("tree/", 0o750)
        .dir("tree/deep/", 0o755)
        .file("tree/deep/x", "x")
        .dir("replaced/", 0o755)
        .file("replaced/old", "old")
        .file("file-to-dir", "f")
        .dir("dir-to-file/", 0o755)
        .file("dir-to-file/in", "i")
        .symlink("link", "etc/keep")
        .dir("hidden/", 0o755)
        .file("hidden/below", "b");
    for n in 0..50 {
        lowest = lowest.file(&format!("many/{n}"), &n.to_string());
    }
    let second = Tape::new().file("hidden/.wh..wh..opq", "").file("hidden/above", "a").file("many/.wh.7", "").end();
    vec![(lowest.end(), Packing::Gzip), (second, Packing::Plain)]
}

fn change(root: &Path) {
    let at = |name: &str| root.join(name);
    std::fs::remove_file(at("etc/gone")).unwrap();
    std::fs::write(at("etc/changed"), "new and longer").unwrap();
    std::fs::set_permissions(at("etc/mode"), std::fs::Permissions::from_mode(0o4711)).unwrap();
    std::fs::remove_dir_all(at("tree/deep")).unwrap();
    std::fs::remove_dir_all(at("replaced")).unwrap();
    std::fs::create_dir(at("replaced")).unwrap();
    std::fs::write(at("replaced/new"), "new").unwrap();
    std::fs::remove_file(at("file-to-dir")).unwrap();
    std::fs::create_dir(at("file-to-dir")).unwrap();
    std::fs::write(at("file-to-dir/in"), "x").unwrap();
    std::fs::remove_dir_all(at("dir-to-file")).unwrap();
    std::fs::write(at("dir-to-file"), "file").unwrap();
    std::fs::remove_file(at("link")).unwrap();
    symlink("/etc/changed", at("link")).unwrap();
    std::fs::remove_file(at("hidden/above")).unwrap();
    std::fs::remove_file(at("many/3")).unwrap();
    std::fs::write(at("many/7"), "back").unwrap();
    // New things: links, a long name, holes, attributes, a device, times before 1970.
    std::fs::write(at("one"), "one").unwrap();
    std::fs::hard_link(at("one"), at("two")).unwrap();
    std::fs::create_dir_all(at(&format!("{}/deeper", "n".repeat(200)))).unwrap();
    std::fs::write(at(&format!("{}/deeper/{}", "n".repeat(200), "m".repeat(250))), "far").unwrap();
    let sparse = std::fs::File::create(at("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 2 << 20).unwrap();
    rustix::fs::setxattr(at("one"), "user.note", b"hello", rustix::fs::XattrFlags::empty()).unwrap();
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::from(0o600));
    rustix::fs::mknodat(rustix::fs::CWD, at("device"), kind, mode, rustix::fs::makedev(5, 1)).unwrap();
    let owner = Some(rustix::fs::Uid::from_raw(70_000));
    rustix::fs::chown(at("etc/changed"), owner, None).unwrap();
    let time = rustix::fs::Timespec { tv_sec: -3, tv_nsec: 250_000_000 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, at("two"), &times, rustix::fs::AtFlags::empty()).unwrap();
    // A socket is nobody's layer.
    drop(std::os::unix::net::UnixListener::bind(at("socket")).unwrap());
}

async fn again(house: &House, driver: RootfsDriver, form: LayerForm) {
    let name = format!("{driver:?}-{form:?}");
    let store = match Store::open(Config { rootfs: driver, layers: form, ..Config::at(house.path(&name)) }) {
        Err(why) if why.kind() == Kind::Unsupported => return eprintln!("SKIPPED diff, {name}: {why}"),
        other => other.unwrap(),
    };
    let mut layers = image();
    let oci = |layers: &[_], name: &str| -> PathBuf { tape::layout(&house.path(name), "app:1", layers) };
    let base = store.import(&oci(&layers, &format!("{name}.base")), None).await.unwrap().remove(0);
    let root = store.rootfs(&base.id, "c").await.unwrap().path;
    change(&root);
    let layer = store.diff("c", None, Vec::new()).await.unwrap();
    // Nothing that did not change is in it.
    let text = String::from_utf8_lossy(&layer).into_owned();
    assert!(!text.contains("many/42") && text.contains("etc/.wh.gone") && layer.len() < 100_000, "{}", layer.len());
    layers.push((layer, Packing::Plain));
    let whole = store.import(&oci(&layers, &format!("{name}.whole")), None).await.unwrap().remove(0);
    let unpacked = store.rootfs(&whole.id, "again").await.unwrap().path;
    let mut wanted = listing::of(&root);
    wanted.retain(|line| !line.starts_with("/socket "));
    let found = listing::of(&unpacked);
    let differ: Vec<_> = wanted.iter().zip(&found).filter(|(wanted, found)| wanted != found).collect();
    assert!(differ.is_empty() && wanted.len() == found.len(), "{name}: {differ:#?}");
    let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(unpacked.join("sparse")).unwrap());
    assert!(form == LayerForm::Erofs || blocks * 512 < 100_000, "{name}: {blocks} blocks");
    // Of a container that changed nothing there is nothing but, from an overlay, its root.
    let quiet = store.diff("again", None, Vec::new()).await.unwrap();
    assert!(quiet.len() <= 1024 + 3 * 512, "{name}: {}", quiet.len());
    std::fs::write(root.join(".wh.trick"), "").unwrap();
    assert_eq!(store.diff("c", None, Vec::new()).await.unwrap_err().kind(), Kind::Unsupported);
    assert_eq!(store.diff("none", None, Vec::new()).await.unwrap_err().kind(), Kind::NotFound);
    for key in ["c", "again"] {
        store.release_rootfs(key).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unpacked_over_the_image_it_is_the_containers_tree() {
    if !may_mount("unpacked_over_the_image_it_is_the_containers_tree") {
        return;
    }
    let house = House::new("diff");
    again(&house, RootfsDriver::Overlay, LayerForm::Directories).await;
    again(&house, RootfsDriver::Overlay, LayerForm::Erofs).await;
    again(&house, RootfsDriver::Copy, LayerForm::Directories).await;
    again(&house, RootfsDriver::Copy, LayerForm::Erofs).await;
}
