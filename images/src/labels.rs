//! Labels of an image are its author's words: they are shown, and nothing here or above acts on them.
//!
//! Peers have let labels and annotations of strangers reach places that were their own (CVE-2023-6476, CVE-2024-3154);
//! an image that tries is told about, once (SECURITY_CASES 21).

use oci_spec::image::ImageConfiguration;

/// Prefixes that Gantry and the systems around it give a meaning to where they write them themselves.
const RESERVED: [&str; 7] = [
    "dev.gantry.",
    "gantry.",
    "io.kubernetes.",
    "io.cri-containerd.",
    "io.container.manager",
    "org.systemd.property.",
    "run.oci.",
];

/// The labels that ask for something, sorted; of many only the first eight.
pub(crate) fn reserved(config: &ImageConfiguration) -> Vec<&str> {
    let labels = config.config().as_ref().and_then(|config| config.labels().as_ref());
    let keys = labels.into_iter().flat_map(|labels| labels.keys());
    let mut found: Vec<&str> =
        keys.map(String::as_str).filter(|key| RESERVED.iter().any(|prefix| key.starts_with(prefix))).collect();
    found.sort_unstable();
    found.truncate(8);
    found
}

/// Says in the log that these labels have no effect.
pub(crate) fn warn(image: &dyn std::fmt::Display, config: &ImageConfiguration) {
    let labels = reserved(config);
    if !labels.is_empty() {
        tracing::warn!(%image, ?labels, "labels of the image have names with a meaning elsewhere; they have no effect");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_21_reserved_labels_are_found() {
        let config = |labels: serde_json::Value| -> ImageConfiguration {
            let rootfs = serde_json::json!({"type": "layers", "diff_ids": []});
            let value = serde_json::json!({"architecture": "amd64", "os": "linux", "rootfs": rootfs,
                "config": {"Labels": labels}});
            serde_json::from_value(value).unwrap()
        };
        let some = serde_json::json!({"maintainer": "me", "dev.gantry.pinned": "1", "io.kubernetes.cri.container-type": "x",
            "org.opencontainers.image.source": "https://x", "mygantry.x": "1"});
        assert_eq!(reserved(&config(some)), ["dev.gantry.pinned", "io.kubernetes.cri.container-type"]);
        assert!(reserved(&config(serde_json::json!({}))).is_empty());
        let many = (0..100).map(|at| (format!("gantry.{at}"), "1".into())).collect::<serde_json::Map<_, _>>();
        assert_eq!(reserved(&config(many.into())).len(), 8);
    }
}
