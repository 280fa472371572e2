//! SECURITY_CASES 16, 17, 20 and 21, the image's side: documents with two faces, paths of the host in what an image brings,
//! and words of its author in places that are ours.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use gantry_images::{Digest, Kind, Store};
use serde_json::{Value, json};
use support::tape::Tape;
use support::{House, may_mount};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A layout whose manifest and configuration can be changed before they are written.
struct Layout {
    dir: PathBuf,
    config: Value,
    manifest: Value,
}

impl Layout {
    fn new(dir: PathBuf) -> Self {
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let tar = Tape::new().dir("./", 0o755).file("a", "1").end();
        let config = json!({"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(&tar).to_string()]}});
        let layer = put(&dir, &tar, "application/vnd.oci.image.layer.v1.tar");
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [layer]});
        Self { dir, config, manifest }
    }

    /// Writes all of it; the exact text of the manifest comes from `text`.
    fn write(mut self, text: impl FnOnce(&Value) -> String) -> (PathBuf, String) {
        self.manifest["config"] =
            put(&self.dir, self.config.to_string().as_bytes(), "application/vnd.oci.image.config.v1+json");
        let body = text(&self.manifest);
        let mut entry = put(&self.dir, body.as_bytes(), MANIFEST);
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": "x:1"});
        std::fs::write(self.dir.join("index.json"), json!({"schemaVersion": 2, "manifests": [entry]}).to_string())
            .unwrap();
        (self.dir, body)
    }
}

fn put(dir: &Path, body: &[u8], media_type: &str) -> Value {
    let digest = Digest::of(body);
    std::fs::write(dir.join("blobs/sha256").join(digest.hex()), body).unwrap();
    json!({"mediaType": media_type, "digest": digest.to_string(), "size": body.len()})
}

#[tokio::test(flavor = "multi_thread")]
async fn case_16_documents_with_two_faces() {
    let house = House::new("faces");
    let other = json!([{"mediaType": MANIFEST, "digest": Digest::of(b"x").to_string(), "size": 1}]);
    let with = |key: &'static str, value: Value| {
        move |manifest: &Value| {
            let mut both = manifest.clone();
            both[key] = value;
            both.to_string()
        }
    };
    let twice = |key: &'static str| {
        move |manifest: &Value| {
            let text = manifest.to_string();
            format!("{},\"{key}\":{}}}", text.strip_suffix('}').unwrap(), manifest[key])
        }
    };
    type Text = Box<dyn FnOnce(&Value) -> String>;
    let cases: Vec<(&str, Text)> = vec![
        ("both", Box::new(with("manifests", other.clone()))),
        ("an empty other face", Box::new(with("manifests", json!([])))),
        ("a face in capitals", Box::new(with("Manifests", other.clone()))),
        ("a face with a long s", Box::new(with("manife\u{17f}ts", other))),
        ("says it is an index", Box::new(with("mediaType", json!(INDEX)))),
        ("says it is something else", Box::new(with("mediaType", json!("text/plain")))),
        ("layers twice", Box::new(twice("layers"))),
        ("config twice", Box::new(twice("config"))),
        ("of the first schema", Box::new(with("schemaVersion", json!(1)))),
        ("with layers of the first schema", Box::new(with("fsLayers", json!([])))),
        ("two documents", Box::new(|manifest| format!("{manifest}{manifest}"))),
    ];
    let store = house.store();
    for (at, (name, text)) in cases.into_iter().enumerate() {
        let (dir, _) = Layout::new(house.path(&at.to_string())).write(text);
        let why = store.import(&dir, None).await.expect_err(name);
        assert!(matches!(why.kind(), Kind::Invalid | Kind::Unsupported), "{name}: {why:?}");
        assert!(store.images().is_empty(), "{name}");
    }
    // What is taken keeps the digest of its exact text, whatever the text looks like.
    let (dir, body) = Layout::new(house.path("good")).write(|manifest| format!(" {manifest:#} \n"));
    let image = store.import(&dir, None).await.unwrap().remove(0);
    assert_eq!(image.manifest, Digest::of(body.as_bytes()));
}

/// A secret of the host beside the store; nothing of it may come into the store or into a message.
struct Secret(PathBuf);

const TEXT: &str = "gantry-canary-of-the-host";

impl Secret {
    fn new(house: &House) -> Self {
        let path = house.path("secret");
        std::fs::write(&path, TEXT).unwrap();
        Self(path)
    }

    fn is_kept(&self, store: &Store, said: &str) {
        assert!(!said.contains(TEXT), "{said}");
        let grep = std::process::Command::new("grep").args(["-rlF", TEXT]).arg(store.root()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&grep.stdout), "", "the secret is in the store");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_17_paths_of_the_host_in_an_image() {
    let house = House::new("paths");
    let secret = Secret::new(&house);
    let path = secret.0.to_string_lossy().into_owned();
    let store = house.store();
    let refused = async |name: &str, image: &Path| {
        let why = store.import(image, None).await.expect_err(name);
        secret.is_kept(&store, &why.to_string());
    };
    // Blobs and documents that are links.
    for which in ["index.json", "oci-layout", "manifest", "config", "layer"] {
        let (dir, manifest) = Layout::new(house.path(which)).write(Value::to_string);
        let parsed: Value = serde_json::from_str(&manifest).unwrap();
        let blob =
            |digest: &Value| dir.join("blobs/sha256").join(digest.as_str().unwrap().trim_start_matches("sha256:"));
        let file = match which {
            "manifest" => dir.join("blobs/sha256").join(Digest::of(manifest.as_bytes()).hex()),
            "config" => blob(&parsed["config"]["digest"]),
            "layer" => blob(&parsed["layers"][0]["digest"]),
            name => dir.join(name),
        };
        std::fs::remove_file(&file).unwrap();
        symlink(&path, &file).unwrap();
        refused(which, &dir).await;
    }
    // Digests that are paths.
    for digest in ["sha256:../../../secret", "../../secret:aa", "sha256:/etc/passwd", "sha256:..", ""] {
        let mut layout = Layout::new(house.path("digest"));
        layout.manifest["layers"][0]["digest"] = json!(digest);
        refused(digest, &layout.write(Value::to_string).0).await;
    }
    // Docker's older archives name files by path, and link to them.
    let climbing = format!("../../../../../../../..{path}");
    for (config, layer) in [(path.as_str(), "l.tar"), (&climbing, "l.tar"), ("c.json", &path), ("c.json", &climbing)] {
        let manifest = json!([{"Config": config, "RepoTags": ["x:1"], "Layers": [layer]}]).to_string();
        let rootfs = json!({"type": "layers", "diff_ids": [Digest::of(TEXT.as_bytes()).to_string()]});
        let body = json!({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).to_string();
        let plain = Tape::new().file("manifest.json", &manifest).file("c.json", &body).file("l.tar", "x");
        let linked = Tape::new().symlink("l.tar", &path).symlink("c.json", &climbing).file("manifest.json", &manifest);
        let absolute = plain.clone().symlink(path.trim_start_matches('/'), &path);
        for (at, tape) in [plain, linked, absolute].into_iter().enumerate() {
            let file = house.path(&format!("docker-{at}.tar"));
            std::fs::write(&file, tape.end()).unwrap();
            refused(&format!("{config} {layer} {at}"), &file).await;
        }
    }
    // Names that are paths.
    for name in ["../../x", "/etc/passwd", "a/../b:1", "x:../../etc"] {
        assert!(name.parse::<gantry_images::Reference>().is_err(), "{name}");
    }
    for key in ["../x", "a/b", ".", "..", ""] {
        assert_eq!(store.rootfs("sha256:none", key).await.unwrap_err().kind(), Kind::InvalidArgument, "{key}");
    }
}

/// Volumes, directories and files that the kubelet and the CRI server look for are links out of the image: they are what
/// the image shows, and reach nothing from inside of the mounted root.
#[tokio::test(flavor = "multi_thread")]
async fn case_17_volumes_that_are_links() {
    if !may_mount("case_17_volumes_that_are_links") {
        return;
    }
    let house = House::new("volumes");
    let secret = Secret::new(&house);
    let path = secret.0.to_string_lossy().into_owned();
    let mut layout = Layout::new(house.path("oci"));
    let tar =
        Tape::new().dir("./", 0o755).symlink("etc", "/etc").symlink("volume", &path).symlink("home", "../..").end();
    layout.config["rootfs"]["diff_ids"] = json!([Digest::of(&tar).to_string()]);
    layout.config["config"] =
        json!({"Volumes": {"/volume": {}, "/../../etc": {}, "/etc/shadow": {}}, "WorkingDir": "/home"});
    layout.manifest["layers"] = json!([put(&layout.dir, &tar, "application/vnd.oci.image.layer.v1.tar")]);
    let (dir, _) = layout.write(Value::to_string);
    let store = house.store();
    let image = store.import(&dir, None).await.unwrap().remove(0);
    let rootfs = store.rootfs(&image.id, "c").await.unwrap();
    let root = rustix::fs::open(&rootfs.path, rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    for name in ["volume", "etc/passwd", "home/secret", "home/etc/passwd"] {
        let flags = rustix::fs::ResolveFlags::IN_ROOT | rustix::fs::ResolveFlags::NO_MAGICLINKS;
        let opened = rustix::fs::openat2(&root, name, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty(), flags);
        assert!(opened.is_err(), "{name} is open");
    }
    // Nothing was copied or made for a volume, neither in the layer nor above it.
    assert_eq!(std::fs::read_dir(&rootfs.upper).unwrap().count(), 0);
    store.release_rootfs("c").await.unwrap();
    secret.is_kept(&store, "");
}

/// Lines, ends of strings and colons in what becomes environment, users and passwd lines: kept as they are, to the byte, for
/// those who check them (cri, `case_20_...`); never cut, since half of a value is another value.
#[tokio::test(flavor = "multi_thread")]
async fn case_20_words_of_an_image_are_not_cut() {
    let house = House::new("words");
    for (at, evil) in
        ["/x\nroot::0:0::/:/bin/sh", "/x\r\n", "/x\0y", "/x\u{85}y", "/y:y", "\u{2028}"].iter().enumerate()
    {
        let mut layout = Layout::new(house.path(&at.to_string()));
        layout.config["config"] = json!({"Env": [format!("HOME={evil}")], "User": evil, "WorkingDir": evil,
            "StopSignal": evil, "Labels": {"a": evil}});
        let (dir, _) = layout.write(Value::to_string);
        let store = house.store();
        let image = store.import(&dir, None).await.unwrap().remove(0);
        let config = image.config.config().as_ref().unwrap();
        assert_eq!(config.env().as_ref().unwrap()[0], format!("HOME={evil}"));
        assert_eq!((config.user().as_deref(), config.working_dir().as_deref()), (Some(*evil), Some(*evil)));
        // The store's own record has none of it.
        let record = std::fs::read_to_string(store.root().join("index.json")).unwrap();
        assert!(!record.contains("root::0") && !record.contains(&evil.escape_debug().to_string()), "{record}");
        assert!(store.remove(&image.id).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_21_labels_have_no_effect() {
    let house = House::new("labels");
    let store = house.store();
    let import = async |name: &str, labels: Value| {
        let mut layout = Layout::new(house.path(name));
        layout.manifest["annotations"] = labels.clone();
        layout.config["config"]["Labels"] = labels;
        let image = store.import(&layout.write(Value::to_string).0, None).await.unwrap().remove(0);
        let mut record: Value =
            serde_json::from_slice(&std::fs::read(store.root().join("index.json")).unwrap()).unwrap();
        assert_eq!(record["images"].as_array().unwrap().len(), 1);
        let mut record = record["images"][0].take();
        // Digests, sizes and times differ as they must.
        let text = record.as_object_mut().unwrap();
        text.retain(|key, value| {
            !matches!(key.as_str(), "config" | "manifest" | "documents" | "config_size" | "size" | "stored_at")
                && !value.to_string().contains("used")
        });
        assert!(!image.pinned, "{name}");
        assert_eq!(image.repo_tags, ["docker.io/library/x:1"]);
        assert!(store.remove(&image.id).await.unwrap());
        record
    };
    let plain = import("plain", json!({})).await;
    let keys = [
        "dev.gantry.pinned",
        "dev.gantry.runtime",
        "gantry.pinned",
        "io.cri-containerd.pinned",
        "io.cri-containerd.image",
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri.sandbox-id",
        "io.kubernetes.container.name",
        "io.container.manager",
        "org.systemd.property.ExecStart",
        "run.oci.handler",
        "run.oci.hooks.stderr",
        "org.opencontainers.image.ref.name",
        "io.containerd.image.name",
        "containerd.io/gc.root",
        "containerd.io/distribution.source.docker.io",
        "io.kubernetes.cri-o.Volumes",
        "devices.gantry.dev/host",
    ];
    let labels: serde_json::Map<String, Value> = keys.iter().map(|key| ((*key).to_owned(), json!("pinned"))).collect();
    assert_eq!(import("evil", labels.into()).await, plain);
}
