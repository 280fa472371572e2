//! SECURITY_CASES 13: every trick known by which a layer has written outside of its place or has become something else than
//! its reader was told, through the whole store and the mounted root filesystem, in every form that a layer is kept in.
//!
//! A case is refused with a sentence, or shows exactly what it should; and a directory beside the store, with a file whose
//! mode, links, time and neighbours are known, is as it was. What happened when each defence was taken out stands in
//! `tests/security/README.md`.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use gantry_images::{Kind, Store};
use support::forms::forms;
use support::tape::{self, Head, Packing, Tape, head};
use support::{House, may_mount};

enum Then {
    /// Refused, and these words are in the sentence.
    Refused(&'static str),
    /// Shows these paths: `file CONTENT`, `dir MODE`, `-> TARGET`, `node`, `gone`.
    Shows(Vec<(&'static str, String)>),
}

struct Case {
    name: &'static str,
    layers: Vec<Tape>,
    then: Then,
}

fn refused(name: &'static str, layers: Vec<Tape>, words: &'static str) -> Case {
    Case { name, layers, then: Then::Refused(words) }
}

fn shows(name: &'static str, layers: Vec<Tape>, paths: &[(&'static str, &str)]) -> Case {
    let paths = paths.iter().map(|(path, what)| (*path, (*what).to_owned())).collect();
    Case { name, layers, then: Then::Shows(paths) }
}

fn one(path: &str) -> Vec<Tape> {
    vec![Tape::new().file(path, "evil")]
}

/// A base with the usual directories.
fn base() -> Tape {
    Tape::new().dir("./", 0o755).dir("etc", 0o755).file("etc/passwd", "root").dir("usr", 0o755).dir("usr/lib", 0o755)
}

fn names() -> Vec<Case> {
    vec![
        refused("climbs", one("../victim/file"), "contains .."),
        refused("climbs later", one("a/../../victim/file"), "contains .."),
        refused("climbs to nothing", one(".."), "contains .."),
        refused("climbs behind a dot", one("./../x"), "contains .."),
        refused("climbs from the root", one("/../x"), "contains .."),
        refused("ends above", one("a/.."), "contains .."),
        refused("a NUL in pax", vec![Tape::new().pax(&[("path", b"a\0/../b")]).file("x", "")], "NUL"),
        refused("a NUL in a pax link", vec![Tape::new().pax(&[("linkpath", b"a\0b")]).symlink("x", "y")], "NUL"),
        refused("no name", one(""), "without a name"),
        refused("the root as a file", one("./"), "ends with a slash"),
        refused("the root as an empty file", one("."), "root is no directory"),
        refused("the root as a link", vec![Tape::new().symlink("./", "/etc")], "root is no directory"),
        refused("the root as a device", vec![Tape::new().header(&Head { device: (1, 3), ..head("/", b'3') })], "root"),
        refused("a long name", vec![Tape::new().pax(&[("path", &[b'n'; 256])]).file("x", "")], "more than 255"),
        refused(
            "a long path",
            vec![Tape::new().pax(&[("path", &b"x/".repeat(2048))]).dir("x", 0o755)],
            "more than 4095",
        ),
        refused(
            "a long link",
            vec![Tape::new().pax(&[("linkpath", &[b'n'; 4096])]).symlink("x", "y")],
            "more than 4095",
        ),
        refused("a link to nothing", vec![Tape::new().symlink("x", "")], "without a target"),
        shows("absolute", one("/etc/shadow"), &[("etc/shadow", "file evil")]),
        shows("slashes and dots", one("//./a//./b"), &[("a/b", "file evil")]),
        shows("dots that are names", one("a/..b/c.."), &[("a/..b/c..", "file evil")]),
        shows("a line feed", one("a\nb"), &[("a\nb", "file evil")]),
    ]
}

fn links(victim: &str) -> Vec<Case> {
    let dir = |tape: Tape| tape.symlink("out", victim);
    let file = format!("{victim}/file");
    let proc = format!("/proc/self/root{victim}");
    vec![
        refused("through a link", vec![dir(Tape::new()).file("out/file", "evil")], "symbolic link to nowhere"),
        refused("through /proc", vec![Tape::new().symlink("out", &proc).file("out/new", "evil")], "nowhere"),
        refused(
            "through two links",
            vec![Tape::new().symlink("a", "b").symlink("b", victim).file("a/new", "evil")],
            "nowhere",
        ),
        refused(
            "through a climbing link",
            vec![
                Tape::new()
                    .symlink("out", "../../../../../../..")
                    .dir("x", 0o755)
                    .symlink("y", "out/gantry-none")
                    .file("y/x", "evil"),
            ],
            "nowhere",
        ),
        refused(
            "through a ring",
            vec![Tape::new().symlink("a", "b").symlink("b", "a").file("a/x", "evil")],
            "directory",
        ),
        refused(
            "a directory swapped for a link",
            vec![Tape::new().dir("d", 0o755).file("d/x", "1").symlink("d", victim).file("d/file", "evil")],
            "nowhere",
        ),
        shows(
            "a link swapped for a directory",
            vec![dir(Tape::new()).dir("out", 0o750).file("out/file", "inside")],
            &[("out", "dir 750"), ("out/file", "file inside")],
        ),
        shows(
            "a file over a link to a file",
            vec![Tape::new().symlink("a", &file).header(&Head { mode: 0o4777, ..head("a", b'0') })],
            &[("a", "file ")],
        ),
        shows("a device over a link", vec![Tape::new().symlink("a", &file).header(&head("a", b'6'))], &[("a", "node")]),
        shows(
            "attributes of a link",
            vec![Tape::new().pax(&[("SCHILY.xattr.user.evil", b"1"), ("mtime", b"5")]).header(&Head {
                link: &file,
                mode: 0o7777,
                owner: (7, 7),
                ..head("a", b'2')
            })],
            &[("a", &format!("-> {file}"))],
        ),
    ]
}

/// Layers apart: the link is below, what goes through it above.
fn lower_links(victim: &str) -> Vec<Case> {
    let dir = |tape: Tape| tape.symlink("out", victim);
    vec![
        shows(
            "through a link of a lower layer",
            vec![dir(base()), Tape::new().file("out/file", "in")],
            &[("out/file", "file in")],
        ),
        shows("a mode through a lower link", vec![dir(base()), Tape::new().dir("out", 0o700)], &[("out", "dir 700")]),
        shows(
            "a whiteout through a lower link",
            vec![dir(base()), Tape::new().file("out/.wh.file", "").file("out/.wh..wh..opq", "")],
            &[("out/file", "gone")],
        ),
        shows(
            "a link inside is followed inside",
            vec![base().symlink("lib", "/usr/lib").file("lib/x.so", "1")],
            &[("usr/lib/x.so", "file 1"), ("lib", "-> /usr/lib")],
        ),
    ]
}

fn hard_links(victim: &str) -> Vec<Case> {
    let file = format!("{victim}/file");
    let over = |tape: Tape| vec![base().symlink("out", victim), tape];
    vec![
        refused("a hard link outside", vec![Tape::new().hard_link("h", &file)], "no such file"),
        refused("a hard link that climbs", vec![Tape::new().hard_link("h", "../victim/file")], "contains .."),
        refused(
            "a hard link through a link",
            vec![Tape::new().symlink("d", victim).hard_link("h", "d/file")],
            "no such",
        ),
        refused("a hard link to itself", vec![Tape::new().hard_link("h", "./h")], "itself or the root"),
        refused("a hard link to the root", vec![Tape::new().hard_link("h", "/")], "itself or the root"),
        refused("a hard link to a directory", vec![base().hard_link("h", "etc")], "it is a directory"),
        refused("a hard link outside from above", over(Tape::new().hard_link("h", &file)), "no such file"),
        refused("a hard link through a lower link", over(Tape::new().hard_link("h", "out/file")), "no such file"),
        refused("a hard link to a lower directory", over(Tape::new().hard_link("h", "etc")), "it is a directory"),
        refused(
            "a hard link to what a layer hides",
            vec![base(), Tape::new().file("etc/.wh.passwd", ""), Tape::new().hard_link("h", "etc/passwd")],
            "no such file",
        ),
        refused(
            "a hard link through a ring below",
            vec![base().symlink("a", "b").symlink("b", "a"), Tape::new().hard_link("h", "a/x")],
            "no such file",
        ),
        shows(
            "a hard link to a link",
            vec![Tape::new().symlink("l", &file).hard_link("h", "l").header(&Head { mode: 0o777, ..head("h", b'0') })],
            &[("h", "file "), ("l", &format!("-> {file}"))],
        ),
        shows(
            "a hard link to a lower link",
            vec![base().symlink("l", &file), Tape::new().hard_link("h", "l"), Tape::new().file("h", "new")],
            &[("h", "file new"), ("l", &format!("-> {file}"))],
        ),
        shows(
            "a lower link that climbs",
            vec![base().symlink("l", "../../../../etc"), Tape::new().hard_link("h", "l/passwd")],
            &[("h", "file root")],
        ),
    ]
}

fn whiteouts() -> Vec<Case> {
    let over = |tape: Tape| vec![base(), tape];
    let refuse = |name, path: &str, words| refused(name, over(Tape::new().file(path, "")), words);
    vec![
        refuse("a whiteout that climbs", "../victim/.wh.file", "contains .."),
        refuse("a whiteout of nothing", "a/.wh.", "whiteout of nothing"),
        refuse("a whiteout of dot", ".wh..", "whiteout of nothing"),
        refuse("a whiteout of dots", "etc/.wh...", "whiteout of nothing"),
        refuse("a whiteout as a directory", ".wh.a/b", "used as a directory"),
        refuse("a nameless whiteout as a directory", "d/.wh./x", "used as a directory"),
        shows("a whiteout of a whiteout", over(Tape::new().file(".wh..wh.x", "")), &[("etc/passwd", "file root")]),
        shows(
            "book-keeping of aufs",
            over(Tape::new().file(".wh..wh.plnk/9.1", "x").file(".wh..wh.aufs", "")),
            &[(".wh..wh.plnk", "gone")],
        ),
        shows(
            "the whole root hidden",
            over(Tape::new().file(".wh..wh..opq", "").file("a", "1")),
            &[("etc", "gone"), ("a", "file 1")],
        ),
        shows(
            "an opaque directory in the lowest layer",
            vec![base().file("etc/.wh..wh..opq", "")],
            &[("etc/passwd", "file root")],
        ),
        shows(
            "a whiteout in the lowest layer",
            vec![base().file("etc/.wh.passwd", "")],
            &[("etc/passwd", "file root")],
        ),
        shows(
            "whiteouts before and after",
            over(
                Tape::new()
                    .file("etc/.wh.passwd", "")
                    .file("etc/passwd", "new")
                    .file("etc/new", "2")
                    .file("etc/.wh.new", ""),
            ),
            &[("etc/passwd", "file new"), ("etc/new", "file 2")],
        ),
        shows(
            "opaque after its entries",
            over(Tape::new().file("etc/new", "2").file("etc/.wh..wh..opq", "")),
            &[("etc/passwd", "gone"), ("etc/new", "file 2")],
        ),
        shows(
            "a file becomes a directory and back",
            vec![
                base().file("x", "1"),
                Tape::new().dir("x", 0o755).file("x/y", "2"),
                Tape::new().file("x", "3"),
                Tape::new().dir("x", 0o700),
            ],
            &[("x", "dir 700"), ("x/y", "gone")],
        ),
        shows(
            "a whiteout of a directory and its content anew",
            over(Tape::new().file(".wh.etc", "").file("etc/new", "2")),
            &[("etc/passwd", "gone"), ("etc/new", "file 2")],
        ),
        shows(
            "a whiteout of a link",
            vec![base().symlink("l", "etc"), Tape::new().file(".wh.l", "")],
            &[("l", "gone"), ("etc/passwd", "file root")],
        ),
    ]
}

/// Whiteouts in the form of overlayfs itself, and attributes that would steer it.
fn markers() -> Vec<Case> {
    let over = |tape: Tape| vec![base(), tape];
    vec![
        shows("a marker as a device", over(Tape::new().header(&head("etc/passwd", b'3'))), &[("etc/passwd", "gone")]),
        shows("a marker over a directory", over(Tape::new().header(&head("etc", b'3'))), &[("etc", "gone")]),
        shows(
            "an attribute for overlayfs",
            over(
                Tape::new()
                    .pax(&[
                        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
                        ("SCHILY.xattr.trusted.overlay.redirect", b"/usr"),
                        ("LIBARCHIVE.xattr.trusted.overlay.opaque", b"eQ"),
                    ])
                    .dir("etc", 0o755),
            ),
            &[("etc/passwd", "file root")],
        ),
        shows(
            "a file that says it is only data",
            over(
                Tape::new()
                    .pax(&[
                        ("SCHILY.xattr.trusted.overlay.metacopy", b""),
                        ("SCHILY.xattr.trusted.overlay.redirect", b"/etc/passwd"),
                    ])
                    .file("usr/x", "own"),
            ),
            &[("usr/x", "file own")],
        ),
        shows(
            "a file that says it is a whiteout",
            over(Tape::new().pax(&[("SCHILY.xattr.trusted.overlay.whiteout", b"y")]).file("etc/passwd", "")),
            &[("etc/passwd", "file ")],
        ),
    ]
}

fn changes() -> Vec<Case> {
    let kinds = Tape::new()
        .file("x", "1")
        .dir("x", 0o711)
        .file("x/in", "2")
        .symlink("x", "etc")
        .header(&head("x", b'6'))
        .header(&Head { device: (1, 3), ..head("x", b'3') })
        .file("y", "y")
        .hard_link("x", "y");
    vec![
        shows("one name of every kind in turn", vec![kinds.file("x", "end")], &[("x", "file end"), ("y", "file y")]),
        shows(
            "twice",
            vec![Tape::new().file("a", "one").file("./a", "two").file("/a", "three")],
            &[("a", "file three")],
        ),
        shows(
            "a second name keeps what the first loses",
            vec![Tape::new().file("a", "1").hard_link("b", "a").file("a", "2")],
            &[("a", "file 2"), ("b", "file 1")],
        ),
        shows(
            "devices are nodes",
            vec![Tape::new().header(&Head { device: (8, 0), mode: 0o666, ..head("sda", b'4') })],
            &[("sda", "node")],
        ),
        refused("a device of another kind", vec![Tape::new().header(&head("s", b's'))], "unknown entry type"),
        refused("a file as a directory", vec![Tape::new().file("a", "1").file("a/b", "2")], "directory"),
        refused(
            "an owner that means nobody",
            vec![Tape::new().pax(&[("uid", b"4294967295")]).file("a", "")],
            "is no id",
        ),
        refused("an owner beyond 32 bits", vec![Tape::new().pax(&[("gid", b"4294967296")]).file("a", "")], "is no id"),
    ]
}

/// A directory whose every property is known.
struct Victim(PathBuf);

impl Victim {
    fn new(house: &House) -> Self {
        let dir = house.path("victim");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("file"), "untouched").unwrap();
        std::fs::set_permissions(dir.join("file"), std::fs::Permissions::from_mode(0o600)).unwrap();
        Self(dir)
    }

    fn look(&self) -> (String, [u64; 4], [i64; 2], usize) {
        let file = self.0.join("file");
        let (meta, dir) = (std::fs::symlink_metadata(&file).unwrap(), std::fs::metadata(&self.0).unwrap());
        let mut names = [0u8; 256];
        let xattrs = rustix::fs::llistxattr(&file, &mut names).unwrap();
        let numbers = [u64::from(meta.mode()), meta.nlink(), u64::from(meta.uid()), u64::from(dir.mode())];
        let text = std::fs::read_to_string(&file).unwrap();
        (text, numbers, [meta.mtime(), dir.mtime_nsec()], xattrs + std::fs::read_dir(&self.0).unwrap().count())
    }
}

fn seen(root: &Path, path: &str) -> String {
    let path = root.join(path);
    let Ok(meta) = std::fs::symlink_metadata(&path) else { return "gone".into() };
    match meta.file_type() {
        kind if kind.is_dir() => format!("dir {:o}", meta.mode() & 0o7777),
        kind if kind.is_symlink() => format!("-> {}", std::fs::read_link(&path).unwrap().display()),
        kind if kind.is_file() => format!("file {}", std::fs::read_to_string(&path).unwrap()),
        _ => "node".into(),
    }
}

async fn try_case(store: &Store, house: &House, at: usize, form: &str, case: &Case) {
    let layers: Vec<_> = case.layers.iter().map(|tape| (tape.clone().end(), Packing::Gzip)).collect();
    let layout = tape::layout(&house.path(&format!("oci-{at}")), &format!("case{at}:1"), &layers);
    let what = format!("{} ({form})", case.name);
    let imported = store.import(&layout, None).await;
    std::fs::remove_dir_all(layout).unwrap();
    match (&case.then, imported) {
        (Then::Refused(words), Err(why)) => {
            assert!(matches!(why.kind(), Kind::Invalid | Kind::TooLarge), "{what}: {why:?}");
            assert!(why.to_string().contains(words), "{what}: {why}");
        }
        (Then::Refused(_), Ok(_)) => panic!("{what}: it was taken"),
        (Then::Shows(_), Err(why)) => panic!("{what}: {why}"),
        (Then::Shows(paths), Ok(images)) => {
            let rootfs = store.rootfs(&images[0].id, "c").await.unwrap().path;
            for (path, wanted) in paths {
                assert_eq!(seen(&rootfs, path), *wanted, "{what}: {path}");
            }
            store.release_rootfs("c").await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_13_every_trick() {
    if !may_mount("case_13_every_trick") {
        return;
    }
    let house = House::new("corpus");
    let victim = Victim::new(&house);
    let before = victim.look();
    let path = victim.0.to_string_lossy().into_owned();
    let cases: Vec<Case> =
        [names(), links(&path), lower_links(&path), hard_links(&path), whiteouts(), markers(), changes()]
            .into_iter()
            .flatten()
            .collect();
    assert!(cases.len() > 70, "{} cases", cases.len());
    for (form, config) in forms(&house) {
        let root = config.root.clone();
        let store = Store::open(config).unwrap();
        for (at, case) in cases.iter().enumerate() {
            try_case(&store, &house, at, form, case).await;
            assert_eq!(victim.look(), before, "{} ({form}) reached outside", case.name);
            assert_eq!(std::fs::read_dir(root.join("unpack")).unwrap().count(), 0, "{} ({form}) is left", case.name);
        }
    }
}
