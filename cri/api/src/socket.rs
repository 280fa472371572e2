//! Connections to a runtime over its unix socket. tonic wants a URI; for a socket it is never used.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::codegen::{Service, http::Uri};
use tonic::transport::{Channel, Endpoint};

/// The largest message either side accepts, in bytes: what kubelet and containerd use. Set it on a client with
/// `max_decoding_message_size` when lists may be long.
pub const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// Connects to the CRI server whose unix socket is at `path`; a `unix://` prefix is allowed. The channel reconnects by
/// itself when the server was restarted.
///
/// # Errors
/// When the socket does not exist or nobody listens on it.
pub async fn connect(path: impl AsRef<Path>) -> Result<Channel, tonic::transport::Error> {
    endpoint().connect_with_connector(Socket::at(path.as_ref())).await
}

/// Like [`connect`], but connects with the first call; calls fail with `UNAVAILABLE` while the server is away.
/// Must be called inside a tokio runtime.
pub fn connect_lazy(path: impl AsRef<Path>) -> Channel {
    endpoint().connect_with_connector_lazy(Socket::at(path.as_ref()))
}

fn endpoint() -> Endpoint {
    Endpoint::from_static("http://cri.invalid")
}

/// Opens the same unix socket for each connection.
#[derive(Clone)]
struct Socket(PathBuf);

impl Socket {
    fn at(path: &Path) -> Self {
        let path = path.to_str().and_then(|text| text.strip_prefix("unix://")).map_or(path, Path::new);
        Self(path.to_owned())
    }
}

impl Service<Uri> for Socket {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_is_taken_off() {
        assert_eq!(Socket::at(Path::new("unix:///run/x.sock")).0, Path::new("/run/x.sock"));
        assert_eq!(Socket::at(Path::new("/run/x.sock")).0, Path::new("/run/x.sock"));
    }

    #[tokio::test]
    async fn nobody_there_is_an_error() {
        assert!(connect("/nonexistent/gantry.sock").await.is_err());
    }
}
