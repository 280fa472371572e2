//! SECURITY_CASES 14: our tar reader and two others read the same archive the same way, or ours refuses it.
//!
//! GNU tar makes archives in every format and unpacks them beside us; Python's tarfile lists thousands of damaged ones.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use gantry_images::unpack::{self, Options, header, tar::Archive, tar::Type};
use support::tape::{Head, Tape, head};
use support::{House, listing, may_mount};

fn unpack_into(tar: &[u8], dir: &Path) {
    std::fs::create_dir_all(dir).unwrap();
    let root = rustix::fs::open(dir, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty()).unwrap();
    unpack::unpack(&mut Archive::new(BufReader::new(tar)), root, Options { lowest: true, entries: 10_000 }).unwrap();
}

/// A tree with everything that a tar archive can hold.
fn rich_tree(house: &House) -> std::path::PathBuf {
    let long = "long-".repeat(45);
    let deep = format!("{}/{}", vec!["directory-name"; 14].join("/"), &long[..150]);
    let tree = house
        .tree("tree", &[("plain", "content"), (&long, "long name"), (&deep, "deep"), ("empty/", ""), ("ü/ñ", "utf8")]);
    std::os::unix::fs::symlink(&deep, tree.join("long-link")).unwrap();
    std::fs::hard_link(tree.join("plain"), tree.join("second-name")).unwrap();
    rustix::fs::setxattr(tree.join("plain"), "user.note", b"\x00binary\n=", rustix::fs::XattrFlags::empty()).unwrap();
    let mut sparse = std::fs::File::create(tree.join("sparse")).unwrap();
    sparse.set_len(4 << 20).unwrap();
    for at in 0..12u64 {
        std::io::Seek::seek(&mut sparse, std::io::SeekFrom::Start(at << 18)).unwrap();
        sparse.write_all(&vec![b'x'; 5000]).unwrap();
    }
    for (name, mode) in [("plain", 0o6751), ("empty", 0o1777)] {
        rustix::fs::chmod(tree.join(name), rustix::fs::Mode::from(mode)).unwrap();
    }
    rustix::fs::chown(
        tree.join("sparse"),
        Some(rustix::fs::Uid::from_raw(3_000_000)),
        Some(rustix::fs::Gid::from_raw(5)),
    )
    .unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, tree.join("pipe"), rustix::fs::Mode::from(0o600)).unwrap();
    tree
}

#[test]
fn gnu_tar_unpacks_the_same_tree() {
    if !may_mount("gnu_tar_unpacks_the_same_tree (it makes owners)") {
        return;
    }
    let house = House::new("gnu");
    let tree = rich_tree(&house);
    let sparse: [&[&str]; 2] = [&[], &["--sparse"]];
    let pax = |minor: &str| format!("--sparse-version={minor}");
    let forms = [
        vec!["--format=gnu".to_owned()],
        vec!["--format=oldgnu".into()],
        vec!["--format=pax".into(), "--xattrs".into(), pax("0.0")],
        vec!["--format=pax".into(), "--xattrs".into(), pax("0.1")],
        vec!["--format=pax".into(), "--xattrs".into(), pax("1.0")],
    ];
    for (at, form) in forms.iter().enumerate() {
        for more in sparse {
            let archive = house.path("archive.tar");
            let made = Command::new("tar")
                .args(form)
                .args(more)
                .arg("-cf")
                .arg(&archive)
                .arg("-C")
                .arg(&tree)
                .arg(".")
                .output();
            assert!(made.unwrap().status.success());
            let (ours, theirs) = (house.path(&format!("ours-{at}")), house.path(&format!("theirs-{at}")));
            unpack_into(&std::fs::read(&archive).unwrap(), &ours);
            std::fs::create_dir_all(&theirs).unwrap();
            let mut tar = Command::new("tar");
            let output = tar
                .args(["--xattrs", "--numeric-owner", "-xpf"])
                .arg(&archive)
                .arg("-C")
                .arg(&theirs)
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(listing::of(&ours), listing::of(&theirs), "{form:?} {more:?}");
            let blocks = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(ours.join("sparse")).unwrap());
            assert!(more.is_empty() || blocks * 512 < 1 << 20, "holes were filled: {blocks} blocks, {form:?}");
            std::fs::remove_dir_all(ours).unwrap();
            std::fs::remove_dir_all(theirs).unwrap();
        }
    }
}

/// Reads each archive of a directory and prints what it lists, one line an archive.
const PYTHON: &str = r#"
import sys, tarfile, os
for name in sorted(os.listdir(sys.argv[1]), key=int):
    try:
        with tarfile.open(os.path.join(sys.argv[1], name), 'r:') as archive:
            items = []
            for m in archive:
                kind = {b'0': 'f', b'\0': 'f', b'7': 'f', b'1': 'h', b'2': 'l', b'3': 'c', b'4': 'b', b'5': 'd', b'6': 'p', b'S': 'f'}.get(m.type, '?')
                size = m.size if kind == 'f' else 0
                link = m.linkname if kind in 'hl' else ''
                data = archive.extractfile(m).read() if kind == 'f' and size < 1 << 20 else b''
                text = f"{kind}:{m.name.rstrip('/')}:{link}:{size}:{m.mode & 0o7777:o}:{m.uid}:{len(data)}:{sum(data)}"
                items.append(text.encode('utf-8', 'surrogateescape').hex())
            print('ok ' + ' '.join(items))
    except Exception as why:
        print('error', repr(why).replace('\n', ' '))
"#;

/// The same line out of our reader; `None` if it refuses.
fn our_line(tar: &[u8]) -> Option<String> {
    let mut archive = Archive::new(BufReader::new(tar));
    let mut items = Vec::new();
    while let Some(entry) = archive.next_entry().ok()? {
        let kind = match entry.kind {
            Type::File => 'f',
            Type::HardLink => 'h',
            Type::Symlink => 'l',
            Type::Directory => 'd',
            Type::Char(..) => 'c',
            Type::Block(..) => 'b',
            Type::Fifo => 'p',
        };
        let (mut count, mut sum) = (0usize, 0u64);
        loop {
            let data = archive.data().ok()?;
            if data.is_empty() {
                break;
            }
            sum += data.iter().map(|b| u64::from(*b)).sum::<u64>();
            count += data.len();
            let read = data.len();
            archive.consume(read);
        }
        // Python gives sparse files with their holes, which are zeros.
        let count = if entry.fragments.is_some() && entry.size < 1 << 20 { entry.size as usize } else { count };
        let path = entry.path.iter().rposition(|b| *b != b'/').map_or(&b""[..], |last| &entry.path[..=last]);
        let link = if matches!(kind, 'h' | 'l') { &entry.link[..] } else { b"" };
        let size = if kind == 'f' { entry.size } else { 0 };
        let rest = format!(":{size}:{:o}:{}:{count}:{sum}", entry.mode, entry.uid);
        let text = [kind.to_string().as_bytes(), b":", path, b":", link, rest.as_bytes()].concat();
        items.push(text.iter().map(|b| format!("{b:02x}")).collect::<String>());
    }
    Some(format!("ok {}", items.join(" ")))
}

/// Archives that are good, to be damaged.
fn seeds() -> Vec<Vec<u8>> {
    let one = Tape::new().dir("d/", 0o755).file("d/a", "hello").symlink("l", "d/a").hard_link("h", "d/a");
    let two = Tape::new()
        .pax(&[("path", b"renamed"), ("size", b"5"), ("mtime", b"1.5"), ("SCHILY.xattr.user.x", b"y")])
        .header(&Head { size: 5, ..head("short", b'0') })
        .data(b"12345")
        .pax(&[("linkpath", b"there")])
        .symlink("l2", "x")
        .file("after", "z");
    let three = Tape::new()
        .header(&Head { size: 9, ..head("././@LongLink", b'L') })
        .data(b"long/name")
        .file("cut", "content")
        .header(&Head { size: 5, ..head("././@LongLink", b'K') })
        .data(b"link\0")
        .symlink("s", "cut")
        .header(&head("fifo", b'6'));
    let four = Tape::new()
        .pax(&[("GNU.sparse.size", b"1000"), ("GNU.sparse.map", b"0,3,500,2")])
        .header(&Head { size: 5, ..head("holes", b'0') })
        .data(b"abcde")
        .file("after", "z");
    [one, two, three, four].map(Tape::end).to_vec()
}

fn fix_sums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(header::BLOCK) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

#[test]
fn python_lists_the_same_or_we_refuse() {
    let house = House::new("python");
    let dir = house.path("archives");
    std::fs::create_dir_all(&dir).unwrap();
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    // Bytes that mean something in a tar header are likelier than noise.
    const TELLING: &[u8] = b"0123567xgLKS \0/.=\n9\x80\xff\x01";
    let mut archives = seeds();
    for seed in seeds() {
        for _ in 0..600 {
            let mut tar = seed.clone();
            for _ in 0..1 + random(3) {
                let at = random(tar.len() - 1024);
                tar[at] = TELLING[random(TELLING.len())];
            }
            fix_sums(&mut tar);
            archives.push(tar);
        }
    }
    for (at, tar) in archives.iter().enumerate() {
        std::fs::write(dir.join(at.to_string()), tar).unwrap();
    }
    let python = Command::new("python3").args(["-c", PYTHON]).arg(&dir).stdin(Stdio::null()).output();
    let Ok(python) = python else {
        return eprintln!("SKIPPED python_lists_the_same_or_we_refuse: needs python3");
    };
    assert!(python.status.success(), "{}", String::from_utf8_lossy(&python.stderr));
    let lines = String::from_utf8(python.stdout).unwrap();
    let (mut same, mut refused) = (0, 0);
    let mut differ = Vec::new();
    for (at, (theirs, tar)) in lines.lines().zip(&archives).enumerate() {
        match our_line(tar) {
            None => refused += 1,
            Some(_) if theirs.starts_with("error") => {}
            Some(ours) if ours == theirs => same += 1,
            Some(ours) => differ.push(format!("{at}\n  ours   {}\n  python {}", decode(&ours), decode(theirs))),
        }
    }
    assert!(same > 400, "only {same} agree, {refused} refused: the comparison compares nothing");
    assert!(
        differ.is_empty(),
        "{} of {} differ: {}",
        differ.len(),
        archives.len(),
        differ[..differ.len().min(12)].join("\n")
    );
}

fn decode(line: &str) -> String {
    let item = |hex: &str| {
        let bytes: Vec<u8> =
            (0..hex.len() / 2).filter_map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).ok()).collect();
        format!("{:?}", String::from_utf8_lossy(&bytes))
    };
    line.split(' ').skip(1).map(item).collect::<Vec<_>>().join(" ")
}
