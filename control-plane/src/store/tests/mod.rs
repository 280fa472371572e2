//! The store against a simple model, its watches under concurrency, expiry, compaction and locking.
//!
//! `crash` cuts the power and kills processes; here everything is orderly.

mod crash;
mod disks;
mod model;
mod watches;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        Scratch(std::env::temp_dir().join(format!("gantry-store-{name}-{}", uuid::Uuid::new_v4())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Numbers that look random and are the same each time (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % sides
    }
}

/// A clock that tests move.
fn clock() -> (Arc<AtomicU64>, Options) {
    let time = Arc::new(AtomicU64::new(1_000_000));
    let read = time.clone();
    (time, Options { clock: Arc::new(move || read.load(Ordering::SeqCst)), ..Options::default() })
}

async fn put(store: &Store, key: &str, value: &str) -> u64 {
    store.commit(vec![Op::put(key, Expect::Any, value.to_owned())]).await.expect("put").revision
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> Kind {
    result.expect_err("an error").kind()
}

#[tokio::test]
async fn expectations_hold_or_nothing_is_written() {
    let dir = Scratch::new("expect");
    let store = Store::open(&dir.0).expect("open");
    let first = store.commit(vec![Op::put("a", Expect::Absent, "1")]).await.expect("create").revision;
    let one = |expect| vec![Op::put("a", expect, "2"), Op::put("b", Expect::Any, "2")];
    assert_eq!(kind(store.commit(one(Expect::Absent)).await), Kind::Exists);
    assert_eq!(kind(store.commit(one(Expect::Revision(first + 1))).await), Kind::Conflict);
    assert_eq!(kind(store.commit(vec![Op::delete("b", Expect::Any)]).await), Kind::Missing);
    assert_eq!(kind(store.commit(vec![Op::put("b", Expect::Revision(1), "2")]).await), Kind::Missing);
    assert_eq!(kind(store.commit(vec![]).await), Kind::Invalid);
    assert_eq!(kind(store.commit(vec![Op::put("", Expect::Any, "2")]).await), Kind::Invalid);
    assert_eq!(
        kind(store.commit(vec![Op::put("c", Expect::Any, "1"), Op::delete("c", Expect::Any)]).await),
        Kind::Invalid
    );
    assert_eq!((store.revision(), store.get("b")), (first, None));

    let second = store.commit(one(Expect::Revision(first))).await.expect("update").revision;
    let item = store.get("a").expect("a");
    assert_eq!((item.revision, item.create_revision, &item.value[..]), (second, first, &b"2"[..]));
    assert_eq!(store.get("b").expect("b").revision, second, "one commit, one revision");
}

#[tokio::test]
async fn of_two_writers_at_one_revision_one_wins() {
    let dir = Scratch::new("race");
    let store = Store::open(&dir.0).expect("open");
    let mut now = put(&store, "a", "0").await;
    for round in 0..50 {
        let write = |n: u32| store.commit(vec![Op::put("a", Expect::Revision(now), format!("{round}-{n}"))]);
        let (a, b, c) = tokio::join!(write(1), write(2), write(3));
        let won: Vec<u64> = [a, b, c].into_iter().flatten().map(|done| done.revision).collect();
        assert_eq!(won.len(), 1, "round {round}");
        now = won[0];
    }
}

#[tokio::test]
async fn a_second_store_cannot_open_the_same_directory() {
    let dir = Scratch::new("lock");
    let store = Store::open(&dir.0).expect("open");
    put(&store, "a", "1").await;
    assert_eq!(kind(Store::open(&dir.0).map(drop)), Kind::Locked);
    drop(store);
    assert!(Store::open(&dir.0).expect("open again").get("a").is_some());
}

#[tokio::test]
async fn files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Scratch::new("modes");
    std::fs::create_dir_all(&dir.0).expect("dir");
    std::fs::set_permissions(&dir.0, std::fs::Permissions::from_mode(0o755)).expect("mode");
    let _store = Store::open(&dir.0).expect("open");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&dir.0), 0o700);
    for entry in std::fs::read_dir(&dir.0).expect("list") {
        let path = entry.expect("entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn pages_of_a_list_show_one_revision() {
    let dir = Scratch::new("pages");
    let store = Store::open(&dir.0).expect("open");
    for n in 0..10 {
        put(&store, &format!("/pods/{n}"), "old").await;
    }
    put(&store, "/podsx", "not under the prefix").await;
    let range = Range { prefix: "/pods/", limit: 4, ..Range::default() };
    let first = store.list(range).expect("first");
    assert_eq!((first.items.len(), first.remaining), (4, 6));
    store.commit(vec![Op::delete("/pods/5", Expect::Any)]).await.expect("delete");
    put(&store, "/pods/7", "new").await;
    put(&store, "/pods/55", "new").await;
    let last = first.items.last().expect("item").key.clone();
    let rest = Range { start_after: Some(&last), limit: 0, at_revision: Some(first.revision), ..range };
    let second = store.list(rest).expect("second");
    let keys: Vec<&str> = second.items.iter().map(|item| &*item.key).collect();
    assert_eq!(keys, ["/pods/4", "/pods/5", "/pods/6", "/pods/7", "/pods/8", "/pods/9"]);
    assert!(second.items.iter().all(|item| &item.value[..] == b"old" && item.revision <= first.revision));
    assert_eq!(kind(store.list(Range { at_revision: Some(999), ..range })), Kind::Future);
}

#[tokio::test]
async fn keys_expire_and_say_so() {
    let dir = Scratch::new("ttl");
    let (time, options) = clock();
    let store = Store::open_with(&dir.0, options.clone()).expect("open");
    let hour = Duration::from_secs(3600);
    store.commit(vec![Op::put_for("/events/a", Expect::Any, "a", hour)]).await.expect("a");
    store.commit(vec![Op::put_for("/events/b", Expect::Any, "b", hour)]).await.expect("b");
    put(&store, "/events/b", "for good").await;
    drop(store);

    time.fetch_add(3599, Ordering::SeqCst);
    let store = Store::open_with(&dir.0, options).expect("open again");
    let now = put(&store, "/x", "tick").await;
    assert!(store.get("/events/a").is_some(), "not yet");
    let mut watch = store.watch("/events/", now).expect("watch");
    time.fetch_add(1, Ordering::SeqCst);
    let event = watch.next().await.expect("an event").expect("no error");
    assert_eq!((event.kind, &*event.key, event.prev.as_deref()), (EventKind::Delete, "/events/a", Some(&b"a"[..])));
    assert_eq!(store.get("/events/a"), None);
    assert!(store.get("/events/b").is_some(), "a put without a time to live is for good");
}

#[tokio::test]
async fn old_history_is_forgotten_and_asking_for_it_says_so() {
    let dir = Scratch::new("compact");
    let (time, options) = clock();
    let options = Options { history_changes: 100, history_age: Duration::from_secs(600), ..options };
    let store = Store::open_with(&dir.0, options.clone()).expect("open");
    for n in 0..300 {
        put(&store, "/a", &n.to_string()).await;
    }
    let kept = store.revision() - store.compacted_revision();
    assert!((100..=107).contains(&kept), "{kept} changes kept");
    let old = store.compacted_revision() - 1;
    assert_eq!(kind(store.watch("/", old).map(drop)), Kind::Compacted);
    assert_eq!(kind(store.list(Range { at_revision: Some(old), ..Range::default() })), Kind::Compacted);
    let mut watch = store.watch("/", old + 1).expect("the oldest that is kept");
    assert_eq!(watch.next().await.expect("event").expect("ok").revision, old + 2);

    let compacted = store.compacted_revision();
    drop(store);
    let store = Store::open_with(&dir.0, options).expect("open again");
    assert_eq!(store.compacted_revision(), compacted, "history outlives a restart");
    assert!(store.watch("/", compacted).is_ok());
    time.fetch_add(700, Ordering::SeqCst);
    let now = put(&store, "/b", "later").await;
    assert_eq!(store.compacted_revision(), now - 1, "age forgets too");
}
