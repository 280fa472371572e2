//! Tokens and their lives: kept while they are good, replaced when they are not, one request for all who wait.

#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use gantry_images::{Auth, Kind, PullOptions, Secret, Store, quiet};
use support::House;
use support::content::Content;
use support::http::{Answer, Asked, Server};

/// A token service that gives `t1`, `t2`, ... and says how long they live; how many it gave.
fn service(life: &'static str) -> (Server, Arc<AtomicUsize>) {
    let given = Arc::new(AtomicUsize::new(0));
    let count = given.clone();
    let server = Server::start(move |_| {
        let n = count.fetch_add(1, Ordering::SeqCst) + 1;
        Answer::ok(format!(r#"{{"token":"t{n}"{life}}}"#))
    });
    (server, given)
}

/// A registry that takes what `good` says, and else asks for a token.
fn registry(content: &Content, tokens: &Server, good: impl Fn(&Asked, &str) -> bool + Send + Sync + 'static) -> Server {
    let (content, realm) = (content.clone(), tokens.url("/token"));
    Server::start(move |asked| {
        let token = asked.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer "));
        match token.is_some_and(|token| good(asked, token)) {
            true => content.answer(asked),
            false => {
                Answer::status(401).header("www-authenticate", format!("Bearer realm=\"{realm}\",service=\"reg\""))
            }
        }
    })
}

fn me() -> PullOptions {
    let auth = Auth::Basic { user: "me".into(), password: Secret::new("canary") };
    PullOptions { auth: Some(auth), ..PullOptions::default() }
}

async fn pull(store: &Store, from: &Server, options: &PullOptions) -> gantry_images::Result<()> {
    let image = store.pull(&format!("{}/app:1", from.address).parse().unwrap(), options, quiet()).await?;
    store.remove(&image.id).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lives_as_long_as_it_says() {
    for (life, two_pulls) in [(r#","expires_in":300"#, 1), ("", 1), (r#","expires_in":0"#, 6)] {
        let house = House::new("life");
        let content = Content::new(&house);
        let (tokens, given) = service(life);
        let from = registry(&content, &tokens, |_, _| true);
        let store = house.store();
        pull(&store, &from, &me()).await.unwrap();
        pull(&store, &from, &me()).await.unwrap();
        assert_eq!(given.load(Ordering::SeqCst), two_pulls, "{life}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_refused_in_the_middle_is_replaced() {
    let house = House::new("refused");
    let content = Content::new(&house);
    let (tokens, given) = service(r#","expires_in":300"#);
    // The first token is good for the manifest only.
    let from = registry(&content, &tokens, |asked, token| asked.path.contains("/manifests/") || token != "t1");
    pull(&house.store(), &from, &me()).await.unwrap();
    assert_eq!(given.load(Ordering::SeqCst), 2);
    // One that never is good is asked for once a request, and then that is it.
    let (tokens, given) = service("");
    let from = registry(&content, &tokens, |_, _| false);
    let why = pull(&house.store(), &from, &me()).await.unwrap_err();
    assert_eq!((why.kind(), given.load(Ordering::SeqCst)), (Kind::Unauthorized, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_its_owners() {
    let house = House::new("owners");
    let content = Content::new(&house);
    let (tokens, given) = service(r#","expires_in":300"#);
    let from = registry(&content, &tokens, |_, _| true);
    let store = house.store();
    let other = Auth::Basic { user: "you".into(), password: Secret::new("other") };
    pull(&store, &from, &me()).await.unwrap();
    pull(&store, &from, &PullOptions { auth: Some(other), ..PullOptions::default() }).await.unwrap();
    pull(&store, &from, &PullOptions::default()).await.unwrap();
    pull(&store, &from, &me()).await.unwrap();
    assert_eq!(given.load(Ordering::SeqCst), 3, "one for each who asked");
    let authorized: Vec<bool> = tokens.log("authorization").into_iter().map(|(_, value)| value.is_some()).collect();
    assert_eq!(authorized, [true, true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_service_that_fails() {
    let house = House::new("failing");
    let content = Content::new(&house);
    for (answer, kind, part) in [
        (Answer::status(500), Kind::Unavailable, "ask the registry's token service: 500"),
        (Answer::status(403), Kind::Unauthorized, "ask the registry's token service: 403"),
        (Answer::ok("{\"token\":[\"canary\"]}"), Kind::Invalid, "sent no token"),
    ] {
        let tokens = Server::start(move |_| answer.clone());
        let from = registry(&content, &tokens, |_, _| true);
        let why = pull(&house.store(), &from, &me()).await.unwrap_err();
        assert_eq!(why.kind(), kind, "{why}");
        assert!(why.to_string().contains(part) && !why.to_string().contains("canary"), "{why}");
    }
}
