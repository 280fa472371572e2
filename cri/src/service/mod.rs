//! The edge: gRPC requests are decoded, a verb is called, its result is encoded. Nothing is decided here.
//!
//! [`runtime`] and [`image`] are the two services; [`encode`] turns records into messages, [`status`] tells of the server
//! itself, [`deadline`] keeps the time that a client gives. What may not stop half-way runs on a task of its own, so that
//! a client that hangs up leaves nothing half done.

mod deadline;
mod encode;
mod image;
mod lists;
mod runtime;
mod status;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use gantry_cri_api::MAX_MESSAGE;
use gantry_cri_api::image_service_server::ImageServiceServer;
use gantry_cri_api::runtime_service_server::RuntimeServiceServer;
use tonic::Status;
use tonic::transport::server::Router;

use crate::node::Node;
use deadline::Deadline;

/// What a server-side stream is made of.
type Streaming<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Both services of one node.
#[derive(Clone, Debug)]
struct Service {
    node: Arc<Node>,
}

/// A gRPC server with both services, ready to serve.
pub(crate) fn router(node: &Arc<Node>) -> Router {
    let service = Service { node: Arc::clone(node) };
    let runtime = RuntimeServiceServer::new(service.clone());
    let image = ImageServiceServer::new(service);
    tonic::transport::Server::builder()
        // Rapid resets end a connection (CVE-2023-44487); h2 counts them itself, this bounds what is open at once.
        .max_concurrent_streams(Some(1024))
        .add_service(Deadline(runtime.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)))
        .add_service(Deadline(image.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE)))
}

/// A verb of CRI that this version does not offer.
fn not_offered<T>(what: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("{what} is not offered by this version of gantry")))
}

/// A list as a stream of one message a chunk, so that no single message grows beyond the limit.
fn chunks<I, T, F>(items: Vec<I>, wrap: F) -> Streaming<T>
where
    I: Send + 'static,
    T: Send + 'static,
    F: Fn(Vec<I>) -> T + Send + 'static,
{
    const CHUNK: usize = 128;
    let mut items = items.into_iter();
    let chunks = std::iter::from_fn(move || {
        let chunk: Vec<I> = items.by_ref().take(CHUNK).collect();
        (!chunk.is_empty()).then(|| Ok(wrap(chunk)))
    });
    Box::pin(futures_util::stream::iter(chunks))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    #[tokio::test]
    async fn a_long_list_comes_in_chunks() {
        let sizes = |n: usize| async move {
            let all: Vec<_> = chunks((0..n).collect(), |chunk| chunk.len()).collect().await;
            all.into_iter().map(Result::unwrap).collect::<Vec<_>>()
        };
        assert_eq!(sizes(0).await, Vec::<usize>::new());
        assert_eq!(sizes(128).await, [128]);
        assert_eq!(sizes(300).await, [128, 128, 44]);
    }
}
