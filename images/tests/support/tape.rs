//! Tar archives written byte by byte, so that they can be wrong; and images of such layers.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use gantry_images::Digest;
use serde_json::json;

/// An archive that grows.
#[derive(Clone, Default)]
pub struct Tape(pub Vec<u8>);

/// The fields of a header; the rest is zero.
pub struct Head<'a> {
    pub path: &'a str,
    pub flag: u8,
    pub link: &'a str,
    pub mode: u32,
    pub owner: (u32, u32),
    pub size: u64,
    pub device: (u32, u32),
    pub mtime: u64,
}

pub fn head(path: &str, flag: u8) -> Head<'_> {
    Head { path, flag, link: "", mode: 0o644, owner: (0, 0), size: 0, device: (0, 0), mtime: 1_000_000_000 }
}

impl Tape {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn header(mut self, head: &Head<'_>) -> Self {
        let mut block = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &head.path.as_bytes()[..head.path.len().min(100)]);
        put(100, format!("{:07o}\0{:07o}\0{:07o}\0", head.mode, head.owner.0, head.owner.1).as_bytes());
        put(124, format!("{:011o}\0{:011o}\0        ", head.size, head.mtime).as_bytes());
        put(156, &[head.flag]);
        put(157, &head.link.as_bytes()[..head.link.len().min(100)]);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}\0{:07o}\0", head.device.0, head.device.1).as_bytes());
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(block);
        self
    }

    pub fn data(mut self, data: &[u8]) -> Self {
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, path: &str, content: &str) -> Self {
        self.header(&Head { size: content.len() as u64, ..head(path, b'0') }).data(content.as_bytes())
    }

    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.header(&Head { mode, ..head(path, b'5') })
    }

    pub fn symlink(self, path: &str, link: &str) -> Self {
        self.header(&Head { link, mode: 0o777, ..head(path, b'2') })
    }

    pub fn hard_link(self, path: &str, link: &str) -> Self {
        self.header(&Head { link, ..head(path, b'1') })
    }

    /// A pax header for what comes next.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest + 1..).find(|n| *n == rest + n.to_string().len()).unwrap();
            data.extend(format!("{length} {key}=").into_bytes());
            data.extend(*value);
            data.push(b'\n');
        }
        self.header(&Head { size: data.len() as u64, ..head("pax", b'x') }).data(&data)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

/// How a layer is packed.
#[derive(Clone, Copy, Debug)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    pub fn pack(self, tar: &[u8]) -> (Vec<u8>, &'static str) {
        match self {
            Self::Plain => (tar.to_vec(), "application/vnd.oci.image.layer.v1.tar"),
            Self::Gzip => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(tar).unwrap();
                (gzip.finish().unwrap(), "application/vnd.oci.image.layer.v1.tar+gzip")
            }
            Self::Zstd => (zstd::encode_all(tar, 1).unwrap(), "application/vnd.oci.image.layer.v1.tar+zstd"),
        }
    }
}

/// An OCI layout of one image made of these layers.
pub fn layout(out: &Path, name: &str, layers: &[(Vec<u8>, Packing)]) -> PathBuf {
    let diff_ids = layers.iter().map(|(tar, _)| Digest::of(tar)).collect();
    layout_that_says(out, name, layers, diff_ids)
}

/// The same with diff ids that may be wrong.
pub fn layout_that_says(out: &Path, name: &str, layers: &[(Vec<u8>, Packing)], diff_ids: Vec<Digest>) -> PathBuf {
    std::fs::create_dir_all(out.join("blobs/sha256")).unwrap();
    let put = |body: &[u8]| {
        let digest = Digest::of(body);
        std::fs::write(out.join("blobs/sha256").join(digest.hex()), body).unwrap();
        json!({"digest": digest.to_string(), "size": body.len()})
    };
    let mut descriptors = Vec::new();
    let diff_ids: Vec<String> = diff_ids.iter().map(Digest::to_string).collect();
    for (tar, packing) in layers {
        let (blob, media_type) = packing.pack(tar);
        let mut descriptor = put(&blob);
        descriptor["mediaType"] = json!(media_type);
        descriptors.push(descriptor);
    }
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let mut config = put(config.to_string().as_bytes());
    config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": descriptors});
    let mut entry = put(manifest.to_string().as_bytes());
    entry["mediaType"] = json!(media_type);
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    std::fs::write(out.join("index.json"), index.to_string()).unwrap();
    std::fs::write(out.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    out.to_owned()
}
