//! Through a proxy that wants a user: plain requests, CONNECT, and a foreign layer.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use gantry_images::{Config, Kind, Network, Proxies, PullOptions, Secret, Store, quiet};
use serde_json::Value;
use support::House;
use support::http::{Answer, Server};
use support::pki::{Form, Pki, have};
use support::registry::{self, Registry};
use support::relay::{Proxy, Socks};

/// `me:canary`.
const AUTHORIZATION: &str = "Basic bWU6Y2FuYXJ5";

fn config(root: &Path, user: &str, proxy: &Proxy) -> Config {
    let address = Some(Secret::new(format!("http://{user}@{}", proxy.address())));
    let proxies = Proxies { http: address.clone(), https: address, ..Proxies::default() };
    Config { network: Network { proxies: Some(proxies), ..Network::default() }, ..Config::at(root) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_registry_behind_a_proxy() {
    if !registry::installed("a_plain_registry_behind_a_proxy") {
        return;
    }
    let house = House::new("proxy");
    let registry = Registry::start(&house.path("registry"));
    registry.push_layout(&house.layout("web", &[("etc/x", "1")]), "web", "1").await;
    let proxy = Proxy::start(AUTHORIZATION, registry.address);
    let name = "registry.test:5000/web:1".parse().unwrap();
    let open = |user| {
        let plain_http = vec!["registry.test:5000".to_owned()];
        Store::open(Config { plain_http, ..config(&house.path("store"), user, &proxy) }).unwrap()
    };
    open("me:canary").pull(&name, &PullOptions::default(), quiet()).await.unwrap();
    assert_eq!(proxy.asked.lock().unwrap()[0], "GET http://registry.test:5000/v2/web/manifests/1 HTTP/1.1");
    // A registry on this machine is reached without it.
    open("me:canary").pull(&registry.name("web:1"), &PullOptions::default(), quiet()).await.unwrap();
    assert_eq!(proxy.asked.lock().unwrap().iter().filter(|line| !line.contains("registry.test")).count(), 0);
    let why = open("me:wrong-canary").pull(&name, &PullOptions::default(), quiet()).await.unwrap_err();
    assert!(why.kind() == Kind::Unauthorized && why.to_string().contains("the proxy wants a user"), "{why}");
    assert!(!format!("{why} {why:?}").contains("canary"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_registry_behind_socks() {
    if !registry::installed("a_plain_registry_behind_socks") {
        return;
    }
    let house = House::new("socks");
    let registry = Registry::start(&house.path("registry"));
    registry.push_layout(&house.layout("web", &[("etc/x", "1")]), "web", "1").await;
    let socks = Socks::start(registry.address);
    let all = Some(Secret::new(format!("socks5h://me:canary@{}", socks.address())));
    let network = Network { proxies: Some(Proxies { all, ..Proxies::default() }), ..Network::default() };
    let plain_http = vec!["registry.test:5000".to_owned()];
    let store = Store::open(Config { plain_http, network, ..house.config() }).unwrap();
    store.pull(&"registry.test:5000/web:1".parse().unwrap(), &PullOptions::default(), quiet()).await.unwrap();
    assert_eq!(*socks.asked.lock().unwrap(), ["registry.test"]);
}

/// A registry with TLS for some names, `web:1` in it.
async fn secure(house: &House, pki: &Pki, names: &str) -> Registry {
    let mut registry = Registry::start(&house.path("registry"));
    registry.push_layout(&house.layout("web", &[("etc/x", "1")]), "web", "1").await;
    pki.issue("server", "ca", Form::Sec1, names);
    registry.reconfigure(&format!("tls: {{certificate: {}, key: {}}}", pki.at("server.pem"), pki.at("server.key")), "");
    registry
}

fn trust(house: &House, pki: &Pki, host: &str) {
    let dir = house.path("hosts").join(host);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::copy(pki.at("ca.pem"), dir.join("ca.crt")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secure_registry_behind_a_proxy() {
    let test = "a_secure_registry_behind_a_proxy";
    if !registry::installed(test) || !have(test, &["openssl"]) {
        return;
    }
    let house = House::new("connect");
    let pki = Pki::new(&house.path("pki"));
    let registry = secure(&house, &pki, "DNS:registry.test").await;
    let proxy = Proxy::start(AUTHORIZATION, registry.address);
    trust(&house, &pki, "registry.test");
    let name = "registry.test/web:1".parse().unwrap();
    let open = |user| {
        let hosts_dir = Some(house.path("hosts"));
        Store::open(Config { hosts_dir, ..config(&house.path("store"), user, &proxy) }).unwrap()
    };
    open("me:canary").pull(&name, &PullOptions::default(), quiet()).await.unwrap();
    let asked = proxy.asked.lock().unwrap().clone();
    assert!(!asked.is_empty() && asked.iter().all(|line| line == "CONNECT registry.test:443 HTTP/1.1"), "{asked:?}");
    let log = registry.access_log();
    assert!(log.contains("HTTP/2.0") && log.contains("gantry/"), "{log}");
    let why = open("me:wrong-canary").pull(&name, &PullOptions::default(), quiet()).await.unwrap_err();
    assert!(why.to_string().contains("proxy"), "{why}");
    assert!(!format!("{why} {why:?}").contains("canary"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_27_a_foreign_layer_comes_from_where_it_may() {
    let test = "case_27_a_foreign_layer_comes_from_where_it_may";
    if !registry::installed(test) || !have(test, &["openssl"]) {
        return;
    }
    let house = House::new("foreign");
    let pki = Pki::new(&house.path("pki"));
    let far = secure(&house, &pki, "DNS:foreign.test,IP:127.0.0.1").await;
    let proxy = Proxy::start(AUTHORIZATION, far.address);
    trust(&house, &pki, "foreign.test");
    let blobs = house.path("web.oci/blobs/sha256");
    let index: Value = serde_json::from_slice(&std::fs::read(house.path("web.oci/index.json")).unwrap()).unwrap();
    let read = |digest: &str| std::fs::read(blobs.join(digest.trim_start_matches("sha256:")));
    let mut manifest: Value =
        serde_json::from_slice(&read(index["manifests"][0]["digest"].as_str().unwrap()).unwrap()).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let inside = far.address.port();
    for (url, works) in [
        (format!("https://foreign.test/v2/web/blobs/{layer}"), true),
        (format!("http://foreign.test/v2/web/blobs/{layer}"), false),
        (format!("https://127.0.0.1:{inside}/v2/web/blobs/{layer}"), false),
        (format!("https://localhost:{inside}/v2/web/blobs/{layer}"), false),
        (format!("https://169.254.169.254/v2/web/blobs/{layer}"), false),
    ] {
        manifest["layers"][0]["mediaType"] = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
        manifest["layers"][0]["urls"] = serde_json::json!([url]);
        let (body, missing, dir) = (manifest.to_string(), layer.clone(), blobs.clone());
        let near = Server::start(move |asked| {
            let last = asked.path.rsplit('/').next().unwrap().to_owned();
            match asked.path.contains("/manifests/") {
                _ if !asked.headers.contains_key("authorization") => {
                    Answer::status(401).header("www-authenticate", "Basic realm=x")
                }
                true => Answer::ok(body.clone()),
                false if last == missing => Answer::status(404),
                false => Answer::ok(std::fs::read(dir.join(last.trim_start_matches("sha256:"))).unwrap()),
            }
        });
        let root = house.path("store");
        drop(std::fs::remove_dir_all(&root));
        let hosts_dir = Some(house.path("hosts"));
        let store = Store::open(Config { hosts_dir, ..config(&root, "me:canary", &proxy) }).unwrap();
        let auth = gantry_images::Auth::Basic { user: "me".into(), password: Secret::new("canary") };
        let options = PullOptions { auth: Some(auth), ..PullOptions::default() };
        let pulled = store.pull(&format!("{}/web:1", near.address).parse().unwrap(), &options, quiet()).await;
        assert_eq!(pulled.is_ok(), works, "{url}: {pulled:?}");
        if let Err(why) = pulled {
            assert!(why.to_string().contains("the address of a foreign layer is"), "{why}");
        }
    }
    // Nobody was named to it: the log has `- -` where a user would be.
    let log = far.access_log();
    let ours: Vec<&str> = log.lines().filter(|line| line.contains("gantry/")).collect();
    assert!(ours.len() == 1 && ours[0].contains(" - - ["), "{log}");
}
