//! Not a test but a measurement: what the two forms of layers cost. Run by hand, with a release build:
//! `cargo test --release -p gantry-images --test forms -- --ignored --nocapture`.

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use gantry_images::{Config, LayerForm, Store};
use support::House;
use support::tape::{self, Packing, Tape};

fn noise(seed: usize, length: usize) -> String {
    let mut state = seed as u32 + 1;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        char::from(b'!' + (state >> 24) as u8 % 90)
    };
    (0..length).map(step).collect()
}

/// 20,000 files, most of them small, 190 MB in five layers.
fn layers() -> Vec<(Vec<u8>, Packing)> {
    let layer = |at: usize| {
        let mut tape = Tape::new();
        for dir in 0..40 {
            tape = tape.dir(&format!("l{at}d{dir}/"), 0o755);
            for file in 0..100 {
                let length = [300, 1200, 2500, 5000, 9000, 20_000, 30_000][(dir * 7 + file * 3 + at) % 7];
                tape =
                    tape.file(&format!("l{at}d{dir}/some-name-{file}"), &noise(at * 9999 + dir * 100 + file, length));
            }
        }
        (tape.end(), Packing::Plain)
    };
    (0..5).map(layer).collect()
}

/// Milliseconds of processor time of this process: user, system.
fn cpu() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    (fields[11].parse::<u64>().unwrap() * 10, fields[12].parse::<u64>().unwrap() * 10)
}

fn disk(path: &Path) -> (u64, u64) {
    let (mut bytes, mut count) = (0, 0);
    for entry in std::fs::read_dir(path).unwrap().flatten() {
        let meta = std::fs::symlink_metadata(entry.path()).unwrap();
        (bytes, count) = (bytes + meta.blocks() * 512, count + 1);
        if meta.is_dir() {
            let below = disk(&entry.path());
            (bytes, count) = (bytes + below.0, count + below.1);
        }
    }
    (bytes, count)
}

fn read_all(path: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(path).unwrap().flatten() {
        sum += match entry.file_type().unwrap().is_dir() {
            true => read_all(&entry.path()),
            false => std::fs::read(entry.path()).unwrap().len() as u64,
        };
    }
    sum
}

fn cached() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with("Cached:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn what_the_forms_cost() {
    let house = House::new("forms");
    let layout = tape::layout(&house.path("oci"), "forms:1", &layers());
    for round in 0..3 {
        for form in [LayerForm::Directories, LayerForm::Erofs] {
            let root = house.path(&format!("{form:?}"));
            let store = Store::open(Config { layers: form, ..Config::at(&root) }).unwrap();
            rustix::fs::sync();
            let (before, begun) = (cpu(), Instant::now());
            let image = store.import(&layout, None).await.unwrap().remove(0);
            let (wall, after) = (begun.elapsed().as_millis(), cpu());
            let (bytes, inodes) = disk(&root.join("layers"));
            let mut mounting = Vec::new();
            for turn in 0..40 {
                let begun = Instant::now();
                store.rootfs(&image.id, &format!("c{turn}")).await.unwrap();
                mounting.push(begun.elapsed().as_micros());
            }
            let first = mounting[0];
            mounting.sort_unstable();
            rustix::fs::sync();
            std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
            let (cache, begun) = (cached(), Instant::now());
            let read = read_all(&root.join("rootfs/c0/merged"));
            let (cold, cold_cache) = (begun.elapsed().as_millis(), cached().saturating_sub(cache));
            let begun = Instant::now();
            read_all(&root.join("rootfs/c1/merged"));
            let (warm, warm_cache) = (begun.elapsed().as_millis(), cached().saturating_sub(cache));
            let begun = Instant::now();
            for turn in 0..40 {
                store.release_rootfs(&format!("c{turn}")).await.unwrap();
            }
            let release = begun.elapsed().as_micros() / 40;
            let begun = Instant::now();
            store.remove("forms:1").await.unwrap();
            println!(
                "{round} {form:?}: import {wall} ms, cpu {}+{} ms; disk {} MiB in {inodes} inodes; rootfs first {first} us, \
                 median {} us; read {} MiB cold {cold} ms ({cold_cache} MiB cached), second container {warm} ms \
                 ({warm_cache} MiB); release {release} us; remove {} ms",
                after.0 - before.0,
                after.1 - before.1,
                bytes >> 20,
                mounting[20],
                read >> 20,
                begun.elapsed().as_millis(),
            );
        }
    }
}
