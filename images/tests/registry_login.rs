//! Logging in to Debian's docker-registry: passwords and tokens, out of files and helpers; and what is between it and us.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use gantry_images::{Auth, Config, Kind, Network, PullOptions, Secret, Store, quiet};
use support::House;
use support::http::{Answer, Asked, Server};
use support::pki::{Pki, have};
use support::registry::{self, Registry};
use support::relay::Relay;

/// `me` with the password `canary`, by htpasswd -nbB.
const PASSWORDS: &str = "me:$2y$05$c6V30MkSMyjq2yvvJEEjHOmuqRowTCesXvE40zGZsla5Ary5fXfW6\n";

fn base64(text: impl AsRef<[u8]>) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn basic(password: &str) -> PullOptions {
    let auth = Auth::Basic { user: "me".into(), password: Secret::new(password) };
    PullOptions { auth: Some(auth), ..PullOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_from_everywhere() {
    let test = "passwords_from_everywhere";
    if !registry::installed(test) {
        return;
    }
    let house = House::new("login");
    let mut registry = Registry::start(&house.path("registry"));
    registry.push_layout(&house.layout("web", &[("etc/x", "1")]), "team/web", "1").await;
    std::fs::write(house.path("passwords"), PASSWORDS).unwrap();
    registry.reconfigure("", &format!("auth: {{htpasswd: {{realm: x, path: {}}}}}", house.path("passwords").display()));
    let name = registry.name("team/web:1");
    let (login, helpers) = (house.path("config.json"), house.path("helpers"));
    std::fs::create_dir_all(&helpers).unwrap();
    let network = Network { helper_dir: Some(helpers.clone()), ..Network::default() };
    let config = Config { credentials: vec![login.clone()], network, ..house.config() };
    let store = Store::open(config).unwrap();
    let pull = async |file: &str, options: PullOptions| {
        std::fs::write(&login, file.replace("HOST", &registry.address.to_string())).unwrap();
        store.pull(&name, &options, quiet()).await.map(drop)
    };
    let good = format!(r#"{{"auths":{{"HOST":{{"auth":"{}"}}}}}}"#, base64("me:canary"));
    let bad = format!(r#"{{"auths":{{"https://HOST/v2/team":{{"auth":"{}"}}}}}}"#, base64("me:wrong"));
    let why = pull(&bad, PullOptions::default()).await.unwrap_err();
    assert_eq!(why.kind(), Kind::Unauthorized);
    let said = format!("the login for https://{}/v2/team in {}: not accepted", registry.address, login.display());
    assert!(why.to_string().contains(&said) && why.to_string().contains("pull access denied"), "{why}");
    pull(&good, PullOptions::default()).await.unwrap();
    pull(&bad, basic("canary")).await.unwrap();
    let why = pull(&good, basic("wrong")).await.unwrap_err();
    assert!(why.to_string().contains("the credentials given with the pull: not accepted"), "{why}");
    let why = pull("{}", PullOptions::default()).await.unwrap_err();
    assert!(why.to_string().contains("no credentials were given"), "{why}");
    let helper = |name: &str, script: &str| {
        let path = helpers.join(format!("docker-credential-{name}"));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    helper("works", r#"echo '{"ServerURL":"x","Username":"me","Secret":"canary"}'"#);
    helper("fails", "echo the keyring is locked; exit 1");
    pull(r#"{"credHelpers":{"HOST":"works"},"credsStore":"fails"}"#, PullOptions::default()).await.unwrap();
    pull(r#"{"credsStore":"works"}"#, PullOptions::default()).await.unwrap();
    let why = pull(r#"{"credsStore":"fails"}"#, PullOptions::default()).await.unwrap_err();
    assert!(
        why.to_string().contains("docker-credential-fails failed with exit status: 1: the keyring is locked"),
        "{why}"
    );
    let why = pull(r#"{"auths":"canary"}"#, PullOptions::default()).await.unwrap_err();
    assert!(why.kind() == Kind::InvalidArgument && why.to_string().contains("config.json"), "{why}");
}

/// A token service as docker-registry trusts it: RS256, its certificate beside it.
struct Service {
    house: PathBuf,
    certificate: String,
}

impl Service {
    fn new(house: &House, pki: &Pki) -> Self {
        let pem = std::fs::read_to_string(pki.at("tokens.pem")).unwrap();
        let certificate = pem.lines().filter(|line| !line.starts_with('-')).collect();
        Self { house: house.path("pki"), certificate }
    }

    fn token(&self, repository: &str, life: u64) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let access = serde_json::json!([{"type": "repository", "name": repository, "actions": ["pull"]}]);
        let head = serde_json::json!({"typ": "JWT", "alg": "RS256", "x5c": [self.certificate]});
        let claims = serde_json::json!({"iss": "gantry", "sub": "me", "aud": "reg", "exp": now + life, "nbf": now - 10,
            "iat": now, "jti": "1", "access": access});
        let url = |text: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", url(head.to_string().as_bytes()), url(claims.to_string().as_bytes()));
        let (text, signature) = (self.house.join("text"), self.house.join("signature"));
        std::fs::write(&text, &signed).unwrap();
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["dgst", "-sha256", "-sign", "tokens.key", "-out"]).arg(&signature).arg(&text);
        support::pki::run(openssl.current_dir(&self.house));
        format!("{signed}.{}", url(&std::fs::read(signature).unwrap()))
    }

    fn answer(&self, asked: &Asked) -> Answer {
        let scope = asked.path.split("scope=").nth(1).unwrap_or_default();
        let repository = scope.split("%3A").nth(1).unwrap_or_default().replace("%2F", "/");
        match asked.headers.get("authorization") {
            Some(basic) if *basic == format!("Basic {}", base64("me:canary")) => {
                let token = self.token(&repository, 300);
                Answer::ok(serde_json::json!({"token": token, "expires_in": 300}).to_string())
            }
            _ => Answer { status: 401, ..Answer::ok(r#"{"details":"incorrect username or password"}"#) },
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_a_registry_checks() {
    let test = "tokens_that_a_registry_checks";
    if !registry::installed(test) || !have(test, &["openssl"]) {
        return;
    }
    let house = House::new("tokens");
    let mut registry = Registry::start(&house.path("registry"));
    for repository in ["team/web", "team/db"] {
        registry.push_layout(&house.layout("web", &[("etc/x", repository)]), repository, "1").await;
    }
    let pki = Pki::new(&house.path("pki"));
    pki.issue("tokens", "ca", support::pki::Form::Pkcs8, "DNS:tokens");
    let service = Service::new(&house, &pki);
    let tokens = Server::start(move |asked| service.answer(asked));
    let auth = format!(
        "auth: {{token: {{realm: '{}', service: reg, issuer: gantry, rootcertbundle: {}}}}}",
        tokens.url("/token"),
        pki.at("ca.pem")
    );
    registry.reconfigure("", &auth);
    let store = house.store();
    let pull = async |name: &str, password: &str| store.pull(&registry.name(name), &basic(password), quiet()).await;
    pull("team/web:1", "canary").await.unwrap();
    pull("team/web:1", "canary").await.unwrap();
    assert_eq!(tokens.log("x").len(), 1, "a token is good for the next pull, too");
    pull("team/db:1", "canary").await.unwrap();
    assert_eq!(tokens.log("x").len(), 2, "but not for another repository");
    let why = pull("team/web:1", "wrong").await.unwrap_err();
    assert_eq!(why.kind(), Kind::Unauthorized);
    let said = ["ask the registry's token service", "401 Unauthorized (incorrect username or password)"];
    assert!(said.iter().all(|part| why.to_string().contains(part)), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_for_many_requests() {
    if !registry::installed("one_connection_for_many_requests") {
        return;
    }
    let house = House::new("reuse");
    let registry = Registry::start(&house.path("registry"));
    registry.push_layout(&house.layout("web", &[("etc/x", "1")]), "web", "1").await;
    registry.push_layout(&house.layout("db", &[("etc/x", "2")]), "db", "1").await;
    let relay = Relay::start(registry.address, |_| true);
    let store = house.store();
    for name in ["web:1", "db:1", "web:1"] {
        let name = format!("{}/{name}", relay.address()).parse().unwrap();
        store.pull(&name, &PullOptions::default(), quiet()).await.unwrap();
    }
    assert_eq!(relay.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_and_started_again() {
    if !registry::installed("killed_in_the_middle_and_started_again") {
        return;
    }
    let house = House::new("killed");
    let mut registry = Registry::start(&house.path("registry"));
    let mut noise = vec![0_u8; 6 << 20];
    getrandom::fill(&mut noise).unwrap();
    let big = base64(noise);
    registry.push_layout(&house.layout("web", &[("big", &big)]), "web", "1").await;
    // After the first two megabytes the relay waits until the registry is gone, and loses what was on the way: the rest may
    // have been in the sockets' buffers.
    let (reached, wait) = std::sync::mpsc::channel();
    let (gone, gate) = std::sync::mpsc::channel::<()>();
    let (reached, gate) = (std::sync::Mutex::new(Some(reached)), std::sync::Mutex::new(gate));
    let relay = Relay::start(registry.address, move |bytes| {
        if bytes > 2 << 20
            && let Some(reached) = reached.lock().unwrap().take()
        {
            reached.send(()).unwrap();
            let _ = gate.lock().unwrap().recv_timeout(std::time::Duration::from_secs(20));
            return false;
        }
        true
    });
    let (store, name) = (house.store(), format!("{}/web:1", relay.address()).parse().unwrap());
    let retries = Arc::new(AtomicUsize::new(0));
    let count = retries.clone();
    let progress: gantry_images::Progress = Arc::new(move |event| {
        if let gantry_images::Event::Retry { .. } = event {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    let pull = tokio::spawn(async move { store.pull(&name, &PullOptions::default(), progress).await.map(drop) });
    let registry = tokio::task::spawn_blocking(move || {
        wait.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
        registry.kill();
        gone.send(()).unwrap();
        registry.restart();
        registry
    });
    let registry = registry.await.unwrap();
    pull.await.unwrap().unwrap();
    assert!(retries.load(Ordering::SeqCst) > 0);
    let log = registry.access_log();
    assert!(log.lines().any(|line| line.contains("/blobs/") && line.contains("\" 206 ")), "continued by range: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_a_mirror() {
    if !registry::installed("a_registry_that_is_a_mirror") {
        return;
    }
    let house = House::new("through");
    let mut origin = Registry::start(&house.path("origin"));
    origin.push_layout(&house.layout("web", &[("etc/x", "1")]), "web", "1").await;
    let mirror =
        Registry::start_with(&house.path("mirror"), &format!("proxy: {{remoteurl: 'http://{}'}}\n", origin.address));
    let dir = house.path("hosts").join(origin.address.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hosts.toml"), format!("[host.\"http://{}\"]\n", mirror.address)).unwrap();
    let open = |name: &str| {
        let config = Config { hosts_dir: Some(house.path("hosts")), ..Config::at(house.path(name)) };
        Store::open(config).unwrap()
    };
    let image = open("one").pull(&origin.name("web:1"), &PullOptions::default(), quiet()).await.unwrap();
    assert!(!origin.access_log().contains("gantry/"), "only the mirror was asked: {}", origin.access_log());
    assert!(mirror.access_log().contains("gantry/"));
    // The mirror gone, the registry is asked; both gone, it is said of both.
    drop(mirror);
    assert_eq!(open("two").pull(&origin.name("web:1"), &PullOptions::default(), quiet()).await.unwrap().id, image.id);
    origin.kill();
    let why = open("three").pull(&origin.name("web:1"), &PullOptions::default(), quiet()).await.unwrap_err();
    assert!(why.kind() == Kind::Unavailable && why.to_string().contains("before that 127.0.0.1:"), "{why}");
}
