//! The registry protocol where it gets difficult: tokens, redirects, broken connections, mirrors, lies (cases 15, 16, 27).

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gantry_images::{Auth, Kind, PullOptions, Secret, Store, quiet};
use support::House;
use support::content::Content;
use support::http::{Answer, Server};

async fn pull(
    store: &Store,
    server: &Server,
    options: PullOptions,
) -> gantry_images::Result<Arc<gantry_images::Image>> {
    store.pull(&format!("{}/app:1", server.address).parse().unwrap(), &options, quiet()).await
}

fn with(auth: Auth) -> PullOptions {
    PullOptions { auth: Some(auth), ..PullOptions::default() }
}

fn basic() -> Auth {
    Auth::Basic { user: "me".into(), password: Secret::new("canary") }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_with_the_credentials_and_reused() {
    let house = House::new("token");
    let content = Content::new(&house);
    let tokens = Server::start(|asked| match asked.headers.get("authorization").map(String::as_str) {
        Some("Basic bWU6Y2FuYXJ5") => Answer::ok(r#"{"token":"sesame"}"#),
        None if asked.body.contains("refresh_token=long-lived") => Answer::ok(r#"{"access_token":"sesame"}"#),
        _ => Answer::status(401),
    });
    let realm = tokens.url("/token");
    let server = Server::start(move |asked| match asked.headers.get("authorization").map(String::as_str) {
        Some("Bearer sesame") => content.answer(asked),
        _ => Answer::status(401).header("www-authenticate", format!("Bearer realm=\"{realm}\",service=\"reg\"")),
    });
    pull(&house.store(), &server, with(basic())).await.unwrap();
    let asked = tokens.log("authorization");
    assert_eq!(asked.len(), 1, "one token serves the whole pull: {asked:?}");
    assert_eq!(asked[0].0, "/token?service=reg&scope=repository%3Aapp%3Apull");
    let other = Store::open(gantry_images::Config::at(house.path("other"))).unwrap();
    pull(&other, &server, with(Auth::Identity(Secret::new("long-lived")))).await.unwrap();
    pull(&other, &server, with(Auth::Bearer(Secret::new("sesame")))).await.unwrap();
    let why = pull(&other, &server, PullOptions::default()).await.unwrap_err();
    assert_eq!(why.kind(), Kind::Unauthorized, "{why}");
    let wrong = Auth::Basic { user: "me".into(), password: Secret::new("not-the-canary") };
    let why = pull(&other, &server, with(wrong)).await.unwrap_err();
    assert_eq!(why.kind(), Kind::Unauthorized, "{why}");
    assert!(!format!("{why} {why:?}").contains("canary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn case_27_a_redirect_to_another_host_gets_no_credentials() {
    let house = House::new("redirect");
    let content = Content::new(&house);
    let (elsewhere, layer) = (content.clone(), content.layer.clone());
    let storage = Server::start(move |asked| elsewhere.answer(asked));
    let target = storage.url(&format!("/signed/{layer}?signature=canary"));
    let server = Server::start(move |asked| match asked.headers.get("authorization").map(String::as_str) {
        Some("Basic bWU6Y2FuYXJ5") if content.is_layer(asked) => Answer::status(307).header("location", target.clone()),
        Some("Basic bWU6Y2FuYXJ5") => content.answer(asked),
        _ => Answer::status(401).header("www-authenticate", "Basic realm=\"x\""),
    });
    pull(&house.store(), &server, with(basic())).await.unwrap();
    let log = storage.log("authorization");
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].1, None, "the credentials went to another host");
}

#[tokio::test(flavor = "multi_thread")]
async fn case_27_only_the_registry_itself_is_answered() {
    let house = House::new("asks");
    let content = Content::new(&house);
    let thief = Server::start(|_| Answer::ok(r#"{"token":"stolen"}"#));
    let challenges = [format!("Bearer realm=\"{}\"", thief.url("/token")), "Basic realm=x".to_owned()];
    for challenge in challenges {
        let storage = Server::start(move |_| Answer::status(401).header("www-authenticate", challenge.clone()));
        let (served, target) = (content.clone(), storage.url("/layer"));
        let server = Server::start(move |asked| match asked.headers.contains_key("authorization") {
            true if served.is_layer(asked) => Answer::status(307).header("location", target.clone()),
            true => served.answer(asked),
            false => Answer::status(401).header("www-authenticate", "Basic realm=\"x\""),
        });
        let why = pull(&house.store(), &server, with(basic())).await.unwrap_err();
        assert_eq!(why.kind(), Kind::Unauthorized, "{why}");
        assert!(
            storage.log("authorization").iter().all(|(_, value)| value.is_none()),
            "a redirect asked and was answered"
        );
        assert!(thief.log("authorization").is_empty(), "its token service was asked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_download_is_continued_where_it_broke() {
    let house = House::new("broken");
    let content = Content::new(&house);
    let (count, length) = (Arc::new(AtomicUsize::new(0)), content.blobs[1].len());
    let counted = count.clone();
    let served = content.clone();
    let server = Server::start(move |asked| {
        let answer = served.answer(asked);
        match served.is_layer(asked) && counted.fetch_add(1, Ordering::SeqCst) < 3 {
            true => Answer { cut: Some(length / 5), ..answer },
            false => answer,
        }
    });
    pull(&house.store(), &server, PullOptions::default()).await.unwrap();
    let ranges: Vec<_> = server.log("range").into_iter().filter(|(path, _)| path.contains("blobs")).collect();
    let ranges: Vec<_> =
        ranges.into_iter().filter(|(path, _)| path.contains(&content.layer.to_string())).map(|r| r.1).collect();
    let expect = |n: usize| (n > 0).then(|| format!("bytes={}-", n * (length / 5)));
    assert_eq!(ranges, [expect(0), expect(1), expect(2), expect(3)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_ignore_ranges_and_those_that_are_busy() {
    let house = House::new("busy");
    let content = Content::new(&house);
    let count = Arc::new(AtomicUsize::new(0));
    let server = Server::start(move |asked| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        let mut plain = asked.clone();
        plain.headers.remove("range");
        match n {
            0 => Answer::status(429).header("retry-after", "0"),
            2 => Answer::status(503),
            _ if content.is_layer(asked) && !asked.headers.contains_key("range") => {
                Answer { cut: Some(10_000), ..content.answer(asked) }
            }
            _ => content.answer(&plain),
        }
    });
    pull(&house.store(), &server, PullOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endless_or_wrong_server_is_refused() {
    let house = House::new("wrong");
    let content = Content::new(&house);
    let big = Server::start(|_| Answer::ok(vec![b' '; 5 << 20]));
    assert_eq!(pull(&house.store(), &big, PullOptions::default()).await.unwrap_err().kind(), Kind::TooLarge);
    let served = content.clone();
    let other = Server::start(move |asked| match served.is_layer(asked) {
        true => Answer::ok([&served.blobs[1][..], b"more"].concat()),
        false => served.answer(asked),
    });
    let why = pull(&house.store(), &other, PullOptions::default()).await.unwrap_err();
    assert_eq!(why.kind(), Kind::Invalid, "{why}");
    assert!(why.to_string().contains("descriptor promised"), "{why}");
    let served = content.clone();
    let flipped = Server::start(move |asked| {
        let mut answer = served.answer(asked);
        if served.is_layer(asked) {
            let middle = answer.body.len() / 2;
            answer.body[middle] ^= 1;
        }
        answer
    });
    let why = pull(&house.store(), &flipped, PullOptions::default()).await.unwrap_err();
    assert_eq!(why.kind(), Kind::Invalid, "{why}");
    assert!(why.to_string().contains("not what its digest"), "{why}");
    for dir in ["layers", "unpack", "ingest"] {
        assert_eq!(std::fs::read_dir(house.path("store").join(dir)).unwrap().count(), 0, "left in {dir}");
    }
    assert!(house.store().images().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn case_16_a_manifest_sent_as_an_index_is_refused() {
    let house = House::new("polyglot");
    let content = Content::new(&house);
    let server = Server::start(move |asked| {
        let mut answer = content.answer(asked);
        answer.headers = vec![("content-type".into(), "application/vnd.oci.image.index.v1+json".into())];
        answer
    });
    assert_eq!(pull(&house.store(), &server, PullOptions::default()).await.unwrap_err().kind(), Kind::Invalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_are_asked_first_and_get_no_credentials() {
    let house = House::new("mirror");
    let content = Content::new(&house);
    let (here, there) = (content.clone(), content.clone());
    let mirror =
        Server::start(move |asked| if here.is_layer(asked) { here.answer(asked) } else { Answer::status(404) });
    let origin = Server::start(move |asked| match asked.headers.contains_key("authorization") {
        true => there.answer(asked),
        false => Answer::status(401).header("www-authenticate", "Basic realm=x"),
    });
    let hosts = house.path("hosts");
    let dir = hosts.join(origin.address.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("hosts.toml"), format!("[host.\"{}\"]\n", mirror.url(""))).unwrap();
    let config = gantry_images::Config { hosts_dir: Some(hosts), ..house.config() };
    let store = Store::open(config).unwrap();
    pull(&store, &origin, with(basic())).await.unwrap();
    let asked = mirror.log("authorization");
    assert!(asked.len() == 3 && asked.iter().all(|(_, authorization)| authorization.is_none()), "{asked:?}");
    assert!(asked[0].0.ends_with(&format!("?ns={}", origin.address.to_string().replace(':', "%3A"))), "{asked:?}");
    assert!(origin.log("x").iter().all(|(path, _)| !path.contains(&content.layer.to_string())));
}
