//! SECURITY_CASES 27: every kind of credential carries the word `canary`. It must reach whom it is for and nobody else, and
//! be in no log line of any crate, no event, no error, no `Debug` of a setting.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use gantry_images::{Auth, Config, Network, Progress, Proxies, PullOptions, Secret, Store};
use support::House;
use support::content::Content;
use support::http::{Answer, Asked, Server};

/// Everything that was said, by anyone.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Said {
    fn note(&self, text: impl std::fmt::Display) {
        self.clone().write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    /// The lines with the word in them, in any of the forms in which it travels.
    fn leaks(&self) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned();
        // `canary` in base64 at the three places where it may begin.
        let forms = ["canary", "Y2FuYXJ5", "NhbmFye", "jYW5hcn"];
        text.lines().filter(|line| forms.iter().any(|form| line.contains(form))).map(str::to_owned).collect()
    }
}

/// All crates' logs at their noisiest; one for the tests of this file, since there is one subscriber a process.
fn listen() -> Said {
    static SAID: std::sync::OnceLock<Said> = std::sync::OnceLock::new();
    let start = || {
        let said = Said::default();
        let writer = said.clone();
        let level = tracing_subscriber::filter::LevelFilter::TRACE;
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_max_level(level);
        subscriber.with_writer(move || writer.clone()).init();
        said
    };
    SAID.get_or_init(start).clone()
}

/// The same of HTTP/2 and TLS, whose crates log more.
#[tokio::test(flavor = "multi_thread")]
async fn case_27_nothing_is_said_by_those_who_encrypt() {
    let test = "case_27_nothing_is_said_by_those_who_encrypt";
    if !support::registry::installed(test) || !support::pki::have(test, &["openssl"]) {
        return;
    }
    let said = listen();
    let house = House::new("quiet");
    let mut registry = support::registry::Registry::start(&house.path("registry"));
    registry.push_layout(&house.layout("web", &[("etc/x", "1")]), "web", "1").await;
    let pki = support::pki::Pki::new(&house.path("pki"));
    pki.issue("server", "ca", support::pki::Form::Sec1, "IP:127.0.0.1");
    // `me` with the password `canary`, by htpasswd -nbB.
    let passwords = "me:$2y$05$c6V30MkSMyjq2yvvJEEjHOmuqRowTCesXvE40zGZsla5Ary5fXfW6\n";
    std::fs::write(house.path("passwords"), passwords).unwrap();
    registry.secure(&pki.at("server.pem"), &pki.at("server.key"), &house.path("passwords").display().to_string());
    let dir = house.path("hosts").join(registry.address.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    let hosts = format!(
        "server = \"https://{}\"\nca = {:?}\n[header]\nx-own = \"canary-own\"\n",
        registry.address,
        pki.at("ca.pem")
    );
    std::fs::write(dir.join("hosts.toml"), hosts).unwrap();
    let store = Store::open(Config { hosts_dir: Some(house.path("hosts")), ..house.config() }).unwrap();
    for (password, works) in [("canary", true), ("canary-wrong", false)] {
        let auth = Auth::Basic { user: "me".into(), password: Secret::new(password) };
        let pulled = store.pull(&registry.name("web:1"), &options(Some(auth)), gantry_images::quiet()).await;
        assert_eq!(pulled.is_ok(), works);
        if let Err(why) = pulled {
            said.note(format_args!("{why} {why:?}"));
        }
    }
    assert!(registry.access_log().contains("HTTP/2.0"));
    assert!(String::from_utf8_lossy(&said.0.lock().unwrap()).contains("h2::"), "HTTP/2 was not heard");
    let leaks = said.leaks();
    assert!(leaks.is_empty(), "said:\n{}", leaks.join("\n"));
}

/// What the hosts of this test saw; each must see only what is its own.
struct Town {
    registry: Server,
    mirror: Server,
    storage: Server,
    tokens: Server,
}

const TOKEN: &str = "canary-token";

fn town(content: &Content) -> Town {
    let (here, far) = (content.clone(), content.clone());
    let storage = Server::start(move |asked| far.answer(asked));
    let tokens =
        Server::start(|asked| match asked.headers.contains_key("authorization") || asked.body.contains("canary") {
            true => Answer::ok(format!(r#"{{"token":"{TOKEN}","expires_in":0}}"#)),
            false => Answer::status(401),
        });
    let (realm, target) = (tokens.url("/token"), storage.url("/signed/"));
    let registry = Server::start(move |asked| {
        let authorized = asked.headers.get("authorization").is_some_and(|value| *value == format!("Bearer {TOKEN}"));
        match asked.path.rsplit_once('/') {
            _ if !authorized => Answer::status(401).header("www-authenticate", format!("Bearer realm=\"{realm}\"")),
            Some((_, digest)) if here.is_layer(asked) => {
                let signed = format!("{target}{digest}?signature=canary-signature");
                Answer::status(307).header("location", signed)
            }
            _ => here.answer(asked),
        }
    });
    let mirror = Server::start(|_| Answer::status(404));
    Town { registry, mirror, storage, tokens }
}

/// The word in anything that was asked.
fn has_canary(asked: &Asked) -> bool {
    let text = format!("{asked:?}");
    text.contains("canary") || text.contains("Y2FuYXJ5")
}

fn options(auth: Option<Auth>) -> PullOptions {
    PullOptions { auth, ..PullOptions::default() }
}

fn basic() -> Auth {
    Auth::Basic { user: "me".into(), password: Secret::new("canary-password") }
}

/// A store whose every setting holds a secret.
fn settings(house: &House, town: &Town) -> Config {
    let dir = house.path("hosts").join(town.registry.address.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    let hosts = format!(
        "[host.\"{0}\"]\n[host.\"{0}\".header]\nx-mirror = \"canary-mirror\"\n[header]\nx-own = \"canary-own\"\n",
        town.mirror.url("")
    );
    // A table of the file's own must come before those of the hosts.
    let (own, header) =
        hosts.split_once("[header]").map(|(own, header)| (own.to_owned(), format!("[header]{header}"))).unwrap();
    std::fs::write(dir.join("hosts.toml"), header + &own).unwrap();
    let proxy = Some(Secret::new("http://user:canary-proxy@127.0.0.1:1"));
    let proxies = Proxies { http: proxy.clone(), https: proxy, ..Proxies::default() };
    let network = Network { proxies: Some(proxies), helper_dir: Some(house.path("helpers")), ..Network::default() };
    Config {
        hosts_dir: Some(house.path("hosts")),
        credentials: vec![house.path("config.json")],
        network,
        ..house.config()
    }
}

fn helper(house: &House, script: &str) {
    std::fs::create_dir_all(house.path("helpers")).unwrap();
    let path = house.path("helpers/docker-credential-bird");
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_27_no_secret_is_said_or_sent_astray() {
    let said = listen();
    let house = House::new("bird");
    let content = Content::new(&house);
    let town = town(&content);
    let config = settings(&house, &town);
    said.note(format_args!("{config:?} {}", serde_json::to_string(&config).unwrap()));
    let events = said.clone();
    let progress: Progress = Arc::new(move |event| events.note(format_args!("{event:?}")));
    let store = Store::open(config).unwrap();
    let name = format!("{}/app:1", town.registry.address).parse().unwrap();
    let pull = async |auth: Option<Auth>, login: &str| {
        std::fs::write(house.path("config.json"), login).unwrap();
        let options = options(auth);
        said.note(format_args!("{options:?}"));
        let pulled = store.pull(&name, &options, progress.clone()).await;
        match &pulled {
            Ok(image) => drop(store.remove(&image.id).await.unwrap()),
            Err(why) => {
                said.note(format_args!("{why} {why:?} {:?}", std::error::Error::source(why).map(ToString::to_string)))
            }
        }
        pulled.is_ok()
    };
    let host = town.registry.address;
    let file = |entry: &str| format!(r#"{{"auths":{{"{host}":{entry}}}}}"#);
    for (auth, login, works) in [
        (Some(basic()), String::new(), true),
        (Some(Auth::Identity(Secret::new("canary-identity"))), String::new(), true),
        (Some(Auth::Bearer(Secret::new(TOKEN))), String::new(), true),
        (Some(Auth::Bearer(Secret::new("canary-other"))), String::new(), false),
        (Some(Auth::Bearer(Secret::new("canary\nheader"))), String::new(), false),
        (None, file(r#"{"username":"me","password":"canary-file"}"#), true),
        (None, file(r#"{"identitytoken":"canary-file"}"#), true),
        (None, file(r#"{"auth":"canary-not-base64"}"#), false),
        (None, file(r#"{"password":["canary-file"]}"#), false),
    ] {
        assert_eq!(pull(auth.clone(), &login).await, works, "{auth:?}");
    }
    for (script, works) in [
        (r#"echo '{"Username":"me","Secret":"canary-helper"}'"#, true),
        (r#"echo '{"Username":"me","Secret":["canary-helper"]}'"#, false),
        (r#"echo '{"Username":"me","Secret":"canary-helper"}'; echo canary-error >&2; exit 1"#, false),
    ] {
        helper(&house, script);
        assert_eq!(pull(None, r#"{"credsStore":"bird"}"#).await, works, "{script}");
    }
    // A signed address, to where nobody listens, and a proxy that is not there.
    let signed =
        Server::start(|_| Answer::status(307).header("location", "http://127.0.0.1:1/x?signature=canary-signature"));
    for unreached in [signed.address.to_string(), "registry.test:5000".into()] {
        let far = format!("{unreached}/app:1").parse().unwrap();
        let why = store.pull(&far, &options(Some(basic())), progress.clone()).await.unwrap_err();
        said.note(format_args!("{why} {why:?}"));
    }
    let leaks = said.leaks();
    assert!(leaks.is_empty(), "said:\n{}", leaks.join("\n"));
    assert!(String::from_utf8_lossy(&said.0.lock().unwrap()).contains("Progress"), "nothing was heard at all");
    check_who_saw_what(&town);
}

fn check_who_saw_what(town: &Town) {
    let all = |server: &Server| server.asked.lock().unwrap().clone();
    let (mirror, storage) = (all(&town.mirror), all(&town.storage));
    assert!(!mirror.is_empty() && !storage.is_empty());
    for asked in &mirror {
        let mut rest = asked.clone();
        assert_eq!(rest.headers.remove("x-mirror").as_deref(), Some("canary-mirror"), "its own header");
        assert!(!has_canary(&rest), "the mirror saw {rest:?}");
    }
    for asked in &storage {
        let mut rest = asked.clone();
        rest.path = rest.path.replace("?signature=canary-signature", "");
        assert!(!has_canary(&rest), "the storage saw {rest:?}");
    }
    // The token service gets the password, the registry its token; neither the other's, and no header of the mirror.
    let tokens = all(&town.tokens);
    assert!(tokens.iter().all(|asked| !format!("{asked:?}").contains("canary-own")), "{tokens:?}");
    for asked in all(&town.registry) {
        assert_eq!(asked.headers.get("x-own").map(String::as_str), Some("canary-own"));
        let value = asked.headers.get("authorization").cloned().unwrap_or_default();
        assert!(!value.starts_with("Basic"), "the password went to the registry, which did not ask for it");
        assert!(!asked.headers.contains_key("x-mirror") && !asked.headers.contains_key("proxy-authorization"));
    }
}
