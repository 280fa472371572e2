//! Power cuts at every step, kills at any moment, full and broken disks, flipped bits.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::disks::{Disk, Step, after_power_cut, contents};
use super::*;

type Contents = BTreeMap<String, String>;

/// Writes for a while; returns for every acknowledged revision how many disk steps there had been, and all contents.
async fn history(disk: &Disk, commits: u64) -> (Vec<usize>, Vec<Contents>) {
    let store = disk.open(Options { history_changes: 20, ..Options::default() }).expect("open");
    let (mut acknowledged, mut states) = (vec![disk.steps.lock().expect("lock").len()], vec![Contents::new()]);
    let mut dice = Dice(99);
    for n in 0..commits {
        let ops = (0..=dice.roll(3)).map(|k| {
            let key = format!("/k{}/{k}", dice.roll(9));
            match store.get(&key) {
                Some(_) if dice.roll(3) == 0 => Op::delete(key, Expect::Any),
                _ => Op::put(key, Expect::Any, format!("{n}").repeat(1 + dice.roll(900) as usize)),
            }
        });
        let ops: Vec<Op> = ops.collect();
        assert_eq!(store.commit(ops).await.expect("commit").revision, n + 1);
        acknowledged.push(disk.steps.lock().expect("lock").len());
        states.push(contents(&store));
    }
    (acknowledged, states)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_at_any_step_keeps_what_was_acknowledged() {
    let disk = Disk::default();
    let (acknowledged, states) = history(&disk, 40).await;
    let steps: Vec<Step> = disk.steps.lock().expect("lock").clone();
    let mut dice = Dice(4242);
    let mut cuts = 0;
    for cut in acknowledged[0]..=steps.len() {
        for way in 0..3 {
            let bytes = after_power_cut(&steps, cut, || match way {
                0 => false,
                1 => true,
                _ => dice.roll(2) == 0,
            });
            let store = Disk::with(bytes).open(Options::default());
            let store = store.unwrap_or_else(|e| panic!("cut {cut} way {way}: the store does not open: {e}"));
            let sure = acknowledged.iter().rposition(|at| *at <= cut).expect("the first") as u64;
            let revision = store.revision();
            assert!(revision == sure || revision == sure + 1, "cut {cut}: revision {revision}, acknowledged {sure}");
            assert_eq!(contents(&store), states[revision as usize], "cut {cut} way {way}");
            cuts += 1;
        }
    }
    assert!(cuts > 300, "{cuts} cuts");
}

#[tokio::test]
async fn a_power_cut_while_the_store_is_first_made_leaves_no_half_store() {
    let disk = Disk::default();
    drop(disk.open(Options::default()).expect("open"));
    let steps: Vec<Step> = disk.steps.lock().expect("lock").clone();
    for cut in 0..=steps.len() {
        let dir = Scratch::new("half");
        std::fs::create_dir_all(&dir.0).expect("dir");
        std::fs::write(dir.0.join("store.new"), after_power_cut(&steps, cut, || true)).expect("half a store");
        let store = Store::open(&dir.0).unwrap_or_else(|e| panic!("cut {cut}: {e}"));
        assert_eq!(put(&store, "/a", "1").await, 1);
        assert!(!dir.0.join("store.new").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_commits_and_nothing_else() {
    let disk = Disk::default();
    let store = disk.open(Options::default()).expect("open");
    put(&store, "/a", "1").await;
    let mut watch = store.watch("/", store.revision()).expect("watch");
    disk.full.store(true, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..3 {
        let op = Op::put("/b", Expect::Absent, "x".repeat(100_000));
        assert_eq!(kind(store.commit(vec![op]).await), Kind::Io);
    }
    assert_eq!(contents(&store), Contents::from([("/a".to_owned(), "1".to_owned())]), "reads go on");
    disk.full.store(false, std::sync::atomic::Ordering::SeqCst);
    let revision = put(&store, "/c", "2").await;
    let event = watch.next().await.expect("item").expect("event");
    assert_eq!((&*event.key, event.revision), ("/c", revision), "and writes go on when there is room again");
    let before = contents(&store);
    drop(store);
    assert_eq!(contents(&disk.open(Options::default()).expect("reopen")), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_in_doubt_is_shown_if_the_disk_has_it() {
    let disk = Disk::default();
    let store = disk.open(Options::default()).expect("open");
    put(&store, "/a", "1").await;
    let mut watch = store.watch("/", store.revision()).expect("watch");
    disk.broken_sync.store(true, std::sync::atomic::Ordering::SeqCst);
    let op = Op::put("/a", Expect::Revision(store.revision()), "2");
    assert_eq!(kind(store.commit(vec![op]).await), Kind::Io);
    disk.broken_sync.store(false, std::sync::atomic::Ordering::SeqCst);
    let next = put(&store, "/b", "3").await;
    let mut seen = Vec::new();
    while seen.last() != Some(&next) {
        seen.push(watch.next().await.expect("item").expect("event").revision);
    }
    let before = contents(&store);
    let revisions: Vec<u64> = ["/a", "/b"].iter().map(|key| store.get(key).expect("there").revision).collect();
    drop(store);
    let store = disk.open(Options::default()).expect("reopen");
    assert_eq!(contents(&store), before, "memory never disagreed with the disk");
    assert_eq!(["/a", "/b"].map(|key| store.get(key).expect("there").revision).to_vec(), revisions);
}

#[tokio::test(flavor = "multi_thread")]
async fn flipped_bits_are_noticed_or_harmless() {
    let disk = Disk::default();
    let (_, states) = history(&disk, 40).await;
    let good = disk.bytes.lock().expect("lock").clone();
    let mut dice = Dice(7);
    let mut noticed = 0;
    // Damage is reported by an error; in debug builds redb asserts on some of it instead.
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    for _ in 0..300 {
        let mut bytes = good.clone();
        let at = dice.roll(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << dice.roll(8);
        let opened = Mutex::new(None);
        let tried = std::panic::catch_unwind(|| {
            *opened.lock().expect("lock") =
                Some(Disk::with(bytes).open(Options::default()).map(|store| contents(&store)));
        });
        match (tried, opened.into_inner().expect("lock")) {
            (Ok(()), Some(Ok(seen))) => assert!(states.contains(&seen), "byte {at}: silently wrong"),
            _ => noticed += 1,
        }
    }
    std::panic::set_hook(quiet);
    eprintln!("{noticed} of 300 flips noticed, the others hit nothing that is used");
}

const FULL: &str = "GANTRY_STORE_FULL_CHILD";

/// Not a test of its own: runs on a file system of 4 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn child_on_a_small_file_system() {
    let Some(dir) = std::env::var_os(FULL) else { return };
    let (dir, ballast) = (Path::new(&dir).join("store"), Path::new(&dir).join("ballast"));
    std::fs::write(&ballast, vec![1; 1 << 20]).expect("ballast");
    let store = Store::open(&dir).expect("open");
    let mut written = 0;
    let why = loop {
        assert!(written < 2000, "the disk never fills");
        match store.commit(vec![Op::put(format!("/k{written}"), Expect::Absent, vec![b'x'; 8192])]).await {
            Ok(_) => written += 1,
            Err(why) => break why,
        }
    };
    assert_eq!(why.kind(), Kind::Io, "{why}");
    assert!(written > 50 && store.get(&format!("/k{}", written - 1)).is_some(), "reads go on after {written} commits");
    std::fs::remove_file(&ballast).expect("room");
    put(&store, "/after", "room was made").await;
    let before = contents(&store);
    drop(store);
    assert_eq!(contents(&Store::open(&dir).expect("reopen")), before);
    println!("full after {written} commits, and well again");
}

#[test]
fn a_file_system_that_fills_up_costs_no_data() {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return };
    if !status.lines().any(|line| line.starts_with("Uid:\t0\t")) {
        eprintln!("SKIPPED: mounting a small file system takes root");
        return;
    }
    let dir = Scratch::new("full");
    std::fs::create_dir_all(&dir.0).expect("dir");
    // The mount is in a namespace of its own and goes with the child.
    let script = "mount -t tmpfs -o size=4m tmpfs \"$1\" && exec \"$2\" --exact \"$3\" --nocapture";
    let out = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"])
        .args([dir.0.as_os_str(), std::env::current_exe().expect("myself").as_os_str()])
        .arg("store::tests::crash::child_on_a_small_file_system")
        .env(FULL, &dir.0)
        .output()
        .expect("unshare");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("and well again"), "{said}{}", String::from_utf8_lossy(&out.stderr));
}

const CHILD: &str = "GANTRY_STORE_CRASH_CHILD";

/// Not a test of its own: what the killed child runs.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let store = Store::open(Path::new(&dir)).expect("open");
    let writers = (0..4).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0_u64.. {
                let pair = vec![
                    Op::put(format!("/w{writer}/a"), Expect::Any, n.to_string()),
                    Op::put(format!("/w{writer}/b"), Expect::Any, n.to_string()),
                ];
                let done = store.commit(pair).await.expect("commit");
                println!("ack {writer} {n} {}", done.revision);
            }
        })
    });
    futures_util::future::join_all(writers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigkill_loses_nothing_that_was_acknowledged() {
    let dir = Scratch::new("sigkill");
    let mut newest = [0_u64; 4];
    for round in 0..6 {
        let me = std::env::current_exe().expect("myself");
        let test = "store::tests::crash::child_that_writes_until_it_is_killed";
        let mut child = Command::new(me)
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, &dir.0)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("spawn");
        let out = BufReader::new(child.stdout.take().expect("stdout"));
        let mut acknowledged = 0;
        for line in out.lines() {
            let line = line.expect("line");
            let Some(ack) = line.split("ack ").nth(1) else { continue };
            let mut numbers = ack.split(' ').map(|n| n.parse::<u64>().expect("number"));
            let (writer, n) = (numbers.next().expect("writer") as usize, numbers.next().expect("n"));
            newest[writer] = n;
            acknowledged += 1;
            if acknowledged == 40 + round * 37 {
                child.kill().expect("kill");
            }
        }
        child.wait().expect("reap");
        assert!(acknowledged >= 40, "round {round}: only {acknowledged} acknowledged");
        let store = Store::open(&dir.0).expect("the store opens after SIGKILL");
        let value = |key: String| -> u64 {
            let item = store.get(&key).expect("there");
            std::str::from_utf8(&item.value).expect("text").parse().expect("number")
        };
        for (writer, newest) in newest.iter().enumerate() {
            let (a, b) = (value(format!("/w{writer}/a")), value(format!("/w{writer}/b")));
            assert_eq!(a, b, "a commit is entire");
            assert!(a >= *newest, "round {round}: {newest} was acknowledged, {a} is there");
        }
    }
}
