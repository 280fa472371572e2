//! Image volumes (KEP-4639): images that are mounted into a container as directories, read-only, whole or a part.

use gantry_cri_api::Mount;

use crate::error::{Error, Kind, Result};
use crate::node::{Container, Node, blocking};
use crate::rootfs;
use crate::store::ContainerRecord;

/// Whether a mount is of an image.
fn of_image(mount: &Mount) -> bool {
    mount.image.as_ref().is_some_and(|spec| !spec.image.is_empty())
}

/// Refuses what CRI does not allow of a mount of an image.
///
/// # Errors
/// [`Kind::Invalid`], naming the mount.
pub fn check(mounts: &[Mount]) -> Result<()> {
    for mount in mounts {
        let refuse = |why: &str| Err(Error::new(Kind::Invalid, format!("mount {:?}: {why}", mount.container_path)));
        match of_image(mount) {
            true if !mount.readonly => return refuse("an image can be mounted only with readonly"),
            true if !mount.host_path.is_empty() => return refuse("host_path and image exclude each other"),
            false if !mount.image_sub_path.is_empty() => return refuse("image_sub_path needs an image"),
            _ => {}
        }
    }
    Ok(())
}

/// Writes down which image each name leads to now (`image_ref` of CRI, KEP-5365): the container's status tells it.
///
/// # Errors
/// [`Kind::NotFound`] for an image that was not pulled.
pub fn pin(node: &Node, mounts: &mut [Mount]) -> Result<()> {
    for spec in mounts.iter_mut().filter_map(|mount| mount.image.as_mut()).filter(|spec| !spec.image.is_empty()) {
        let image = node.images.image(&spec.image).ok_or_else(|| Error::not_found("image", &spec.image))?;
        spec.image_ref.clone_from(&image.id);
    }
    Ok(())
}

/// Mounts the images that were pinned, and names them as sources.
///
/// # Errors
/// [`Kind::Invalid`] for a sub path that is not in the image, and those of mounting an image.
pub async fn mount(node: &Node, container: &Container, mounts: &mut [Mount]) -> Result<()> {
    for (at, mount) in mounts.iter_mut().enumerate() {
        let Some(spec) = mount.image.as_ref().filter(|spec| !spec.image.is_empty()) else { continue };
        let root = node.images.rootfs(&spec.image_ref, &key(&container.id, at)).await?.path;
        let inside = mount.image_sub_path.clone();
        let path = blocking(move || rootfs::beneath(&root, &inside)).await?;
        mount.host_path = path.to_string_lossy().into_owned();
    }
    Ok(())
}

/// Under which keys the image store has the volumes of a container.
pub fn keys(record: &ContainerRecord) -> Vec<String> {
    let volumes = record.config.mounts.iter().enumerate().filter(|(_, mount)| of_image(mount));
    volumes.map(|(at, _)| key(&record.id, at)).collect()
}

fn key(container: &str, at: usize) -> String {
    format!("{container}.volume-{at}")
}

#[cfg(test)]
mod tests {
    use gantry_cri_api::{ContainerConfig, ImageSpec};

    use super::*;

    fn volume() -> Mount {
        let image = Some(ImageSpec { image: "data:1".into(), ..Default::default() });
        Mount { container_path: "/data".into(), readonly: true, image, ..Default::default() }
    }

    #[test]
    fn an_image_is_mounted_read_only_and_alone() {
        check(&[volume(), Mount::default()]).unwrap();
        for (text, mount) in [
            ("readonly", Mount { readonly: false, ..volume() }),
            ("exclude", Mount { host_path: "/srv".into(), ..volume() }),
            ("needs an image", Mount { image_sub_path: "x".into(), ..Default::default() }),
        ] {
            let why = check(&[mount]).unwrap_err();
            assert!(why.to_string().contains(text), "{why}");
        }
    }

    #[test]
    fn keys_count_by_the_place_of_the_mount() {
        let config = ContainerConfig { mounts: vec![Mount::default(), volume(), volume()], ..Default::default() };
        assert_eq!(keys(&ContainerRecord::new("c", "p", config, 1)), ["c.volume-1", "c.volume-2"]);
    }
}
