//! Several hosts for one registry: who is asked for what, who is asked next, who is believed.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gantry_images::{Config, Kind, Network, PullOptions, Store, quiet};
use support::House;
use support::content::Content;
use support::http::{Answer, Asked, Server};

/// A store whose hosts.toml for the registry names these hosts before it, each with further lines.
fn store(house: &House, registry: &Server, hosts: &[(String, &str)]) -> Store {
    let dir = house.path("hosts").join(registry.address.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    let text: String = hosts.iter().map(|(url, more)| format!("[host.\"{url}\"]\n{more}\n")).collect();
    std::fs::write(dir.join("hosts.toml"), text).unwrap();
    let network = Network { answer_timeout: Duration::from_millis(400), ..Network::default() };
    Store::open(Config { hosts_dir: Some(house.path("hosts")), network, ..house.config() }).unwrap()
}

async fn pull(store: &Store, server: &Server, rest: &str) -> gantry_images::Result<Arc<gantry_images::Image>> {
    store.pull(&format!("{}/app{rest}", server.address).parse().unwrap(), &PullOptions::default(), quiet()).await
}

fn paths(server: &Server) -> Vec<String> {
    let short = |path: &str| path.split('?').next().unwrap().trim_start_matches("/v2/app/").to_owned();
    server.log("x").iter().map(|(path, _)| short(path)).collect()
}

fn serving(content: &Content) -> impl Fn(&Asked) -> Answer + Send + Sync + 'static {
    let content = content.clone();
    move |asked| content.answer(asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_one_is_asked_when_one_fails() {
    for (name, bad) in [
        ("missing", Answer::status(404)),
        ("forbidden", Answer::status(403)),
        ("unauthorized", Answer::status(401)),
        ("failing", Answer::status(500)),
        ("slow", Answer { mute: true, ..Answer::ok("") }),
        ("nonsense", Answer::ok("no manifest").header("docker-content-digest", format!("sha256:{}", "0".repeat(64)))),
    ] {
        let house = House::new(name);
        let content = Content::new(&house);
        let mirror = Server::start(move |_| bad.clone());
        let registry = Server::start(serving(&content));
        let store = store(&house, &registry, &[(mirror.url(""), "")]);
        pull(&store, &registry, ":1").await.unwrap();
        assert_eq!(paths(&mirror)[0], "manifests/1", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_listen_is_asked_last() {
    let house = House::new("deaf");
    let content = Content::new(&house);
    let registry = Server::start(serving(&content));
    // Nobody listens on a port that was free a moment ago; the second mirror answers.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mirror = Server::start(serving(&content));
    let hosts = [(format!("http://{free}"), "dial_timeout = \"1s\""), (mirror.url(""), "")];
    let store = store(&house, &registry, &hosts);
    pull(&store, &registry, ":1").await.unwrap();
    assert_eq!((paths(&mirror).len(), paths(&registry).len()), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_a_blob_the_next_one_goes_on() {
    let house = House::new("middle");
    let content = Content::new(&house);
    let served = content.clone();
    let mirror = Server::start(move |asked| match served.is_layer(asked) {
        true => Answer { cut: Some(1000), ..served.answer(asked) },
        false => served.answer(asked),
    });
    let registry = Server::start(serving(&content));
    let store = store(&house, &registry, &[(mirror.url(""), "")]);
    pull(&store, &registry, ":1").await.unwrap();
    assert_eq!(paths(&mirror).len(), 3);
    assert_eq!(registry.log("range"), [(format!("/v2/app/blobs/{}", content.layer), Some("bytes=1000-".into()))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_mirror_may_is_what_it_is_asked_for() {
    let house = House::new("may");
    let content = Content::new(&house);
    let hosts = [Server::start(serving(&content)), Server::start(serving(&content)), Server::start(serving(&content))];
    let registry = Server::start(serving(&content));
    let may = ["capabilities = [\"push\"]", "capabilities = [\"pull\"]", "capabilities = [\"Resolve\"]"];
    let list: Vec<_> = hosts.iter().map(|host| host.url("")).zip(may).collect();
    let store = store(&house, &registry, &list);
    let image = pull(&store, &registry, ":1").await.unwrap();
    let [push, blobs, tags] = hosts.each_ref().map(paths);
    assert!(push.is_empty(), "{push:?}");
    assert!(blobs.len() == 2 && blobs.iter().all(|path| path.starts_with("blobs/")), "{blobs:?}");
    assert_eq!(tags, ["manifests/1"]);
    store.remove(&image.id).await.unwrap();
    pull(&store, &registry, &format!("@{}", image.manifest)).await.unwrap();
    assert_eq!(paths(&hosts[1])[2], format!("manifests/{}", image.manifest));
    assert_eq!((paths(&hosts[2]).len(), paths(&registry).len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_may_be_asked() {
    let house = House::new("nobody");
    let registry = Server::start(serving(&Content::new(&house)));
    let store = store(&house, &registry, &[]);
    let toml = house.path("hosts").join(registry.address.to_string()).join("hosts.toml");
    std::fs::write(&toml, "capabilities = [\"push\"]").unwrap();
    let why = pull(&store, &registry, ":1").await.unwrap_err();
    assert!(why.kind() == Kind::InvalidArgument && why.to_string().contains("capabilities"), "{why}");
    std::fs::write(&toml, "[host.x]\nca = 3").unwrap();
    let why = pull(&store, &registry, ":1").await.unwrap_err();
    let named = format!("{}: host \"x\": ca: is neither", toml.display());
    assert!(why.kind() == Kind::InvalidArgument && why.to_string().contains(&named), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_lies_is_not_asked_again() {
    let house = House::new("lies");
    let content = Content::new(&house);
    let served = content.clone();
    let mirror = Server::start(move |asked| {
        let mut answer = served.answer(asked);
        if asked.path.contains("/blobs/") {
            answer.body[0] ^= 1;
        }
        answer
    });
    let registry = Server::start(serving(&content));
    let store = store(&house, &registry, &[(mirror.url(""), "")]);
    let image = pull(&store, &registry, ":1").await.unwrap();
    assert_eq!(image.repo_tags.len(), 1);
    let of_layer = |server: &Server| paths(server).iter().filter(|p| p.contains(&content.layer.to_string())).count();
    assert_eq!((of_layer(&mirror), of_layer(&registry)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirrors_path_and_headers() {
    let house = House::new("path");
    let content = Content::new(&house);
    let served = content.clone();
    let mirror = Server::start(move |asked| match asked.path.strip_prefix("/proxy/hub") {
        Some(rest) => served.answer(&Asked { path: format!("/v2{rest}"), ..asked.clone() }),
        None => Answer::status(404),
    });
    let registry = Server::start(|_| Answer::status(500));
    let more = "override_path = true\n[host.\"HOST\".header]\nx-team = \"blue\"";
    let url = mirror.url("/proxy/hub");
    let store = store(&house, &registry, &[(url.clone(), &more.replace("HOST", &url))]);
    pull(&store, &registry, ":1").await.unwrap();
    assert!(mirror.log("x-team").iter().all(|(_, value)| value.as_deref() == Some("blue")));
    assert!(registry.log("x").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_known_is_only_looked_at() {
    let house = House::new("head");
    let content = Content::new(&house);
    let (served, tells) = (content.clone(), Arc::new(AtomicUsize::new(1)));
    let told = tells.clone();
    let registry = Server::start(move |asked| {
        let digest = gantry_images::Digest::of(&served.manifest).to_string();
        match told.load(Ordering::SeqCst) {
            1 => served.answer(asked).header("docker-content-digest", digest),
            2 if asked.method == "HEAD" => Answer::status(405),
            _ => served.answer(asked),
        }
    });
    let store = house.store();
    let methods = || registry.asked.lock().unwrap().drain(..).map(|asked| asked.method).collect::<Vec<_>>().join(" ");
    pull(&store, &registry, ":1").await.unwrap();
    assert_eq!(methods(), "GET GET GET");
    pull(&store, &registry, ":1").await.unwrap();
    assert_eq!(methods(), "HEAD");
    for silent in [2, 3] {
        tells.store(silent, Ordering::SeqCst);
        pull(&store, &registry, ":1").await.unwrap();
        assert_eq!(methods(), "HEAD GET", "a registry that does not tell is asked for the document");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_are_not_what_they_are_called() {
    let house = House::new("called");
    let content = Content::new(&house);
    let served = content.clone();
    let liar = Server::start(move |asked| {
        served.answer(asked).header("docker-content-digest", format!("sha256:{}", "ab".repeat(32)))
    });
    let why = pull(&house.store(), &liar, ":1").await.unwrap_err();
    assert!(why.kind() == Kind::Invalid && why.to_string().contains("docker-content-digest says"), "{why}");
    let other = format!("@sha256:{}", "cd".repeat(32));
    let why = pull(&house.store(), &liar, &other).await.unwrap_err();
    assert!(why.kind() == Kind::Invalid && why.to_string().contains("not what its digest says"), "{why}");
    let old = Server::start(|_| {
        Answer::ok(r#"{"schemaVersion":1,"fsLayers":[]}"#)
            .header("content-type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
    });
    let why = pull(&house.store(), &old, ":1").await.unwrap_err();
    assert!(why.kind() == Kind::Unsupported && why.to_string().contains("schema 1"), "{why}");
}
