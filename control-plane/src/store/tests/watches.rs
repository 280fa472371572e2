//! Watches while many write: every event once, in order, from any revision.

use std::collections::HashMap;

use super::*;

const WRITERS: u64 = 8;
const EACH: u64 = 150;

/// Follows until `writers * each` events were seen; checks their order; returns the newest value by key.
async fn follow(
    store: Store,
    prefix: &'static str,
    after: u64,
    mut state: HashMap<String, Bytes>,
) -> HashMap<String, Bytes> {
    let mut watch = store.watch(prefix, after).expect("watch");
    let mut last = (after, String::new());
    while !state.contains_key("/done") {
        let event = watch.next().await.expect("an event").expect("no error");
        let at = (event.revision, event.key.to_string());
        assert!(at.0 > last.0, "{at:?} after {last:?}");
        assert_eq!(event.prev, state.get(&at.1).cloned(), "the value before, at {at:?}");
        match event.kind {
            EventKind::Put => state.insert(at.1.clone(), event.value.clone()),
            EventKind::Delete => state.remove(&at.1),
        };
        last = at;
    }
    state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_list_and_a_watch_see_everything_exactly_once() {
    let dir = Scratch::new("watch");
    let store = Store::open(&dir.0).expect("open");
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    let key = format!("/w{writer}/{}", n % 7);
                    let op = match store.get(&key) {
                        Some(_) if n % 5 == 4 => Op::delete(key.as_str(), Expect::Any),
                        _ => Op::put(key.as_str(), Expect::Any, format!("{writer}-{n}")),
                    };
                    store.commit(vec![op]).await.expect("commit");
                }
            })
        })
        .collect();
    let mut watchers = Vec::new();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(3)).await;
        let page = store.list(Range::default()).expect("list");
        let state = page.items.into_iter().map(|item| (item.key.to_string(), item.value)).collect();
        watchers.push(tokio::spawn(follow(store.clone(), "/", page.revision, state)));
    }
    watchers.push(tokio::spawn(follow(store.clone(), "/", 0, HashMap::new())));
    for writer in writers {
        writer.await.expect("writer");
    }
    put(&store, "/done", "").await;
    let page = store.list(Range::default()).expect("list");
    let end: HashMap<String, Bytes> = page.items.into_iter().map(|item| (item.key.to_string(), item.value)).collect();
    for watcher in watchers {
        assert_eq!(watcher.await.expect("watcher"), end);
    }
}

#[tokio::test]
async fn a_slow_watcher_is_ended_and_told_why() {
    let dir = Scratch::new("slow");
    let store = Store::open_with(&dir.0, Options { watch_backlog: 10, ..Options::default() }).expect("open");
    let mut slow = store.watch("/a", 0).expect("watch");
    let mut other = store.watch("/b", 0).expect("watch");
    for n in 0..25 {
        put(&store, &format!("/a{n}"), "").await;
    }
    for n in 0..10 {
        let event = slow.next().await.expect("item").expect("an event that still fitted");
        assert_eq!(&*event.key, format!("/a{n}"));
    }
    assert_eq!(kind(slow.next().await.expect("the end")), Kind::Slow);
    assert!(slow.next().await.is_none());
    put(&store, "/b", "").await;
    assert_eq!(&*other.next().await.expect("item").expect("event").key, "/b", "others are not touched");
}

#[tokio::test]
async fn closing_the_store_ends_watches() {
    let dir = Scratch::new("close");
    let store = Store::open(&dir.0).expect("open");
    put(&store, "/a", "").await;
    let mut watch = store.watch("/", 0).expect("watch");
    assert_eq!(kind(store.watch("/", 99).map(drop)), Kind::Future);
    drop(store);
    assert_eq!(&*watch.next().await.expect("item").expect("event").key, "/a");
    assert_eq!(kind(watch.next().await.expect("the end")), Kind::Closed);
}

#[tokio::test]
async fn progress_is_claimed_only_when_all_was_delivered() {
    let dir = Scratch::new("progress");
    let store = Store::open(&dir.0).expect("open");
    let mut watch = store.watch("/a", 0).expect("watch");
    put(&store, "/b", "").await;
    assert_eq!(watch.progress(), Some(1), "what is not watched counts as delivered");
    put(&store, "/a", "").await;
    assert_eq!(watch.progress(), None);
    watch.next().await.expect("item").expect("event");
    assert_eq!(watch.progress(), Some(2));
}
