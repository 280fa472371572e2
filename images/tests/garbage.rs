//! Garbage in a real store: a plan frees to the byte what it promised, and spares what changed since it was made.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::time::{Duration, SystemTime};

use gantry_images::garbage::{Mark, Reason, Rules};
use gantry_images::{Config, PullOptions, Reference, Store, quiet};
use support::http::Server;
use support::tape::{self, Packing, Tape};
use support::{House, may_mount};

/// Bytes and inodes below the directories whose content the plan is about, as `du` counts.
fn taken(store: &Path) -> (u64, u64) {
    let du = |kind: &[&str]| -> u64 {
        let mut du = std::process::Command::new("du");
        let said = du.args(kind).args(["-s", "--total"]).args(["blobs", "layers", "ingest"].map(|d| store.join(d)));
        let said = String::from_utf8(said.output().unwrap().stdout).unwrap();
        said.lines().last().unwrap().split_whitespace().next().unwrap().parse().unwrap()
    };
    (du(&["--block-size=1"]), du(&["--inodes"]))
}

/// Three images over one shared layer, imported in this order.
async fn three(house: &House, store: &Store) -> Vec<String> {
    let mut ids = Vec::new();
    let shared = Tape::new().dir("usr", 0o755).file("usr/shared", &"s".repeat(300_000)).end();
    for (at, name) in ["one", "two", "three"].into_iter().enumerate() {
        let own = Tape::new().file(&format!("own-{name}"), &name.repeat(10_000 * (at + 1))).end();
        let layers = [(shared.clone(), Packing::Gzip), (own, Packing::Plain)];
        let layout = tape::layout(&house.path(name), &format!("{name}:1"), &layers);
        ids.push(store.import(&layout, None).await.unwrap()[0].id.clone());
    }
    ids
}

#[tokio::test]
async fn a_plan_frees_to_the_byte_what_it_says() {
    let house = House::new("plan");
    let store = house.store();
    let ids = three(&house, &store).await;
    let root = house.path("store");
    let before = taken(&root);
    let nothing = store.plan(&Rules::default(), true).await.unwrap();
    assert!(nothing.images.is_empty() && nothing.frees.bytes == 0, "{nothing:?}");
    // Something that nothing refers to, and a download that was given up long ago.
    std::fs::write(root.join("blobs/sha256").join("0".repeat(64)), vec![7; 50_000]).unwrap();
    let stale = root.join("ingest").join(format!("sha256-{}", "1".repeat(64)));
    std::fs::write(&stale, vec![7; 9000]).unwrap();
    let old = SystemTime::now() - Duration::from_secs(7200);
    std::fs::File::options().write(true).open(&stale).unwrap().set_modified(old).unwrap();
    std::fs::write(root.join("ingest").join(format!("sha256-{}", "2".repeat(64))), "still arriving").unwrap();
    let full = taken(&root);
    let only = Rules { only: [ids[1].clone(), ids[2].clone()].into(), ..Rules::default() };
    let plan = store.plan(&only, true).await.unwrap();
    assert_eq!(plan.images.iter().map(|image| image.reason).collect::<Vec<_>>(), [Reason::Asked; 2]);
    assert_eq!(plan.leftovers.len(), 1);
    assert_eq!(taken(&root), full, "a plan changes nothing");
    let promised = plan.frees;
    let done = store.carry_out(plan).await.unwrap();
    assert_eq!((done.removed.len(), done.kept.len(), done.freed), (2, 0, promised));
    let after = taken(&root);
    assert_eq!((full.0 - after.0, full.1 - after.1), (promised.bytes, promised.inodes));
    let shared = after;
    // The last image takes the shared layer with it.
    let all = Rules { all: true, ..Rules::default() };
    let plan = store.plan(&all, true).await.unwrap();
    let promised = plan.frees;
    assert!(promised.bytes > 300_000, "{promised:?}");
    assert_eq!(store.carry_out(plan).await.unwrap().freed, promised);
    let after = taken(&root);
    assert_eq!((shared.0 - after.0, shared.1 - after.1), (promised.bytes, promised.inodes));
    assert!(store.images().is_empty() && before.0 > after.0);
}

#[tokio::test]
async fn what_has_changed_since_the_plan_stays() {
    if !may_mount("what_has_changed_since_the_plan_stays") {
        return;
    }
    let house = House::new("plan-changed");
    let store = house.store();
    let ids = three(&house, &store).await;
    let all = Rules { all: true, ..Rules::default() };
    let plan = store.plan(&all, true).await.unwrap();
    assert_eq!(plan.images.len(), 3);
    // One gets a container, one another name.
    store.rootfs(&ids[0], "c").await.unwrap();
    store.tag("two:1", &"two:2".parse().unwrap()).await.unwrap();
    let done = store.carry_out(plan).await.unwrap();
    assert_eq!(done.removed, [ids[2].clone()]);
    let kept: Vec<String> = done.kept.iter().map(|(_, why)| why.clone()).collect();
    assert!(kept.iter().any(|why| why == "it is in use by c"), "{kept:?}");
    assert!(kept.iter().any(|why| why == "it has other names now"), "{kept:?}");
    assert_eq!(store.users(&ids[0]).unwrap(), ["c"]);
    // In use, so never in a plan; what lies under a container stays even if the image is removed by name.
    assert!(store.plan(&all, true).await.unwrap().images.iter().all(|image| image.id == ids[1]));
    store.remove("one:1").await.unwrap();
    assert!(std::fs::metadata(house.path("store/rootfs/c/merged/usr/shared")).is_ok());
    store.release_rootfs("c").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn least_recently_used_first_and_pinned_never() {
    if !may_mount("least_recently_used_first_and_pinned_never") {
        return;
    }
    let house = House::new("plan-lru");
    let store = house.store();
    let ids = three(&house, &store).await;
    // The oldest is used again; then it is the newest.
    store.rootfs(&ids[0], "c").await.unwrap();
    store.release_rootfs("c").await.unwrap();
    let marks = Some((Mark::Bytes(1), Mark::Bytes(0)));
    let rules = Rules { marks, ..Rules::default() };
    let order = |plan: gantry_images::garbage::Plan| -> Vec<String> { plan.images.into_iter().map(|i| i.id).collect() };
    let chosen = order(store.plan(&rules, false).await.unwrap());
    assert_eq!(chosen, [ids[1].clone(), ids[2].clone(), ids[0].clone()]);
    // Another process sees the same.
    let other = Store::open(Config::at(house.path("store"))).unwrap();
    assert_eq!(order(other.plan(&rules, false).await.unwrap()), chosen);
    let young = Rules { min_age: Duration::from_secs(3600), ..rules.clone() };
    assert!(store.plan(&young, false).await.unwrap().images.is_empty());
    let server = Server::of_layout(&house.path("one"), "one");
    let name: Reference = format!("{}/one:1", server.address).parse().unwrap();
    let pinned = PullOptions { pinned: true, ..PullOptions::default() };
    assert_eq!(store.pull(&name, &pinned, quiet()).await.unwrap().id, ids[0]);
    assert_eq!(order(store.plan(&rules, false).await.unwrap()), chosen[..2]);
}
