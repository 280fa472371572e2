//! An OCI image layout made by hand from the host's static busybox, and its import into a store.

use std::fs;
use std::path::Path;

use gantry_images::{Config, Store};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "env", "false", "grep", "head", "hostname", "id", "ip", "ipcs", "kill", "ls", "mkdir",
    "mount", "nc", "ps", "pwd", "readlink", "seq", "sleep", "stat", "stty", "sync", "test", "touch", "true", "tty",
    "wget", "yes", "httpd", "od", "dd",
];

/// Puts the image into the store at `root`.
pub(crate) async fn import(root: &Path) {
    let layout = root.with_extension("layout");
    write(&layout);
    let store = Store::open(Config::at(root)).unwrap();
    let images = store.import(&layout, Some(super::IMAGE.parse().unwrap())).await.unwrap();
    assert_eq!(images.len(), 1);
    fs::remove_dir_all(layout).unwrap();
}

fn write(layout: &Path) {
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8], kind: &str| {
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(layout.join("blobs/sha256").join(&digest), bytes).unwrap();
        json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len()})
    };
    let layer = layer();
    let layer = blob(&layer, "application/vnd.oci.image.layer.v1.tar");
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin", "FROM=image"], "Cmd": ["sh"], "StopSignal": "SIGUSR1"},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let text = |value: &Value| serde_json::to_vec(value).unwrap();
    let config = blob(&text(&config), "application/vnd.oci.image.config.v1+json");
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]});
    let manifest = blob(&text(&manifest), MANIFEST);
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), text(&index)).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

fn layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut entry = |name: &str, kind: tar::EntryType, mode: u32, link: Option<&str>, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        match link {
            Some(target) => tar.append_link(&mut header, name, target).unwrap(),
            None => tar.append_data(&mut header, name, content).unwrap(),
        }
    };
    for (dir, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("srv/", 0o755), ("root/", 0o700)] {
        entry(dir, tar::EntryType::Directory, mode, None, b"");
    }
    entry("bin/busybox", tar::EntryType::Regular, 0o755, None, &fs::read("/bin/busybox").unwrap());
    for applet in APPLETS {
        entry(&format!("bin/{applet}"), tar::EntryType::Symlink, 0o777, Some("busybox"), b"");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:web:/srv:/bin/sh\n";
    entry("etc/passwd", tar::EntryType::Regular, 0o644, None, passwd.as_bytes());
    entry("etc/group", tar::EntryType::Regular, 0o644, None, b"root:x:0:\nweb:x:33:\nstaff:x:50:web\n");
    tar.into_inner().unwrap()
}
