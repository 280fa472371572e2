//! Forms of images: what other tools write is read, what we write they read; artifacts; indexes in indexes.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gantry_images::{Digest, Form, ImportOptions, Input, Kind, Output, Store, quiet};
use serde_json::{Value, json};
use support::tape::{self, Packing, Tape};
use support::{House, listing, may_mount};

fn installed(tool: &str, test: &str) -> bool {
    let found = ["/usr/bin", "/usr/sbin"].iter().any(|dir| Path::new(dir).join(tool).exists());
    if !found {
        eprintln!("SKIPPED {test}: needs {tool} (apt install {tool})");
    }
    found
}

fn run(tool: &str, args: &[&str]) -> String {
    let said = Command::new(tool).args(args).stdin(Stdio::null()).output().unwrap();
    let why = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success(), "{tool} {args:?}: {why}");
    String::from_utf8(said.stdout).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A layout of two layers, one gzip, one mostly zstd, with everything that a round trip may lose.
fn layout(house: &House, name: &str) -> PathBuf {
    layout_of(house, name, Packing::Zstd)
}

fn layout_of(house: &House, name: &str, upper: Packing) -> PathBuf {
    let one = Tape::new().dir("bin", 0o755).file("bin/sh", "#!").symlink("init", "bin/sh").hard_link("ash", "bin/sh");
    let two = Tape::new().dir("etc", 0o700).file("etc/x", name).file("bin/.wh.sh", "");
    let layers = [(one.end(), Packing::Gzip), (two.end(), upper)];
    tape::layout(&house.path(&format!("{name}.oci")), &format!("{name}:1"), &layers)
}

async fn tree(store: &Store, id: &str, key: &str) -> Vec<String> {
    let rootfs = store.rootfs(id, key).await.unwrap();
    let seen = listing::of(&rootfs.path);
    store.release_rootfs(key).await.unwrap();
    seen
}

/// Our exports, read by ourselves and by skopeo, in every form, packed or not, by path and as a stream.
#[tokio::test]
async fn what_we_write_is_read() {
    if !may_mount("what_we_write_is_read") {
        return;
    }
    let house = House::new("formats");
    let store = house.store();
    let image = store.import(&layout(&house, "web"), None).await.unwrap().remove(0);
    let whole = tree(&store, &image.id, "c").await;
    store.import(&layout(&house, "db"), None).await.unwrap();
    store.tag("db:1", &"127.0.0.1:5000/team/db:2".parse().unwrap()).await.unwrap();
    let names = ["web:1".to_owned(), "127.0.0.1:5000/team/db:2".to_owned(), "db:1".to_owned()];
    for (form, scheme, file) in [
        (Form::OciArchive, "oci-archive", "o.tar"),
        (Form::DockerArchive, "docker-archive", "d.tar"),
        (Form::OciDir, "oci", "dir"),
    ] {
        let out = house.path(file);
        store.export_to(&names, form, Output::Path(out.clone())).await.unwrap();
        let why = store.export_to(&names, form, Output::Path(out.clone())).await.unwrap_err();
        assert_eq!(why.kind(), Kind::Conflict, "{why}");
        if installed("skopeo", "what skopeo reads of our exports") {
            let full = "docker.io/library/web:1";
            let seen: Value =
                serde_json::from_str(&run("skopeo", &["inspect", &format!("{scheme}:{}:{full}", text(&out))])).unwrap();
            assert_eq!(seen["Layers"].as_array().unwrap().len(), 2, "{scheme}: {seen}");
            let copy = format!("oci:{}:x", text(&house.path(&format!("copy-{file}"))));
            run("skopeo", &["copy", "-q", &format!("{scheme}:{}:{full}", text(&out)), &copy]);
        }
        let other = Store::open(gantry_images::Config::at(house.path(&format!("store-{file}")))).unwrap();
        let mut back = other.import(&out, None).await.unwrap();
        back.sort_by_key(|image| image.repo_tags.clone());
        let tags: Vec<_> = other.images().iter().flat_map(|image| image.repo_tags.clone()).collect();
        assert_eq!(tags.len(), 3, "{tags:?}");
        assert_eq!(tree(&other, &image.id, "c").await, whole, "{scheme}");
    }
    // Packed by hand, and through a pipe.
    run("sh", &["-c", &format!("cd {} && gzip -k d.tar && zstd -q o.tar", text(&house.path("")))]);
    for (at, packed) in ["d.tar.gz", "o.tar.zst"].into_iter().enumerate() {
        let other = Store::open(gantry_images::Config::at(house.path(&format!("packed-{at}")))).unwrap();
        let mut cat = Command::new("cat").arg(house.path(packed)).stdout(Stdio::piped()).spawn().unwrap();
        let pipe = std::fs::File::from(std::os::fd::OwnedFd::from(cat.stdout.take().unwrap()));
        let images = other.import_from(Input::Stream(pipe), ImportOptions::default(), quiet()).await.unwrap();
        cat.wait().unwrap();
        assert_eq!(images.iter().map(|image| image.repo_tags.len()).max(), Some(2));
        assert_eq!(other.import(&house.path(packed), None).await.unwrap().len(), images.len());
        assert_eq!(tree(&other, &image.id, "c").await, whole);
    }
    let bad = house.path("bad");
    std::fs::write(&bad, "no archive at all, only text that is longer than a block of tar".repeat(20)).unwrap();
    assert!(store.import(&bad, None).await.is_err());
    assert_eq!(std::fs::read_dir(house.path("store/ingest")).unwrap().count(), 0);
}

/// podman and skopeo load what we save and save what we load.
#[tokio::test]
async fn podman_and_skopeo_archives() {
    if !may_mount("podman_and_skopeo_archives") || !installed("podman", "podman_and_skopeo_archives") {
        return;
    }
    let house = House::new("formats-podman");
    let store = house.store();
    let image = store.import(&layout_of(&house, "web", Packing::Plain), None).await.unwrap().remove(0);
    let whole = tree(&store, &image.id, "c").await;
    // podman wants a short path here.
    let run_root = PathBuf::from(format!("/tmp/gantry-podman-{}", std::process::id()));
    let root = house.path("podman");
    let own = ["--root", text(&root), "--runroot", text(&run_root), "--storage-driver", "vfs"];
    let podman = |args: &[&str]| run("podman", &[&own[..], args].concat());
    for form in [Form::OciArchive, Form::DockerArchive] {
        let out = house.path(&format!("{form:?}.tar"));
        store.export_to(&["web:1".to_owned()], form, Output::Path(out.clone())).await.unwrap();
        podman(&["load", "-q", "-i", text(&out)]);
        let names = podman(&["images", "--format", "{{.Repository}}:{{.Tag}} {{.Id}}", "--no-trunc"]);
        assert!(names.contains("docker.io/library/web:1"), "{form:?}: {names}");
    }
    podman(&["tag", "docker.io/library/web:1", "localhost/other:2"]);
    for (format, file) in [("docker-archive", "p.tar"), ("oci-archive", "q.tar"), ("oci-dir", "q.dir")] {
        let out = house.path(file);
        podman(&["save", "-q", "--format", format, "-o", text(&out), "docker.io/library/web:1"]);
        let other = Store::open(gantry_images::Config::at(house.path(&format!("store-{file}")))).unwrap();
        let back = other.import(&out, None).await.unwrap().remove(0);
        assert_eq!(back.repo_tags, ["docker.io/library/web:1"], "{format}");
        assert_eq!(tree(&other, &back.id, "c").await, whole, "{format}");
    }
    let both = house.path("both.tar");
    podman(&["save", "-q", "-m", "-o", text(&both), "docker.io/library/web:1", "localhost/other:2"]);
    let other = Store::open(gantry_images::Config::at(house.path("store-both"))).unwrap();
    let tags: Vec<String> =
        other.import(&both, None).await.unwrap().iter().flat_map(|image| image.repo_tags.clone()).collect();
    assert!(tags.contains(&"localhost/other:2".to_owned()) && tags.contains(&"docker.io/library/web:1".to_owned()));
    run("podman", &[&own[..], &["rmi", "-a", "-f"]].concat());
    std::fs::remove_dir_all(run_root).unwrap();
}

/// containerd imports what we export and exports what we import.
#[tokio::test]
async fn containerd_archives() {
    if !may_mount("containerd_archives") || !installed("containerd", "containerd_archives") {
        return;
    }
    let house = House::new("formats-ctr");
    let store = house.store();
    let image = store.import(&layout(&house, "web"), None).await.unwrap().remove(0);
    let whole = tree(&store, &image.id, "c").await;
    let (config, socket) = (house.path("c.toml"), house.path("c.sock"));
    let text_of = format!(
        "version = 2\nroot = '{}'\nstate = '{}'\ndisabled_plugins = ['io.containerd.grpc.v1.cri', \
         'io.containerd.internal.v1.opt', 'io.containerd.snapshotter.v1.devmapper']\n[grpc]\naddress = '{}'\n",
        text(&house.path("c-root")),
        text(&house.path("c-state")),
        text(&socket)
    );
    std::fs::write(&config, text_of).unwrap();
    let mut containerd = Command::new("containerd").args(["-c", text(&config)]).stderr(Stdio::null()).spawn().unwrap();
    let ctr = |args: &[&str]| {
        let said = Command::new("ctr").args(["-a", text(&socket), "images"]).args(args).output().unwrap();
        let all = [said.stdout, said.stderr].concat();
        (said.status.success(), String::from_utf8(all).unwrap())
    };
    let end = Instant::now() + Duration::from_secs(20);
    while !ctr(&["ls"]).0 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut outcomes = Vec::new();
    for form in [Form::OciArchive, Form::DockerArchive] {
        let out = house.path(&format!("{form:?}.tar"));
        store.export_to(&["web:1".to_owned()], form, Output::Path(out.clone())).await.unwrap();
        outcomes.push(ctr(&["import", "--snapshotter", "native", text(&out)]));
        outcomes.push(ctr(&["ls", "-q"]));
    }
    let back = house.path("back.tar");
    outcomes.push(ctr(&["export", text(&back), "docker.io/library/web:1"]));
    containerd.kill().unwrap();
    containerd.wait().unwrap();
    assert!(outcomes.iter().all(|(ok, _)| *ok), "{outcomes:?}");
    assert!(outcomes[1].1.contains("docker.io/library/web:1"), "{outcomes:?}");
    let other = Store::open(gantry_images::Config::at(house.path("store-back"))).unwrap();
    let image = other.import(&back, None).await.unwrap().remove(0);
    assert_eq!(image.repo_tags, ["docker.io/library/web:1"]);
    assert_eq!(tree(&other, &image.id, "c").await, whole);
}

/// Writes blobs of a layout by hand.
struct Hand(PathBuf);

impl Hand {
    fn new(dir: PathBuf) -> Self {
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self(dir)
    }

    fn put(&self, media_type: &str, body: &[u8], more: Value) -> Value {
        let digest = Digest::of(body);
        std::fs::write(self.0.join("blobs/sha256").join(digest.hex()), body).unwrap();
        let mut descriptor = json!({"mediaType": media_type, "digest": digest.to_string(), "size": body.len()});
        descriptor.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        descriptor
    }

    fn image(&self, architecture: &str, more: Value) -> Value {
        let tar = Tape::new().file("arch", architecture).end();
        let layer = self.put("application/vnd.oci.image.layer.v1.tar", &tar, json!({}));
        let config = json!({"os": "linux", "architecture": architecture, "config": {},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&tar).to_string()]}});
        let config = self.put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes(), json!({}));
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [layer]});
        self.put("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes(), more)
    }

    fn index(&self, entries: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
        self.put("application/vnd.oci.image.index.v1+json", index.as_bytes(), json!({}))
    }

    fn done(self, mut top: Value, name: &str) -> PathBuf {
        top["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        let index = json!({"schemaVersion": 2, "manifests": [top]}).to_string();
        std::fs::write(self.0.join("index.json"), index).unwrap();
        self.0
    }
}

#[tokio::test]
async fn an_artifact_is_a_volume_of_files() {
    if !may_mount("an_artifact_is_a_volume_of_files") {
        return;
    }
    let house = House::new("artifact");
    let store = house.store();
    let artifact = |dir: &str, content: &str| {
        let hand = Hand::new(house.path(dir));
        let empty = hand.put("application/vnd.oci.empty.v1+json", b"{}", json!({}));
        let title = |name: &str| json!({"annotations": {"org.opencontainers.image.title": name}});
        let one = hand.put("application/x-model", content.as_bytes(), title("model.bin"));
        let two = hand.put("text/plain", b"read me", title("docs/README"));
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/x-model", "config": empty, "layers": [one, two]});
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let top = hand.put(kind, manifest.to_string().as_bytes(), json!({}));
        hand.done(top, &format!("{dir}:1"))
    };
    // Both have the same empty configuration.
    let image = store.import(&artifact("model-a", "aaa"), None).await.unwrap().remove(0);
    let other = store.import(&artifact("model-b", "bbbb"), None).await.unwrap().remove(0);
    assert_eq!((image.artifact.as_deref(), store.images().len()), (Some("application/x-model"), 2));
    assert_eq!(image.id, image.manifest.to_string());
    let seen = tree(&store, &image.id, "v").await;
    assert!(seen.iter().any(|line| line.contains("model.bin")), "{seen:?}");
    let rootfs = store.rootfs(&other.id, "w").await.unwrap();
    assert_eq!(std::fs::read_to_string(rootfs.path.join("model.bin")).unwrap(), "bbbb");
    assert_eq!(std::fs::read_to_string(rootfs.path.join("docs/README")).unwrap(), "read me");
    store.release_rootfs("w").await.unwrap();
    // Out and in again, and gone without a trace.
    let out = house.path("artifact.tar");
    store.export("model-a:1", &out).await.unwrap();
    let docker = store.export_to(&["model-a:1".into()], Form::DockerArchive, Output::Path(house.path("d"))).await;
    assert_eq!(docker.unwrap_err().kind(), Kind::Unsupported);
    for name in ["model-a:1", "model-b:1"] {
        assert!(store.remove(name).await.unwrap());
    }
    for dir in ["layers", "blobs/sha256"] {
        assert_eq!(std::fs::read_dir(house.path("store").join(dir)).unwrap().count(), 0, "{dir}");
    }
    let back = store.import(&out, None).await.unwrap().remove(0);
    assert_eq!(tree(&store, &back.id, "v").await, seen);
}

#[tokio::test]
async fn indexes_in_indexes_and_entries_without_a_platform() {
    let house = House::new("nested");
    let store = house.store();
    let said = |architecture: &str| json!({"platform": {"os": "linux", "architecture": architecture}});
    let wanted = |text: &str| ImportOptions { name: None, platform: Some(text.parse().unwrap()) };
    let import = async |layout: PathBuf, platform: &str| {
        let input = Input::Path(layout);
        let found = store.import_from(input, wanted(platform), quiet()).await;
        found.map(|images| images[0].config.architecture().to_string())
    };
    let hand = Hand::new(house.path("nested"));
    let inner = hand.index(&[hand.image("s390x", said("s390x")), hand.image("riscv64", said("riscv64"))]);
    let statement = hand.image(
        "amd64",
        json!({"platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"}}),
    );
    let middle = hand.index(&[hand.image("arm64", json!({})), inner]);
    let top = hand.index(&[statement, hand.image("386", said("386")), middle]);
    let layout = hand.done(top, "nested:1");
    for architecture in ["386", "s390x", "riscv64", "arm64"] {
        assert_eq!(import(layout.clone(), &format!("linux/{architecture}")).await.unwrap(), architecture);
    }
    let why = import(layout, "linux/mips64le").await.unwrap_err();
    assert!(why.kind() == Kind::Unsupported && why.to_string().contains("there is linux/386"), "{why}");
    // Deeper than anybody needs.
    let hand = Hand::new(house.path("deep"));
    let mut top = hand.index(&[hand.image("s390x", said("s390x"))]);
    for _ in 0..6 {
        top = hand.index(&[top]);
    }
    let why = import(hand.done(top, "deep:1"), "linux/s390x").await.unwrap_err();
    assert_eq!(why.kind(), Kind::TooLarge, "{why}");
}

/// Layers that others can fetch in parts are plain gzip and zstd to us, and what only their packing needs is not there.
#[tokio::test]
async fn stargz_and_chunked_layers() {
    use std::io::Write as _;
    if !may_mount("stargz_and_chunked_layers") {
        return;
    }
    let house = House::new("stargz");
    let store = house.store();
    let gzip = |bytes: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(bytes).unwrap();
        gzip.finish().unwrap()
    };
    // Each file in a gzip member of its own, the table of contents last, then an empty member as footer.
    let body = Tape::new().file(".no.prefetch.landmark", "\u{f}").file("a", "one").dir("d", 0o755).file("d/b", "two").0;
    let toc = Tape::new().file("stargz.index.json", "{\"version\":1}").end();
    let stargz = ([&body[..], &toc].concat(), [gzip(&body), gzip(&toc), gzip(b"")].concat());
    // zstd frames, then a skippable one with the manifest and the footer of zstd:chunked.
    let tar = Tape::new().file("c", "three").file("d/stargz.index.json", "of the image").end();
    let (front, back) = tar.split_at(512);
    let mut chunked = [zstd::encode_all(front, 1).unwrap(), zstd::encode_all(back, 1).unwrap()].concat();
    chunked.extend([0x50, 0x2a, 0x4d, 0x18, 5, 0, 0, 0]);
    chunked.extend(b"table");
    let hand = Hand::new(house.path("stargz"));
    let mut descriptors = Vec::new();
    for (blob, kind) in [(&stargz.1, "gzip"), (&chunked, "zstd")] {
        descriptors.push(hand.put(&format!("application/vnd.oci.image.layer.v1.tar+{kind}"), blob, json!({})));
    }
    let diff_ids = [Digest::of(&stargz.0).to_string(), Digest::of(&tar).to_string()];
    let config = json!({"os": "linux", "architecture": "amd64", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = hand.put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes(), json!({}));
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": descriptors}).to_string();
    let top = hand.put("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes(), json!({}));
    let image = store.import(&hand.done(top, "parts:1"), None).await.unwrap().remove(0);
    let seen = tree(&store, &image.id, "c").await;
    let names: Vec<&str> = seen.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["/", "/a", "/c", "/d", "/d/b", "/d/stargz.index.json"]);
}
