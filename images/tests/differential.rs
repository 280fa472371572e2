//! SECURITY_CASES 14: our tar reader and two others read the same archive the same way, or ours refuses it.
//!
//! GNU tar makes archives in every format and unpacks them beside us; Python's tarfile lists thousands of damaged ones.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use gantry_images::unpack::{self, Options, tar::Archive, tar::Entry, tar::Type};
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

/// As `tar -tv --numeric-owner --quoting-style=escape` prints an entry, but for its time.
fn gnu_line(entry: &Entry) -> String {
    let escape = |name: &[u8]| -> String {
        let one = |byte: &u8| match byte {
            7 => "\\a".into(),
            8 => "\\b".into(),
            11 => "\\v".into(),
            12 => "\\f".into(),
            b'\n' => "\\n".into(),
            b'\r' => "\\r".into(),
            b'\t' => "\\t".into(),
            b'\\' => "\\\\".into(),
            32..=126 => (*byte as char).to_string(),
            other => format!("\\{other:03o}"),
        };
        name.iter().map(one).collect()
    };
    let (kind, size, link) = match entry.kind {
        Type::File => ('-', entry.size.to_string(), String::new()),
        Type::Directory => ('d', "0".into(), String::new()),
        Type::Symlink => ('l', "0".into(), format!(" -> {}", escape(&entry.link))),
        Type::HardLink => ('h', "0".into(), format!(" link to {}", escape(&entry.link))),
        Type::Char(major, minor) => ('c', format!("{major},{minor}"), String::new()),
        Type::Block(major, minor) => ('b', format!("{major},{minor}"), String::new()),
        Type::Fifo => ('p', "0".into(), String::new()),
    };
    let mode: String = (0..9)
        .map(|at| {
            let set = entry.mode >> (8 - at) & 1 == 1;
            let special = at % 3 == 2 && entry.mode >> (11 - at / 3) & 1 == 1;
            match (special, set, at) {
                (true, true, 8) => 't',
                (true, false, 8) => 'T',
                (true, true, _) => 's',
                (true, false, _) => 'S',
                (false, true, _) => ['r', 'w', 'x'][at % 3],
                (false, false, _) => '-',
            }
        })
        .collect();
    let path = escape(&entry.path);
    format!("{kind}{mode} {}/{} {size} {}{link}", entry.uid, entry.gid, path.trim_start())
}

/// GNU tar's lines without padding and time, or `None` if it finds fault with the archive.
fn gnu_lines(path: &Path) -> Option<Vec<String>> {
    let args = ["-P", "--numeric-owner", "--quoting-style=escape", "--utc", "--full-time", "-tvf"];
    let output = Command::new("tar").env("LC_ALL", "C").args(args).arg(path).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    let line = |line: &str| {
        let (mut rest, mut words) = (line, Vec::new());
        for _ in 0..5 {
            let (word, after) = rest.trim_start().split_once(' ')?;
            words.push(word);
            rest = after;
        }
        // The column of times is as wide as its widest entry.
        let rest = rest.trim_start();
        Some(format!("{} {} {} {rest}", words[0].replacen('C', "-", 1), words[1], words[2]))
    };
    text.lines().map(line).collect()
}

#[test]
fn case_14_gnu_tar_lists_the_same_or_we_refuse() {
    let house = House::new("gnu-list");
    let path = house.path("");
    std::fs::create_dir_all(&path).unwrap();
    let (mut same, mut refused, mut differ) = (0, 0, Vec::new());
    for (at, tar) in support::damage::archives(90).iter().enumerate() {
        let path = house.path("archive.tar");
        std::fs::write(&path, tar).unwrap();
        let Some(theirs) = gnu_lines(&path) else { continue };
        let mut archive = Archive::new(BufReader::new(&tar[..]));
        let mut ours = Vec::new();
        let end = loop {
            match archive.next_entry() {
                Ok(Some(entry)) => ours.push(gnu_line(&entry)),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        match end {
            false => refused += 1,
            true if ours == theirs => same += 1,
            true => differ.push(format!("{at}\n  ours {ours:#?}\n  GNU  {theirs:#?}")),
        }
    }
    assert!(same > 150, "only {same} agree, {refused} refused: the comparison compares nothing");
    assert!(differ.is_empty(), "{} differ: {}", differ.len(), differ[..differ.len().min(12)].join("\n"));
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

#[test]
fn case_14_python_lists_the_same_or_we_refuse() {
    let house = House::new("python");
    let dir = house.path("archives");
    std::fs::create_dir_all(&dir).unwrap();
    let archives = support::damage::archives(300);
    for (at, tar) in archives.iter().enumerate() {
        std::fs::write(dir.join(at.to_string()), tar).unwrap();
    }
    let python = Command::new("python3").args(["-c", PYTHON]).arg(&dir).stdin(Stdio::null()).output();
    let Ok(python) = python else {
        return eprintln!("SKIPPED case_14_python_lists_the_same_or_we_refuse: needs python3");
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
