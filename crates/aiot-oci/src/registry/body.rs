//! A file, or a part of it, as the body of a request: streamed in pieces whose memory is used again and again.
//!
//! The file is read where the connection asks for more, not on another thread: a piece takes some 30 µs from the page
//! cache and stays in the cache of the processor that sends it, while handing it from thread to thread costs as much
//! again.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;

use super::http::SentCallback;
use super::lock;
use crate::store::{StoreError, io_error};

/// Bytes at a time: fits the second-level cache.
const PIECE_BYTES: u64 = 256 << 10;
/// What is sent before a pause in which the registry may refuse.
const FIRST_BYTES: u64 = 16 << 10;

/// Buffers that the connection has done with.
type Spare = Arc<Mutex<Vec<Box<[u8]>>>>;

/// A file as a request body of known length.
pub(super) struct FileBody {
    file: File,
    left: u64,
    size: u64,
    spare: Spare,
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    on_sent: SentCallback,
    /// How long to wait after the first bytes.
    pause: Option<Duration>,
    pausing: Option<Pin<Box<tokio::time::Sleep>>>,
}

/// Ends a body when the last copy is dropped.
#[derive(Clone)]
pub(super) struct StopOnDrop {
    _stop: Arc<Stop>,
}

struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A part of the file, whose memory goes back when it was sent.
struct Piece {
    bytes: Option<Box<[u8]>>,
    length: usize,
    spare: Spare,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_deref().map_or(&[], |bytes| &bytes[..self.length])
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        lock(&self.spare).extend(self.bytes.take());
    }
}

impl FileBody {
    /// The `size` bytes from `start` of a file. `sent` holds how many of them were handed to the connection, and
    /// `on_sent` is told.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file cannot be opened.
    pub fn open(
        path: &Path,
        start: u64,
        size: u64,
        sent: Arc<AtomicU64>,
        on_sent: SentCallback,
    ) -> Result<FileBody, StoreError> {
        let mut file = File::open(path).map_err(io_error("open", path))?;
        if start > 0 {
            file.seek(SeekFrom::Start(start))
                .map_err(io_error("read", path))?;
        }
        Ok(FileBody {
            file,
            left: size,
            size,
            spare: Spare::default(),
            sent,
            stop: Arc::default(),
            on_sent,
            pause: None,
            pausing: None,
        })
    }

    /// Waits after the first bytes, so that a registry that refuses the request by its head can say so before the rest is
    /// sent: what `Expect: 100-continue` is for, of registries that do not know it, too.
    pub fn pause_after_first(mut self, pause: Duration) -> FileBody {
        self.pause = (!pause.is_zero()).then_some(pause);
        self
    }

    /// What ends this body, with the connection that it is sent over, when it is dropped before all was sent.
    pub fn stop_on_drop(&self) -> StopOnDrop {
        StopOnDrop {
            _stop: Arc::new(Stop(Arc::clone(&self.stop))),
        }
    }

    fn read(&mut self) -> std::io::Result<Bytes> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(std::io::Error::other("the registry has answered already"));
        }
        let spare = lock(&self.spare).pop();
        let largest = self.size.min(PIECE_BYTES) as usize;
        let mut bytes = spare.unwrap_or_else(|| vec![0; largest].into());
        let most = match self.pause {
            Some(_) => FIRST_BYTES,
            None => bytes.len() as u64,
        };
        let wanted = self.left.min(most).min(bytes.len() as u64) as usize;
        let length = loop {
            match self.file.read(&mut bytes[..wanted]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        if length == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Bytes::from_owner(Piece {
            bytes: Some(bytes),
            length,
            spare: Arc::clone(&self.spare),
        }))
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, std::io::Error>>> {
        let body = self.get_mut();
        if body.left == 0 {
            return Poll::Ready(None);
        }
        if let Some(pausing) = &mut body.pausing {
            ready!(pausing.as_mut().poll(context));
            body.pausing = None;
        }
        Poll::Ready(Some(body.read().map(|piece| {
            let pause = body.pause.take();
            body.pausing = pause.map(|pause| Box::pin(tokio::time::sleep(pause)));
            body.left -= piece.len() as u64;
            body.sent.store(body.size - body.left, Ordering::Relaxed);
            (body.on_sent.0)(body.size - body.left);
            http_body::Frame::data(piece)
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body;

    use super::*;

    /// All that a body yields, and how often new memory was taken.
    fn drain(mut body: FileBody) -> Result<Vec<u8>, std::io::Error> {
        let mut all = Vec::new();
        let mut context = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut context) {
            all.extend_from_slice(&frame?.into_data().unwrap_or_default());
            assert_eq!(
                lock(&body.spare).len(),
                1,
                "the memory of one piece serves the next"
            );
        }
        Ok(all)
    }

    #[test]
    fn a_part_of_a_file_is_sent_and_counted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..700_001u32).map(|number| number as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let sent: Arc<AtomicU64> = Arc::default();
        let open = |start, size| {
            FileBody::open(
                &path,
                start,
                size,
                Arc::clone(&sent),
                SentCallback(Arc::new(|_| {})),
            )
            .unwrap()
        };
        for (start, size) in [(0, 700_001), (1, 0), (699_000, 1_001), (5, 262_144), (0, 262_145)] {
            let part = &bytes[start as usize..(start + size) as usize];
            assert!(drain(open(start, size)).unwrap() == part, "{start} {size}");
            assert!(size == 0 || sent.load(Ordering::Relaxed) == size);
        }
        // The first bytes alone, then a pause, then the rest.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let lengths = runtime.block_on(async {
            let mut body = open(1, 300_000).pause_after_first(Duration::from_millis(1));
            let mut lengths = Vec::new();
            while let Some(frame) =
                std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
            {
                lengths.push(frame.unwrap().into_data().unwrap_or_default().len());
            }
            lengths
        });
        assert_eq!(lengths, [16_384, 262_144, 21_472]);
        // Shorter than it was when it was announced.
        assert!(drain(open(0, 700_002)).is_err());
        let stopped = open(0, 700_001);
        drop(stopped.stop_on_drop());
        assert!(drain(stopped).is_err());
    }
}
