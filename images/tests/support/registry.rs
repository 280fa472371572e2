//! Debian's docker-registry on a free port of 127.0.0.1, with storage of its own, ended with the test; and pushing to it.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gantry_images::Digest;
use serde_json::Value;

/// A running registry.
pub struct Registry {
    child: Child,
    pub address: SocketAddr,
    config: PathBuf,
}

/// True if Debian's registry is installed; else says so where it is seen.
pub fn installed(test: &str) -> bool {
    let found = Path::new("/usr/bin/docker-registry").exists();
    if !found {
        eprintln!("SKIPPED {test}: needs docker-registry (apt install docker-registry)");
    }
    found
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

impl Registry {
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, "")
    }

    /// `more`: further lines of the registry's configuration.
    pub fn start_with(dir: &Path, more: &str) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let config = dir.join("config.yml");
        let storage = dir.join("storage");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n{more}",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let mut registry = Self { child: spawn(&config), address, config };
        registry.wait();
        registry
    }

    fn wait(&mut self) {
        let end = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(self.address).is_err() {
            assert!(Instant::now() < end, "docker-registry does not listen on {}", self.address);
            assert!(self.child.try_wait().unwrap().is_none(), "docker-registry has ended");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn kill(&mut self) {
        drop(self.child.kill());
        self.child.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.child = spawn(&self.config);
        self.wait();
    }

    /// Starts it again on the same port with more in the `http` part of its configuration (`tls: {…}`), and further
    /// lines.
    pub fn reconfigure(&mut self, http: &str, more: &str) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        let head: String = text.lines().take(3).map(|line| format!("{line}\n")).collect();
        std::fs::write(&self.config, format!("{head}http: {{addr: '{}', {http}}}\n{more}\n", self.address)).unwrap();
        self.kill();
        self.restart();
    }

    /// With TLS and a password file.
    pub fn secure(&mut self, certificate: &str, key: &str, passwords: &str) {
        let auth = format!("auth: {{htpasswd: {{realm: test, path: {passwords}}}}}");
        self.reconfigure(&format!("tls: {{certificate: {certificate}, key: {key}}}"), &auth);
    }

    /// One line for each request since the start.
    pub fn access_log(&self) -> String {
        std::fs::read_to_string(self.config.with_file_name("access.log")).unwrap()
    }

    pub fn name(&self, rest: &str) -> gantry_images::Reference {
        format!("{}/{rest}", self.address).parse().unwrap()
    }

    /// Pushes the one image of a layout directory as `repository:tag`; the manifest's digest.
    pub async fn push_layout(&self, layout: &Path, repository: &str, tag: &str) -> Digest {
        let read = |digest: &str| std::fs::read(layout.join("blobs").join(digest.replace(':', "/"))).unwrap();
        let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
        let digest = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
        let manifest: Value = serde_json::from_slice(&read(&digest)).unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter();
        for blob in layers.chain([&manifest["config"]]) {
            self.push_blob(repository, read(blob["digest"].as_str().unwrap())).await;
        }
        let media_type = manifest["mediaType"].as_str().unwrap().to_owned();
        self.push_manifest(repository, tag, &media_type, read(&digest)).await;
        digest.parse().unwrap()
    }

    pub async fn push_blob(&self, repository: &str, body: Vec<u8>) -> Digest {
        let digest = Digest::of(&body);
        let base = format!("http://{}", self.address);
        let started = client().post(format!("{base}/v2/{repository}/blobs/uploads/")).send().await.unwrap();
        let location = started.headers()["location"].to_str().unwrap().to_owned();
        let location = if location.starts_with('/') { format!("{base}{location}") } else { location };
        let separator = if location.contains('?') { '&' } else { '?' };
        let put = client().put(format!("{location}{separator}digest={digest}"));
        let answer = put.header("content-type", "application/octet-stream").body(body).send().await.unwrap();
        assert!(answer.status().is_success(), "push blob: {}", answer.status());
        digest
    }

    pub async fn push_manifest(&self, repository: &str, tag: &str, media_type: &str, body: Vec<u8>) -> Digest {
        let digest = Digest::of(&body);
        let put = client().put(format!("http://{}/v2/{repository}/manifests/{tag}", self.address));
        let answer = put.header("content-type", media_type).body(body).send().await.unwrap();
        let status = answer.status();
        assert!(status.is_success(), "push manifest: {status} {}", answer.text().await.unwrap());
        digest
    }
}

fn spawn(config: &Path) -> Child {
    let mut command = Command::new("/usr/bin/docker-registry");
    command.arg("serve").arg(config).env("OTEL_TRACES_EXPORTER", "none");
    let log = std::fs::File::create(config.with_file_name("access.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn().unwrap()
}

fn client() -> reqwest::Client {
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().no_proxy().build().unwrap()
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
