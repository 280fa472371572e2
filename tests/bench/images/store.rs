//! What the benchmark of images needs of the store in its own process, and the images that are pulled.
//!
//! `bench-images make SHAPE DIR` writes the OCI layouts `DIR/SHAPE-gzip` (and for `mixed` also `DIR/SHAPE-zstd` and the
//! plain tars `DIR/plain/N.tar`). Shapes: `mixed`, 300 MB in five layers as images are; `large`, one layer of 2 GB; `tiny`, one
//! layer of 200,000 small files; `many`, 100 layers; `list`, 500 images of one small layer.
//! `bench-images pull COUNT ROOT NAME` pulls one image COUNT times at once; prints the microseconds.
//! `bench-images pull-erofs` does the same with layers as EROFS images.
//! `bench-images list ROOT` prints the microseconds of the first and of a later [`Store::images`].

mod content;

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use content::{Item, Look, Supply};
use gantry_images::digest::{Algorithm, Hasher};
use gantry_images::{Config, Digest, LayerForm, PullOptions, Store, quiet};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const LOOKS: [Look; 10] = {
    use Look::{Binary as B, Packed as P, Text as T};
    [T, T, T, T, T, B, B, B, B, P]
};

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["make", shape, dir] => make(shape, Path::new(dir)),
        ["pull", count, root, name] => pull(count.parse()?, Config::at(root), name),
        ["pull-erofs", count, root, name] => {
            pull(count.parse()?, Config { layers: LayerForm::Erofs, ..Config::at(root) }, name)
        }
        ["list", root] => list(Path::new(root)),
        _ => Err("usage: bench-images make SHAPE DIR | pull COUNT ROOT NAME | list ROOT".into()),
    }
}

/// The layers of a shape, lowest first.
fn layers(shape: &str) -> Outcome<Vec<Vec<Item>>> {
    let (text, small) = (&[Look::Text, Look::Text, Look::Binary], (40, 4000));
    Ok(match shape {
        "mixed" => {
            let mut app = content::large("opt/app", 3, 14_000_000, Look::Binary);
            app.extend(content::tree("opt/app/web", 600, (300, 60_000), &LOOKS, 4));
            let mut last = content::tree("etc/app", 40, (50, 3000), text, 5);
            last.push(Item::Gone("usr/share/d00003/.wh.file-000060.1".into()));
            vec![
                content::tree("usr/share", 4200, (200, 160_000), &LOOKS, 1),
                content::tree("usr/lib/site", 7000, (100, 88_000), &LOOKS, 2),
                content::large("usr/lib/big", 6, 8_000_000, Look::Binary),
                app,
                last,
            ]
        }
        "large" => vec![content::large("data", 4, 512 << 20, Look::Binary)],
        "tiny" => vec![content::tree("data", 200_000, small, text, 6)],
        "many" => (0..100).map(|at| content::tree(&format!("data/l{at}"), 60, (100, 30_000), &LOOKS, at)).collect(),
        "list" => vec![content::tree("data", 3, small, text, 7)],
        other => return Err(format!("there is no shape {other}").into()),
    })
}

/// Counts and digests what passes.
struct Counted<W> {
    inner: W,
    hasher: Hasher,
    count: u64,
}

impl<W: Write> Counted<W> {
    fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::new(Algorithm::Sha256), count: 0 }
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.inner.write_all(bytes)?;
        self.hasher.update(bytes);
        self.count += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// One layer in one packing: its descriptor and its diff id.
fn layer(dir: &Path, at: usize, items: &[Item], packing: &str, supply: &Supply) -> Outcome<(Value, Digest)> {
    let path = dir.join(format!("part-{at}"));
    let file = Counted::new(BufWriter::with_capacity(1 << 20, File::create(&path)?));
    let seed = 1000 + at as u64;
    let (file, diff_id) = match packing {
        "zstd" => {
            let mut out = Counted::new(zstd::stream::write::Encoder::new(file, 3)?);
            content::tar(&mut out, items, supply, seed)?;
            (out.inner.finish()?, out.hasher.finish())
        }
        // A layer beyond a gigabyte is for memory, not for time: packing it well would take longer than all else.
        _ => {
            let large = items.iter().any(|item| matches!(item, Item::File { size, .. } if *size > 100 << 20));
            let level = flate2::Compression::new(if large { 1 } else { 6 });
            let mut out = Counted::new(flate2::write::GzEncoder::new(file, level));
            content::tar(&mut out, items, supply, seed)?;
            (out.inner.finish()?, out.hasher.finish())
        }
    };
    let (mut inner, count, digest) = (file.inner, file.count, file.hasher.finish());
    inner.flush()?;
    fs::rename(&path, dir.join(digest.hex()))?;
    let media_type = format!("application/vnd.oci.image.layer.v1.tar+{packing}");
    Ok((json!({ "mediaType": media_type, "digest": digest.to_string(), "size": count }), diff_id))
}

fn make(shape: &str, dir: &Path) -> Outcome<()> {
    let (layers, supply) = (layers(shape)?, Supply::new());
    if shape == "mixed" {
        let plain = dir.join("plain");
        fs::create_dir_all(&plain)?;
        for (at, items) in layers.iter().enumerate() {
            let mut out = BufWriter::with_capacity(1 << 20, File::create(plain.join(format!("{at}.tar")))?);
            content::tar(&mut out, items, &supply, 1000 + at as u64)?;
            out.flush()?;
        }
    }
    for packing in if shape == "mixed" { &["gzip", "zstd"][..] } else { &["gzip"] } {
        let (out, next) = (dir.join(format!("{shape}-{packing}")), AtomicUsize::new(0));
        let made: Mutex<Vec<(usize, (Value, Digest))>> = Mutex::default();
        let blobs = out.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        std::thread::scope(|scope| -> Outcome<()> {
            let work = || -> Outcome<()> {
                while let at = next.fetch_add(1, Ordering::Relaxed)
                    && at < layers.len()
                {
                    let one = layer(&blobs, at, &layers[at], packing, &supply)?;
                    made.lock().map_err(|_| "a packer died")?.push((at, one));
                }
                Ok(())
            };
            let threads = [scope.spawn(work), scope.spawn(work)];
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a packer died")?)
        })?;
        let mut made = made.into_inner().map_err(|_| "a packer died")?;
        made.sort_by_key(|(at, _)| *at);
        let made: Vec<(Value, Digest)> = made.into_iter().map(|(_, one)| one).collect();
        let bytes: u64 = made.iter().filter_map(|(descriptor, _)| descriptor["size"].as_u64()).sum();
        let entries: Vec<Value> = (0..if shape == "list" { 500 } else { 1 })
            .map(|number| image(&blobs, &made, &format!("{shape}-{packing}"), number))
            .collect::<Outcome<_>>()?;
        fs::write(out.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        fs::write(out.join("index.json"), json!({ "schemaVersion": 2, "manifests": entries }).to_string())?;
        let files: usize = layers.iter().map(Vec::len).sum();
        println!("{shape}, {packing}: {} layers, {files} entries, {:.1} MB packed", layers.len(), bytes as f64 / 1e6);
    }
    Ok(())
}

/// Writes configuration and manifest of an image over these layers; its entry of the index.
fn image(blobs: &Path, layers: &[(Value, Digest)], name: &str, number: usize) -> Outcome<Value> {
    let put = |content: &Value| -> Outcome<(String, usize)> {
        let bytes = content.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        fs::write(blobs.join(digest.hex()), &bytes)?;
        Ok((digest.to_string(), bytes.len()))
    };
    let diff_ids: Vec<String> = layers.iter().map(|(_, diff_id)| diff_id.to_string()).collect();
    let environment: Vec<String> = (0..8).map(|at| format!("VARIABLE_{at}=value {at} of image {number}")).collect();
    let config = put(&json!({
        "architecture": "amd64", "os": "linux", "created": "2026-01-01T00:00:00Z",
        "config": { "Env": environment, "Cmd": ["/bin/sh"], "Labels": { "number": number.to_string() } },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": [{ "created": "2026-01-01T00:00:00Z", "created_by": "the benchmark" }],
    }))?;
    let layers: Vec<&Value> = layers.iter().map(|(descriptor, _)| descriptor).collect();
    let kind = "application/vnd.oci.image";
    let manifest = put(&json!({
        "schemaVersion": 2, "mediaType": format!("{kind}.manifest.v1+json"),
        "config": { "mediaType": format!("{kind}.config.v1+json"), "digest": config.0, "size": config.1 },
        "layers": layers,
    }))?;
    Ok(json!({
        "mediaType": format!("{kind}.manifest.v1+json"), "digest": manifest.0, "size": manifest.1,
        "platform": { "architecture": "amd64", "os": "linux" },
        "annotations": {
            "org.opencontainers.image.ref.name": format!("bench.local/{name}:{number}"),
            "io.containerd.image.name": format!("bench.local/{name}:{number}"),
        },
    }))
}

fn pull(count: usize, config: Config, name: &str) -> Outcome<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let store = Store::open(config)?;
    let reference: gantry_images::Reference = name.parse()?;
    let start = Instant::now();
    runtime.block_on(async {
        let pulls = (0..count).map(|_| {
            let (store, reference) = (store.clone(), reference.clone());
            tokio::spawn(async move { store.pull(&reference, &PullOptions::default(), quiet()).await.map(drop) })
        });
        for done in futures_util::future::join_all(pulls).await {
            done??;
        }
        Outcome::Ok(())
    })?;
    println!("{}", start.elapsed().as_micros());
    Ok(())
}

fn list(root: &Path) -> Outcome<()> {
    let start = Instant::now();
    let store = Store::open(Config::at(PathBuf::from(root)))?;
    let opened = start.elapsed();
    let mut times = Vec::new();
    for _ in 0..101 {
        let start = Instant::now();
        let images = store.images();
        times.push(start.elapsed());
        if images.len() < 500 {
            return Err(format!("{} images instead of 500", images.len()).into());
        }
    }
    times.sort_unstable();
    println!("{} {} {}", opened.as_micros(), times[50].as_micros(), times[100].as_micros());
    Ok(())
}
