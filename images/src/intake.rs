//! The joint between the network, which is async, and digest, decompression and disk, which are not: a bounded
//! queue of pieces, read by one blocking thread a layer.

use std::io::Read;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use crate::blobs::Ingest;
use crate::error::{Context, Error, Kind, Result, through_io};
use crate::layers::{Position, Unpacked};
use crate::manifest::Descriptor;
use crate::options::{Event, Progress};
use crate::source::Source;
use crate::store::{Shared, blocking};

/// Pieces that may wait for the unpacker: with 16 to 256 KiB each some megabytes a layer at most.
const QUEUE: usize = 16;
/// Progress is told once in so many bytes.
const TELL_EACH: u64 = 256 << 10;

/// Why a stream failed.
pub(crate) struct Failed {
    pub(crate) why: Error,
    /// It went on where an earlier download had ended, so the fault may lie there.
    pub(crate) continued: bool,
}

/// Unpacks a blob that is in the store.
pub(crate) async fn unpack_blob(shared: &Arc<Shared>, layer: &Descriptor, position: &Position) -> Result<Unpacked> {
    let (shared, digest, size, position) = (shared.clone(), layer.digest.clone(), layer.size, position.clone());
    blocking(move || {
        let mut blob = shared.blobs.read(&digest)?;
        shared.layers.unpack(&mut blob, size, &position, &shared.config.limits)
    })
    .await
}

/// Downloads a blob and hands it to `take` on the way. When this succeeds the blob is committed; what `take` made is
/// verified by itself, though not visible yet.
pub(crate) async fn stream<S: Source, T: Send + 'static>(
    shared: &Arc<Shared>,
    from: &S,
    layer: &Descriptor,
    take: impl FnOnce(&Shared, &mut Intake) -> Result<T> + Send + 'static,
    progress: &Progress,
) -> Result<T, Failed> {
    let fresh = |why| Failed { why, continued: false };
    let (store, digest, size) = (shared.clone(), layer.digest.clone(), layer.size);
    let ingest = blocking(move || store.blobs.ingest(&digest, size)).await.map_err(fresh)?;
    let have = ingest.have();
    let failed = |why| Failed { why, continued: have > 0 };
    let content = match have < layer.size {
        true => from.blob(layer, have, progress).await.map_err(failed)?,
        false => futures_util::stream::empty().boxed(),
    };
    let (send, receive) = mpsc::channel(QUEUE);
    let store = shared.clone();
    let worker = blocking(move || {
        let mut intake = Intake { ingest, receive, piece: Bytes::new(), replayed: false, failure: None };
        let taken = take(&store, &mut intake);
        intake.finish(taken)
    });
    // Both at once: the queue is bounded, so neither side runs away from the other.
    let (taken, ()) = futures_util::future::join(worker, pump(content, send, layer, have, progress)).await;
    taken.map_err(failed)
}

async fn pump(
    mut content: crate::source::Content,
    send: mpsc::Sender<Result<Bytes>>,
    layer: &Descriptor,
    have: u64,
    progress: &Progress,
) {
    let tell = |bytes| progress(Event::Progress { layer: layer.digest.clone(), bytes, total: layer.size });
    let (mut bytes, mut told) = (have, have);
    tell(bytes);
    while let Some(piece) = content.next().await {
        bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        if bytes - told >= TELL_EACH || bytes == layer.size {
            told = bytes;
            tell(bytes);
        }
        // A closed queue means that the worker has failed and says why itself.
        if send.send(piece).await.is_err() {
            return;
        }
    }
}

/// Reads what an earlier download left and then what arrives, and keeps all of it in the ingest file.
pub(crate) struct Intake {
    ingest: Ingest,
    receive: mpsc::Receiver<Result<Bytes>>,
    piece: Bytes,
    replayed: bool,
    failure: Option<Error>,
}

impl Intake {
    /// Reads the rest, commits the blob, and decides which of several failures is the cause: the transport's, then
    /// the blob's digest, then whatever the unpacker made of such content.
    fn finish<T>(mut self, taken: Result<T>) -> Result<T> {
        let drained = std::io::copy(&mut self, &mut std::io::sink());
        if let Some(why) = self.failure.take() {
            return Err(why);
        }
        match taken {
            Ok(taken) => {
                drained.context(|| "read the blob to its end")?;
                self.ingest.commit().map(|()| taken)
            }
            // Our own limits and the disk are no fault of the content.
            Err(why) if why.kind() == Kind::Invalid => Err(self.ingest.commit().err().unwrap_or(why)),
            Err(why) => Err(why),
        }
    }

    fn refill(&mut self) -> std::io::Result<bool> {
        match self.receive.blocking_recv() {
            None => Ok(false),
            Some(Ok(piece)) => {
                if let Err(why) = self.ingest.append(&piece) {
                    return Err(self.fail(why));
                }
                self.piece = piece;
                Ok(true)
            }
            Some(Err(why)) => Err(self.fail(why)),
        }
    }

    /// Remembers a failure of ours, because whoever reads through a decompressor sees only that reading failed.
    fn fail(&mut self, why: Error) -> std::io::Error {
        let seen = Error::new(why.kind(), "the blob cannot be read");
        self.failure = Some(why);
        self.receive.close();
        through_io(seen)
    }
}

impl Read for Intake {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if !self.replayed {
            let count = self.ingest.earlier(buffer)?;
            self.replayed = count == 0;
            if count > 0 {
                return Ok(count);
            }
        }
        while self.piece.is_empty() {
            if self.failure.is_some() || !self.refill()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
