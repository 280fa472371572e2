//! Layers made to break out (SECURITY_CASES 13, 14, 15): each is unpacked next to a directory that must stay as it is.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::BufReader;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use gantry_images::unpack::{self, Options, Summary, tar::Archive};
use gantry_images::{Kind, Result};
use support::House;
use support::tape::{Head, Tape, head};

/// The unpacked directory and, beside it, a victim with one file.
struct Case {
    house: House,
    root: PathBuf,
    victim: PathBuf,
}

impl Case {
    fn new(name: &str) -> Self {
        let house = House::new(name);
        let (root, victim) = (house.path("root"), house.path("victim"));
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(&victim).unwrap();
        std::fs::write(victim.join("file"), "untouched").unwrap();
        std::fs::set_permissions(victim.join("file"), std::fs::Permissions::from_mode(0o600)).unwrap();
        Self { house, root, victim }
    }

    fn unpack(&self, tar: &[u8]) -> Result<Summary> {
        self.unpack_as(tar, false)
    }

    fn unpack_as(&self, tar: &[u8], lowest: bool) -> Result<Summary> {
        let root = rustix::fs::open(&self.root, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
        unpack::unpack(&mut Archive::new(BufReader::new(tar)), root, Options { lowest, entries: 1000 })
    }

    fn untouched(&self) {
        let meta = std::fs::symlink_metadata(self.victim.join("file")).unwrap();
        assert_eq!(std::fs::read_to_string(self.victim.join("file")).unwrap(), "untouched");
        assert_eq!((meta.mode() & 0o7777, meta.nlink()), (0o600, 1), "the victim was changed or linked");
        let names = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
        assert_eq!(names(&self.victim), 1, "something was put beside the victim");
        assert_eq!(names(self.victim.parent().unwrap()), 2, "something was put outside the layer");
    }
}

fn root_only(test: &str) -> bool {
    support::may_mount(test)
}

#[test]
fn case_13_names_that_climb_are_refused() {
    for path in ["../victim/file", "a/../../victim/file", "..", "a/..", "./../x"] {
        let case = Case::new("climb");
        let why = case.unpack(&Tape::new().file(path, "evil").end()).unwrap_err();
        assert_eq!(why.kind(), Kind::Invalid, "{path}: {why}");
        case.untouched();
    }
}

#[test]
fn case_13_absolute_names_stay_inside() {
    let case = Case::new("absolute");
    let path = case.victim.join("file").to_string_lossy().into_owned();
    case.unpack(&Tape::new().file(&path, "inside").end()).unwrap();
    case.untouched();
    assert_eq!(std::fs::read_to_string(case.root.join(path.trim_start_matches('/'))).unwrap(), "inside");
}

#[test]
fn case_13_no_write_goes_through_a_link() {
    for target in ["../victim", "VICTIM", "/proc/self/root/VICTIM", "/proc/self/cwd", "../../../../../../../../VICTIM"]
    {
        let case = Case::new("through");
        let target = target.replace("VICTIM", &case.victim.to_string_lossy());
        let tar = Tape::new().symlink("out", &target).file("out/file", "evil").file("out/new", "evil").end();
        // Whether refused or resolved inside the layer: the victim is what counts.
        let result = case.unpack(&tar);
        case.untouched();
        if let Err(why) = result {
            assert_eq!(why.kind(), Kind::Invalid, "{target}: {why}");
        }
    }
}

#[test]
fn case_13_a_link_inside_the_layer_is_followed_inside() {
    let case = Case::new("inside");
    let tar = Tape::new().dir("usr/lib", 0o755).symlink("lib", "/usr/lib").file("lib/x.so", "1").end();
    case.unpack(&tar).unwrap();
    assert_eq!(std::fs::read_to_string(case.root.join("usr/lib/x.so")).unwrap(), "1");
    assert!(case.root.join("lib").is_symlink());
}

#[test]
fn case_13_links_as_last_name_are_replaced_not_followed() {
    let case = Case::new("last");
    let victim = case.victim.join("file").to_string_lossy().into_owned();
    // A file, a directory, a device over a link to the victim; and a mode for it.
    let tar = Tape::new()
        .symlink("a", &victim)
        .file("a", "new")
        .symlink("b", &victim)
        .dir("b", 0o777)
        .symlink("c", &victim)
        .header(&Head { mode: 0o4777, ..head("c", b'6') })
        .end();
    case.unpack(&tar).unwrap();
    case.untouched();
    assert!(std::fs::symlink_metadata(case.root.join("a")).unwrap().is_file());
    assert!(std::fs::symlink_metadata(case.root.join("b")).unwrap().is_dir());
}

#[test]
fn case_13_attributes_do_not_follow_links() {
    if !root_only("case_13_attributes_do_not_follow_links") {
        return;
    }
    let case = Case::new("attributes");
    let victim = case.victim.join("file").to_string_lossy().into_owned();
    let owner = (1234, 1234);
    let tar = Tape::new()
        .pax(&[("SCHILY.xattr.user.evil", b"1"), ("mtime", b"5")])
        .header(&Head { link: &victim, mode: 0o7777, owner, ..head("a", b'2') })
        .end();
    case.unpack(&tar).unwrap();
    case.untouched();
    let meta = std::fs::metadata(case.victim.join("file")).unwrap();
    assert_ne!((meta.uid(), meta.mtime()), (1234, 5));
    let link = std::fs::symlink_metadata(case.root.join("a")).unwrap();
    assert_eq!((link.uid(), link.mtime()), (1234, 5));
    drop(case.house);
}

#[test]
fn case_13_hard_links_stay_inside() {
    let case = Case::new("hard");
    let victim = case.victim.join("file").to_string_lossy().into_owned();
    for link in ["../victim/file", &victim, "a/../../victim/file", "", "missing", "self", "."] {
        let tar = Tape::new().hard_link("self", link).end();
        let why = case.unpack_as(&tar, true).unwrap_err();
        assert_eq!(why.kind(), Kind::Invalid, "{link}: {why}");
        case.untouched();
        // Over other layers it may be a file of theirs: nothing is made before these are looked at.
        let over = case.unpack(&tar);
        assert!(over.is_ok_and(|summary| !summary.borrowed.is_empty()) || link.contains("..") || link.len() < 5);
        case.untouched();
    }
    // Through a symbolic link in the layer, as a directory or as the last name.
    let dir = case.victim.to_string_lossy().into_owned();
    case.unpack(&Tape::new().symlink("d", &dir).hard_link("h", "d/file").end()).unwrap_err();
    case.unpack(&Tape::new().symlink("l", &victim).hard_link("h", "l").end()).unwrap();
    case.untouched();
    assert!(case.root.join("h").is_symlink(), "the link itself is what is linked");
    // A chmod by way of a second name must not reach outside either.
    case.unpack(&Tape::new().hard_link("h2", "l").header(&Head { mode: 0o777, ..head("h2", b'0') }).end()).unwrap();
    case.untouched();
}

#[test]
fn case_13_whiteouts_are_no_tool() {
    if !root_only("case_13_whiteouts_are_no_tool") {
        return;
    }
    for path in ["../victim/.wh.file", ".wh...", ".wh.", "x/.wh..", ".wh.a/b", "d/.wh./x"] {
        let case = Case::new("wh");
        assert_eq!(case.unpack(&Tape::new().file(path, "").end()).unwrap_err().kind(), Kind::Invalid, "{path}");
        case.untouched();
    }
    let case = Case::new("wh-link");
    let dir = case.victim.to_string_lossy().into_owned();
    let _ = case.unpack(&Tape::new().symlink("out", &dir).file("out/.wh.file", "").file("out/.wh..wh..opq", "").end());
    case.untouched();
}

#[test]
fn case_13_devices_and_duplicates() {
    if !root_only("case_13_devices_and_duplicates") {
        return;
    }
    let case = Case::new("devices");
    let tar = Tape::new()
        .header(&Head { device: (1, 3), mode: 0o666, ..head("dev/null", b'3') })
        .header(&Head { device: (7, 0), ..head("dev/loop0", b'4') })
        .header(&head("pipe", b'6'))
        .file("twice", "one")
        .file("twice", "two")
        .file("dir/x", "gone")
        .file("dir", "a file now")
        .file("was-file", "x")
        .dir("was-file", 0o711)
        .file("was-file/inside", "y")
        .end();
    case.unpack(&tar).unwrap();
    let rdev = |name: &str| std::fs::symlink_metadata(case.root.join(name)).unwrap().rdev();
    assert_eq!((rdev("dev/null"), rdev("dev/loop0")), (rustix::fs::makedev(1, 3), rustix::fs::makedev(7, 0)));
    let read = |name: &str| std::fs::read_to_string(case.root.join(name)).unwrap();
    assert_eq!((read("twice"), read("dir"), read("was-file/inside")), ("two".into(), "a file now".into(), "y".into()));
}

#[test]
fn overlay_attributes_of_an_image_are_dropped() {
    if !root_only("overlay_attributes_of_an_image_are_dropped") {
        return;
    }
    let case = Case::new("xattrs");
    let tar = Tape::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.kept", b"1"),
        ])
        .dir("d", 0o755)
        .end();
    case.unpack(&tar).unwrap();
    let mut names = vec![0u8; 4096];
    let count = rustix::fs::llistxattr(case.root.join("d"), &mut names).unwrap();
    assert_eq!(&names[..count], b"user.kept\0");
}

#[test]
fn case_15_limits() {
    let case = Case::new("limits");
    let many = (0..1001).fold(Tape::new(), |tape, n| tape.dir(&format!("d{n}"), 0o755)).end();
    assert_eq!(case.unpack(&many).unwrap_err().kind(), Kind::TooLarge);
    let long = "x/".repeat(2100);
    let tar = Tape::new().pax(&[("path", long.as_bytes())]).dir("x", 0o755).end();
    assert_eq!(case.unpack(&tar).unwrap_err().kind(), Kind::TooLarge);
    let huge = Tape::new().header(&Head { size: 2 << 20, ..head("x", b'x') }).0;
    assert_eq!(case.unpack(&huge).unwrap_err().kind(), Kind::TooLarge);
    // Sixteen TiB of holes are sixteen TiB of nothing, but the disk may refuse the size: only no panic, no bytes.
    let sparse = Tape::new()
        .pax(&[("GNU.sparse.size", b"17592186044416"), ("GNU.sparse.map", b"0,1"), ("size", b"1")])
        .header(&Head { size: 1, ..head("holes", b'0') })
        .data(b"x")
        .end();
    let _ = case.unpack(&sparse);
}

#[test]
fn case_14_two_sizes_are_refused() {
    let case = Case::new("sizes");
    let inner = Tape::new().file("smuggled", "x").end();
    let smuggle = Tape::new()
        .pax(&[("size", inner.len().to_string().as_bytes())])
        .header(&Head { size: 512, ..head("outer", b'0') })
        .data(&inner)
        .end();
    assert_eq!(case.unpack(&smuggle).unwrap_err().kind(), Kind::Invalid);
    for flag in *b"23456" {
        let tar = Tape::new().header(&Head { size: 512, link: "x", ..head("x", flag) }).data(&[1; 512]).end();
        assert_eq!(case.unpack(&tar).unwrap_err().kind(), Kind::Invalid, "data behind type {}", flag as char);
    }
    // Go refuses what follows a single block of zeros, others do not look at it.
    let lone = [Tape::new().file("a", "1").0, vec![0; 512], Tape::new().file("b", "2").end()].concat();
    assert!(case.unpack(&lone).unwrap_err().to_string().contains("a single block of zeros"));
    let cut = &Tape::new().file("a", "hello").0[..515];
    assert_eq!(case.unpack(cut).unwrap_err().kind(), Kind::Invalid);
    assert_eq!(case.unpack(&[1; 512]).unwrap_err().kind(), Kind::Invalid);
}
