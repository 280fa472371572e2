//! SECURITY_CASES 15: small things that stand for large ones. Each is refused with a sentence that names its limit, and the
//! memory of the process, which nothing else shares, grows by less than 32 MiB at its highest point.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use gantry_images::{Config, Digest, Kind, Store};
use serde_json::{Value, json};
use support::House;
use support::alone::{Memory, alone};
use support::tape::{self, Head, Packing, Tape, head};

const MOST: u64 = 32;

/// A store whose limits are small enough for a disk of a test.
fn store(house: &House) -> Store {
    let mut config = Config::at(house.path("store"));
    config.limits.unpacked_bytes = 80 << 20;
    config.limits.entries = 20_000;
    Store::open(config).unwrap()
}

/// Imports, and wants a refusal with these words, little memory, and nothing left.
fn refused(name: &str, store: &Store, path: &Path, words: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // Threads and their first buffers are no part of it.
    runtime.block_on(async { drop(store.usage().await) });
    let memory = Memory::start();
    let why = runtime.block_on(store.import(path, None)).expect_err(name);
    let grown = memory.grown();
    assert!(matches!(why.kind(), Kind::Invalid | Kind::TooLarge | Kind::Unsupported), "{name}: {why:?}");
    let said = why.to_string();
    assert!(said.contains(words) && said.len() < 4096, "{name}: {} ...", &said[..said.len().min(4096)]);
    eprintln!("{name}: {grown} MiB");
    assert!(grown < MOST, "{name}: {grown} MiB");
    assert_eq!(std::fs::read_dir(store.root().join("unpack")).unwrap().count(), 0, "{name}: left");
}

/// A layout whose one layer is these bytes.
fn layer(house: &House, name: &str, blob: &[u8], media_type: &str) -> PathBuf {
    layout(&house.path(name), vec![(blob.to_vec(), media_type.to_owned())], json!({}))
}

/// A layout of blobs as they are, with more keys for the configuration.
fn layout(out: &Path, layers: Vec<(Vec<u8>, String)>, config: Value) -> PathBuf {
    std::fs::create_dir_all(out.join("blobs/sha256")).unwrap();
    let put = |body: &[u8], media_type: &str| {
        let digest = Digest::of(body);
        std::fs::write(out.join("blobs/sha256").join(digest.hex()), body).unwrap();
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": body.len()})
    };
    let diff_ids: Vec<String> = layers.iter().map(|(blob, _)| Digest::of(blob).to_string()).collect();
    let layers: Vec<Value> = layers.iter().map(|(blob, media_type)| put(blob, media_type)).collect();
    let mut body = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    config.as_object().unwrap().iter().for_each(|(key, value)| body[key] = value.clone());
    let config = put(body.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
    index(out, &[put(manifest.to_string().as_bytes(), media_type)]);
    out.to_owned()
}

fn index(out: &Path, entries: &[Value]) {
    let mut entries = entries.to_vec();
    entries[0]["annotations"] = json!({"org.opencontainers.image.ref.name": "x:1"});
    std::fs::write(out.join("index.json"), json!({"schemaVersion": 2, "manifests": entries}).to_string()).unwrap();
    std::fs::write(out.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// A zstd frame by hand: one raw block, then `count` blocks of 128 KiB of one byte each, four bytes a block.
fn zstd_of_zeros(start: &[u8], count: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x50];
    let head = |kind: u32, size: u32, last: bool| (u32::from(last) | kind << 1 | size << 3).to_le_bytes();
    frame.extend(&head(0, start.len() as u32, false)[..3]);
    frame.extend(start);
    for at in 1..=count {
        frame.extend(&head(1, 128 << 10, at == count)[..3]);
        frame.push(0);
    }
    frame
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    Packing::Gzip.pack(plain).0
}

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

#[test]
fn case_15_layers_that_swell() {
    if !alone("case_15_layers_that_swell") {
        return;
    }
    let house = House::new("swell");
    let store = store(&house);
    let file = |size| Tape::new().header(&Head { size, ..head("zeros", b'0') }).0;
    // 131 KB that are 4 GiB.
    let frame = zstd_of_zeros(&file(4 << 30), 32 << 10);
    assert!(frame.len() < 140 << 10);
    refused("zstd", &store, &layer(&house, "zstd", &frame, ZSTD), "bytes unpacked");
    let members: Vec<u8> = gzip(&file(7 << 30)).into_iter().chain(gzip(&vec![0; 1 << 20]).repeat(100)).collect();
    assert!(members.len() < 1 << 20, "{}", members.len());
    refused("gzip members", &store, &layer(&house, "members", &members, GZIP), "bytes unpacked");
    let nested = gzip(&gzip(&gzip(&file(1 << 20))));
    refused("gzip in gzip", &store, &layer(&house, "nested", &nested, GZIP), "tar");
    let window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 1, 0, 0];
    refused("a window", &store, &layer(&house, "window", &window, ZSTD), "a zstd window of 2048 MiB, more than 32");
    let second = [zstd_of_zeros(&file(1 << 20), 1), window.to_vec()].concat();
    refused("a second window", &store, &layer(&house, "second", &second, ZSTD), "decompress the layer");
    // A skippable frame says that four gigabytes follow; the blob ends.
    let skip = [0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff, 0];
    refused("a skippable frame", &store, &layer(&house, "skip", &skip, ZSTD), "");
}

#[test]
fn case_15_names_that_multiply() {
    if !alone("case_15_names_that_multiply") {
        return;
    }
    let house = House::new("multiply");
    let store = store(&house);
    let import = |name: &str, tape: Tape, words: &str| {
        let base = Tape::new().dir("./", 0o755).end();
        let layers = [(base, Packing::Gzip), (tape.end(), Packing::Gzip)];
        refused(name, &store, &tape::layout(&house.path(name), &format!("{name}:1"), &layers), words);
    };
    // Each entry stands for two thousand directories with names of their own.
    let deep = |at: usize, last: &str| format!("{at}/{}{last}", "d/".repeat(2020));
    let each = |count: usize, last: &str| {
        (0..count).fold(Tape::new(), |tape, at| tape.pax(&[("path", deep(at, last).as_bytes())]).file("x", ""))
    };
    import("directories", each(12, "file"), "more than");
    import("whiteouts", each(12, ".wh.file"), "more than");
    import("opaque", each(12, ".wh..wh..opq"), "more than");
    let many = (0..20_001).fold(Tape::new(), |tape, at| tape.dir(&format!("{at}"), 0o755));
    import("entries", many, "more than 20000 entries");
    let long = "n".repeat(200);
    let links = (0..3000).fold(Tape::new(), |tape, at| {
        let to = format!("{}{at}", format!("{long}/").repeat(18));
        tape.pax(&[("linkpath", to.as_bytes())]).hard_link(&format!("{at}"), "")
    });
    import("links", links, "hard links to lower layers");
    let names: Vec<String> = (0..1025).map(|at| format!("SCHILY.xattr.user.{at}")).collect();
    let records: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    import("attributes", Tape::new().pax(&records).file("x", ""), "more than 1024 attributes");
    let name = format!("SCHILY.xattr.user.{}", "n".repeat(1000));
    import("an attribute", Tape::new().pax(&[(&name, b"")]).file("x", ""), "an attribute's name");
    let path = vec![b'p'; 1 << 20];
    import("a path", Tape::new().pax(&[("path", &path[..(1 << 20) - 100])]).file("x", ""), "more than 4095");
    import("an extension", Tape::new().pax(&[("comment", &path)]).file("x", ""), "more than 1048576");
    let map = "0,0,".repeat((1 << 18) - 20) + "0,0";
    let sparse = [("GNU.sparse.size", &b"1"[..]), ("GNU.sparse.map", map.as_bytes())];
    import(
        "a sparse map",
        Tape::new().pax(&sparse).header(&Head { size: 1, ..head("x", b'0') }).data(b"x"),
        "sparse map",
    );
    let lines = format!("{}\n", 1 << 20);
    let tape = Tape::new().pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"1")]);
    let tape = tape.header(&Head { size: lines.len() as u64, ..head("x", b'0') }).data(lines.as_bytes());
    import("a leading map", tape, "fragments");
}

#[test]
fn case_15_documents_without_end() {
    if !alone("case_15_documents_without_end") {
        return;
    }
    let house = House::new("documents");
    let store = store(&house);
    let plain = || {
        let tar = Tape::new().file("a", "1").end();
        vec![(tar, "application/vnd.oci.image.layer.v1.tar".to_owned())]
    };
    let sized = |path: PathBuf, size: u64| {
        std::fs::File::options().write(true).create(true).truncate(false).open(path).unwrap().set_len(size).unwrap()
    };
    let dir = layout(&house.path("index"), plain(), json!({}));
    sized(dir.join("index.json"), 1 << 30);
    refused("an index of 1 GiB", &store, &dir, "index.json");
    let dir = layout(&house.path("marker"), plain(), json!({}));
    sized(dir.join("oci-layout"), 1 << 30);
    refused("a marker of 1 GiB", &store, &dir, "oci-layout");
    // The same inside of an archive.
    let archive = house.path("archive.tar");
    let tape = Tape::new().file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    let tape = tape.header(&Head { size: 1 << 30, ..head("index.json", b'0') });
    std::fs::write(&archive, &tape.0).unwrap();
    sized(archive.clone(), tape.0.len() as u64 + (1 << 30) + 1024);
    refused("an archive with an index of 1 GiB", &store, &archive, "index.json");
    let big = json!({"history": [{"created_by": "x".repeat(5 << 20)}]});
    refused("a configuration", &store, &layout(&house.path("config"), plain(), big), "image configuration of");
    // A blob that is longer than its descriptor, and one that is a pipe.
    let dir = layout(&house.path("longer"), plain(), json!({}));
    for blob in std::fs::read_dir(dir.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()) {
        sized(blob, 1 << 30);
    }
    refused("blobs of 1 GiB", &store, &dir, "blob");
    let dir = layout(&house.path("pipe"), plain(), json!({}));
    for blob in std::fs::read_dir(dir.join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().path()) {
        std::fs::remove_file(&blob).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &blob, rustix::fs::Mode::from(0o600)).unwrap();
    }
    refused("blobs that are pipes", &store, &dir, "no regular file");
    // Four megabytes of index: of nothing but brackets, and of entries.
    let dir = layout(&house.path("deep"), plain(), json!({}));
    std::fs::write(dir.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":{}"#, "[".repeat(4_000_000)))
        .unwrap();
    refused("brackets", &store, &dir, "index.json");
    let entry = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": Digest::of(b"x").to_string(), "size": 1});
    index(&dir, &vec![entry; 20_000]);
    refused("entries", &store, &dir, "more than 1024 entries");
    let zeros = gzip(&vec![0; 64 << 20]);
    std::fs::File::create(house.path("zeros.tar.gz")).unwrap().write_all(&zeros).unwrap();
    refused("an archive of nothing", &store, &house.path("zeros.tar.gz"), "");
}

/// What is within the limits and as dense as it can be.
#[test]
fn case_15_the_largest_configuration_that_is_taken() {
    if !alone("case_15_the_largest_configuration_that_is_taken") {
        return;
    }
    let house = House::new("largest");
    let store = store(&house);
    let tar = vec![(Tape::new().file("a", "1").end(), "application/vnd.oci.image.layer.v1.tar".to_owned())];
    let env: Vec<String> = (0..200_000).map(|at| format!("A{at}=")).collect();
    let dir = layout(&house.path("env"), tar, json!({"config": {"Env": env}}));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let memory = Memory::start();
    let image = runtime.block_on(store.import(&dir, None)).unwrap().remove(0);
    let grown = memory.grown();
    eprintln!("200,000 variables: {grown} MiB");
    assert_eq!(image.config.config().as_ref().unwrap().env().as_ref().unwrap().len(), 200_000);
    assert!(grown < MOST, "{grown} MiB");
}
