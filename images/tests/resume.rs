//! Downloads that break off, stall, and come back as something else; answers that never come; requests that are refused.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gantry_images::{Config, Kind, Network, PullOptions, Store, quiet};
use support::House;
use support::content::Content;
use support::http::{Answer, Asked, Server};

fn config(house: &House) -> Config {
    let network = Network {
        answer_timeout: Duration::from_millis(400),
        stall_timeout: Duration::from_millis(300),
        ..Network::default()
    };
    Config { network, ..house.config() }
}

async fn pull(store: &Store, server: &Server) -> gantry_images::Result<Arc<gantry_images::Image>> {
    store.pull(&format!("{}/app:1", server.address).parse().unwrap(), &PullOptions::default(), quiet()).await
}

/// A server whose first answers for the layer are made by `first` (out of the right one); the header's values of all
/// requests for the layer.
async fn layer_headers(
    house: &House,
    first: impl Fn(usize, &Asked, Answer) -> Answer + Send + Sync + 'static,
    headers: &[&str],
) -> (gantry_images::Result<Arc<gantry_images::Image>>, Vec<Vec<String>>) {
    let content = Content::new(house);
    let (served, count) = (content.clone(), AtomicUsize::new(0));
    let server = Server::start(move |asked| match served.is_layer(asked) {
        true => first(count.fetch_add(1, Ordering::SeqCst), asked, served.answer(asked)),
        false => served.answer(asked),
    });
    let store = Store::open(config(house)).unwrap();
    let image = pull(&store, &server).await;
    let asked = server.asked.lock().unwrap();
    let of = |asked: &Asked| headers.iter().map(|h| asked.headers.get(*h).cloned().unwrap_or_default()).collect();
    (image, asked.iter().filter(|asked| content.is_layer(asked)).map(of).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_range_than_the_one_asked_for() {
    for (name, wrong) in [("offset", "bytes 1-9/10"), ("size", "bytes 1000-1999/2000"), ("none", "nonsense")] {
        let house = House::new(name);
        let make = move |n: usize, _: &Asked, right: Answer| match n {
            0 => Answer { cut: Some(1000), ..right },
            1 => Answer { headers: vec![("content-range".into(), wrong.into())], ..right },
            _ => right,
        };
        let (image, ranges) = layer_headers(&house, make, &["range"]).await;
        image.unwrap();
        assert_eq!(ranges, [[""], ["bytes=1000-"], [""]], "{name}: after a wrong range none is asked for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_is_refused() {
    let house = House::new("416");
    let make = |n, _: &Asked, right| match n {
        0 => Answer { cut: Some(1000), ..right },
        1 => Answer::status(416),
        _ => right,
    };
    let (image, ranges) = layer_headers(&house, make, &["range"]).await;
    image.unwrap();
    assert_eq!(ranges, [[""], ["bytes=1000-"], [""]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strong_etag_guards_the_range() {
    for (etag, guarded) in [("\"v1\"", "\"v1\""), ("W/\"v1\"", "")] {
        let house = House::new("etag");
        let make = move |n, _: &Asked, right: Answer| {
            let right = right.header("etag", etag);
            if n == 0 { Answer { cut: Some(1000), ..right } } else { right }
        };
        let (image, asked) = layer_headers(&house, make, &["range", "if-range"]).await;
        image.unwrap();
        assert_eq!(asked[1], ["bytes=1000-", guarded]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_changes_is_fetched_anew() {
    let house = House::new("changed");
    let make = |n, asked: &Asked, mut right: Answer| {
        // What came first was something else; then the server has the right blob and says so.
        if n == 0 {
            right.body.iter_mut().for_each(|byte| *byte ^= 1);
            return Answer { cut: Some(1000), ..right }.header("etag", "\"old\"");
        }
        if asked.headers.contains_key("if-range") {
            let whole = Asked { headers: Default::default(), ..asked.clone() };
            return Answer { status: 200, ..right_of(&whole, right) };
        }
        right
    };
    let (image, asked) = layer_headers(&house, make, &["range", "if-range"]).await;
    image.unwrap();
    assert_eq!(asked[1], ["bytes=1000-", "\"old\""]);
    assert_eq!(asked.last().unwrap(), &["", ""], "once more from the start");
}

/// The whole blob, where the right answer to a ranged request was made already: its tail behind as many other bytes.
fn right_of(_: &Asked, ranged: Answer) -> Answer {
    Answer { body: [vec![0; 1000], ranged.body].concat(), headers: Vec::new(), ..ranged }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stalls_is_continued() {
    let house = House::new("stall");
    let make = |n, _: &Asked, right| match n {
        0 => Answer { cut: Some(1000), hold: true, ..right },
        1 => Answer { mute: true, ..right },
        _ => right,
    };
    let (image, ranges) = layer_headers(&house, make, &["range"]).await;
    image.unwrap();
    assert_eq!(ranges, [[""], ["bytes=1000-"], ["bytes=1000-"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_comes_is_given_up() {
    let house = House::new("never");
    let mute = Server::start(|_| Answer { mute: true, ..Answer::ok("") });
    let why = pull(&Store::open(config(&house)).unwrap(), &mute).await.unwrap_err();
    assert_eq!(why.kind(), Kind::Unavailable);
    assert!(why.to_string().contains("no answer in 400ms"), "{why}");
    let house = House::new("never-whole");
    let make = |_, _: &Asked, right| Answer { cut: Some(1000), ..right };
    let (image, ranges) = layer_headers(&house, make, &["range"]).await;
    let why = image.unwrap_err().to_string();
    // Every answer brings a little, so each is worth another, up to a bound.
    assert!(why.contains("broke off 6 times, last at byte 7000") && ranges.len() == 7, "{why} {ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_was_ended_goes_on_in_the_next_process() {
    let house = House::new("ended");
    let content = Content::new(&house);
    let (served, count) = (content.clone(), AtomicUsize::new(0));
    let server = Arc::new(Server::start(move |asked| {
        let right = served.answer(asked);
        match served.is_layer(asked) && count.fetch_add(1, Ordering::SeqCst) == 0 {
            true => Answer { cut: Some(5_000), hold: true, ..right },
            false => right,
        }
    }));
    let (store, from) = (house.store(), server.clone());
    let first = tokio::spawn(async move { pull(&store, &from).await.map(drop) });
    let part = || {
        let files = std::fs::read_dir(house.path("store/ingest")).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|meta| meta.len()).max().unwrap_or_default()
    };
    for _ in 0..200 {
        if part() >= 5_000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(part(), 5_000, "the first part did not arrive");
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    pull(&house.store(), &server).await.unwrap();
    let ranges = server.log("range");
    let layer: Vec<_> = ranges.iter().filter(|(path, _)| path.contains(&content.layer.to_string())).collect();
    assert_eq!(layer[1].1.as_deref(), Some("bytes=5000-"), "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_asks_for_patience() {
    let house = House::new("patience");
    let content = Content::new(&house);
    let count = AtomicUsize::new(0);
    let now = std::time::SystemTime::now();
    let served = content.clone();
    let server = Server::start(move |asked| match count.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::status(429).header("retry-after", httpdate::fmt_http_date(now)),
        1 => Answer::status(503).header("retry-after", "0"),
        2 => Answer::status(500),
        _ => served.answer(asked),
    });
    pull(&house.store(), &server).await.unwrap();
    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
    let busy = Server::start(move |_| Answer { status: 429, ..Answer::ok(body) }.header("retry-after", "3600"));
    let why = pull(&house.store(), &busy).await.unwrap_err();
    assert_eq!(why.kind(), Kind::Unavailable);
    for part in
        ["429", "TOOMANYREQUESTS: You have reached", "log in or come back later", "a pause of 3600s", "no credentials"]
    {
        assert!(why.to_string().contains(part), "{part}: {why}");
    }
    assert_eq!(busy.log("x").len(), 1, "who asks for an hour is not asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_have_an_end() {
    for (retry_for, attempts) in [(Duration::ZERO, 1), (Duration::from_secs(60), 5)] {
        let house = House::new("end");
        let server = Server::start(|_| Answer::status(503).header("retry-after", "0"));
        let network = Network { retry_for, ..Network::default() };
        let why = pull(&Store::open(Config { network, ..house.config() }).unwrap(), &server).await.unwrap_err();
        assert_eq!((why.kind(), server.log("x").len()), (Kind::Unavailable, attempts), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_have_an_end() {
    let house = House::new("redirects");
    let server = Server::start(|asked| Answer::status(302).header("location", format!("{}x", asked.path)));
    let why = pull(&house.store(), &server).await.unwrap_err();
    assert!(why.to_string().contains("more than 10 redirects"), "{why}");
    assert_eq!(server.log("x").len(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_who_what_and_what_to_do() {
    for (status, body, kind, parts) in [
        (
            404,
            r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
            Kind::NotFound,
            ["404 Not Found", "(MANIFEST_UNKNOWN: manifest unknown)", "check the repository and the tag"],
        ),
        (401, "", Kind::Unauthorized, ["401 Unauthorized", "pull access denied", "no credentials were sent"]),
        (
            403,
            r#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#,
            Kind::Unauthorized,
            ["403 Forbidden", "(DENIED: requested access is denied)", "may require authorization"],
        ),
        (501, "", Kind::Invalid, ["501 Not Implemented", "", ""]),
    ] {
        let house = House::new("refused");
        let server = Server::start(move |_| Answer { status, ..Answer::ok(body) });
        let why = pull(&house.store(), &server).await.unwrap_err();
        assert_eq!(why.kind(), kind);
        let who = format!("registry {0}, repository app, manifest 1: {0}: ", server.address);
        for part in parts.into_iter().chain([who.as_str()]) {
            assert!(why.to_string().contains(part), "{part:?} is not in: {why}");
        }
        assert_eq!(server.log("x").len(), 1, "{status} will not pass");
    }
}
