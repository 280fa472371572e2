//! TLS towards Debian's docker-registry: authorities, client certificates, both versions of HTTP, and where certificates
//! are configured.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::sync::Arc;

use gantry_images::{Config, Kind, PullOptions, Store, quiet};
use support::House;
use support::pki::{Form, Pki, have};
use support::registry::{self, Registry};

struct Setup {
    house: House,
    pki: Pki,
    registry: Registry,
}

/// A registry with the image `web:1`, and an authority; `None` if a program is missing.
async fn setup(test: &str) -> Option<Setup> {
    if !registry::installed(test) || !have(test, &["openssl"]) {
        return None;
    }
    let house = House::new("tls");
    let registry = Registry::start(&house.path("registry"));
    registry.push_layout(&house.layout("web", &[("etc/x", "1")]), "web", "1").await;
    let pki = Pki::new(&house.path("pki"));
    Some(Setup { house, pki, registry })
}

impl Setup {
    fn tls(&self, name: &str) -> String {
        format!("certificate: {}, key: {}", self.pki.at(&format!("{name}.pem")), self.pki.at(&format!("{name}.key")))
    }

    /// Pulls with this hosts.toml for the registry (whose address is `ADDRESS`), into a store of its own.
    async fn pull(&self, hosts: &str) -> gantry_images::Result<Arc<gantry_images::Image>> {
        let dir = self.house.path("hosts").join(self.registry.address.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        let address = self.registry.address.to_string();
        std::fs::write(dir.join("hosts.toml"), hosts.replace("ADDRESS", &address)).unwrap();
        self.pull_with(&self.house.path("hosts")).await
    }

    async fn pull_with(&self, hosts: &Path) -> gantry_images::Result<Arc<gantry_images::Image>> {
        let root = self.house.path("store");
        drop(std::fs::remove_dir_all(&root));
        let store = Store::open(Config { hosts_dir: Some(hosts.to_owned()), ..Config::at(root) }).unwrap();
        store.pull(&self.registry.name("web:1"), &PullOptions::default(), quiet()).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_and_servers_that_are_their_own() {
    let Some(mut on) = setup("authorities_and_servers_that_are_their_own").await else { return };
    on.pki.issue("issued", "ca", Form::Sec1, "IP:127.0.0.1");
    on.pki.self_signed("own", &["-addext", "subjectAltName=IP:127.0.0.1"]);
    on.pki.self_signed(
        "leaf",
        &["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"],
    );
    on.pki.self_signed("other", &["-addext", "subjectAltName=DNS:other.test"]);
    for (server, ca, works) in [
        ("issued", "ca", true),
        ("own", "own", true),
        ("leaf", "leaf", true),
        ("other", "other", false),
        ("issued", "own", false),
        ("own", "ca", false),
    ] {
        on.registry.reconfigure(&format!("tls: {{{}}}", on.tls(server)), "");
        let hosts = format!("server = \"https://ADDRESS\"\nca = {:?}", on.pki.at(&format!("{ca}.pem")));
        let pulled = on.pull(&hosts).await;
        assert_eq!(pulled.is_ok(), works, "{server} {ca}: {pulled:?}");
        if let Err(why) = pulled {
            assert_eq!(why.kind(), Kind::Unavailable);
            assert!(why.to_string().contains("certificate") && why.to_string().contains("hosts.toml names"), "{why}");
        }
    }
    // The last one is not believed by name; unchecked it is, and an authority may be found in a directory.
    on.pull("server = \"https://ADDRESS\"\nskip_verify = true").await.unwrap();
    let dir = on.house.path("authorities");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::copy(on.pki.at("own.pem"), dir.join("own.pem")).unwrap();
    on.pull(&format!("server = \"https://ADDRESS\"\nca = [\"{}\"]", dir.display())).await.unwrap();
    let why = on.pull("server = \"https://ADDRESS\"\nca = \"none.pem\"").await.unwrap_err();
    assert!(why.kind() == Kind::InvalidArgument && why.to_string().contains("none.pem does not exist"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_in_every_form() {
    let Some(mut on) = setup("client_certificates_in_every_form").await else { return };
    on.pki.issue("server", "ca", Form::Sec1, "IP:127.0.0.1");
    on.pki.self_signed("strangers", &[]);
    on.pki.issue("stranger", "strangers", Form::Sec1, "DNS:stranger");
    let tls = format!("tls: {{{}, clientcas: [{}]}}", on.tls("server"), on.pki.at("ca.pem"));
    on.registry.reconfigure(&tls, "");
    let base = format!("server = \"https://ADDRESS\"\nca = {:?}\n", on.pki.at("ca.pem"));
    let why = on.pull(&base).await.unwrap_err();
    assert_eq!(why.kind(), Kind::Unavailable, "{why}");
    let pair =
        |name: &str| format!("[{:?}, {:?}]", on.pki.at(&format!("{name}.pem")), on.pki.at(&format!("{name}.key")));
    for form in [Form::Sec1, Form::Pkcs1, Form::Pkcs8] {
        on.pki.issue("me", "ca", form, "DNS:me");
        on.pull(&format!("{base}client = [{}]", pair("me"))).await.unwrap_or_else(|why| panic!("{form:?}: {why}"));
    }
    // Of two the one whose issuer the server asks for; and one file with both.
    on.pull(&format!("{base}client = [{}, {}]", pair("stranger"), pair("me"))).await.unwrap();
    let both = [on.pki.at("me.pem"), on.pki.at("me.key")].map(|path| std::fs::read_to_string(path).unwrap()).concat();
    std::fs::write(on.pki.at("both.pem"), both).unwrap();
    on.pull(&format!("{base}client = {:?}", on.pki.at("both.pem"))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http() {
    let Some(mut on) = setup("both_versions_of_http").await else { return };
    on.pki.issue("server", "ca", Form::Sec1, "IP:127.0.0.1");
    let hosts = format!("server = \"https://ADDRESS\"\nca = {:?}\n", on.pki.at("ca.pem"));
    let tls = on.tls("server");
    for (http, version) in [
        (format!("tls: {{{tls}, minimumtls: tls1.3}}"), "HTTP/2.0"),
        (format!("tls: {{{tls}, minimumtls: tls1.2}}, http2: {{disabled: true}}"), "HTTP/1.1"),
    ] {
        on.registry.reconfigure(&http, "");
        on.pull(&hosts).await.unwrap();
        let log = on.registry.access_log();
        let ours: Vec<&str> = log.lines().filter(|line| line.contains("gantry/")).collect();
        assert!(ours.len() == 3 && ours.iter().all(|line| line.contains(version)), "{version}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dockers_directory_of_certificates() {
    let Some(mut on) = setup("dockers_directory_of_certificates").await else { return };
    on.pki.issue("server", "ca", Form::Sec1, "IP:127.0.0.1");
    on.pki.issue("me", "ca", Form::Sec1, "DNS:me");
    let root = on.house.path("certs.d");
    let dir = root.join(on.registry.address.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    for (from, to) in [("ca.pem", "ca.crt"), ("me.pem", "client.cert"), ("me.key", "client.key")] {
        std::fs::copy(on.pki.at(from), dir.join(to)).unwrap();
    }
    // Plain http is what this machine's own names mean, so https is tried first, and given up where it is not spoken.
    on.pull_with(&root).await.unwrap();
    let tls = format!("tls: {{{}, clientcas: [{}]}}", on.tls("server"), on.pki.at("ca.pem"));
    on.registry.reconfigure(&tls, "");
    on.pull_with(&root).await.unwrap();
    // Without them it is plain http, and the registry's answer to that is explained.
    let why = on.pull_with(&on.house.path("nothing")).await.unwrap_err();
    assert!(why.to_string().contains("it speaks https only"), "{why}");
}
