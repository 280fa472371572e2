//! Makes the image that tests, demo and benchmarks run: busybox, as an OCI layout, by `gantry image build`.

use crate::{bundle, tools};
use std::path::{Path, PathBuf};

/// The name under which [`layout`]'s image is imported.
pub const NAME: &str = "registry.local/busybox:1";

/// Builds an OCI layout of a busybox root filesystem below `dir` and returns its path.
///
/// # Errors
/// busybox or our binary is missing, or the build failed.
pub fn layout(dir: &Path) -> Result<PathBuf, String> {
    let gantry = tools::ours("gantry").ok_or("gantry is not built; `make build` builds it")?;
    let (tree, out) = (dir.join("image-tree"), dir.join("image-layout"));
    bundle::rootfs(&tree)?;
    std::fs::write(tree.join("www/index.html"), "hello from the image\n")
        .map_err(|e| format!("write index.html: {e}"))?;
    let (tree, target) = (tree.display().to_string(), out.display().to_string());
    tools::output(&gantry.display().to_string(), &["image", "build", "--name", NAME, "--output", &target, &tree])?;
    Ok(out)
}
