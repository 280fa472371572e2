//! Images: cold pulls of ours and of containerd in turns with `tar x` as floor, what else a pull needs, and listing.
//!
//! Each pull starts with an empty store (containerd: with a new daemon) on a new ext4 in a loop device, because ext4 looks
//! long for inodes where many were deleted a moment ago, and from Debian's docker-registry on 127.0.0.1. Ours has everything on disk when it ends; containerd does not sync what it unpacks, so its time until a sync has ended stands
//! beside it. The floor is `tar x` of the same layers, one after the other, not synced.

mod places;

use crate::compare::{percentile, ratio};
use crate::peers::text;
use gantry_tests::tools;
use places::{Containerd, Cost, Disk, Registry, cost};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(crate) use places::told;

/// A packing's rounds end after so long, on a machine that is busy: two are then enough.
const PATIENCE: Duration = Duration::from_secs(75);
/// What is free where the largest image is pulled: its blob twice, and itself.
const ROOM: u64 = 6 << 30;

struct Hall<'a> {
    /// Images, their registry, and the disk's file.
    dir: &'a Path,
    /// Where everybody unpacks.
    disk: Disk,
    gantry: PathBuf,
    store: PathBuf,
    registry: Registry,
}

/// Measures and prints the rows of images.
///
/// # Errors
/// Something is not built or installed, or a pull failed.
pub(crate) fn measure(quick: bool) -> Result<(), String> {
    let dir = std::env::temp_dir().join(format!("gantry-bench-images-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|why| format!("make {}: {why}", dir.display()))?;
    let outcome = all(&dir, quick);
    let _ = fs::remove_dir_all(&dir);
    outcome
}

fn all(dir: &Path, quick: bool) -> Result<(), String> {
    let gantry = tools::target_dir().join("release/gantry");
    let store = tools::target_dir().join("release/examples/bench-images");
    for program in [&gantry, &store] {
        if !program.is_file() {
            return Err(format!("{} is not built; `make bench` builds it", program.display()));
        }
    }
    let hall = Hall { dir, disk: Disk::new(dir), gantry, store, registry: Registry::start(dir)? };
    let mut shapes = if quick { vec!["mixed", "list"] } else { vec!["mixed", "large", "tiny", "many", "list"] };
    let about = nix::sys::statvfs::statvfs(dir).map_err(|why| format!("{}: {why}", dir.display()))?;
    if about.blocks_available() * about.fragment_size() < ROOM && !quick {
        eprintln!("bench: {} has less than 6 GiB free; the row of 2 GB is missing", dir.display());
        shapes.retain(|shape| *shape != "large");
    }
    for shape in &shapes {
        print!("{}", tools::output(&text(&hall.store), &["make", shape, &text(dir)])?);
    }
    println!();
    hall.registry.push(&dir.join("mixed-zstd"), "mixed-zstd")?;
    for shape in shapes.iter().filter(|shape| **shape != "list") {
        let image = format!("{shape}-gzip");
        hall.registry.push(&dir.join(&image), &image)?;
        if *shape != "mixed" {
            clear(&dir.join(&image))?;
        }
    }
    println!("| images | gantry | against | against | against | against |\n|---|---|---|---|---|---|");
    let rounds = if quick { 2 } else { 5 };
    for packing in ["gzip", "zstd"] {
        pulls(&hall, packing, rounds)?;
    }
    at_once(&hall, rounds.min(3))?;
    for (shape, title) in [
        ("large", "one layer of 2 GB"),
        ("tiny", "one layer of 200,000 small files"),
        ("many", "100 layers of 60 files"),
    ] {
        if shapes.contains(&shape) {
            let once = ours(&hall, &format!("{shape}-gzip"))?;
            println!(
                "| {title}: peak memory (wall, CPU) | {} KiB ({}, {}) |",
                once.peak,
                seconds(once.wall),
                seconds(once.cpu)
            );
        }
    }
    list(&hall, rounds)?;
    println!();
    Ok(())
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn clear(dir: &Path) -> Result<(), String> {
    match fs::remove_dir_all(dir) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(format!("remove {}: {why}", dir.display())),
        _ => Ok(()),
    }
}

/// A cold pull with our command.
fn ours(hall: &Hall<'_>, image: &str) -> Result<Cost, String> {
    let root = hall.disk.fresh()?.join("ours");
    Ok(cost(&hall.gantry, &["image", "pull", "--root", &text(&root), &hall.registry.name(image)])?.0)
}

/// A cold pull with containerd's; and how long it took until all of it was on disk.
fn containerds(hall: &Hall<'_>, image: &str) -> Result<(Cost, Duration), String> {
    let disk = hall.disk.fresh()?;
    let daemon = Containerd::start(&disk.join("containerd"))?;
    let start = Instant::now();
    let name = hall.registry.name(image);
    let took = daemon.ctr(&["images", "pull", "--plain-http", "--snapshotter", "overlayfs", &name])?;
    tools::output("sync", &["--file-system", &text(disk)])?;
    Ok((took, start.elapsed()))
}

/// The layers by `tar x`, each in a directory of its own; `unpack` reads one as `$1` and writes a tar.
fn floor(hall: &Hall<'_>, layers: &[PathBuf], unpack: &str) -> Result<Cost, String> {
    let out = hall.disk.fresh()?.join("floor");
    let script = format!(
        "out=$1; shift; for layer; do set -- \"$layer\" \"$@\"; mkdir -p $out/$#; {unpack} | tar x -C $out/$# || exit 1; done"
    );
    let out_text = text(&out);
    let layers: Vec<String> = layers.iter().map(|layer| text(layer)).collect();
    let mut words = vec!["-c", &script, "sh", &out_text];
    words.extend(layers.iter().map(String::as_str));
    Ok(cost(Path::new("/bin/sh"), &words)?.0)
}

/// The layers of a layout as files, lowest first.
fn layers(layout: &Path) -> Result<Vec<PathBuf>, String> {
    let read = |path: PathBuf| -> Result<serde_json::Value, String> {
        let body = fs::read(&path).map_err(|why| format!("read {}: {why}", path.display()))?;
        serde_json::from_slice(&body).map_err(|why| format!("{}: {why}", path.display()))
    };
    let blob = |descriptor: &serde_json::Value| {
        layout.join("blobs").join(descriptor["digest"].as_str().unwrap_or_default().replace(':', "/"))
    };
    let manifest = read(blob(&read(layout.join("index.json"))?["manifests"][0]))?;
    Ok(manifest["layers"].as_array().ok_or("no layers")?.iter().map(blob).collect())
}

fn medians(costs: &[Cost]) -> Cost {
    let middle = |of: fn(&Cost) -> Duration| percentile(&mut costs.iter().map(of).collect::<Vec<_>>(), 50);
    let mut peaks: Vec<u64> = costs.iter().map(|cost| cost.peak).collect();
    peaks.sort_unstable();
    Cost {
        wall: middle(|cost| cost.wall),
        cpu: middle(|cost| cost.cpu),
        peak: peaks.get(peaks.len() / 2).copied().unwrap_or(0),
    }
}

/// One image in turns: three rows.
fn pulls(hall: &Hall<'_>, packing: &str, rounds: usize) -> Result<(), String> {
    let image = format!("mixed-{packing}");
    let packed = layers(&hall.dir.join(&image))?;
    let plain: Vec<PathBuf> = (0..packed.len()).map(|at| hall.dir.join(format!("plain/{at}.tar"))).collect();
    let decompress = if packing == "zstd" { "zstd -dcq \"$1\"" } else { "gzip -dc \"$1\"" };
    let peer = Containerd::installed();
    if !peer {
        eprintln!("bench: containerd is not installed (Debian: containerd); its columns are missing");
    }
    let (mut own, mut theirs, mut synced) = (Vec::new(), Vec::new(), Vec::new());
    let (mut piped, mut bare) = (Vec::new(), Vec::new());
    let end = Instant::now() + PATIENCE;
    for round in 0..=rounds {
        if round > 2 && Instant::now() > end {
            eprintln!("bench: {image}: {} rounds instead of {rounds}", round - 1);
            break;
        }
        let one = ours(hall, &image)?;
        let other = if peer { Some(containerds(hall, &image)?) } else { None };
        let (pipe, tar) = (floor(hall, &packed, decompress)?, floor(hall, &plain, "cat \"$1\"")?);
        // The first round fills the caches.
        if round > 0 {
            own.push(one);
            piped.push(pipe);
            bare.push(tar);
            theirs.extend(other.map(|other| other.0));
            synced.extend(other.map(|other| other.1));
        }
    }
    let (own, theirs, piped, bare) = (medians(&own), medians(&theirs), medians(&piped), medians(&bare));
    let synced = percentile(&mut synced, 50);
    let columns = |ours: Duration, others: &[(&str, Duration)]| {
        let others = others.iter().filter(|(_, time)| !time.is_zero());
        let column = |(name, time): &(&str, Duration)| {
            format!(" {name} {}: {} |", seconds(*time), ratio(ours.as_secs_f64(), time.as_secs_f64()))
        };
        others.map(column).collect::<String>()
    };
    let program = if packing == "zstd" { "zstd -dc + tar x" } else { "gzip -dc + tar x" };
    let walls =
        [("containerd", theirs.wall), ("containerd + sync", synced), (program, piped.wall), ("tar x", bare.wall)];
    println!(
        "| cold pull of 300 MB in five layers, {packing}: wall | {} |{}",
        seconds(own.wall),
        columns(own.wall, &walls)
    );
    let cpus = [("containerd", theirs.cpu), (program, piped.cpu), ("tar x", bare.cpu)];
    println!("| the same: CPU | {} |{}", seconds(own.cpu), columns(own.cpu, &cpus));
    crate::compare::figures(
        "the same: peak memory",
        "KiB",
        &[("gantry".into(), own.peak), ("containerd".into(), theirs.peak)],
    );
    Ok(())
}

/// Eight pulls of one image in one process against one.
fn at_once(hall: &Hall<'_>, rounds: usize) -> Result<(), String> {
    let (mut one, mut eight) = (Vec::new(), Vec::new());
    let (mut asked_one, mut asked_eight) = ((0, 0), (0, 0));
    for _ in 0..rounds {
        for (count, costs, asked) in [("1", &mut one, &mut asked_one), ("8", &mut eight, &mut asked_eight)] {
            let (root, name) = (hall.disk.fresh()?.join("ours"), hall.registry.name("mixed-gzip"));
            let before = hall.registry.served();
            costs.push(cost(&hall.store, &["pull", count, &text(&root), &name])?.0);
            let after = hall.registry.served();
            *asked = (after.0 - before.0, after.1 - before.1);
        }
    }
    let (one, eight) = (medians(&one), medians(&eight));
    let all = |cost: Cost, asked: (u64, u64)| {
        let (wall, cpu) = (seconds(cost.wall), seconds(cost.cpu));
        format!("{wall}, CPU {cpu}, {} KiB, {} blobs of {:.1} MB asked for", cost.peak, asked.0, asked.1 as f64 / 1e6)
    };
    let ratio = ratio(eight.cpu.as_secs_f64(), one.cpu.as_secs_f64());
    println!(
        "| 8 pulls of it at once, gzip | {} | one pull {}: {ratio} CPU |",
        all(eight, asked_eight),
        all(one, asked_one)
    );
    Ok(())
}

/// Listing 500 images: in process, and as commands in turns.
fn list(hall: &Hall<'_>, rounds: usize) -> Result<(), String> {
    let disk = hall.disk.fresh()?;
    let (root, layout) = (disk.join("listed"), hall.dir.join("list-gzip"));
    cost(&hall.gantry, &["image", "import", "--root", &text(&root), &text(&layout)])?;
    let said = tools::output(&text(&hall.store), &["list", &text(&root)])?;
    let micros: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [open, usual, worst] = micros[..] else { return Err(format!("bench-images list said {said:?}")) };
    println!(
        "| 500 images in process | {usual} us (slowest of 101: {worst} us; to open the store {:.2} ms) |",
        open as f64 / 1e3
    );
    let peer = match Containerd::installed() {
        true => {
            let daemon = Containerd::start(&disk.join("containerd"))?;
            let archive = text(&hall.dir.join("list.tar"));
            tools::output("tar", &["cf", &archive, "-C", &text(&layout), "."])?;
            daemon.ctr(&["images", "import", "--no-unpack", &archive])?;
            Some(daemon)
        }
        false => None,
    };
    let (mut own, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds * 3 {
        own.push(cost(&hall.gantry, &["image", "ls", "--root", &text(&root)])?.0);
        theirs.extend(peer.as_ref().map(|daemon| daemon.ctr(&["images", "ls"])).transpose()?);
    }
    let (own, theirs) = (medians(&own), medians(&theirs));
    let millis = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let theirs = peer.map_or(String::new(), |_| {
        let ratio = ratio(own.wall.as_secs_f64(), theirs.wall.as_secs_f64());
        format!(" ctr images ls {}: {ratio} |", millis(theirs.wall))
    });
    println!("| the same as a command, `gantry image ls` | {} |{theirs}", millis(own.wall));
    Ok(())
}
