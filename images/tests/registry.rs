//! Pulls from Debian's docker-registry: one image, many at once, indexes, a registry that dies in the middle.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gantry_images::{Event, Kind, Progress, PullOptions, Store, quiet};
use support::pki::{have, run};
use support::registry::{self, Registry};
use support::{House, may_mount};

#[tokio::test(flavor = "multi_thread")]
async fn pull_run_and_pull_again() {
    if !registry::installed("pull_run_and_pull_again") {
        return;
    }
    let house = House::new("pull");
    let registry = Registry::start(&house.path("registry"));
    let digest = registry.push_layout(&house.layout("web", &[("bin/sh", "#!"), ("etc/x", "1")]), "a/web", "1").await;
    let store = house.store();
    let name = registry.name("a/web:1");
    let image = store.pull(&name, &PullOptions::default(), quiet()).await.unwrap();
    assert_eq!(image.repo_tags, [name.to_string()]);
    assert_eq!(image.repo_digests, [format!("{}/a/web@{digest}", registry.address)]);
    assert_eq!(image.manifest, digest);
    if may_mount("the root filesystem in pull_run_and_pull_again") {
        let rootfs = store.rootfs(&image.id, "c").await.unwrap();
        assert_eq!(std::fs::read_to_string(rootfs.path.join("etc/x")).unwrap(), "1");
        store.release_rootfs("c").await.unwrap();
    }
    // The tag moves; the old image stays under its digest.
    let second = registry.push_layout(&house.layout("web2", &[("etc/x", "2")]), "a/web", "1").await;
    let newer = store.pull(&name, &PullOptions::default(), quiet()).await.unwrap();
    assert_ne!(newer.id, image.id);
    assert_eq!(newer.manifest, second);
    let old = store.image(&image.id).unwrap();
    assert!(old.repo_tags.is_empty() && old.repo_digests.len() == 1, "{old:?}");
    let pinned = registry.name(&format!("a/web@{digest}"));
    assert_eq!(store.pull(&pinned, &PullOptions::default(), quiet()).await.unwrap().id, image.id);
    for (missing, kind) in [("a/web:none", Kind::NotFound), ("no/such:1", Kind::NotFound)] {
        let why = store.pull(&registry.name(missing), &PullOptions::default(), quiet()).await.unwrap_err();
        assert_eq!(why.kind(), kind, "{why}");
        assert!(why.to_string().contains(missing), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_download_and_unpack_once() {
    if !registry::installed("many_at_once_download_and_unpack_once") {
        return;
    }
    let house = House::new("many");
    let registry = Registry::start(&house.path("registry"));
    registry.push_layout(&house.layout("web", &[("big", &"x".repeat(1 << 20))]), "web", "1").await;
    let store = house.store();
    let done = Arc::new(AtomicUsize::new(0));
    let pulls = (0..8).map(|_| {
        let (store, name, done) = (store.clone(), registry.name("web:1"), done.clone());
        let count: Progress = Arc::new(move |event| {
            if let Event::Done(_) = event {
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
        tokio::spawn(
            async move { store.pull(&name, &PullOptions::default(), count).await.map(|image| image.id.clone()) },
        )
    });
    let ids: Vec<String> =
        futures_util::future::join_all(pulls).await.into_iter().map(|id| id.unwrap().unwrap()).collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(done.load(Ordering::Relaxed), 1, "the layer was unpacked more than once");
    assert_eq!(store.images().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_gives_the_image_of_this_platform() {
    if !registry::installed("an_index_gives_the_image_of_this_platform") {
        return;
    }
    let house = House::new("index");
    let registry = Registry::start(&house.path("registry"));
    let mut entries = Vec::new();
    for architecture in ["s390x", "amd64", "arm64"] {
        let layout = house.layout(architecture, &[("arch", architecture)]);
        let digest = registry.push_layout(&layout, "multi", architecture).await;
        let size = std::fs::metadata(layout.join("blobs").join(digest.to_string().replace(':', "/"))).unwrap().len();
        entries.push(serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest.to_string(), "size": size,
            "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries});
    let index = registry.push_manifest("multi", "all", media_type, index.to_string().into_bytes()).await;
    let store = house.store();
    for architecture in ["arm64", "amd64"] {
        let platform = Some(format!("linux/{architecture}").parse().unwrap());
        let options = PullOptions { platform, ..PullOptions::default() };
        let image = store.pull(&registry.name("multi:all"), &options, quiet()).await.unwrap();
        assert_eq!(image.manifest.to_string(), entry_of(&entries, architecture));
        assert_eq!(image.repo_digests, [format!("{}/multi@{index}", registry.address)]);
        assert_eq!(store.image(&registry.name("multi:all").to_string()).unwrap().id, image.id);
    }
    // By the digest of the index, with a tag beside it that may say anything.
    let options = PullOptions { platform: Some("linux/arm64".parse().unwrap()), ..PullOptions::default() };
    for name in [format!("multi@{index}"), format!("multi:none@{index}")] {
        let other = Store::open(gantry_images::Config::at(house.path("other"))).unwrap();
        let image = other.pull(&registry.name(&name), &options, quiet()).await.unwrap();
        assert_eq!(image.manifest.to_string(), entry_of(&entries, "arm64"), "{name}");
        assert!(image.repo_tags.is_empty(), "{name} is no tag: {image:?}");
    }
    let options = PullOptions { platform: Some("linux/riscv64".parse().unwrap()), ..PullOptions::default() };
    let why = store.pull(&registry.name("multi:all"), &options, quiet()).await.unwrap_err();
    assert_eq!(why.kind(), Kind::Unsupported);
    assert!(why.to_string().contains("there is linux/s390x, linux/amd64, linux/arm64"), "{why}");
}

fn entry_of(entries: &[serde_json::Value], architecture: &str) -> String {
    let entry = entries.iter().find(|entry| entry["platform"]["architecture"] == architecture).unwrap();
    entry["digest"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_and_comes_back() {
    if !registry::installed("a_registry_that_is_down_and_comes_back") {
        return;
    }
    let house = House::new("down");
    let mut registry = Registry::start(&house.path("registry"));
    registry.push_layout(&house.layout("web", &[("a", "b")]), "web", "1").await;
    registry.kill();
    let store: Store = house.store();
    let why = store.pull(&registry.name("web:1"), &PullOptions::default(), quiet()).await.unwrap_err();
    assert_eq!(why.kind(), Kind::Unavailable, "{why}");
    registry.restart();
    store.pull(&registry.name("web:1"), &PullOptions::default(), quiet()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_skopeo_pushes_in_dockers_format() {
    let test = "what_skopeo_pushes_in_dockers_format";
    if !registry::installed(test) || !have(test, &["skopeo"]) {
        return;
    }
    let house = House::new("skopeo");
    let registry = Registry::start(&house.path("registry"));
    let layout = house.layout("web", &[("bin/sh", "#!"), ("etc/x", "1")]);
    let from = format!("oci:{}:docker.io/library/web:1", layout.display());
    for (form, tag) in [("v2s2", "docker"), ("oci", "oci")] {
        let to = format!("docker://{}/web:{tag}", registry.address);
        let mut skopeo = std::process::Command::new("skopeo");
        run(skopeo.args(["copy", "--insecure-policy", "--dest-tls-verify=false", "--format", form, &from, &to]));
    }
    let store = house.store();
    let pull = async |tag: &str| {
        let name = registry.name(&format!("web:{tag}"));
        store.pull(&name, &PullOptions::default(), quiet()).await.unwrap()
    };
    let (docker, oci) = (pull("docker").await, pull("oci").await);
    assert_ne!(docker.manifest, oci.manifest);
    assert_eq!(docker.config.rootfs().diff_ids(), oci.config.rootfs().diff_ids());
    assert_eq!(std::fs::read_dir(house.path("store/layers")).unwrap().count(), 1, "the layer is kept once");
    // And back out of our own archive: skopeo makes an OCI archive, which is imported.
    let archive = house.path("archive.tar");
    let to = format!("oci-archive:{}:web:3", archive.display());
    run(std::process::Command::new("skopeo").args(["copy", "--insecure-policy", &from, &to]));
    let images = store.import(&archive, None).await.unwrap();
    assert_eq!(images[0].config.rootfs().diff_ids(), oci.config.rootfs().diff_ids());
    assert_eq!(images[0].repo_tags.last().unwrap(), "docker.io/library/web:3");
    // The same in docker's form; and what we export, skopeo reads.
    let (saved, ours) = (house.path("saved.tar"), house.path("ours.tar"));
    let to = format!("docker-archive:{}:web:4", saved.display());
    run(std::process::Command::new("skopeo").args(["copy", "--insecure-policy", &from, &to]));
    let images = store.import(&saved, None).await.unwrap();
    assert!(images[0].repo_tags.contains(&"docker.io/library/web:4".to_owned()), "{images:?}");
    store.export("web:3", &ours).await.unwrap();
    let from = format!("oci-archive:{}:docker.io/library/web:3", ours.display());
    let to = format!("docker://{}/back:1", registry.address);
    run(std::process::Command::new("skopeo").args([
        "copy",
        "--insecure-policy",
        "--dest-tls-verify=false",
        &from,
        &to,
    ]));
    let back = store.pull(&registry.name("back:1"), &PullOptions::default(), quiet()).await.unwrap();
    assert_eq!(back.id, store.image("web:3").unwrap().id);
}
