//! `runtime.v1.ImageService`.

use std::collections::HashMap;
use std::path::Path;

use gantry_cri_api as api;
use gantry_cri_api::image_service_server::ImageService;
use gantry_images::{Auth, Image, PullOptions, Reference, Usage, quiet};
use tonic::{Request, Response, Status};

use super::{Service, Streaming, chunks, encode};
use crate::error::Error;
use crate::node::now;
use crate::stats::filesystem;

impl Service {
    fn fitting_images(&self, filter: Option<&api::ImageFilter>) -> Vec<api::Image> {
        let wanted =
            filter.and_then(|filter| filter.image.as_ref()).map(|spec| spec.image.as_str()).unwrap_or_default();
        match wanted {
            "" => self.node.images.images().iter().map(|image| encode::image(image)).collect(),
            name => self.node.images.image(name).iter().map(|image| encode::image(image)).collect(),
        }
    }
}

fn name(spec: Option<api::ImageSpec>) -> Result<String, Status> {
    let name = spec.map(|spec| spec.image).unwrap_or_default();
    if name.is_empty() { Err(Status::invalid_argument("image: is missing")) } else { Ok(name) }
}

/// What containerd tells under the one key `info` (`internal/cri/server/images/image_status.go`).
fn verbose(image: &Image) -> HashMap<String, String> {
    let chain_id = image.chain_id().map(|id| id.to_string()).unwrap_or_default();
    let mut info = serde_json::json!({"chainID": chain_id, "imageSpec": image.config});
    if let Some(kind) = &image.artifact {
        info["artifactType"] = serde_json::json!(kind);
    }
    HashMap::from([("info".to_owned(), info.to_string())])
}

/// The credentials of a call. Those that name another server than the image's are not for it, and not sent.
fn credentials(auth: api::AuthConfig, image: &Reference) -> Result<Option<Auth>, Status> {
    if !is_for(&auth.server_address, image.host()) {
        return Ok(None);
    }
    let auth = Auth::from_cri(&auth.username, &auth.password, &auth.auth, &auth.identity_token, &auth.registry_token);
    Ok(auth.map_err(Error::from)?)
}

/// Whether a server address, a host or a URL with any path, is that of a registry; an empty one is everybody's.
fn is_for(address: &str, registry: &str) -> bool {
    let bare = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = bare.split('/').next().unwrap_or_default();
    let hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    host.is_empty() || host == registry || hub(host) && hub(registry)
}

#[tonic::async_trait]
impl ImageService for Service {
    async fn list_images(
        &self,
        request: Request<api::ListImagesRequest>,
    ) -> Result<Response<api::ListImagesResponse>, Status> {
        let images = self.fitting_images(request.into_inner().filter.as_ref());
        Ok(Response::new(api::ListImagesResponse { images }))
    }

    type StreamImagesStream = Streaming<api::StreamImagesResponse>;

    async fn stream_images(
        &self,
        request: Request<api::StreamImagesRequest>,
    ) -> Result<Response<Self::StreamImagesStream>, Status> {
        let images = self.fitting_images(request.into_inner().filter.as_ref());
        Ok(Response::new(chunks(images, |images| api::StreamImagesResponse { images })))
    }

    async fn image_status(
        &self,
        request: Request<api::ImageStatusRequest>,
    ) -> Result<Response<api::ImageStatusResponse>, Status> {
        let request = request.into_inner();
        let Some(image) = self.node.images.image(&name(request.image)?) else {
            return Ok(Response::new(api::ImageStatusResponse::default()));
        };
        let info = if request.verbose { verbose(&image) } else { HashMap::new() };
        Ok(Response::new(api::ImageStatusResponse { image: Some(encode::image(&image)), info }))
    }

    async fn pull_image(
        &self,
        request: Request<api::PullImageRequest>,
    ) -> Result<Response<api::PullImageResponse>, Status> {
        let request = request.into_inner();
        let reference: Reference = name(request.image)?.parse().map_err(Error::from)?;
        let auth = credentials(request.auth.unwrap_or_default(), &reference)?;
        let options = PullOptions { auth, ..PullOptions::default() };
        let image = self.node.images.pull(&reference, &options, quiet()).await.map_err(Error::from)?;
        Ok(Response::new(api::PullImageResponse { image_ref: image.id.clone() }))
    }

    async fn remove_image(
        &self,
        request: Request<api::RemoveImageRequest>,
    ) -> Result<Response<api::RemoveImageResponse>, Status> {
        // Idempotent: an image that is not here is removed.
        self.node.images.remove(&name(request.into_inner().image)?).await.map_err(Error::from)?;
        Ok(Response::new(api::RemoveImageResponse {}))
    }

    async fn image_fs_info(
        &self,
        _: Request<api::ImageFsInfoRequest>,
    ) -> Result<Response<api::ImageFsInfoResponse>, Status> {
        let images = &self.node.images;
        let space = images.usage().await.map_err(Error::from)?;
        let mut written = Usage::default();
        for key in images.rootfs_keys().map_err(Error::from)? {
            // One that goes away meanwhile takes no space.
            if let Ok(one) = images.rootfs_usage(&key).await {
                written.bytes += one.bytes;
                written.inodes += one.inodes;
            }
        }
        let root: &Path = images.root();
        Ok(Response::new(api::ImageFsInfoResponse {
            image_filesystems: vec![filesystem(root, now(), space)],
            container_filesystems: vec![filesystem(root, now(), written)],
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_only_where_they_are_for() {
        for (address, registry, fits) in [
            ("", "quay.io", true),
            ("quay.io", "quay.io", true),
            ("https://quay.io/v2/", "quay.io", true),
            ("quay.io/team", "quay.io", true),
            ("https://index.docker.io/v1/", "docker.io", true),
            ("127.0.0.1:5000", "127.0.0.1:5000", true),
            ("127.0.0.1:5000", "127.0.0.1:5001", false),
            ("quay.io.evil.net", "quay.io", false),
            ("evil.net/quay.io", "quay.io", false),
            ("docker.io", "quay.io", false),
        ] {
            assert_eq!(is_for(address, registry), fits, "{address} {registry}");
        }
        let auth = |server: &str| {
            let server_address = server.to_owned();
            api::AuthConfig { username: "u".into(), password: "p".into(), server_address, ..Default::default() }
        };
        let image = "quay.io/a:1".parse().unwrap();
        assert!(credentials(auth("quay.io"), &image).unwrap().is_some());
        assert!(credentials(auth("other.io"), &image).unwrap().is_none());
        let wrong = api::AuthConfig { auth: "%%%".into(), ..Default::default() };
        assert_eq!(credentials(wrong, &image).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
