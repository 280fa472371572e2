//! Many who want the same at once: one request a blob, one unpack; cancelling one does not cancel the others; a failure is
//! everybody's, at once, and leaves nothing.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use gantry_images::layout::{self, Settings};
use gantry_images::{Kind, PullOptions, Reference, Store, quiet};
use support::House;
use support::http::{Answer, Server};

const CALLERS: usize = 32;

/// A door that blobs wait at until it is opened, and how many have come.
#[derive(Default)]
struct Door(Mutex<(bool, usize)>, Condvar);

impl Door {
    fn wait(&self) {
        let mut state = self.0.lock().unwrap();
        state.1 += 1;
        self.1.notify_all();
        drop(self.1.wait_while(state, |state| !state.0).unwrap());
    }

    fn open(&self) {
        self.0.lock().unwrap().0 = true;
        self.1.notify_all();
    }

    fn arrived(&self, count: usize) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |state| state.1 < count).unwrap());
    }
}

/// Two images over one layer, served as `one` and `two`; `layer` answers for the layer.
struct Fair {
    house: House,
    server: Server,
    layer: String,
}

impl Fair {
    fn new(name: &str, layer: impl Fn(Vec<u8>) -> Answer + Send + Sync + 'static) -> Self {
        let house = House::new(name);
        let tree = house.tree("tree", &[("bin/sh", "#!"), ("etc/x", &"x".repeat(100_000))]);
        let out = |name: &str| {
            let settings = Settings { cmd: vec![name.into()], ..Settings::default() };
            let reference: Reference = format!("{name}:1").parse().unwrap();
            let out = house.path(name);
            let manifest = layout::write(&tree, &settings, &out, &reference).unwrap();
            (out, manifest.to_string())
        };
        let images = [out("one"), out("two")];
        let digest = layer_of(&images[0].0, &images[0].1);
        assert_eq!(digest, layer_of(&images[1].0, &images[1].1), "the layer is one");
        let wanted = digest.clone();
        let server = Server::start(move |asked| {
            let mut words = asked.path.trim_start_matches("/v2/").split('/');
            let (Some(name), Some(_), Some(what)) = (words.next(), words.next(), words.next()) else {
                return Answer::status(404);
            };
            let (dir, manifest) = &images[usize::from(name == "two")];
            let what = if what == "1" { manifest } else { what };
            match std::fs::read(dir.join("blobs/sha256").join(what.trim_start_matches("sha256:"))) {
                Ok(body) if what == wanted => layer(body),
                Ok(body) => Answer::ok(body),
                Err(_) => Answer::status(404),
            }
        });
        Self { house, server, layer: digest }
    }

    fn pull(&self, store: &Store, name: &str) -> tokio::task::JoinHandle<gantry_images::Result<()>> {
        let reference: Reference = format!("{}/{name}:1", self.server.address).parse().unwrap();
        let store = store.clone();
        tokio::spawn(async move { store.pull(&reference, &PullOptions::default(), quiet()).await.map(drop) })
    }

    /// Requests for blobs: the layer's, and all.
    fn asked(&self) -> (usize, usize) {
        let log = self.server.log("range");
        let blobs = log.iter().filter(|(path, _)| path.contains("/blobs/"));
        let layer = log.iter().filter(|(path, _)| path.ends_with(&self.layer));
        (layer.count(), blobs.count())
    }

    /// Names below a directory of the store.
    fn names(&self, dir: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.house.path("store").join(dir)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn layer_of(layout: &Path, manifest: &str) -> String {
    let body = std::fs::read(layout.join("blobs/sha256").join(manifest.trim_start_matches("sha256:"))).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&body).unwrap();
    manifest["layers"][0]["digest"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_callers_of_images_that_share_a_layer() {
    let door = Arc::new(Door::default());
    let gate = door.clone();
    let fair = Fair::new("together", move |body| {
        gate.wait();
        Answer::ok(body)
    });
    let store = fair.house.store();
    let pulls: Vec<_> = (0..CALLERS).map(|at| fair.pull(&store, if at % 2 == 0 { "one" } else { "two" })).collect();
    door.arrived(1);
    door.open();
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    assert_eq!(fair.asked(), (1, 3), "one layer and two configurations, each once");
    assert_eq!(fair.names("layers").len(), 1);
    assert!(fair.names("unpack").is_empty() && fair.names("ingest").is_empty());
    assert_eq!(store.images().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_cancelled_does_not_cancel_the_others() {
    let door = Arc::new(Door::default());
    let gate = door.clone();
    let fair = Fair::new("cancelled", move |body| {
        gate.wait();
        Answer::ok(body)
    });
    let store = fair.house.store();
    let first = fair.pull(&store, "one");
    // The first has the download; the others wait for it.
    door.arrived(1);
    let others: Vec<_> = (1..CALLERS).map(|_| fair.pull(&store, "one")).collect();
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    door.open();
    for pull in others {
        pull.await.unwrap().unwrap();
    }
    assert_eq!(fair.asked().0, 2, "the next one asked again, and nobody else");
    assert_eq!(fair.names("layers").len(), 1);
    assert!(fair.names("unpack").is_empty() && fair.names("ingest").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_download_is_everybodys() {
    let door = Arc::new(Door::default());
    let gate = door.clone();
    let fair = Fair::new("failed", move |mut body| {
        gate.wait();
        body[20] ^= 1;
        Answer::ok(body)
    });
    let store = fair.house.store();
    let first = fair.pull(&store, "one");
    door.arrived(1);
    let others: Vec<_> = (1..CALLERS).map(|_| fair.pull(&store, "one")).collect();
    // Each has asked for the manifest, and whoever has it goes on to the layer without another request.
    while fair.server.log("range").iter().filter(|(path, _)| path.contains("/manifests/")).count() < CALLERS {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    door.open();
    for pull in others.into_iter().chain([first]) {
        assert_eq!(pull.await.unwrap().unwrap_err().kind(), Kind::Invalid);
    }
    let asked = fair.asked().0;
    assert!(asked < CALLERS, "each of {CALLERS} asked for itself: {asked} requests");
    for dir in ["layers", "unpack", "ingest"] {
        assert!(fair.names(dir).is_empty(), "{dir}: {:?}", fair.names(dir));
    }
    assert!(store.images().is_empty());
}
