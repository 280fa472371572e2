//! Images made by umoci, podman and skopeo out of a tree with everything that a file system can hold: what they unpack and
//! what we mount is compared entry by entry: kind, mode, owner, size, content, times, links, devices and attributes.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_images::Store;
use rustix::fs::{CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use support::forms::forms;
use support::tape::{self, Packing};
use support::{House, listing, may_mount};

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|why| panic!("{program}: {why}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn needs(test: &str, programs: &[&str]) -> bool {
    if !may_mount(test) {
        return false;
    }
    let missing =
        programs.iter().find(|name| !["/usr/bin", "/bin"].iter().any(|dir| Path::new(dir).join(name).exists()));
    if let Some(name) = missing {
        eprintln!("SKIPPED {test}: needs {name} (apt install {name})");
    }
    missing.is_none()
}

/// Capability version 2, cap_net_raw permitted and effective; version 3 is the same for a user namespace's root.
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn capability_of_a_namespace() -> Vec<u8> {
    let mut value = NET_RAW.to_vec();
    value[3] = 3;
    value.extend(100_000u32.to_le_bytes());
    value
}

/// user::rw-, user:1000:r--, group::r--, mask::r--, other::---
fn acl() -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    for (tag, perm, id) in
        [(1u16, 6u16, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
    {
        value.extend(tag.to_le_bytes());
        value.extend(perm.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap_or_else(|why| panic!("{name}: {why}"));
}

/// Everything that a layer can hold. Names are as nasty as `bytes` allows: umoci 0.4 writes names that are not UTF-8 wrongly.
fn nasty(root: &Path, bytes: bool) {
    let at = |name: &str| root.join(name);
    let file = |name: &str, content: &str| {
        std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        std::fs::write(at(name), content).unwrap();
    };
    let long = "n".repeat(255);
    let deep = format!("deep/{}", "directory/".repeat(150));
    for name in [
        "plain",
        "dir/in",
        "with space",
        "line\nfeed",
        "back\\slash",
        "tab\t",
        "ü/ñ",
        "-dash",
        &long,
        &format!("{deep}end"),
    ] {
        file(name, name);
    }
    if bytes {
        std::fs::write(root.join(std::ffi::OsStr::from_bytes(b"latin-\xe9\xff")), "bytes").unwrap();
    }
    std::fs::create_dir_all(at("empty")).unwrap();
    std::fs::hard_link(at("plain"), at("dir/second")).unwrap();
    std::fs::hard_link(at("plain"), at("zz-third")).unwrap();
    for (name, to) in [("absolute", "/etc/passwd"), ("dangling", "../no/where"), ("long", &long), ("to-dir", "dir")] {
        std::os::unix::fs::symlink(to, at(name)).unwrap();
    }
    let node = |name: &str, kind, device| rustix::fs::mknodat(CWD, at(name), kind, Mode::from(0o640), device).unwrap();
    node("pipe", FileType::Fifo, 0);
    node("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node("disk", FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    let mut sparse = std::fs::File::create(at("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    for place in [0, 3 << 20, (8 << 20) - 3] {
        sparse.seek(SeekFrom::Start(place)).unwrap();
        sparse.write_all(b"end").unwrap();
    }
    dress(root);
}

/// Owners, modes, attributes and times of the same tree.
fn dress(root: &Path) {
    let at = |name: &str| root.join(name);
    let own = |name: &str, uid, gid| {
        rustix::fs::chownat(
            CWD,
            at(name),
            Some(Uid::from_raw(uid)),
            Some(Gid::from_raw(gid)),
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap()
    };
    own("dir", 1000, 1001);
    own("dangling", 70_000, 3_000_000);
    own("with space", 4_000_000_000, 65_534);
    for (name, mode) in [("plain", 0o6751), ("empty", 0o3777), ("dir", 0o700), ("-dash", 0o000), ("ü", 0o1755)] {
        rustix::fs::chmod(at(name), Mode::from(mode)).unwrap();
    }
    xattr(&at("plain"), "user.note", b"\0binary\n=");
    xattr(&at("dir"), "user.empty", b"");
    xattr(&at("with space"), "security.capability", &NET_RAW);
    xattr(&at("back\\slash"), "security.capability", &capability_of_a_namespace());
    xattr(&at("-dash"), "system.posix_acl_access", &acl());
    xattr(&at("empty"), "system.posix_acl_default", &acl());
    xattr(&at("dangling"), "trusted.note", b"on a link");
    for (name, seconds, nanos) in [
        ("plain", 1, 1),
        ("dir/in", -1, 500_000_000),
        ("tab\t", 4_294_967_296, 7),
        ("dir", -2_000_000_000, 0),
        ("dangling", 86_400, 0),
    ] {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, at(name), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// A layout of one layer, packed by GNU tar with all that it knows, unpacked once more by it beside us.
fn by_gnu_tar(house: &House, tree: &Path, name: &str) -> PathBuf {
    let archive = house.path(&format!("{name}.tar"));
    let (tree, path) = (tree.to_string_lossy().into_owned(), archive.to_string_lossy().into_owned());
    run(
        "tar",
        &[
            "--format=pax",
            "--sparse",
            "--xattrs",
            "--acls",
            "--numeric-owner",
            "--xattrs-include=*",
            "-cf",
            &path,
            "-C",
            &tree,
            ".",
        ],
    );
    let tar = std::fs::read(&archive).unwrap();
    std::fs::remove_file(archive).unwrap();
    tape::layout(&house.path(name), &format!("{name}:1"), &[(tar, Packing::Gzip)])
}

/// Our listings of the one image in a layout or archive, one for every form.
async fn ours(house: &House, image: &Path) -> Vec<(&'static str, Vec<String>)> {
    let mut all = Vec::new();
    for (form, config) in forms(house) {
        let store = Store::open(config).unwrap();
        let image = store.import(image, Some("peer:1".parse().unwrap())).await.unwrap().remove(0);
        let rootfs = store.rootfs(&image.id, "c").await.unwrap();
        all.push((form, listing::of(&rootfs.path)));
        store.release_rootfs("c").await.unwrap();
        store.remove(&image.id).await.unwrap();
    }
    all
}

/// Equal but for lines that `skip` names.
fn same(what: &str, ours: &[(&'static str, Vec<String>)], theirs: &[String], skip: impl Fn(&str) -> bool) {
    let kept = |lines: &[String]| -> Vec<String> { lines.iter().filter(|line| !skip(line)).cloned().collect() };
    let theirs = kept(theirs);
    assert!(theirs.len() > 20, "{what}: only {} entries are compared", theirs.len());
    for (form, ours) in ours {
        let ours = kept(ours);
        let only = |a: &[String], b: &[String]| a.iter().filter(|line| !b.contains(line)).cloned().collect::<Vec<_>>();
        assert!(
            ours == theirs,
            "{what} ({form}): only ours {:#?}\nonly theirs {:#?}",
            only(&ours, &theirs),
            only(&theirs, &ours)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_with_everything_comes_back() {
    if !needs("a_tree_with_everything_comes_back", &["tar"]) {
        return;
    }
    let house = House::new("everything");
    let tree = house.path("tree");
    std::fs::create_dir_all(&tree).unwrap();
    nasty(&tree, true);
    let layout = by_gnu_tar(&house, &tree, "everything");
    let wanted = listing::of(&tree);
    same("everything", &ours(&house, &layout).await, &wanted, |line| line.starts_with("/ "));
}

#[tokio::test(flavor = "multi_thread")]
async fn umoci_makes_and_unpacks_the_same() {
    if !needs("umoci_makes_and_unpacks_the_same", &["umoci"]) {
        return;
    }
    let house = House::new("umoci-made");
    let tree = house.path("tree");
    std::fs::create_dir_all(&tree).unwrap();
    nasty(&tree, false);
    let (layout, bundle) = (house.path("oci"), house.path("bundle"));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let image = |tag: &str| format!("{}:{tag}", text(&layout));
    run("umoci", &["init", "--layout", &text(&layout)]);
    run("umoci", &["new", "--image", &image("one")]);
    run("umoci", &["insert", "--image", &image("one"), "--tag", "two", &text(&tree), "/all"]);
    run("umoci", &["unpack", "--image", &image("two"), &text(&bundle)]);
    // What somebody does to a root filesystem: removes, replaces by other kinds, links to what stays.
    let root = bundle.join("rootfs/all");
    for gone in ["plain", "with space", "to-dir", "null"] {
        std::fs::remove_file(root.join(gone)).unwrap();
    }
    std::fs::remove_dir_all(root.join("deep")).unwrap();
    std::fs::remove_dir(root.join("empty")).unwrap();
    std::fs::write(root.join("empty"), "a file now").unwrap();
    std::fs::create_dir(root.join("plain")).unwrap();
    std::fs::write(root.join("plain/in"), "a directory now").unwrap();
    std::fs::hard_link(root.join("back\\slash"), root.join("again")).unwrap();
    std::os::unix::fs::symlink("plain", root.join("to-dir")).unwrap();
    rustix::fs::chmod(root.join("ü"), Mode::from(0o711)).unwrap();
    run("umoci", &["repack", "--image", &image("three"), &text(&bundle)]);
    run("umoci", &["insert", "--image", &image("three"), "--opaque", &text(&tree.join("dir")), "/all/ü"]);
    run("umoci", &["insert", "--image", &image("three"), "--whiteout", "/all/pipe"]);
    for tag in ["two", "three"] {
        let theirs = house.path(&format!("theirs-{tag}"));
        run("umoci", &["unpack", "--image", &image(tag), &text(&theirs)]);
        let single = house.path(&format!("{tag}.oci"));
        run("skopeo", &["copy", "-q", &format!("oci:{}", image(tag)), &format!("oci:{}:x", text(&single))]);
        let theirs = listing::of(&theirs.join("rootfs"));
        // No layer says how the root or, after --opaque, its parents look; umoci leaves them the time of its unpacking.
        let skip = |line: &str| line.starts_with("/ ") || line.starts_with("/all dir");
        same(&format!("umoci {tag}"), &ours(&house, &single).await, &theirs, skip);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_copies_mean_the_same() {
    if !needs("skopeo_copies_mean_the_same", &["skopeo", "tar"]) {
        return;
    }
    let house = House::new("skopeo");
    let tree = house.path("tree");
    std::fs::create_dir_all(&tree).unwrap();
    nasty(&tree, true);
    let layout = by_gnu_tar(&house, &tree, "source");
    let wanted = ours(&house, &layout).await.remove(0).1;
    let from = format!("oci:{}:source:1", layout.display());
    for (kind, to, format) in [
        ("docker-archive", format!("docker-archive:{}:x:1", house.path("docker.tar").display()), "v2s2"),
        ("oci-archive", format!("oci-archive:{}:x", house.path("oci.tar").display()), "oci"),
        ("oci", format!("oci:{}:x", house.path("again").display()), "oci"),
    ] {
        let mut args = vec!["copy", "-q", &from, &to];
        if kind != "docker-archive" {
            args.extend(["--format", format, "--dest-compress-format", "gzip", "--dest-compress"]);
        }
        run("skopeo", &args);
        let path = PathBuf::from(to.split(':').nth(1).unwrap());
        same(kind, &ours(&house, &path).await, &wanted, |_| false);
    }
}

/// podman with a storage of its own, so that it neither sees nor leaves anything on the host.
struct Podman(PathBuf);

impl Podman {
    fn run(&self, args: &[&str]) -> String {
        let place = |name: &str| self.0.join(name).to_string_lossy().into_owned();
        let (root, runroot, tmp) = (place("root"), place("run"), place("tmp"));
        let mut all = vec!["--root", &root, "--runroot", &runroot, "--tmpdir", &tmp, "--storage-driver", "vfs"];
        all.extend(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        all.extend(args);
        run("podman", &all)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_builds_and_mounts_the_same() {
    if !needs("podman_builds_and_mounts_the_same", &["podman", "busybox", "tar"]) {
        return;
    }
    let house = House::new("podman");
    let context = house.path("context");
    std::fs::create_dir_all(context.join("tree")).unwrap();
    nasty(&context.join("tree"), true);
    std::fs::copy(
        ["/bin/busybox", "/usr/bin/busybox"].iter().find(|p| Path::new(p).exists()).unwrap(),
        context.join("busybox"),
    )
    .unwrap();
    let steps = r#"FROM scratch
COPY busybox /busybox
COPY tree /all
RUN ["/busybox", "rm", "-rf", "/all/deep", "/all/plain", "/all/empty"]
RUN ["/busybox", "sh", "-c", "cd /all; /busybox mkdir -p plain/in; echo now > empty; /busybox ln dir/in linked; /busybox chmod 4711 -- -dash"]
COPY --chown=12:34 tree/dir /all/deep
RUN ["/busybox", "sh", "-c", "/busybox rm -rf /all/deep; /busybox mkdir /all/deep; echo x > /all/deep/only"]
"#;
    std::fs::write(context.join("Containerfile"), steps).unwrap();
    let podman = Podman(house.path("podman"));
    let (saved, context) = (house.path("saved"), context.to_string_lossy().into_owned());
    podman.run(&["build", "-q", "--isolation", "chroot", "--network", "host", "--layers", "-t", "made", &context]);
    let mounted = podman.run(&["image", "mount", "localhost/made"]);
    let theirs = listing::of(Path::new(mounted.trim()));
    podman.run(&["image", "unmount", "localhost/made"]);
    for format in ["oci-archive", "docker-archive"] {
        let path = saved.with_extension(format);
        podman.run(&["save", "-q", "--format", format, "-o", &path.to_string_lossy(), "localhost/made"]);
        // podman gives the root directory the time at which it made its storage, and has no times before 1970.
        same(&format!("podman {format}"), &ours(&house, &path).await, &theirs, |line| {
            line.starts_with("/ ") || line.starts_with("/all/dir dir")
        });
    }
}

/// A system's own files: /etc and a part of /usr/share, or with GANTRY_LARGE_TREE=1 all of /usr/share, /usr/bin and /usr/lib, unpacked
/// by GNU tar and by us.
#[tokio::test(flavor = "multi_thread")]
async fn a_system_comes_back() {
    if !needs("a_system_comes_back", &["tar"]) {
        return;
    }
    let house = House::new("system");
    let all = std::env::var_os("GANTRY_LARGE_TREE").is_some();
    let dirs: &[&str] = if all {
        &["etc", "usr/share", "usr/bin", "usr/lib"]
    } else {
        &["etc", "usr/share/perl5", "usr/share/zoneinfo"]
    };
    let there = dirs.iter().copied().filter(|dir| Path::new("/").join(dir).is_dir());
    let (archive, theirs) = (house.path("system.tar"), house.path("theirs"));
    let (archive_text, theirs_text) = (archive.to_string_lossy().into_owned(), theirs.to_string_lossy().into_owned());
    std::fs::create_dir_all(&theirs).unwrap();
    let mut args = vec![
        "--format=pax",
        "--xattrs",
        "--acls",
        "--numeric-owner",
        "--xattrs-include=*",
        "-cf",
        &archive_text,
        "-C",
        "/",
    ];
    args.extend(there);
    run("tar", &args);
    run(
        "tar",
        &["--xattrs", "--acls", "--numeric-owner", "--xattrs-include=*", "-xpf", &archive_text, "-C", &theirs_text],
    );
    let tar = std::fs::read(&archive).unwrap();
    std::fs::remove_file(archive).unwrap();
    eprintln!("a system of {} MiB", tar.len() >> 20);
    let layout = tape::layout(&house.path("oci"), "system:1", &[(tar, Packing::Gzip)]);
    let implied =
        |line: &str| line.starts_with("/ ") || line.starts_with("/usr dir") || line.starts_with("/usr/share dir");
    same("the system", &ours(&house, &layout).await, &listing::of(&theirs), implied);
}
