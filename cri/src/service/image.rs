//! `runtime.v1.ImageService`.

use std::path::Path;

use gantry_cri_api as api;
use gantry_cri_api::image_service_server::ImageService;
use gantry_images::{Auth, PullOptions, Reference, Usage, quiet};
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
        let mut info = std::collections::HashMap::new();
        if request.verbose {
            let spec = serde_json::json!({ "imageSpec": image.config });
            info.insert("info".to_owned(), spec.to_string());
        }
        Ok(Response::new(api::ImageStatusResponse { image: Some(encode::image(&image)), info }))
    }

    async fn pull_image(
        &self,
        request: Request<api::PullImageRequest>,
    ) -> Result<Response<api::PullImageResponse>, Status> {
        let request = request.into_inner();
        let reference: Reference = name(request.image)?.parse().map_err(Error::from)?;
        let auth = request.auth.unwrap_or_default();
        let auth =
            Auth::from_cri(&auth.username, &auth.password, &auth.auth, &auth.identity_token, &auth.registry_token)
                .map_err(Error::from)?;
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
