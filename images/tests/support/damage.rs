//! Good archives of every kind, and what becomes of them when bytes that mean something change: the same ones every time.

use gantry_images::unpack::header::BLOCK;

use super::tape::{Head, Tape, head};

/// Archives that are good, to be damaged.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [plain(), pax(), gnu(), sparse(), mixed()].map(Tape::end).to_vec();
    all.extend([old_sparse(), numbers(), star(), joined(1), joined(2)]);
    // A file or a directory, as one reads it.
    all.push(Tape::new().file("a", "1").file("slash/", "").end());
    // Without its end; and as Go leaves an archive that nobody closes, without the padding of its last file.
    let open = Tape::new().file("first", "1").file("last", "2");
    all.push(open.0[..open.0.len() - 511].to_vec());
    all.push(open.0);
    all
}

fn plain() -> Tape {
    let tape = Tape::new().dir("d/", 0o755).file("d/a", "hello").symlink("l", "d/a").hard_link("h", "d/a");
    tape.header(&Head { mode: 0o6711, owner: (7, 8), ..head("set", b'0') })
        .header(&head("old/", 0))
        .header(&head("of", 0))
}

fn pax() -> Tape {
    Tape::new()
        .pax(&[("path", b"renamed"), ("size", b"5"), ("mtime", b"1.5"), ("SCHILY.xattr.user.x", b"y")])
        .header(&Head { size: 5, ..head("short", b'0') })
        .data(b"12345")
        .pax(&[("linkpath", b"there")])
        .symlink("l2", "x")
        .pax(&[("uid", b"3000000"), ("gid", b"4000000"), ("LIBARCHIVE.xattr.user.y", b"AAE")])
        .file("after", "z")
}

fn gnu() -> Tape {
    Tape::new()
        .header(&Head { size: 9, ..head("././@LongLink", b'L') })
        .data(b"long/name")
        .file("cut", "content")
        .header(&Head { size: 5, ..head("././@LongLink", b'K') })
        .data(b"link\0")
        .symlink("s", "cut")
        .header(&head("fifo", b'6'))
        .header(&Head { device: (1, 3), ..head("null", b'3') })
}

fn sparse() -> Tape {
    Tape::new()
        .pax(&[("GNU.sparse.size", b"1000"), ("GNU.sparse.map", b"0,3,500,2")])
        .header(&Head { size: 5, ..head("holes", b'0') })
        .data(b"abcde")
        .file("after", "z")
}

fn mixed() -> Tape {
    Tape::new()
        .header(&Head { size: 14, ..head("global", b'g') })
        .data(b"14 comment=hi\n")
        .file("a", "1")
        .header(&Head { size: 4, ..head("././@LongLink", b'L') })
        .data(b"b/c\0")
        .pax(&[("mtime", b"-1.25")])
        .file("cut", "2")
        .hard_link("again", "a")
}

/// The old form of GNU: the map is in the header and goes on in a block of its own.
fn old_sparse() -> Vec<u8> {
    let mut tar = Tape::new().header(&Head { size: 5, ..head("holes", b'S') }).0;
    tar[257..265].copy_from_slice(b"ustar  \0");
    let pair = |offset: u64, length: u64| format!("{offset:011o}\0{length:011o}\0").into_bytes();
    tar[386..482].copy_from_slice(&[pair(0, 1), pair(100, 1), pair(200, 1), pair(300, 1)].concat());
    tar[482] = 1;
    tar[483..495].copy_from_slice(format!("{:011o}\0", 1000).as_bytes());
    let mut more = [0u8; BLOCK];
    more[..24].copy_from_slice(&pair(500, 1));
    tar.extend(more);
    tar.extend(b"abcde");
    tar.resize(tar.len().next_multiple_of(BLOCK), 0);
    let mut tar = Tape(tar).file("after", "z").end();
    fix_sums(&mut tar);
    tar
}

/// Numbers that octal cannot hold, and times before 1970.
fn numbers() -> Vec<u8> {
    let mut tar = Tape::new().file("big", "12345").end();
    tar[257..265].copy_from_slice(b"ustar  \0");
    tar[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0, 0x2d, 0xc6, 0xc0]);
    tar[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    tar[136..148].copy_from_slice(&[0xff; 12]);
    fix_sums(&mut tar);
    tar
}

fn star() -> Vec<u8> {
    let mut tar = Tape::new().file("name", "12345").file("after", "z").end();
    tar[345..351].copy_from_slice(b"prefix");
    tar[476..488].copy_from_slice(b"07346545000 ");
    tar[488..500].copy_from_slice(b"07346545000 ");
    tar[508..512].copy_from_slice(b"tar\0");
    fix_sums(&mut tar);
    tar
}

/// Two archives one behind the other, so many blocks of zeros between them.
fn joined(blocks: usize) -> Vec<u8> {
    let mut tar = Tape::new().file("first", "1").0;
    tar.resize(tar.len() + blocks * BLOCK, 0);
    [tar, Tape::new().file("second", "2").end(), b"garbage".repeat(100)].concat()
}

/// Makes the sums of all header blocks right again.
pub fn fix_sums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(BLOCK) {
        if &block[257..262] == b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

/// The seeds, and each of them `each` times with up to three bytes changed.
pub fn archives(each: usize) -> Vec<Vec<u8>> {
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    // Bytes that mean something in a tar header are likelier than noise.
    const TELLING: &[u8] = b"0123567xgLKS \0/.=\n9\x80\xff\x01";
    let mut archives = seeds();
    for seed in seeds() {
        for _ in 0..each {
            let mut tar = seed.clone();
            for _ in 0..1 + random(3) {
                let at = random(tar.len().saturating_sub(1024).max(512));
                tar[at] = TELLING[random(TELLING.len())];
            }
            fix_sums(&mut tar);
            archives.push(tar);
        }
    }
    archives
}
