//! hostPath volumes: the path is the operator's own to give, its type is checked as the API says.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::HostPathVolumeSource;

use crate::error::{Error, Result};
use crate::files;

/// Checks (or makes) the path and returns it.
///
/// # Errors
/// `Kind::Pod` where the path is not of its type; `Kind::Io` where it cannot be made.
pub(crate) fn set_up(source: &HostPathVolumeSource) -> Result<PathBuf> {
    let path = Path::new(&source.path);
    if !path.is_absolute() || source.path.split('/').any(|part| part == "..") {
        return Err(Error::pod(format!("hostPath {:?} is not absolute or climbs", source.path)));
    }
    let wanted = source.type_.as_deref().unwrap_or_default();
    let found = fs::metadata(path).ok();
    match (wanted, &found) {
        ("DirectoryOrCreate", None) => files::make_dir(path, 0o755)?,
        ("FileOrCreate", None) => {
            let made = fs::OpenOptions::new().write(true).create(true).truncate(false).open(path);
            made.map_err(|e| Error::io(format!("create hostPath {}", path.display()), e))?;
        }
        // As upstream: a path of no type that is not there is made as a directory by the runtime.
        ("", None) => files::make_dir(path, 0o755)?,
        ("", Some(_)) => {}
        (_, None) => return Err(Error::pod(format!("hostPath type check failed: {} is not there", path.display()))),
        (_, Some(meta)) => {
            let kind = meta.file_type();
            let fits = match wanted {
                "Directory" | "DirectoryOrCreate" => kind.is_dir(),
                "File" | "FileOrCreate" => kind.is_file(),
                "Socket" => kind.is_socket(),
                "CharDevice" => kind.is_char_device(),
                "BlockDevice" => kind.is_block_device(),
                other => return Err(Error::pod(format!("unknown hostPath type {other:?}"))),
            };
            if !fits {
                return Err(Error::pod(format!("hostPath type check failed: {} is not a {wanted}", path.display())));
            }
        }
    }
    Ok(path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn types_are_checked() {
        let dir = TempDir::new("hostpath");
        let at = |name: &str, kind: &str| {
            let path = dir.path().join(name).to_string_lossy().into_owned();
            set_up(&HostPathVolumeSource { path, type_: Some(kind.into()) })
        };
        assert!(at("d", "Directory").is_err());
        assert!(at("d", "DirectoryOrCreate").is_ok());
        assert!(at("d", "Directory").is_ok());
        assert!(at("d", "File").is_err());
        assert!(at("f", "FileOrCreate").is_ok());
        assert!(at("f", "Socket").is_err());
        assert!(at("d/../f", "").is_err());
        assert!(at("d", "Dir").is_err());
        let null = HostPathVolumeSource { path: "/dev/null".into(), type_: Some("CharDevice".into()) };
        assert!(set_up(&null).is_ok());
    }
}
